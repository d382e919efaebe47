"""The verdict: every check in its order, and a report of what they found."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxnet.verify.checks import calls, contract, forward_pass, linearity, mathematics, numerics, taylor
from jaxnet.verify.engine.case import Case, Options, Statement, state
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.hearing import Check, Hearing
from jaxnet.verify.engine.places import Places
from jaxnet.verify.engine.precision import Leaves
from jaxnet.verify.engine.randomness import generator_of
from jaxnet.verify.engine.trial import prepare
from jaxnet.verify.report import Finding, Report

# Each looks at numbers; what one finds explains what the later ones would.
CHECKS: tuple[Check, ...] = (
    mathematics.check,
    linearity.check,
    taylor.check,
    numerics.check,
    calls.compiled,
    calls.mapped,
)


def judge(statement: Statement, key: Any, options: Options) -> Report:
    """Judges a candidate by its form, its forward pass, the mathematics, kinks, Taylor's theorem and numerics.

    Raises:
        TypeError: if the function, its arguments or the key are of the wrong sort.
        ValueError: if the function can neither run in float64 nor be differentiated by JAX, or an argument is empty or
            not finite.
    """
    generator = generator_of(key)
    case = state(statement, options)
    places = Places(case, generator)
    special = places.special()
    form = forward_pass.form(case)
    if form:
        return Report(case.subject, form, {}, (), _conditions(case, ["form of the forward pass"]))
    called = contract.check(case, special[0])
    if called.fatal:
        return Report(case.subject, called.findings, {}, called.notes, _conditions(case, ["form"]))
    case = case._replace(candidate=replace(case.candidate, version=called.version, mixed=called.mixed))
    trial, notes = prepare(case, generator, special[0], traced=called.traced)
    generic = [place for place in places.generic() if trial.function.ends_at(place, places.given)]
    hearing = Hearing(trial, places, special, generic, places.stressed(), wide(called.answer))
    forward = forward_pass.check(hearing)
    findings, notes, covered = [*called.findings, *forward.findings], [*called.notes, *notes], ["form", forward.covers]
    for check in CHECKS:
        outcome = check(hearing)
        findings += outcome.findings
        notes += outcome.notes
        covered.append(outcome.covers)
        if outcome.settled or findings:
            break
    notes += _kept(hearing)
    return _report(trial.case, hearing, _waived(findings, options, notes), notes, covered)


def wide(answer: Leaves) -> Leaves:
    """A candidate's leaves as float64 arrays, None where None."""
    return [None if leaf is None else np.asarray(leaf, np.float64) for leaf in answer]


def _kept(hearing: Hearing) -> Iterator[str]:
    """What arguments were kept to, where that is more than their signs."""
    if hearing.trial.case.traits.waits:
        yield (
            "a loop in the function ends when its numbers say so, and may never where these overflow: no stress, and "
            "no points with zeros, and none where it goes on many times longer than at the given point"
        )
    for path, domain in zip(hearing.trial.case.paths, hearing.places.domains, strict=True):
        if domain.constraint and hearing.trial.case.options.at != "given":
            yield f"{path or 'the argument'}: {domain.constraint} at the other points"


def _waived(findings: list[Finding], options: Options, notes: list[str]) -> tuple[Finding, ...]:
    """The findings of kinds that the user has not waived; the others become notes."""
    for finding in findings:
        if finding.kind in options.allow:
            notes.append(f"waived: {finding.path or 'gradient'}: {finding.kind}: {finding.explanation}")
    return tuple(finding for finding in findings if finding.kind not in options.allow)


def _report(
    case: Case, hearing: Hearing, findings: tuple[Finding, ...], notes: list[str], covered: list[str]
) -> Report:
    reported = {finding.path for finding in findings}
    compared = list(hearing.compared.values())
    leaves = {
        path: max((_units(c, i, path in reported) for c in compared if c.comparable(i)), default=math.inf)
        for i, path in enumerate(case.paths)
    }
    conditions = _conditions(case, covered) | {"points": str(len(compared))}
    return Report(case.subject, findings, leaves, tuple(dict.fromkeys(notes)), conditions)


def _units(comparison: Comparison, leaf: int, wrong: bool) -> float:
    """The largest error in units of rounding; in a leaf that is right, without what a convention at a kink explains."""
    units = comparison.units(leaf)
    return float(units.max(initial=0, where=wrong | (units <= comparison.limit)))


def _conditions(case: Case, covered: list[str]) -> dict[str, str]:
    device = jax.devices()[0]
    dtypes = sorted({str(leaf.dtype) for leaf in case.differentiated})
    return {
        "device": f"{device.platform} ({device.device_kind})",
        "dtype": ", ".join(dtypes) + (" alone (native)" if case.options.native else " and float64"),
        "matrix products": "highest precision",
        "judged": ", ".join(filter(None, covered)),
    }
