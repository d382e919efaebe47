"""The function of a case with the means to differentiate it, and to measure what rounding explains.

What is compiled is kept for each function, so that other keys, points and scales of the same shapes compile nothing.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine import differences
from jaxnet.verify.engine.autodiff import AUTODIFF, Mode, Shapes, described, program, values
from jaxnet.verify.engine.case import Case, Function, memoized
from jaxnet.verify.engine.constants import anew
from jaxnet.verify.engine.iteration import CONVERGED, with_bounded_loops, with_one_more_round
from jaxnet.verify.engine.places import Place
from jaxnet.verify.engine.precision import DOUBLE, Floats, Leaves, compiled, held, is_float, precision, spacing, widened
from jaxnet.verify.engine.randomness import signs
from jaxnet.verify.engine.rounding import PERTURBATIONS, Moves, Slots
from jaxnet.verify.engine.truth import Truth, largest, limit_of

DOUBTS = 100.0  # of differences, are rounding
ROUNDS, MANY_TIMES, ENDLESS = 1000, 30, 2**30  # of a loop, which at other points may never end
RESIDUALS = 16.0  # of an approximate forward pass, times the change of one more round, are rounding


class Moving(NamedTuple):
    """The derivative of a function, everything in which is moved.

    Attributes:
        run: (leaves, ways, starts, units, at_zero) -> outputs and gradients for each row of starts and units.
        slots: the places where something is moved.
        spacings: the units in the last place of what is moved, in the dtypes that the program is written in.
    """

    run: Any
    slots: Slots
    spacings: Floats


@memoized
def _moving(function: Function, mode: Mode, exact: bool, lift: bool, shapes: Shapes) -> Moving:
    """The derivative as it is traced in float64 or in the user's dtypes; `lift` runs the latter in float64."""
    with precision(exact and not lift):
        traced = jax.make_jaxpr(functools.partial(AUTODIFF[mode], function))(*map(list, shapes))
    inputs, count = (*shapes[0], *shapes[2]), len(shapes[0])
    with precision(exact or lift):
        slots = Slots(traced, [i != 1 for i, leaves in enumerate(shapes) for _ in leaves], lift=lift)
    # What is computed in a wider dtype than it is given is given exactly.
    usual = float(np.median(slots.spacings)) if len(slots.spacings) else DOUBLE
    spacings = np.asarray([*(min(spacing(shape.dtype), usual) for shape in inputs), *slots.spacings])

    @compiled
    def run(leaves: tuple[Leaves, Leaves, Leaves], ways: Any, starts: Any, units: Any, at_zero: Any) -> Any:
        def moved(row: tuple[Any, Any]) -> tuple[Leaves, Leaves]:
            moves = Moves(ways, *row, at_zero)
            given = [moves.applied(i, leaf) for i, leaf in enumerate([*leaves[0], *leaves[2]])]
            results = slots.run([*given[:count], *leaves[1], *given[count:]], moves)
            return results[: len(results) - count], results[len(results) - count :]

        return jax.lax.map(moved, (starts, units))

    return Moving(run, slots, spacings)


class _OneMoreRound(NamedTuple):
    """A function whose loops go one round further."""

    program: Any

    def outputs(self, *leaves: Leaves) -> Leaves:
        """Its outputs."""
        return with_one_more_round(self.program, jax.tree.leaves(leaves))[0]


@memoized
def _one_more_round(function: Function, mode: Mode, exact: bool, shapes: Shapes) -> tuple[Any, Any]:
    """How far loops are from their end; and outputs and gradient of the function whose loops go one round further."""
    traced = jax.make_jaxpr(function.outputs)(*map(list, shapes))
    residual = compiled(lambda *leaves: with_one_more_round(traced, jax.tree.leaves(leaves))[1])
    return residual, compiled(functools.partial(AUTODIFF[mode], _OneMoreRound(traced)))


