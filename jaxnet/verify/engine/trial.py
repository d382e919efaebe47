"""How a candidate is judged: in which dtypes it and the truth are computed, and the comparison at a place."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.autodiff import Mode
from jaxnet.verify.engine.case import Candidate, Case, memoized, with_casts_lifted
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.constants import anew
from jaxnet.verify.engine.differentiator import Differentiator
from jaxnet.verify.engine.layout import Layout
from jaxnet.verify.engine.places import Place
from jaxnet.verify.engine.precision import (
    DOUBLE,
    Floats,
    Leaves,
    compiled,
    dtype_of_spacing,
    has_float64,
    held,
    in_float64,
    is_large,
    precision,
    widened,
)
from jaxnet.verify.engine.program import narrowings
from jaxnet.verify.engine.truth import Truth, limit_of

SIDES = (1, 2, 3)  # to which numbers in narrower dtypes are moved
DOUBT = 1.5  # times the most that this changes is in doubt: less than twice, as the next number is no other rounding


class CandidateError(Exception):
    """The candidate raised; its own error is the cause."""


@memoized
def _compiled(candidate: Candidate, layout: Layout, exact: bool, large: bool) -> Callable[..., Leaves]:
    return compiled(lambda *leaves: candidate.leaves(layout, *leaves), large=large)


@memoized
def _mapped(candidate: Candidate, layout: Layout, exact: bool, large: bool) -> Callable[..., Leaves]:
    return compiled(jax.vmap(lambda *leaves: candidate.leaves(layout, *leaves), in_axes=(0, None, 0)), large=large)


def answer(case: Case, point: Leaves, cotangent: Leaves, *, exact: bool, traced: bool = True) -> Leaves:
    """The candidate's gradient at a point; each leaf a float64 array whatever it was computed in, None where None.

    Args:
        case: the case.
        point: the differentiated leaves.
        cotangent: the leaves of the cotangent that are floats.
        exact: whether it is computed in float64, or in the user's dtypes.
        traced: whether it is compiled.

    Raises:
        CandidateError: if the candidate raises.
    """
    with np.errstate(all="ignore"), precision(exact):
        fixed = case.fixed_in(exact)
        if not exact:
            case = case.as_written()
            point, cotangent = held(point, case.differentiated), held(cotangent, case.outputs)
        try:
            if traced:
                run = _compiled(case.candidate, case.layout, exact, is_large(point))
                leaves = anew(lambda: run(point, fixed, cotangent), mixed=case.candidate.mixed)
            else:
                layout = case.layout
                came = layout.as_came("differentiated", point), layout.as_came("fixed", fixed)
                called = case.candidate.answer(layout, *came, [jnp.asarray(c) for c in cotangent])
                leaves = layout.entries(called)
        except Exception as error:
            raise CandidateError(str(error)) from error
        return [None if leaf is None else np.asarray(leaf, np.float64) for leaf in leaves]


def answers(case: Case, points: Leaves, cotangents: Leaves, *, exact: bool) -> Leaves:
    """The candidate's gradients at stacked points, all at once by `jax.vmap`."""
    with precision(exact), np.errstate(all="ignore"):
        fixed = case.fixed_in(exact)
        if not exact:
            case = case.as_written()
            points, cotangents = held(points, case.differentiated), held(cotangents, case.outputs)
        run = _mapped(case.candidate, case.layout, exact, is_large(points))
        return [None if leaf is None else np.asarray(leaf, np.float64) for leaf in run(points, fixed, cotangents)]


def narrowest(case: Case) -> float:
    """One unit in the last place of the narrowest dtype that the candidate computes in when asked for float64; or 0."""
    with in_float64():
        leaves = widened(case.differentiated), case.fixed_in(True), [np.zeros(o.shape) for o in case.outputs]
        program = jax.make_jaxpr(lambda *leaves: case.candidate.leaves(case.layout, *leaves))(*leaves)
        return max(narrowings(program), default=0.0)


