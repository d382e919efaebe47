"""The verdict: every check in its order, and a report of what they found."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.verify import contract, kinks, numerics, points, taylor
from jaxnet.verify.comparison import UNITS_IN_FLOAT64, UNITS_IN_OWN_DTYPE, Comparison
from jaxnet.verify.diagnosis import Evidence, diagnose
from jaxnet.verify.evaluation import (
    DOUBLE,
    CandidateError,
    by_candidate,
    narrowest,
    outputs_and_gradients,
    stacked,
    truth,
    value_by_candidate,
    vmapped,
)
from jaxnet.verify.points import Place
from jaxnet.verify.problem import Problem, spacing
from jaxnet.verify.report import Finding, Report

DIRECTIONS = 3


class Trial(NamedTuple):
    """How the candidate is judged.

    Attributes:
        problem: the function and the candidate.
        generator: of everything random.
        native: whether the candidate runs in the user's dtypes alone.
        traced: whether it is compiled.
        differentiable: whether autodiff can differentiate the function.
        unit: one unit in the last place of what the candidate computes in.
    """

    problem: Problem
    generator: np.random.Generator
    native: bool
    traced: bool
    differentiable: bool
    unit: float

    def compare(self, place: Place) -> Comparison:
        """The candidate beside the truth at a place."""
        if self.native:
            place = place._replace(point=points.rounded(self.problem, place.point))
        if self.differentiable:
            units = [self.unit] * len(place.point)
            exact = truth(self.problem, place.point, place.cotangent, self.generator, at_inputs=units, inside=self.unit)
        else:
            exact = taylor.by_differences(self.problem, place, self.generator)
        answer = by_candidate(self.problem, place.point, place.cotangent, traced=self.traced, float64=not self.native)
        return Comparison(place, exact, answer, UNITS_IN_FLOAT64 if self.unit == DOUBLE else UNITS_IN_OWN_DTYPE)


def judge(problem: Problem, key: Any, *, native: bool = False) -> Report:
    """Judges a candidate by the contract, the mathematics, kinks, Taylor's theorem and numerics, in this order."""
    generator = points.generator_of(key)
    special = points.special(problem, generator)
    saturated = [place for place in points.stressed(problem, generator) if place.saturating]
    everywhere = [*special, *points.generic(problem, generator), *saturated, *points.cotangents(problem, generator)]
    conditions = _conditions(problem, native, len(everywhere))
    first = contract.check(problem, special[0])
    if first.fatal:
        return Report(problem.subject, first.findings, {}, first.notes, conditions)
    notes, findings = list(first.notes), list(first.findings)
    own_unit = max(spacing(leaf.dtype) for leaf in problem.differentiated)
    trial = Trial(
        problem, generator, native, first.traced, _differentiable(problem, special[0]), own_unit if native else DOUBLE
    )
    if not trial.differentiable:
        notes.append("autodiff cannot differentiate the function: central differences stand in for it")
    try:
        comparisons = [trial.compare(place) for place in everywhere]
        if not native and trial.traced and _wrong(comparisons):
            narrow = narrowest(problem, special[0].cotangent)
            if DOUBLE < narrow <= own_unit:
                # What computes in the user's own dtype inside is no worse for the user than the dtype itself.
                trial = trial._replace(unit=narrow)
                notes.append(f"the candidate rounds to {_named(narrow)} inside, and is judged by that dtype's rounding")
                comparisons = [trial.compare(place) for place in everywhere]
    except CandidateError as error:
        if native:
            raise
        failure = contract.raised(error, " in float64")
        return Report(
            problem.subject,
            (failure._replace(kind="dtype", explanation=f"{failure.explanation}; native=True judges it without"),),
            {},
            tuple(notes),
            conditions,
        )
    findings += _value(trial)
    findings += _mathematics(trial, comparisons, notes)
    if not findings:
        findings += _numerics(trial, comparisons[:2])
    if not findings:
        findings += _same_however_called(trial, comparisons, notes)
    leaves = {
        path: max((float(c.units(i).max(initial=0)) for c in comparisons if c.comparable(i)), default=math.inf)
        for i, path in enumerate(problem.paths)
    }
    return Report(problem.subject, tuple(findings), leaves, tuple(notes), conditions)


def _conditions(problem: Problem, native: bool, places: int) -> dict[str, str]:
    device = jax.devices()[0]
    dtypes = sorted({str(leaf.dtype) for leaf in problem.differentiated})
    return {
        "device": f"{device.platform} ({device.device_kind})",
        "dtype": ", ".join(dtypes) + (" alone (native)" if native else " and float64"),
        "matrix products": "highest precision",
        "points": str(places),
    }


def _named(unit: float) -> str:
    names = ("float32", "bfloat16", "float16")
    return next((name for name in names if math.isclose(spacing(name), unit)), f"a dtype of spacing {unit:.1g}")


