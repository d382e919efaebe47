"""Numerics: in the user's own dtype, the candidate must be about as accurate as autodiff, and never lose everything.

The inputs are rounded once; the truth is the float64 gradient at those rounded inputs.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify import kinks, points
from jaxnet.verify.candidate import by_candidate
from jaxnet.verify.comparison import UNITS_IN_OWN_DTYPE, Comparison
from jaxnet.verify.diagnosis import diagnose
from jaxnet.verify.diagnosis.evidence import Evidence
from jaxnet.verify.points import Place
from jaxnet.verify.problem import Floats, Leaves, Problem, as_the_user_runs_it, is_float, spacing
from jaxnet.verify.reference import DOUBLE, Truth, by_autodiff, truth
from jaxnet.verify.report import Finding
from jaxnet.verify.trial import Trial

# A result that is this many times worse than what a rounding of its inputs explains has lost its digits, even where
# autodiff loses them too: 1e4 units are 13 bits.
UNITS_LOST = 1e4
MANY = 0.1


def judge(trial: Trial, comparisons: list[Comparison]) -> list[Finding]:
    """What is lost at the given point, around it and under stress, in the user's dtypes."""
    problem, generator = trial.problem, trial.generator
    if not trial.differentiable or not trial.exact:
        return []
    given, zeros = (c for c in comparisons if c.place.name in ("given", "zeros"))
    found: list[Comparison] = []
    how = kinks.steps(trial)
    if not trial.native and how is not None:
        point = points.around(problem, generator, 0.3)
        around = Place("around", point, points.cotangent(problem, generator))
        kinked = kinks.slopes(trial, given.place, how, 2).kinked
        elementwise = acts_elementwise(given, zeros)
        found += against_autodiff(problem, given.place, generator, traced=trial.traced, exempt=kinked)
        found += against_conditioning(
            problem, given.place, generator, traced=trial.traced, exempt=kinked, elementwise=elementwise
        )
        found += against_autodiff(problem, around, generator, traced=trial.traced)
    for place in points.stressed(problem, generator):
        found += against_autodiff(problem, place, generator, traced=trial.traced)
    return [_checked(trial, comparisons, finding, place) for finding, place in _findings(problem, found)]


def _checked(trial: Trial, comparisons: list[Comparison], finding: Finding, place: Place) -> Finding:
    """The finding, or what is wrong in float64 already where the digits were lost: then it is not the dtype."""
    leaf = trial.problem.paths.index(finding.path)
    exact = trial.compare(place)
    if trial.native or not exact.wrong(leaf).any():
        return finding
    generic = [c for c in comparisons if c.place.role == "generic"]
    evidence = Evidence(trial.problem, (exact, *generic), trial.traced, True)
    ((kind, text),) = diagnose(evidence, [leaf]).values()
    return exact.finding(leaf, finding.path, kind, f"{text}; right at other points")


def against_autodiff(
    problem: Problem,
    place: Place,
    generator: np.random.Generator,
    *,
    traced: bool,
    exempt: Leaves | None = None,
) -> Iterator[Comparison]:
    """The candidate in the user's dtypes beside the truth, each element in units of the error that autodiff makes.

    That is what one unit in the last place of every input and every intermediate result does, and what autodiff really
    does in this dtype. Exempt elements, those on a kink, are left out; a place whose outputs overflow is passed over.
    """
    units = [spacing(leaf.dtype) for leaf in problem.differentiated]
    place = points.rounded(problem, place)
    exact = truth(problem, place.point, place.cotangent, generator, at_inputs=units, inside=max(units))
    if not _representable(problem, exact):
        return
    found = by_candidate(problem, place.point, place.cotangent, traced=traced, float64=False)
    automatic = by_autodiff(problem, place.point, place.cotangent)
    noise = [
        _allowed(n, a, g, leaf.dtype, place.tiny)
        for n, a, g, leaf in zip(exact.noise, automatic, exact.gradient, problem.differentiated, strict=True)
    ]
    yield Comparison(place, exact._replace(noise=_without(noise, exempt)), found, UNITS_IN_OWN_DTYPE)