@memoized
def _bounded_loops(function: Function, shapes: Shapes) -> Any:
    """Whether the outputs of the function are finite when its loops stop after so many rounds, and their rounds."""
    traced = jax.make_jaxpr(function.outputs)(*map(list, shapes))

    @compiled
    def run(differentiated: Leaves, fixed: Leaves, most: Any) -> tuple[Any, Any]:
        outputs, rounds = with_bounded_loops(traced, [*differentiated, *fixed], most)
        floats = [output for output in outputs if is_float(output)]
        return jnp.array([jnp.isfinite(output).all() for output in floats], bool).all(), rounds

    return run


class Differentiator:
    """The function of a case with the means to differentiate it.

    Attributes:
        case: the case.
        mode: by which it is differentiated.
        exact: whether it is run in float64, or in the user's own dtypes because it cannot be.
        generator: of the directions of perturbations.
    """

    def __init__(self, case: Case, mode: Mode, exact: bool, generator: np.random.Generator) -> None:
        self.case = case if exact else case.as_written()
        self.mode: Mode = mode
        self.exact, self.generator = exact, generator
        self.large = case.large
        self._nearby: tuple[str, list[Leaves]] = "", []

    # Values and gradients ---------------------------------------------------------------------------------------------

    def derivative(self, point: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
        """The function's outputs and its gradient by autodiff, as float64 arrays."""
        with precision(self.exact):
            run = program(self.case.function, self.mode, self.exact, self.large)
            leaves = self._as_run(point, cotangent)
            outputs, gradient = anew(lambda: run(*leaves), mixed=self.case.function.mixed)
            return widened(outputs), widened(gradient)

    def outputs(self, point: Leaves) -> Leaves:
        """The function's outputs alone."""
        case = self.case
        with precision(self.exact), np.errstate(all="ignore"):
            leaves = point if self.exact else held(point, case.differentiated)
            if case.function.traced:
                return widened(values(case.function, self.large)(leaves, case.fixed_in(self.exact)))
            came = [case.layout.as_came("differentiated", leaves), case.layout.as_came("fixed", case.fixed)]
            return [np.asarray(leaf, np.float64) for leaf in case.function.outputs(*came)]

    def _as_run(self, point: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves, Leaves]:
        case = self.case
        if self.exact:
            return point, case.fixed_in(True), cotangent
        return held(point, case.differentiated), case.fixed, held(cotangent, case.outputs)

    def truth(self, place: Place, unit: float) -> Truth:
        """The right gradient at a place, its noise for numbers of such a relative unit in the last place."""
        if self.mode == "differences":
            gradient, doubt = differences.gradient(self.outputs, place.point, place.cotangent, self.generator)
            measure = functools.partial(self._noise_of_differences, place, gradient, doubt)
            return Truth(self.outputs(place.point), gradient, unit, measure)
        outputs, gradient = self.derivative(place.point, place.cotangent)
        return Truth(outputs, gradient, unit, functools.partial(self._noise, place, gradient))

    def nearby(self, place: Place, step: float) -> list[Leaves]:
        """The gradients at points right beside a place, on opposite sides if cheap; computed once for a place."""
        if self._nearby[0] != place.name:
            moves = [
                step * signs(self.generator, leaf.shape) * np.where(leaf, np.abs(leaf), differences.size(leaf))
                for leaf in place.point
            ]
            points = [
                [leaf + way * move for leaf, move in zip(place.point, moves, strict=True)]
                for way in (1, -1)[: 1 if self.large else 2]
            ]
            self._nearby = place.name, [self.derivative(point, place.cotangent)[1] for point in points]
        return self._nearby[1]

    def ends_at(self, place: Place, given: Leaves) -> bool:
        """Whether every loop of the function ends at a place, in not many times as many rounds as at a given point."""
        if not self.case.traits.waits or not self.case.function.traced:
            return True
        with precision(self.exact), np.errstate(all="ignore"):
            here, there = (
                (leaves if self.exact else held(leaves, self.case.differentiated)) for leaves in (place.point, given)
            )
            fixed = self.case.fixed_in(self.exact)
            run = _bounded_loops(self.case.function, described(here, fixed))
            _, rounds = run(there, fixed, np.int32(ENDLESS))
            finite, _ = run(here, fixed, np.int32(min(max(ROUNDS, MANY_TIMES * int(rounds)), ENDLESS)))
            return bool(finite)

    # What rounding explains -------------------------------------------------------------------------------------------

    def _noise(self, place: Place, gradient: Leaves, unit: float) -> Leaves:
        at_inputs = [min(unit, own) for own in self.case.units]
        at_cotangent = [0.0 if self.case.function.scalar else unit] * len(place.cotangent)
        moved = self._moved(place, unit, [*at_inputs, *at_cotangent])[1]
        noise = [_largest_change(stack, leaf) for stack, leaf in zip(moved, gradient, strict=True)]
        return self._with_residual(place, noise, gradient, unit, 1)

    def _noise_of_differences(self, place: Place, gradient: Leaves, doubt: Leaves, unit: float) -> Leaves:
        noise = [leaf / DOUBTS + unit * np.abs(g) for leaf, g in zip(doubt, gradient, strict=True)]
        if unit > DOUBLE:
            moved = [leaf * (1 + unit * signs(self.generator, leaf.shape)) for leaf in place.point]
            changed, _ = differences.gradient(self.outputs, moved, place.cotangent, self.generator)
            noise = [n + np.abs(c - g) for n, c, g in zip(noise, changed, gradient, strict=True)]
        return noise

    def noise_of_outputs(self, place: Place, unit: float) -> Leaves:
        """What rounding explains of a difference from the function's outputs."""
        if self.mode == "differences":
            return [np.zeros(output.shape) for output in self.case.outputs]
        moved, known = self._moved(place, unit)[0], self.outputs(place.point)
        noise = [_largest_change(stack, leaf) for stack, leaf in zip(moved, known, strict=True)]
        return self._with_residual(place, noise, known, unit, 0)

    def noise_as_written(self, truth: Truth, place: Place) -> Leaves:
        """What rounding in the user's dtypes explains, each result rounded to the dtype that it is written in."""
        case, unit = self.case.as_written(), max(self.case.units)
        try:
            shapes = described(case.differentiated, case.fixed, case.outputs)
            moving = _moving(case.function, self.mode, self.exact, True, shapes)
            units = np.tile(moving.spacings * moving.slots.moved(constants=True), (PERTURBATIONS + 1, 1))
            units[0] = 0
            if case.function.scalar:
                units[:, len(place.point)] = 0
            leaves = place.point, case.fixed_in(True), place.cotangent
            with precision(True):
                moved = self._run(moving, leaves, units)[1]
        except Exception:  # a program that cannot be lifted is moved by the coarsest unit throughout
            return truth.in_unit(unit).noise
        return [_largest_change(stack[1:], stack[0]) + unit * largest(stack[0]) for stack in moved]

    def beside(
        self, place: Place, steps: tuple[float, ...], leaf: int | None, directions: Floats
    ) -> list[tuple[Leaves, Leaves]]:
        """Outputs and gradients right beside a point: inputs and cotangent a relative step away, zeros one of 1.

        Results stay as they are: to move them would make kinks of equalities that hold at every point. They are moved,
        too, for those gradients that are not finite otherwise, as beside |x - x|, which is 0 at every point.

        Args:
            place: the point.
            steps: how far it is gone, in the same directions.
            leaf: that goes in the given directions, the others in random ones; None if everything does.
            directions: one a row, each for one gradient.
        """
        leaves = self._as_run(place.point, place.cotangent)
        with precision(self.exact):
            moving = _moving(self.case.function, self.mode, self.exact, False, described(*leaves))
            ways, begins = moving.slots.parts(self.generator, directions)
            starts = moving.slots.starts(self.generator, len(directions))
            starts[:, slice(None) if leaf is None else leaf] = np.asarray(begins)[:, None] if leaf is None else begins
            everything = moving.slots.moved(constants=False)
            inputs_alone = everything * (np.arange(len(everything)) < moving.slots.inputs)

            def sampled(places: Floats, step: float) -> tuple[Leaves, Leaves]:
                units = np.tile(step * places, (len(directions), 1))
                return self._run(moving, leaves, units, (ways, starts), at_zero=1.0)

            found = [sampled(inputs_alone, step) for step in steps]
            if all(np.isfinite(leaf).all() for _, gradients in found for leaf in gradients):
                return found
            return [_completed(one, sampled(everything, step)) for one, step in zip(found, steps, strict=True)]

    def _moved(self, place: Place, unit: float, at_inputs: list[float] | None = None) -> tuple[Leaves, Leaves]:
        """Outputs and gradients, one a row, where everything is moved by a unit in its last place."""
        leaves = self._as_run(place.point, place.cotangent)
        with precision(self.exact):
            moving = _moving(self.case.function, self.mode, self.exact, False, described(*leaves))
            units = np.full((PERTURBATIONS, moving.slots.count), unit)
            if at_inputs:
                units[:, : len(at_inputs)] = at_inputs
            if not self.exact:
                units = np.where(units, np.maximum(units, moving.spacings), 0)
            return self._run(moving, leaves, units * moving.slots.moved(constants=not self.exact))

    def _run(
        self,
        moving: Moving,
        leaves: Any,
        units: Floats,
        along: tuple[Floats, Floats] | None = None,
        at_zero: float = 0.0,
    ) -> tuple[Leaves, Leaves]:
        slots = moving.slots
        ways, starts = along or (slots.signs(self.generator), slots.starts(self.generator, len(units)))
        with np.errstate(all="ignore"):
            outputs, gradients = moving.run(leaves, ways, starts, units, at_zero)
            return widened(outputs), widened(gradients)

    # Approximate forward passes ---------------------------------------------------------------------------------------

    def residual(self, point: Leaves) -> float:
        """How much one more round would change what solvers in the function return, relative."""
        if not self.case.traits.iterates or self.mode == "differences":
            return 0.0
        with precision(self.exact), np.errstate(all="ignore"):
            leaves = (point if self.exact else held(point, self.case.differentiated)), self.case.fixed_in(self.exact)
            return float(self._further(leaves)[0](*leaves))

    def _further(self, leaves: tuple[Leaves, Leaves]) -> tuple[Any, Any]:
        return _one_more_round(self.case.function, self.mode, self.exact, described(*leaves))

    def _with_residual(self, place: Place, noise: Leaves, known: Leaves, unit: float, which: int) -> Leaves:
        """The noise of the outputs (0) or of the gradient (1), with what one more round of a solver would change."""
        if not 0 < self.residual(place.point) <= CONVERGED:
            return noise
        leaves = self._as_run(place.point, place.cotangent)
        with precision(self.exact), np.errstate(all="ignore"):
            further = widened(self._further(leaves[:2])[1](*leaves)[which])
        times = RESIDUALS / limit_of(unit)
        return [n + times * np.nan_to_num(np.abs(f - k)) for n, f, k in zip(noise, further, known, strict=True)]


def _completed(sampled: tuple[Leaves, Leaves], others: tuple[Leaves, Leaves]) -> tuple[Leaves, Leaves]:
    """The outputs and the gradients, those that are not finite taken from elsewhere."""
    gradients = [np.where(np.isfinite(a), a, b) for a, b in zip(sampled[1], others[1], strict=True)]
    return sampled[0], gradients


def _largest_change(stack: Floats, leaf: Floats) -> Floats:
    """For each element, over the perturbations that stay finite."""
    with np.errstate(all="ignore"):
        change = np.abs(stack - leaf)
    return np.where(np.isfinite(change), change, 0).max(axis=0)
