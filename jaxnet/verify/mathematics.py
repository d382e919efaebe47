"""The mathematics: every element at every place, Taylor's theorem, and conventions at kinks."""

import math
from collections.abc import Iterator

import numpy as np

from jaxnet.verify import kinks, taylor
from jaxnet.verify.comparison import Comparison
from jaxnet.verify.diagnosis import diagnose
from jaxnet.verify.diagnosis.evidence import Evidence
from jaxnet.verify.problem import Floats, holds_fixed
from jaxnet.verify.report import Finding
from jaxnet.verify.trial import Trial

DIRECTIONS = 3


def judge(trial: Trial, comparisons: list[Comparison], notes: list[str]) -> tuple[list[Finding], bool]:
    """What is wrong with the numbers, and whether autodiff of the function is right; adds notes on conventions."""
    problem = trial.problem
    leaves = range(len(problem.paths))
    by_role = {role: [c for c in comparisons if c.place.role == role] for role in ("special", "generic", "cotangent")}
    special, generic, pulled = by_role.values()
    given = special[0]
    evidence = Evidence(problem, (*generic, given), trial.traced, not trial.native)

    misshapen = [i for i in leaves if not given.comparable(i)]
    wrong = [i for i in leaves if i not in misshapen and any(c.wrong(i).any() for c in generic)]
    if wrong and not misshapen and _autodiff_is_wrong(trial, generic):
        notes.append(
            "autodiff of the function contradicts Taylor's theorem, and the candidate does not: judged by the latter; "
            "the function contains a wrong rule"
        )
        return [], False
    verdicts = diagnose(evidence, sorted([*misshapen, *wrong]))
    findings = []
    for i, (kind, text) in verdicts.items():
        shown = [c for c in evidence.comparisons if not c.comparable(i) or c.wrong(i).any()]
        worst = max(shown, key=lambda c: c.error(i) if c.comparable(i) else math.inf)
        findings.append(worst.finding(i, problem.paths[i], kind, text))

    open_leaves = [i for i in leaves if i not in verdicts]
    how = kinks.steps(trial)
    known = {i: given.judged(i) for i in open_leaves}
    if trial.differentiable and how is not None:
        for comparison in special:
            beside = _beside(trial, comparison, how, open_leaves)
            mended = kinks.mended(comparison, beside)
            unsettled = [i for i in open_leaves if problem.paths[i] not in {finding.path for finding in findings}]
            findings += _at_kinks(trial, mended, beside, generic, unsettled, notes)
            if comparison is given:
                known = {i: known[i] | beside.kinked[i] for i in open_leaves}
    for i in open_leaves:
        findings += _unjudged(~known[i], given, problem.paths[i], notes)
    settled = {finding.path for finding in findings}
    for comparison in pulled:
        for i in open_leaves:
            if problem.paths[i] not in settled and comparison.wrong(i).any():
                finite = np.isfinite(comparison.answer(i)).all()
                text = f"right elsewhere, wrong with a {comparison.place.name}: a derivative is linear in the cotangent"
                findings.append(comparison.finding(i, problem.paths[i], "nonlinear" if finite else "non_finite", text))
                settled.add(problem.paths[i])
    if not findings and generic and trial.differentiable and trial.exact and not trial.native:
        contradicted = list(_taylor(trial, generic))
        if contradicted and holds_fixed(problem):
            notes.append("stop_gradient makes the function's slope another than its gradient: autodiff alone judges")
        else:
            findings += contradicted
    return findings, True


def _unjudged(unknown: Floats, given: Comparison, path: str, notes: list[str]) -> Iterator[Finding]:
    """A leaf of which nothing could be judged at the given point must not pass; of which something, gets a note."""
    if unknown.all():
        text = (
            "autodiff of the function itself is not finite anywhere in this leaf at the given point: there is nothing "
            "to judge by; choose other inputs"
        )
        yield Finding(path, "non_finite", text, where=given.place.name)
    elif unknown.any():
        where = f"{path or 'gradient'}: at the given point autodiff of the function is not finite in"
        notes.append(f"{where} {unknown.sum()} of {unknown.size} elements, which are not judged there")


def _autodiff_is_wrong(trial: Trial, generic: list[Comparison]) -> bool:
    """Whether Taylor's theorem confirms the candidate and contradicts autodiff."""
    if trial.native or not trial.differentiable or holds_fixed(trial.problem):
        return False
    confirmed = contradicted = 0
    for comparison in generic[:DIRECTIONS]:
        direction = taylor.random_direction(comparison.place.point, trial.generator)
        slope = taylor.along(trial.problem, comparison.place, direction)
        answer = [comparison.answer(i) for i in range(len(direction))]
        confirmed += math.isfinite(slope.doubt) and taylor.agrees(answer, direction, slope)
        contradicted += not taylor.agrees(comparison.truth.gradient, direction, slope)
    return confirmed == contradicted > 0


def _taylor(trial: Trial, generic: list[Comparison]) -> Iterator[Finding]:
    """The candidate agrees with autodiff; the function itself decides whether autodiff is right."""
    comparison = generic[min(1, len(generic) - 1)]
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


def _beside(trial: Trial, comparison: Comparison, how: kinks.Steps, leaves: list[int]) -> kinks.Slopes:
    """The slopes beside a point, with more of them where the candidate is not among the first."""
    beside = kinks.slopes(trial, comparison.place, how, 2)
    for rounds in (6, 24):
        if any(kinks.outside(comparison, i, beside).any() for i in leaves):
            beside = beside.joined(kinks.slopes(trial, comparison.place, how, rounds))
    return beside


def _at_kinks(
    trial: Trial,
    comparison: Comparison,
    beside: kinks.Slopes,
    generic: list[Comparison],
    leaves: list[int],
    notes: list[str],
) -> list[Finding]:
    """Rule 4: at a kink any value between the one-sided slopes passes, and the convention is named."""
    problem, findings = trial.problem, []
    for i in leaves:
        bad = kinks.outside(comparison, i, beside)
        convention = kinks.convention(comparison, i, problem.paths[i], beside)
        if not bad.any():
            if convention and not any(note.startswith(f"{problem.paths[i] or 'gradient'}: at ") for note in notes):
                notes.append(convention)
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