def against_conditioning(
    problem: Problem,
    place: Place,
    generator: np.random.Generator,
    *,
    traced: bool,
    exempt: Leaves,
    elementwise: bool,
) -> Iterator[Comparison]:
    """The candidate beside the truth, in units of what one rounding of the inputs does: not everything may be lost.

    A derivative of 2e-9 that comes out as 0 is lost, even if autodiff's is lost too: a leaf must keep some digits, and
    where the function acts element by element, not many elements may come out as 0 that are not.
    """
    units = [spacing(leaf.dtype) for leaf in problem.differentiated]
    place = points.rounded(problem, place)
    exact = truth(problem, place.point, place.cotangent, generator, at_inputs=units, inside=DOUBLE)
    if not _representable(problem, exact):
        return
    found = by_candidate(problem, place.point, place.cotangent, traced=traced, float64=False)
    noise = []
    for n, g, leaf, answer in zip(exact.noise, exact.gradient, problem.differentiated, found, strict=True):
        limits = jnp.finfo(leaf.dtype)
        known = n + float(limits.eps) * float(np.sqrt(np.mean(np.square(g)))) + float(limits.tiny)
        flushed = (np.zeros_like(g) if answer is None else answer) == 0
        flushed &= (n < 0.5 * np.abs(g)) & (np.abs(g) > float(limits.tiny))
        # In half precision a sigmoid is 1 from z = 6 on: there, only a leaf that is lost altogether counts.
        if flushed.mean() >= (MANY if elementwise and float(limits.eps) < 1e-6 else 1):
            known = np.where(flushed, float(limits.tiny) / UNITS_LOST, known)
        noise.append(known)
    yield Comparison(place, exact._replace(noise=_without(noise, exempt)), found, UNITS_LOST)


def acts_elementwise(given: Comparison, zeros: Comparison) -> bool:
    """Whether the gradient of an element depends on that element alone: at zeros every other element is as given."""
    if len(given.place.point) != 1:
        return False
    (x,), (moved,) = given.place.point, zeros.place.point
    (g,), (h,) = given.truth.gradient, zeros.truth.gradient
    (c,), (d,) = given.place.cotangent[:1], zeros.place.cotangent[:1]
    if len(given.place.cotangent) != 1 or (c.ndim and c.shape != x.shape) or not (x != moved).any():
        return False
    slopes = [np.broadcast_to(value / upstream, x.shape)[x == moved] for value, upstream in ((g, c), (h, d))]
    return bool(np.allclose(*slopes, rtol=1e-9, atol=0, equal_nan=True))


def _without(noise: Leaves, exempt: Leaves | None) -> Leaves:
    """The noise, unknown where exempt."""
    if exempt is None:
        return noise
    return [np.where(mask, np.nan, leaf) for mask, leaf in zip(exempt, noise, strict=True)]


def _outputs(problem: Problem) -> list[Any]:
    with as_the_user_runs_it():
        return jax.tree.leaves(problem.rule.output_shapes(problem.differentiated, problem.fixed))


def _representable(problem: Problem, exact: Truth) -> bool:
    """Whether the user's dtypes can hold the function's values at all."""
    limits = [float(jnp.finfo(s.dtype).max) for s in _outputs(problem) if is_float(s)]
    return all(
        bool(np.isfinite(o).all() and (np.abs(o) < limit).all()) for o, limit in zip(exact.outputs, limits, strict=True)
    )


def _allowed(noise: Floats, automatic: Floats, gradient: Floats, dtype: Any, tiny: bool) -> Floats:
    """The noise of one element: measured, autodiff's own, the rounding of the result, and what underflows.

    Where autodiff overflows any finite answer will do; where the right value does not fit the dtype, or autodiff fails
    because squares underflow, any answer.
    """
    limits = jnp.finfo(dtype)
    with np.errstate(all="ignore"):
        own = np.abs(automatic - gradient)
        finite = np.isfinite(own)
        typical = np.sqrt(np.mean(np.square(own), where=finite)) if finite.any() else 0.0
        allowed = noise + np.where(finite, own + typical, np.finfo(float).max) + float(limits.eps) * np.abs(gradient)
    allowed = allowed + float(limits.tiny)
    return np.where((np.abs(gradient) < 0.5 * float(limits.max)) & (finite | (not tiny)), allowed, np.nan)


def _findings(problem: Problem, comparisons: list[Comparison]) -> Iterator[tuple[Finding, Place]]:
    """What the comparisons say, one finding a leaf with its place: where the most is lost."""
    for leaf, path in enumerate(problem.paths):
        wrong = [c for c in comparisons if c.comparable(leaf) and c.wrong(leaf).any()]
        if not wrong:
            continue
        worst = max(wrong, key=lambda c: float(c.units(leaf).max() / c.limit))
        dtype = problem.differentiated[leaf].dtype
        bad = worst.wrong(leaf)
        lost = ~np.isfinite(worst.answer(leaf)[bad])
        if lost.any():
            text = (
                f"in {dtype} it returns NaN or infinity in {lost.sum()} of {bad.size} elements where the right value "
                "is finite: an intermediate result overflows or divides by 0; write the rule in a form that does not"
            )
            yield worst.finding(leaf, path, "non_finite", text), worst.place
        else:
            text = (
                f"the formula is right, but in {dtype} it loses its digits here, {worst.error(leaf):.1e} of the "
                f"gradient where rounding explains {worst.rounding(leaf):.1e}: it subtracts nearly equal numbers, "
                "underflows or computes in a narrower dtype; write it in a form that does not"
            )
            yield worst.finding(leaf, path, "precision", text), worst.place
