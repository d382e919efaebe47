"""The right gradient at a point, and what rounding explains of a difference from it.

By autodiff of the function in float64: in reverse mode, or in forward mode where loops cannot be reversed; by
differences where there is no autodiff. What is compiled is kept for each function, so that other keys, points and
scales of the same shapes compile nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.case import Case, Function, memoized
from jaxnet.verify.engine.precision import (
    DOUBLE,
    HALF,
    Floats,
    Leaves,
    compiled,
    held,
    precision,
    spacing,
    widened,
)
from jaxnet.verify.engine.rounding import CONVERGED, Slots, nudged, with_one_more_round

Mode = Literal["reverse", "forward", "differences"]
PERTURBATIONS = 6
COLUMNS = 64  # of the Jacobian at a time, in forward mode
# Above this many numbers, slopes that are computed one at a time are computed for a random selection.
MOST = 2000


class Truth:
    """The right gradient at a point.

    Attributes:
        outputs: what the function returns there.
        gradient: for each leaf; NaN where nothing is known.
        unit: one unit in the last place of what is judged.
        noise: for each element, what rounding explains: the largest change when inputs, cotangent and every
            intermediate result move by one unit in their last place. It is measured when it is asked for.
    """

    def __init__(self, outputs: Leaves, gradient: Leaves, unit: float, measure: Callable[[float], Leaves]) -> None:
        """A gradient, and how its noise is measured in numbers of a unit in the last place."""
        self.outputs, self.gradient, self.unit = outputs, gradient, unit
        self._measure = measure

    @functools.cached_property
    def noise(self) -> Leaves:
        """What rounding explains, measured once."""
        return [np.asarray(leaf) + self.floor(i) for i, leaf in enumerate(self._measure(self.unit))]

    def floor(self, leaf: int) -> float:
        """What the noise of every element of a leaf is at least: a unit of its largest."""
        return self.unit * self.largest(leaf)

    def largest(self, leaf: int) -> float:
        """The largest element of a leaf."""
        return largest(self.gradient[leaf])

    def in_unit(self, unit: float) -> "Truth":
        """The same for numbers of another unit in the last place."""
        return self if unit == self.unit else Truth(self.outputs, self.gradient, unit, self._measure)

    def with_noise(self, noise: Callable[[], Leaves], gradient: Leaves | None = None) -> "Truth":
        """With another noise, and perhaps another gradient."""
        return Truth(self.outputs, self.gradient if gradient is None else gradient, self.unit, lambda unit: noise())

    def in_doubt(self, doubt: Callable[[], Leaves]) -> "Truth":
        """With so much more that nobody can know, however small a unit is."""

        def measure(unit: float) -> Leaves:
            return [noise + d / limit_of(unit) for noise, d in zip(self._measure(unit), doubt(), strict=True)]

        return Truth(self.outputs, self.gradient, self.unit, measure)

    def times(self, factor: float) -> "Truth":
        """For a cotangent that is so many times as large."""
        gradient = [factor * leaf for leaf in self.gradient]
        return Truth(self.outputs, gradient, self.unit, lambda unit: [abs(factor) * n for n in self._measure(unit)])


def largest(leaf: Floats) -> float:
    """The largest finite magnitude."""
    with np.errstate(all="ignore"):
        found = float(np.max(np.abs(leaf), initial=0))
    return found if np.isfinite(found) else float(np.max(np.abs(leaf), initial=0, where=np.isfinite(leaf)))


# By autodiff ---------------------------------------------------------------------------------------------------------


def _reverse(function: Any, differentiated: Leaves, fixed: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
    """The outputs and, by reverse mode, Jᵀ ct."""
    outputs, pull = jax.vjp(lambda leaves: function.outputs(leaves, fixed), differentiated)
    (gradient,) = pull([c.astype(o.dtype) for c, o in zip(cotangent, outputs, strict=True)])
    return outputs, gradient


def _forward(function: Any, differentiated: Leaves, fixed: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
    """The same by forward mode: ⟨ct, J e⟩ for every unit vector e."""
    count = sum(leaf.size for leaf in differentiated)
    ends = np.cumsum([leaf.size for leaf in differentiated])[:-1].tolist()

    def apart(vector: Any) -> Leaves:
        parts = jnp.split(vector, ends)
        return [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, differentiated, strict=True)]

    def slope(index: Any) -> tuple[Any, Leaves]:
        unit = (jnp.arange(count) == index).astype(float)
        run = functools.partial(jax.jvp, lambda *leaves: function.outputs(list(leaves), fixed))
        outputs, moved = run(tuple(differentiated), tuple(apart(unit)))
        return sum(jnp.sum(c * m) for c, m in zip(cotangent, moved, strict=True)), outputs

    slopes, outputs = jax.lax.map(slope, jnp.arange(count), batch_size=COLUMNS)
    return [output[0] for output in outputs], apart(slopes)


AUTODIFF: dict[str, Callable[..., tuple[Leaves, Leaves]]] = {"reverse": _reverse, "forward": _forward}


@memoized
def _program(function: Function, mode: Mode, exact: bool, large: bool) -> Callable[..., tuple[Leaves, Leaves]]:
    """Outputs and gradient, compiled for a precision: what is traced depends on it."""
    return compiled(functools.partial(AUTODIFF[mode], function), large=large)


@memoized
def _values(function: Function, large: bool) -> Callable[..., Leaves]:
    return compiled(function.outputs, large=large)


@memoized
def _nudged(function: Function, mode: Mode, exact: bool, shapes: Any) -> tuple[Callable[..., Any], int]:
    """The derivative for a stack of seeds by which everything is nudged; and how many seeds are in a row."""
    groups = [[jax.ShapeDtypeStruct(*shape) for shape in group] for group in shapes]
    traced = jax.make_jaxpr(functools.partial(AUTODIFF[mode], function))(*groups)
    slots, count = Slots(traced), len(groups[0])
    nudges = count + len(groups[2])

    def moved(leaves: tuple[Leaves, Leaves, Leaves], at_zero: Any, row: tuple[Any, Any]) -> tuple[Leaves, Leaves]:
        (differentiated, fixed, cotangent), (seeds, units) = leaves, row
        given = [*differentiated, *cotangent]
        given = [nudged(leaf, seeds[i], units[i], at_zero) for i, leaf in enumerate(given)]
        arguments = [*given[:count], *fixed, *given[count:]]
        results = slots.run(arguments, seeds[nudges:], units[nudges:], at_zero)
        return results[: len(results) - count], results[len(results) - count :]

    @compiled
    def run(leaves: tuple[Leaves, Leaves, Leaves], seeds: Any, units: Any, at_zero: Any) -> tuple[Leaves, Leaves]:
        return jax.lax.map(functools.partial(moved, leaves, at_zero), (seeds, units))

    return run, nudges + len(slots.numbers)


class _OneMoreRound(NamedTuple):
    """A function whose loops go one round further."""

    program: Any

    def outputs(self, *leaves: Leaves) -> Leaves:
        """Its outputs."""
        return with_one_more_round(self.program, jax.tree.leaves(leaves))[0]


@memoized
def _one_more_round(function: Function, mode: Mode, exact: bool, shapes: Any) -> tuple[Any, Any]:
    """How far loops are from their end; and outputs and gradient of the function whose loops go one round further."""
    groups = [[jax.ShapeDtypeStruct(*shape) for shape in group] for group in shapes]
    traced = jax.make_jaxpr(function.outputs)(*groups)
    residual = compiled(lambda *leaves: with_one_more_round(traced, jax.tree.leaves(leaves))[1])
    return residual, compiled(functools.partial(AUTODIFF[mode], _OneMoreRound(traced)))


def described(leaves: Sequence[Any]) -> tuple[Any, ...]:
    """The shapes and dtypes of leaves, hashable."""
    return tuple((leaf.shape, leaf.dtype) for leaf in leaves)


@memoized
def _nudged_as_written(function: Function, mode: Mode, shapes: Any) -> tuple[Callable[..., Any], Floats]:
    """The same for the derivative as the user's dtypes have it, run in float64; and the unit of each slot's dtype."""
    groups = [[jax.ShapeDtypeStruct(*shape) for shape in group] for group in shapes]
    with precision(False):
        traced = jax.make_jaxpr(functools.partial(AUTODIFF[mode], function))(*groups)
    with precision(True):
        slots, count = Slots(traced, lift=True), len(groups[0])
    # What is computed in a wider dtype than it is given is given exactly.
    usual = float(np.median(slots.spacings)) if len(slots.spacings) else DOUBLE
    inputs = [min(spacing(shape.dtype), usual) for shape in (*groups[0], *groups[2])]
    units = np.concatenate([inputs, slots.spacings])

    def moved(leaves: tuple[Leaves, Leaves, Leaves], row: tuple[Any, Any]) -> tuple[Leaves, Leaves]:
        (differentiated, fixed, cotangent), (seeds, units) = leaves, row
        given = [nudged(leaf, seeds[i], units[i]) for i, leaf in enumerate([*differentiated, *cotangent])]
        results = slots.run([*given[:count], *fixed, *given[count:]], seeds[len(inputs) :], units[len(inputs) :], 0.0)
        return results[: len(results) - count], results[len(results) - count :]

    @compiled
    def run(leaves: tuple[Leaves, Leaves, Leaves], seeds: Any, units: Any) -> tuple[Leaves, Leaves]:
        return jax.lax.map(functools.partial(moved, leaves), (seeds, units))

    return run, units


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

    def derivative(self, point: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
        """The function's outputs and its gradient by autodiff, as float64 arrays."""
        with precision(self.exact):
            given = self._as_run(point, cotangent)
            run = _program(self.case.function, self.mode, self.exact, self.large)
            outputs, gradient = run(*given)
            return widened(outputs), widened(gradient)

    def outputs(self, point: Leaves) -> Leaves:
        """The function's outputs alone."""
        case = self.case
        with precision(self.exact), np.errstate(all="ignore"):
            leaves = point if self.exact else held(point, case.differentiated)
            if case.function.traced:
                return widened(_values(case.function, self.large)(leaves, case.fixed_in(self.exact)))
            came = [case.layout.as_came("differentiated", leaves), case.layout.as_came("fixed", case.fixed)]
            return [np.asarray(leaf, np.float64) for leaf in case.function.outputs(*came)]

    def _as_run(self, point: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves, Leaves]:
        case = self.case
        if self.exact:
            return point, case.fixed_in(True), cotangent
        return held(point, case.differentiated), case.fixed, held(cotangent, case.outputs)

    def truth(self, point: Leaves, cotangent: Leaves, unit: float) -> Truth:
        """The right gradient at a point, its noise for numbers of such a unit in the last place.

        Args:
            point: the differentiated leaves, float64.
            cotangent: the leaves of the cotangent, float64.
            unit: relative, of every rounded result; where its own dtype is coarser than that, its own is taken.
        """
        if self.mode == "differences":
            return self._by_differences(point, cotangent, unit)
        outputs, gradient = self.derivative(point, cotangent)
        return Truth(outputs, gradient, unit, functools.partial(self._noise, point, cotangent, gradient))

    def noise_as_written(self, truth: Truth, place: Any) -> Leaves:
        """What rounding in the user's dtypes explains, each result rounded to the dtype that it is written in."""
        case, unit = self.case.as_written(), max(self.case.units)
        try:
            given = case.differentiated, case.fixed, case.outputs
            run, units = _nudged_as_written(case.function, self.mode, tuple(map(described, given)))
            seeds = self.generator.integers(1, 2**32, (PERTURBATIONS + 1, len(units)), np.uint32)
            rows = np.tile(units, (PERTURBATIONS + 1, 1))
            rows[0] = 0
            if case.function.scalar:
                rows[:, len(place.point)] = 0
            with precision(True), np.errstate(all="ignore"):
                _, moved = run((place.point, case.fixed_in(True), place.cotangent), seeds, rows)
                moved = widened(moved)
        except Exception:  # a program that cannot be lifted is moved by the coarsest unit throughout
            return truth.in_unit(unit).noise
        return [_largest_change(stack[1:], stack[0]) + unit * largest(stack[0]) for stack in moved]

    def _noise(self, point: Leaves, cotangent: Leaves, gradient: Leaves, unit: float) -> Leaves:
        seeds, units, nudges = self._seeds(point, cotangent, unit)
        at_inputs = [min(unit, own) for own in self.case.units]
        units[:, :nudges] = [*at_inputs, *[0.0 if self.case.function.scalar else unit] * len(cotangent)]
        _, moved = self._moved(point, cotangent, seeds, units, 0.0)
        noise = [_largest_change(stack, leaf) for stack, leaf in zip(moved, gradient, strict=True)]
        return self._with_residual(point, cotangent, noise, gradient, unit, 1)

    def _with_residual(
        self, point: Leaves, cotangent: Leaves, noise: Leaves, known: Leaves, unit: float, which: int
    ) -> Leaves:
        """The noise of the outputs (0) or of the gradient (1), with what one more round of a solver would change."""
        if not 0 < self.residual(point) <= CONVERGED:
            return noise
        with precision(self.exact), np.errstate(all="ignore"):
            leaves = self._as_run(point, cotangent)
            further = widened(self._further(leaves[:2])[1](*leaves)[which])
        times = RESIDUALS / limit_of(unit)
        return [n + times * np.nan_to_num(np.abs(f - k)) for n, f, k in zip(noise, further, known, strict=True)]

    def noise_of_outputs(self, place: Any, unit: float) -> Leaves:
        """What rounding explains of a difference from the function's outputs."""
        if self.mode == "differences":
            return [np.zeros(output.shape) for output in self.case.outputs]
        seeds, units, _ = self._seeds(place.point, place.cotangent, unit)
        moved, _ = self._moved(place.point, place.cotangent, seeds, units, 0.0)
        known = self.outputs(place.point)
        noise = [_largest_change(stack, leaf) for stack, leaf in zip(moved, known, strict=True)]
        return self._with_residual(place.point, place.cotangent, noise, known, unit, 0)

    def beside(self, place: Any, step: float) -> Leaves:
        """Gradients right beside a point: inputs and intermediate results moved a relative step, zeros a step of 1.

        In every other of them all elements of a result go the same way.
        """
        seeds, units, _ = self._seeds(place.point, place.cotangent, step)
        units *= self.generator.choice((-1, 1), units.shape)
        seeds[::2] = 0
        units[0], units[2] = np.abs(units[0]), -np.abs(units[2])
        return self._moved(place.point, place.cotangent, seeds, units, step)[1]

    def residual(self, point: Leaves) -> float:
        """How much one more round would change what solvers in the function return, relative."""
        if not self.case.traits.iterates or self.mode == "differences":
            return 0.0
        with precision(self.exact), np.errstate(all="ignore"):
            leaves = (point if self.exact else held(point, self.case.differentiated)), self.case.fixed_in(self.exact)
            return float(self._further(leaves)[0](*leaves))

    def _further(self, leaves: tuple[Leaves, Leaves]) -> tuple[Any, Any]:
        return _one_more_round(self.case.function, self.mode, self.exact, tuple(map(described, leaves)))

    def nearby(self, place: Any, step: float) -> list[Leaves]:
        """The gradients at points right beside a place, on opposite sides if cheap; computed once for a place."""
        if self._nearby[0] != place.name:
            signs = [np.resize(self.generator.choice((-1.0, 1.0), 65521), leaf.shape) for leaf in place.point]
            moves = [step * sign * _scale(leaf) for sign, leaf in zip(signs, place.point, strict=True)]
            points = [
                [leaf + way * move for leaf, move in zip(place.point, moves, strict=True)]
                for way in (1, -1)[: 1 if self.large else 2]
            ]
            self._nearby = place.name, [self.derivative(point, place.cotangent)[1] for point in points]
        return self._nearby[1]

    def _seeds(self, point: Leaves, cotangent: Leaves, unit: float) -> tuple[Floats, Floats, int]:
        """For each perturbation a row of seeds and one of units; and how many of a row are for inputs."""
        with precision(self.exact):
            shapes = tuple(map(described, self._as_run(point, cotangent)))
            _, count = _nudged(self.case.function, self.mode, self.exact, shapes)
        seeds = self.generator.integers(1, 2**32, (PERTURBATIONS, count), np.uint32)
        return seeds, np.full((PERTURBATIONS, count), unit), len(point) + len(cotangent)

    def _moved(
        self, point: Leaves, cotangent: Leaves, seeds: Floats, units: Floats, at_zero: float
    ) -> tuple[Leaves, Leaves]:
        with precision(self.exact), np.errstate(all="ignore"):
            leaves = self._as_run(point, cotangent)
            run, _ = _nudged(self.case.function, self.mode, self.exact, tuple(map(described, leaves)))
            outputs, gradients = run(leaves, seeds, units, at_zero)
            return widened(outputs), widened(gradients)

    def _by_differences(self, point: Leaves, cotangent: Leaves, unit: float) -> Truth:
        gradient, doubt = self._slopes(point, cotangent)

        def measure(unit: float) -> Leaves:
            noise = [leaf / DOUBTS + unit * np.abs(g) for leaf, g in zip(doubt, gradient, strict=True)]
            if unit > DOUBLE:
                moved = [leaf * (1 + unit * self.generator.choice((-1, 1), leaf.shape)) for leaf in point]
                changed, _ = self._slopes(moved, cotangent)
                noise = [n + np.abs(c - g) for n, c, g in zip(noise, changed, gradient, strict=True)]
            return noise

        return Truth(self.outputs(point), gradient, unit, measure)

    def _slopes(self, point: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
        """The gradient element by element, and its doubt; NaN, unknown, beyond the first `MOST` in a random order."""
        gradient = [np.full(leaf.shape, np.nan) for leaf in point]
        doubt = [np.full(leaf.shape, np.nan) for leaf in point]
        elements = [(i, j) for i, leaf in enumerate(point) for j in range(leaf.size)]
        chosen = elements if len(elements) <= MOST else self.generator.permutation(elements)[:MOST]
        for i, j in chosen:
            direction = [np.zeros(leaf.shape) for leaf in point]
            direction[i].flat[j] = size(point[i])
            slope, spread = self.slope(point, cotangent, direction)
            gradient[i].flat[j] = slope / direction[i].flat[j]
            doubt[i].flat[j] = spread / direction[i].flat[j]
        return gradient, doubt

    def slope(self, point: Leaves, cotangent: Leaves, direction: Leaves) -> tuple[float, float]:
        """The derivative of ⟨ct, f⟩ along a direction, and how far it is in doubt.

        Central differences at h, h/2, h/4, ... have errors in even powers of h, which Richardson's scheme takes away
        one by one; the entry of its table that differs least from its neighbours counts (Ridders, 1982).
        """
        row: list[float] = []
        best, doubt = np.nan, np.inf
        for level in range(LEVELS):
            h = STEP / 2**level
            ahead, behind = (
                self.outputs([leaf + sign * h * v for leaf, v in zip(point, direction, strict=True)])
                for sign in (1, -1)
            )
            with np.errstate(all="ignore"):
                # The change of every output first, and the sum after: a large sum would round small changes away.
                terms = [((a - b) * c).sum() for a, b, c in zip(ahead, behind, cotangent, strict=True)]
                sizes = [np.abs(a * c).sum() for a, c in zip(ahead, cotangent, strict=True)]
            fresh = [float(sum(terms)) / (2 * h)]
            rounding = DOUBLE * float(sum(sizes)) / h
            for order, coarser in enumerate(row, start=1):
                fresh.append(fresh[-1] + (fresh[-1] - coarser) / (4.0**order - 1))
                spread = max(abs(fresh[-1] - fresh[-2]), abs(fresh[-1] - coarser)) + rounding
                if spread < doubt:
                    best, doubt = fresh[-1], spread
            row = fresh
        return best, doubt


def _scale(leaf: Floats) -> Floats:
    """How far an element moves in a step of 1."""
    return np.where(leaf, np.abs(leaf), size(leaf))


def _largest_change(stack: Floats, leaf: Floats) -> Floats:
    """For each element, over the perturbations that stay finite."""
    with np.errstate(all="ignore"):
        change = np.abs(stack - leaf)
    return np.where(np.isfinite(change), change, 0).max(axis=0)


STEP, LEVELS = 2.0**-7, 7
DOUBTS = 100.0
RESIDUALS = 16.0  # of an approximate forward pass, times the change of one more round, are rounding

# Right gradients stay below about 30 units of measured rounding and the mildest mistakes begin at a billion, so that
# any number between would do.
UNITS_IN_FLOAT64 = 1e4
# In the user's own dtype every operation rounds, and there are as many ways to round as to write a formula.
UNITS_IN_OWN_DTYPE = 32.0
# In half precision 32 would be a tenth of the gradient and hide mistakes; right rules stay within 1 there.
UNITS_IN_HALF_PRECISION = 8.0


def limit_of(unit: float) -> float:
    """How many units of noise are still rounding, where one unit in the last place is this."""
    if unit == DOUBLE:
        return UNITS_IN_FLOAT64
    return UNITS_IN_OWN_DTYPE if unit < HALF else UNITS_IN_HALF_PRECISION


def size(leaf: Floats) -> float:
    """The root of the mean square of a leaf, 1 for zeros."""
    return float(np.sqrt(np.mean(np.square(leaf)))) or 1.0