@dataclass(frozen=True)
class Trial:
    """How the candidate is judged.

    Attributes:
        case: the function and the candidate.
        generator: of everything random.
        function: the function with the means to differentiate it.
        native: whether the candidate runs in the user's dtypes, not in float64.
        traced: whether the candidate is compiled.
        unit: one unit in the last place of what the candidate computes in.
    """

    case: Case
    generator: np.random.Generator
    function: Differentiator
    native: bool
    traced: bool
    unit: float

    @property
    def exact(self) -> bool:
        """Whether function and candidate both run in float64."""
        return self.function.exact and not self.native

    @property
    def limit(self) -> float:
        """How many units of noise are still rounding."""
        return limit_of(self.unit)

    def answer(self, point: Leaves, cotangent: Leaves) -> Leaves:
        """The candidate's gradient."""
        return answer(self.case, point, cotangent, exact=not self.native, traced=self.traced)

    def compare(self, place: Place) -> Comparison:
        """The candidate beside the truth at a place."""
        truth = self.function.truth(place, self.unit)
        found = self.answer(place.point, place.cotangent)
        if not self.native and (self.case.function.lift or self.case.candidate.lift):
            known = truth
            truth = known.in_doubt(functools.cache(lambda: self._doubt_of_numbers(place, known.gradient, found)))
        if self.native:
            own, measured = self.case.differentiated, truth
            gradient = [_representable(g, leaf) for g, leaf in zip(truth.gradient, own, strict=True)]
            truth = truth.with_noise(lambda: self._noise_in_own_dtype(measured, place), gradient)
        return Comparison(place, truth, found, self.limit)

    def _noise_in_own_dtype(self, truth: Truth, place: Place) -> Leaves:
        """The noise, what underflows, and under stress what autodiff loses in this dtype."""
        noise = [
            n + float(jnp.finfo(leaf.dtype).tiny) for n, leaf in zip(truth.noise, self.case.differentiated, strict=True)
        ]
        if place.role != "stress" or self.function.mode == "differences":
            return noise
        return [n + error for n, error in zip(noise, errors_of_autodiff(self.function, truth, place), strict=True)]

    def _doubt_of_numbers(self, place: Place, gradient: Leaves, found: Leaves) -> Leaves:
        """What half a unit makes, in the difference, of numbers that stand in programs in dtypes narrower than float64.

        A number that function and candidate share is moved in both alike. What a small part of the step changes as much
        jumps there, as where something is equal to such a number, and is in no doubt.
        """
        known = _less(found, gradient)

        def change(side: int) -> Leaves:
            moved = self._beside_numbers(place, gradient, found, side)
            return [
                np.nan_to_num(np.abs(d - was), posinf=0) if d is not None and was is not None else np.zeros_like(leaf)
                for d, was, leaf in zip(moved, known, gradient, strict=True)
            ]

        first, part = change(SIDES[0]), change(-SIDES[0])
        most = functools.reduce(lambda a, b: list(map(np.maximum, a, b)), map(change, SIDES[1:]), first)
        return [DOUBT * np.where(p <= s / 8, m, 0) for p, s, m in zip(part, first, most, strict=True)]

    def _beside_numbers(self, place: Place, gradient: Leaves, found: Leaves, side: int) -> Leaves:
        """The candidate's gradient less the right one, where numbers are moved to a side."""
        function, candidate = replace(self.case.function, side=side), replace(self.case.candidate, side=side)
        case = self.case._replace(function=function, candidate=candidate)
        if function.lift:
            beside = Differentiator(case, self.function.mode, True, self.generator)
            gradient = beside.derivative(place.point, place.cotangent)[1]
        if candidate.lift:
            found = replace(self, case=case).answer(place.point, place.cotangent)
        return _less(found, gradient)


def _less(found: Leaves, gradient: Leaves) -> Leaves:
    """The differences of the leaves that have the right shape, None for others."""
    return [None if a is None or a.shape != b.shape else a - b for a, b in zip(found, gradient, strict=True)]


def errors_of_autodiff(function: Differentiator, truth: Truth, place: Place) -> Leaves:
    """By how much autodiff in the user's dtypes is off, and typically is; the largest number where it overflows."""
    own = Differentiator(function.case, function.mode, False, function.generator)
    errors = []
    for found, expected in zip(own.derivative(place.point, place.cotangent)[1], truth.gradient, strict=True):
        with np.errstate(all="ignore"):
            error = np.abs(found - expected)
            finite = np.isfinite(error)
            typical = np.sqrt(np.mean(np.square(error), where=finite)) if finite.any() else 0.0
            errors.append(np.where(finite, error + typical, np.finfo(float).max))
    return errors


def _representable(gradient: Floats, leaf: Any) -> Floats:
    """The gradient, unknown where it does not fit the leaf's dtype."""
    return np.where(np.abs(gradient) < 0.5 * float(jnp.finfo(leaf.dtype).max), gradient, np.nan)


