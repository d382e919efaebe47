"""The mathematics: every element at every place, and conventions at kinks."""

from collections.abc import Iterator

import numpy as np

from jaxnet.verify.checks import neglected, taylor
from jaxnet.verify.checks.kinks import Settled, convention, settled
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.hearing import Hearing, Outcome
from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes import diagnose
from jaxnet.verify.mistakes.evidence import Evidence
from jaxnet.verify.report import Finding


def check(hearing: Hearing) -> Outcome:
    """What is wrong with the numbers, and which conventions they follow at kinks."""
    trial, paths = hearing.trial, hearing.trial.case.paths
    leaves = range(len(paths))
    saturated = [place for place in hearing.stressed if place.saturating]
    generic = hearing.in_domain([*hearing.generic, *saturated])
    special = hearing.in_domain(hearing.special)
    misshapen = [i for i in leaves if not hearing.given.comparable(i)]
    comparable = [i for i in leaves if i not in misshapen]
    verdicts = {c.place.name: settled(trial, c, comparable, hearing.given) for c in generic}
    wrong = [i for i in comparable if any(verdict.wrong[i].any() for verdict in verdicts.values())]
    if (
        wrong
        and not misshapen
        and taylor.contradicts_autodiff(trial, [c for c in generic if c.place.role == "generic"])
    ):
        note = (
            "autodiff of the function contradicts Taylor's theorem, and the candidate does not: judged by the latter; "
            "the function contains a wrong rule"
        )
        return Outcome(notes=(note,), covers="mathematics by Taylor's theorem", settled=True)
    places = {i: [c for c in generic if verdicts[c.place.name].wrong[i].any()] for i in wrong}
    neglects = neglected.notes(hearing, places)
    wrong = [i for i in wrong if i not in neglects]
    findings = list(_diagnosed(hearing, generic, sorted([*misshapen, *wrong])))
    open_leaves = [i for i in comparable if i not in wrong and i not in neglects]
    notes = {f"{i} neglected": note for i, note in neglects.items()}
    for comparison in special:
        left = [i for i in open_leaves if paths[i] not in {finding.path for finding in findings}]
        verdict = settled(trial, comparison, left, hearing.given)
        findings += _at_special_point(hearing, comparison, verdict, generic)
        for i in left:
            if not verdict.wrong[i].any() and verdict.around is not None and paths[i] not in notes:
                said = convention(comparison, i, paths[i], verdict.around)
                notes |= {paths[i]: said} if said else {}
            if comparison is hearing.given:
                findings += _unjudged(verdict.unknown[i], paths[i])
                notes |= _partly_unjudged(verdict.unknown[i], paths[i])
    points = f"mathematics at {len(generic) + len(special)} points" + " in float64" * trial.exact
    return Outcome(tuple(findings), tuple(notes.values()), points, bool(findings))


def _diagnosed(hearing: Hearing, generic: list[Comparison], leaves: list[int]) -> Iterator[Finding]:
    """A finding for each leaf that is wrong at a point where nothing is special."""
    if not leaves:
        return
    evidence = Evidence(hearing.trial, (*generic, hearing.given), {})
    verdicts = diagnose(evidence, leaves)
    for i, (kind, text) in sorted(verdicts.items(), key=lambda item: item[1][0] in ("partial", "unknown")):
        shown = [c for c in evidence.comparisons if not c.comparable(i) or c.wrong(i).any()]
        worst = max(shown, key=lambda c: c.error(i) if c.comparable(i) else np.inf)
        if hearing.given not in shown and any(c.place.role == "generic" for c in shown):
            text += _right_where_given(hearing, i)
        yield worst.finding(i, hearing.trial.case.paths[i], kind, text)


def _right_where_given(hearing: Hearing, leaf: int) -> str:
    """What is said of a leaf that is right at the given point, if its gradient is not merely 0 there."""
    if not hearing.given.truth.gradient[leaf].any():
        return ""
    return (
        "; it is right at the given point and wrong off it: if the arguments are valid only where they satisfy a "
        'constraint, judge with at="given", or leave the constrained argument out of argnums'
    )


def _at_special_point(
    hearing: Hearing, comparison: Comparison, verdict: Settled, generic: list[Comparison]
) -> Iterator[Finding]:
    """Rule 5: at a kink any mixture of the gradients beside it passes; elsewhere the mistake is named."""
    for i, bad in verdict.wrong.items():
        if not bad.any():
            continue
        path = hearing.trial.case.paths[i]
        around = verdict.around
        if not np.isfinite(comparison.answer(i)[bad]).all():
            text = "it is NaN or infinite at this point, where the right value is finite: look for a division by 0"
            yield _told(comparison, i, path, "non_finite", text, bad)
        elif around is not None and (bad & around.kinked(i)).any():
            said = convention(comparison, i, path, around)
            low, high = around.bounds(i)
            found = comparison.answer(i)
            inside = ((found >= low) & (found <= high))[bad].all()
            what = "together its elements are no mixture of the gradients beside" if inside else "outside the slopes at"
            right = "any mixture of the gradients" if inside else "any value"
            text = f"{what} a kink; {said}; {right} between them is right"
            yield _told(comparison, i, path, "kink", text, bad)
        elif around is not None and not comparison.wrong(i)[bad].all():
            low, high = around.bounds(i)
            middle, found = (float(part[bad].flat[0]) for part in ((low + high) / 2, comparison.answer(i)))
            middle = middle if abs(middle) > 1e-6 * abs(found) else 0.0
            text = f"the gradients right beside this point agree on {middle:.6g}; here alone it is {found:.6g}"
            yield _told(comparison, i, path, "partial", text, bad)
        else:
            ((kind, text),) = diagnose(Evidence(hearing.trial, (comparison, *generic), {}), [i]).values()
            elsewhere = "; right at generic points" if generic else ""
            yield comparison.finding(i, path, kind, text + elsewhere, bad)


def _told(comparison: Comparison, leaf: int, path: str, kind: str, text: str, bad: Floats) -> Finding:
    finding = comparison.finding(leaf, path, kind, text, bad)  # pyright: ignore[reportArgumentType]
    if np.isnan(finding.expected):  # autodiff knows nothing here
        return finding._replace(error=np.nan, rounding=np.nan)
    return finding


def _unjudged(unknown: Floats, path: str) -> Iterator[Finding]:
    """A leaf of which nothing could be judged at the given point must not pass."""
    if unknown.all():
        text = (
            "autodiff of the function itself is not finite anywhere in this leaf at the given point, nor are the "
            "gradients beside it: there is nothing to judge by; choose other inputs"
        )
        yield Finding(path, "non_finite", text, where="given")


def _partly_unjudged(unknown: Floats, path: str) -> dict[str, str]:
    if not unknown.any() or unknown.all():
        return {}
    where = f"{path or 'gradient'}: at the given point autodiff of the function is not finite in"
    return {f"{path} unjudged": f"{where} {unknown.sum()} of {unknown.size} elements, which are not judged there"}