def _differentiable(problem: Problem, place: Place) -> bool:
    try:
        outputs_and_gradients(problem, stacked(place.point), stacked(place.cotangent))
    except Exception:  # whatever autodiff raises, the differences that follow will say what is wrong with the function
        return False
    return True


def _wrong(comparisons: Sequence[Comparison]) -> bool:
    count = len(comparisons[0].candidate)
    return any(c.comparable(i) and bool(c.wrong(i).any()) for c in comparisons for i in range(count))


def _value(trial: Trial) -> Iterator[Finding]:
    """Whether the rule's own forward pass computes the function."""
    if trial.problem.rule.value is None or trial.native or not trial.traced:
        return
    point = points.given(trial.problem)
    found = value_by_candidate(trial.problem, point)
    expected = trial.compare(Place("given", point, points.cotangent(trial.problem, trial.generator))).truth.outputs
    for i, (a, e) in enumerate(zip(found, expected, strict=True)):
        known = np.isfinite(e)
        if a.shape == e.shape and np.allclose(
            a[known], e[known], rtol=1e-9, atol=1e-9 * float(np.abs(e[known]).max(initial=0))
        ):
            continue
        path = "output" + f"[{i}]" * (len(found) > 1)
        yield Finding(path, "unknown", "the rule's forward pass returns another value than the function itself")


def _mathematics(trial: Trial, comparisons: list[Comparison], notes: list[str]) -> list[Finding]:
    """Rules 1, 3, 4: every element at every place, Taylor's theorem, and conventions at kinks."""
    problem = trial.problem
    leaves = range(len(problem.paths))
    special = [c for c in comparisons if c.place.name in ("given", "zeros")]
    pulled = [c for c in comparisons if "cotangent" in c.place.name]
    generic = [c for c in comparisons if c not in special and c not in pulled]
    evidence = Evidence(problem, (*generic, special[0]), trial.traced, not trial.native)

    misshapen = [i for i in leaves if not special[0].comparable(i)]
    wrong = [i for i in leaves if i not in misshapen and any(c.wrong(i).any() for c in generic)]
    if not misshapen and wrong and trial.differentiable and not trial.native and _autodiff_is_wrong(trial, generic):
        notes.append(
            "autodiff of the function contradicts Taylor's theorem and the candidate does not: the function contains a wrong rule"
        )
        return []
    verdicts = diagnose(evidence, [*misshapen, *wrong])
    findings = []
    for i, (kind, text) in verdicts.items():
        shown = [c for c in evidence.comparisons if not c.comparable(i) or c.wrong(i).any()]
        worst = max(shown, key=lambda c: c.error(i) if c.comparable(i) else math.inf)
        findings.append(worst.finding(i, problem.paths[i], kind, text))

    for i in leaves:
        if i not in verdicts:
            findings += _unjudged(special[0], i, problem.paths[i])
    if trial.differentiable:
        for comparison in special:
            findings += _at_kinks(trial, comparison, generic, [i for i in leaves if i not in verdicts], notes)
    settled = {finding.path for finding in findings}
    for comparison in pulled:
        for i in leaves:
            if problem.paths[i] not in settled and comparison.wrong(i).any() and not special[0].wrong(i).any():
                finite = np.isfinite(comparison.answer(i)).all()
                text = f"right elsewhere, wrong with a {comparison.place.name}: a derivative is linear in the cotangent"
                findings.append(comparison.finding(i, problem.paths[i], "nonlinear" if finite else "non_finite", text))
                settled.add(problem.paths[i])
    if not findings and trial.differentiable and not trial.native:
        findings += _taylor(trial, generic)
    return findings


def _unjudged(given: Comparison, leaf: int, path: str) -> Iterator[Finding]:
    """A leaf of which nothing could be judged at the given point must not pass."""
    if not given.judged(leaf).any():
        text = "autodiff of the function itself is not finite anywhere in this leaf at the given point: nothing to judge by; choose other inputs"
        yield Finding(path, "non_finite", text, where=given.place.name)


def _autodiff_is_wrong(trial: Trial, generic: list[Comparison]) -> bool:
    """Whether Taylor's theorem confirms the candidate and contradicts autodiff."""
    confirmed = contradicted = 0
    for comparison in generic[:DIRECTIONS]:
        direction = taylor.random_direction(comparison.place.point, trial.generator)
        slope = taylor.along(trial.problem, comparison.place, direction)
        answer = [comparison.answer(i) for i in range(len(direction))]
        confirmed += math.isfinite(slope.doubt) and taylor.agrees(answer, direction, slope)
        contradicted += not taylor.agrees(comparison.truth.gradient, direction, slope)
    return confirmed == contradicted == DIRECTIONS


