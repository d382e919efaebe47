"""Numerics: in the user's own dtype, the candidate must be about as accurate as autodiff, and never lose everything.

The truth is the float64 gradient at points that the user's dtype holds.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet.verify.checks.kinks import settled
from jaxnet.verify.engine.cancellation import lost
from jaxnet.verify.engine.case import Case
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.differentiator import Differentiator
from jaxnet.verify.engine.hearing import NOTHING, Hearing, Outcome
from jaxnet.verify.engine.places import Place
from jaxnet.verify.engine.precision import HALF, Floats, Leaves
from jaxnet.verify.engine.trial import answer, errors_of_autodiff, own_unit
from jaxnet.verify.engine.truth import Truth, limit_of
from jaxnet.verify.mistakes import diagnose
from jaxnet.verify.mistakes.evidence import Evidence
from jaxnet.verify.report import Finding

# A zero is no rounding of a number that is so many times larger than what cancels in it.
NOTHING_CANCELS = 32.0
# The share of a leaf that is lost to zeros before it counts; in half precision a sigmoid is 1 from z = 6 on, and there
# only a leaf that is lost altogether counts.
MANY = 0.1


def check(hearing: Hearing) -> Outcome:
    """What is lost at the given point, around it and under stress, in the user's dtypes."""
    trial = hearing.trial
    if trial.function.mode == "differences" or not trial.function.exact:
        return NOTHING
    given = hearing.special[:1] if not trial.native else []
    around = [p for p in hearing.generic if p.name == "around"]
    places = [*given, *hearing.stressed, *(around if not trial.native else [])]
    if own_unit(trial.case) > HALF and not trial.case.function.scalar:
        places += map(_of_ones, around or given)
    own = [_in_own_dtype(hearing, place) for place in places]
    own = [comparison for comparison in own if comparison is not None]
    findings = [f for i in range(len(trial.case.paths)) if (f := _worst(hearing, own, i)) is not None]
    if not trial.native and not findings:
        findings = [finding for finding in _flushed(hearing, own) if finding is not None]
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in trial.case.differentiated}))
    return Outcome(tuple(findings), covers=f"{dtypes} at {len(own)} points", settled=bool(findings))


def _of_ones(place: Place) -> Place:
    """The place with a cotangent of ones: a sum of terms of one sign, kept in half precision, stops growing at 256."""
    ones = [np.ones_like(leaf) for leaf in place.cotangent]
    return place._replace(name=f"{place.name}, cotangent of ones", cotangent=ones, role="generic")


def _in_own_dtype(hearing: Hearing, place: Place) -> Comparison | None:
    """The candidate in the user's dtypes beside the truth; None where the outputs overflow them.

    Rounding is what a unit in the last place of every input and every intermediate result does, and what autodiff
    really does in this dtype: both are looked at where the answer is not within a few units of the largest element.
    """
    trial = hearing.trial
    case = trial.case
    truth = hearing.truth(place).in_unit(own_unit(case))
    if not _representable(case, truth) or not hearing.solved(place):
        return None
    if place is hearing.special[0]:  # as the user calls it; what XLA makes of it is compared later
        found = hearing.called
    else:
        found = answer(case, place.point, place.cotangent, exact=False, traced=trial.traced)
    noise = functools.cache(lambda: _allowed(trial.function, truth, place))
    return Comparison(place, truth.with_noise(noise), found, limit_of(own_unit(case)))


def _representable(case: Case, truth: Truth) -> bool:
    """Whether the user's dtypes can hold the function's values at all."""
    limits = [float(jnp.finfo(shape.dtype).max) for shape in case.outputs]
    return all(
        bool(np.isfinite(o).all() and (np.abs(o) < limit).all()) for o, limit in zip(truth.outputs, limits, strict=True)
    )


def _allowed(function: Differentiator, truth: Truth, place: Place) -> Leaves:
    """The noise of each element: measured, autodiff's own, the rounding of the result, and what underflows.

    Where autodiff overflows any finite answer will do; where the right value does not fit the dtype, or autodiff fails
    because squares underflow or in half precision, any answer.
    """
    allowed = []
    measured, errors = function.noise_as_written(truth, place), errors_of_autodiff(function, truth, place)
    for noise, error, expected, leaf in zip(
        measured, errors, truth.gradient, function.case.differentiated, strict=True
    ):
        limits = jnp.finfo(leaf.dtype)
        with np.errstate(all="ignore"):
            total = noise + error + float(limits.eps) * np.abs(expected) + float(limits.tiny)
        fits = np.abs(expected) < 0.5 * float(limits.max)
        finite_will_do = not place.tiny and float(limits.eps) < HALF
        allowed.append(np.where(fits & ((error < np.finfo(float).max) | finite_will_do), total, np.nan))
    return allowed