def own_unit(case: Case) -> float:
    """One unit in the last place of the narrowest of the user's dtypes."""
    return max(case.units)


def prepare(case: Case, generator: np.random.Generator, given: Place, *, traced: bool) -> tuple[Trial, list[str]]:
    """How the candidate can be judged: in float64 where function and candidate run in it, and notes where not.

    Raises:
        ValueError: if the function can neither run in float64 nor be differentiated by JAX.
    """
    notes: list[str] = []
    unit = own_unit(case)
    own = Trial(case, generator, Differentiator(case, "reverse", False, generator), True, traced, unit)
    lifted = with_casts_lifted(case)
    mode, error = _mode(lifted, generator, given)
    if lifted.function.lift and mode not in ("reverse", "forward"):
        lifted = lifted.as_written()  # what JAX can trace in float64 it may not be able to compile
        mode, error = _mode(lifted, generator, given)
    if mode is None and not _differentiates(own.function, given):
        raise ValueError(
            f"the function can neither run in float64 nor be differentiated by JAX ({error}): "
            "give a plain JAX function as the reference"
        )
    if mode is None:
        return own, [_not_in_float64("function", error)]
    if mode == "differences":
        notes.append(f"autodiff cannot differentiate the function ({error}): differences stand in for it")
    elif mode == "forward":
        notes.append(f"the function is differentiated in forward mode; in reverse mode JAX cannot ({error})")
    trial = Trial(lifted, generator, Differentiator(lifted, mode, True, generator), case.options.native, traced, DOUBLE)
    if not trial.native:
        try:
            trial.answer(given.point, given.cotangent)
        except CandidateError as error:
            notes.append(_not_in_float64("candidate", type(error.__cause__).__name__))
            trial = replace(trial, native=True)
    if trial.native:  # what the function rounds more coarsely than its arguments is, the candidate may round so, too
        return replace(trial, unit=max(unit, case.traits.narrowest)), notes
    return _as_narrow_as_needed(trial, own, given, notes)


def _as_narrow_as_needed(trial: Trial, own: Trial, given: Place, notes: list[str]) -> tuple[Trial, list[str]]:
    """The trial in float64, or, where the candidate is wrong in it, in what it computes in nevertheless."""
    here = trial.compare(given)
    if not any(here.any_wrong(i) for i in range(len(given.point))):
        return trial, notes
    if trial.case.traits.draws and _right(own, given):
        return own, [*notes, "in float64 other random numbers are drawn: judged in the arguments' dtypes alone"]
    narrow = narrowest(trial.case) if trial.traced else 0.0
    if DOUBLE < narrow <= own.unit:
        # What computes in the user's own dtype inside is no worse for the user than the dtype itself.
        notes.append(f"the candidate computes in {dtype_of_spacing(narrow)} inside, and is judged by its rounding")
        return replace(trial, unit=narrow), notes
    return trial, notes


def _right(trial: Trial, given: Place) -> bool:
    if not _differentiates(trial.function, given):
        return False
    here = trial.compare(given)
    return not any(here.any_wrong(i) for i in range(len(given.point)))


def _mode(case: Case, generator: np.random.Generator, given: Place) -> tuple[Mode | None, str]:
    """How the function can be differentiated in float64, and what the better way raises."""
    if not case.function.traced:
        return "differences", "it is no function of JAX"
    modes: list[Mode] = ["reverse", "forward"]
    if case.traits.calls_back:
        modes = ["reverse"]
    raised = ""
    for mode in modes:
        try:
            Differentiator(case, mode, True, generator).derivative(given.point, given.cotangent)
        except Exception as error:  # whatever it is, another way is tried, and what is said is that it failed
            raised = raised or type(error).__name__
        else:
            return mode, raised
    try:
        Differentiator(case, "differences", True, generator).outputs(given.point)
    except Exception:  # as above
        return None, raised
    return "differences", raised


def _differentiates(function: Differentiator, given: Place) -> bool:
    try:
        function.derivative(given.point, given.cotangent)
    except Exception:  # as above
        return False
    return True


def _not_in_float64(what: str, error: str) -> str:
    note = f"the {what} does not run in float64 ({error}): judged in the arguments' dtypes alone"
    # JAX keeps a NumPy array that a program closes over in the dtype it had without float64.
    remedy = "; NumPy arrays of float64 that it closes over may cause this: give them as arguments"
    return note if has_float64() else note + remedy