def _taylor(trial: Trial, generic: list[Comparison]) -> Iterator[Finding]:
    """The candidate agrees with autodiff; the function itself decides whether autodiff is right."""
    comparison = generic[1]
    for i, path in enumerate(trial.problem.paths):
        direction = [np.zeros(leaf.shape) for leaf in comparison.place.point]
        direction[i] = taylor.random_direction(comparison.place.point, trial.generator)[i]
        slope = taylor.along(trial.problem, comparison.place, direction)
        answer = [comparison.answer(j) for j in range(len(direction))]
        if math.isfinite(slope.doubt) and not taylor.agrees(answer, direction, slope):
            claimed = sum(float((g * v).sum()) for g, v in zip(answer, direction, strict=True))
            text = (
                f"it agrees with autodiff, but not with the function: along a direction the function's slope is "
                f"{slope.value:.6g} and the gradient says {claimed:.6g}; a rule inside the function is wrong"
            )
            yield Finding(path, "unknown", text, where=comparison.place.name)


def _at_kinks(
    trial: Trial, comparison: Comparison, generic: list[Comparison], leaves: list[int], notes: list[str]
) -> list[Finding]:
    """Rule 4: at a kink any value between the one-sided slopes passes, and the convention is named."""
    problem, findings = trial.problem, []
    beside = kinks.slopes(problem, comparison.place, trial.generator, 2)
    for rounds in (6, 24):
        if any(kinks.outside(comparison, i, beside).any() for i in leaves):
            beside = beside.joined(kinks.slopes(problem, comparison.place, trial.generator, rounds))
    for i in leaves:
        bad = kinks.outside(comparison, i, beside)
        convention = kinks.convention(comparison, i, problem.paths[i], beside)
        if not bad.any():
            notes += [convention] if convention else []
        elif not np.isfinite(comparison.answer(i)[bad]).all():
            text = "it is NaN or infinite at this point, where the right value is finite: look for a division by 0"
            findings.append(comparison.finding(i, problem.paths[i], "non_finite", text))
        elif (bad & beside.kinked[i]).any():
            text = f"outside the one-sided slopes of a kink; {convention}; any value between them is right"
            findings.append(comparison.finding(i, problem.paths[i], "kink", text, bad))
        else:
            evidence = Evidence(problem, (comparison, *generic), trial.traced, not trial.native)
            ((kind, text),) = diagnose(evidence, [i]).values()
            findings.append(comparison.finding(i, problem.paths[i], kind, text + "; right at generic points", bad))
    return findings


def _numerics(trial: Trial, special: list[Comparison]) -> list[Finding]:
    """Rule 2, at the given point, around it and under stress."""
    problem, generator = trial.problem, trial.generator
    if not trial.differentiable:
        return []
    comparisons = []
    if not trial.native:
        given = special[0].place
        point = points.rounded(problem, points.around(problem, generator, 0.3))
        around = Place("around", point, points.cotangent(problem, generator))
        kinked = kinks.slopes(problem, given, generator, 2).kinked
        elementwise = numerics.acts_elementwise(*special)
        for place, exempt in ((given, kinked), (around, None)):
            inaccurate, lost = numerics.against_autodiff, numerics.against_conditioning
            comparisons += inaccurate(problem, place, generator, traced=trial.traced, exempt=exempt)
            comparisons += lost(problem, place, generator, traced=trial.traced, exempt=exempt, elementwise=elementwise)
    for place in points.stressed(problem, generator):
        comparisons += numerics.against_autodiff(problem, place, generator, traced=trial.traced)
    return numerics.findings(problem, comparisons)


def _same_however_called(trial: Trial, comparisons: list[Comparison], notes: list[str]) -> list[Finding]:
    """Rule 5: called directly or compiled, one at a time or under `jax.vmap`, the answer is the same."""
    if not trial.traced:
        return []
    problem, findings = trial.problem, []
    given, _, near = comparisons[:3]
    pair = [given, near]
    try:
        together = vmapped(
            problem,
            [np.stack(leaves) for leaves in zip(*(c.place.point for c in pair), strict=True)],
            [np.stack(leaves) for leaves in zip(*(c.place.cotangent for c in pair), strict=True)],
            float64=not trial.native,
        )
    except Exception as error:
        notes.append(f"jax.vmap of the candidate raises {type(error).__name__}: untested")
        return []
    for row, comparison in enumerate(pair):
        batched = comparison._replace(candidate=[None if leaf is None else leaf[row] for leaf in together])
        for i, path in enumerate(problem.paths):
            if batched.wrong(i).any() and not comparison.wrong(i).any():
                text = "under jax.vmap it gives another answer than called one at a time"
                findings.append(batched.finding(i, path, "impure", text))
    direct = by_candidate(problem, given.place.point, given.place.cotangent, traced=False, float64=not trial.native)
    called = given._replace(candidate=direct)
    for i, path in enumerate(problem.paths):
        if called.wrong(i).any() and not given.wrong(i).any():
            text = "compiled by jax.jit it gives another answer than called directly"
            findings.append(called.finding(i, path, "impure", text))
    return findings