def _worst(hearing: Hearing, own: list[Comparison], leaf: int) -> Finding | None:
    """The finding on a leaf, where the most is lost; what is wrong in float64 already is not the dtype's."""
    path = hearing.trial.case.paths[leaf]
    wrong = [c for c in own if c.any_wrong(leaf)]
    for worst in sorted(wrong, key=lambda c: -float(c.units(leaf).max() / c.limit)):
        bad = worst.wrong(leaf)
        exact = hearing.at(worst.place) if not hearing.trial.native else None
        if exact is not None and exact.comparable(leaf):
            verdict = settled(hearing.trial, exact, [leaf], hearing.given)
            if verdict.wrong[leaf].any() and worst.place.tiny:
                continue  # a function need not be itself where its squares underflow
            if verdict.wrong[leaf].any():
                return _wrong_already(hearing, exact, leaf, verdict.wrong[leaf])
            bad = bad & ~exact.wrong(leaf) & ~verdict.unknown[leaf] & _lost(worst, exact, leaf)
            if worst.place.tiny:  # whether a square underflows there depends on how it is compiled
                bad = bad & ~np.isfinite(worst.answer(leaf))
            if verdict.around is not None:
                bad = bad & ~verdict.around.kinked(leaf) & ~verdict.around.singular(leaf)
            if not bad.any():
                continue
        return _precision(worst, leaf, path, bad, hearing.trial.case.differentiated[leaf].dtype)
    return None


def _lost(own: Comparison, exact: Comparison, leaf: int) -> Floats:
    """Where the answer is another one than in float64, and not only another one than autodiff's."""
    with np.errstate(all="ignore"):
        error = np.abs(own.answer(leaf) - own.truth.gradient[leaf])
        return ~(np.abs(own.answer(leaf) - exact.answer(leaf)) <= 0.1 * error)


def _wrong_already(hearing: Hearing, exact: Comparison, leaf: int, bad: Floats) -> Finding:
    generic = hearing.in_domain(hearing.generic)
    ((kind, text),) = diagnose(Evidence(hearing.trial, (exact, *generic), {}), [leaf]).values()
    return exact.finding(leaf, hearing.trial.case.paths[leaf], kind, f"{text}; right at other points", bad)


def _precision(worst: Comparison, leaf: int, path: str, bad: Floats, dtype: Any) -> Finding:
    lost_here = ~np.isfinite(worst.answer(leaf)[bad])
    if lost_here.any():
        text = (
            f"in {dtype} it returns NaN or infinity in {lost_here.sum()} of {bad.size} elements where the right value "
            "is finite: an intermediate result overflows or divides by 0; write the rule in a form that does not"
        )
        return worst.finding(leaf, path, "non_finite", text, bad)
    text = (
        f"the formula is right, but in {dtype} it loses its digits here, {worst.error(leaf):.1e} of the gradient where "
        f"rounding explains {worst.rounding(leaf):.1e}: more than autodiff of the function loses in this dtype"
    )
    return worst.finding(leaf, path, "precision", text, bad)


def _flushed(hearing: Hearing, own: list[Comparison]) -> list[Finding | None]:
    """A derivative of 2e-9 that comes out as 0 is lost, even if autodiff's is lost, too, unless sums cancel in it."""
    given = next((c for c in own if c.place.name == "given"), None)
    if given is None or hearing.trial.function.mode != "reverse":  # what cancels is told by the backward program
        return []
    candidates = [_zeros(given, i, leaf) for i, leaf in enumerate(hearing.trial.case.differentiated)]
    if not any(mask.any() for mask in candidates):
        return []
    measured: Callable[[], Leaves] = functools.cache(
        lambda: lost(hearing.trial.function, given.place, hearing.trial.case.units)
    )
    return [_lost_to_zeros(hearing, given, i, mask, measured) for i, mask in enumerate(candidates)]


def _zeros(given: Comparison, leaf: int, own: Any) -> Floats:
    """The elements that are 0 where the right value is a number that the dtype holds."""
    expected = given.truth.gradient[leaf]
    if not given.comparable(leaf):
        return np.zeros(expected.shape, bool)
    return (given.answer(leaf) == 0) & (np.abs(expected) > float(jnp.finfo(own.dtype).tiny)) & np.isfinite(expected)


def _lost_to_zeros(
    hearing: Hearing, given: Comparison, leaf: int, zeros: Floats, measured: Callable[[], Leaves]
) -> Finding | None:
    dtype = hearing.trial.case.differentiated[leaf].dtype
    share = MANY if float(jnp.finfo(dtype).eps) < HALF else 1.0
    if not zeros.mean() >= share or hearing.given.wrong(leaf)[zeros].any():
        return None  # few, or a convention at kinks
    flushed = zeros & (np.abs(given.truth.gradient[leaf]) > NOTHING_CANCELS * measured()[leaf])
    if not flushed.mean() >= share:
        return None
    text = (
        f"in {dtype} it is 0 in {flushed.sum()} of {flushed.size} elements where the right value is not, and nothing "
        "cancels there: it subtracts nearly equal numbers, as 1 - a does where a rounds to 1; write it in a form that "
        "does not"
    )
    return given.finding(leaf, hearing.trial.case.paths[leaf], "precision", text, flushed)
