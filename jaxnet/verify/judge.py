"""The verdict: every check in its order, and a report of what they found."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxnet.verify import calls, contract, mathematics, numerics, points
from jaxnet.verify.candidate import narrowest
from jaxnet.verify.comparison import Comparison
from jaxnet.verify.problem import Problem, spacing
from jaxnet.verify.reference import DOUBLE
from jaxnet.verify.report import Report
from jaxnet.verify.trial import own_unit, prepare


def judge(problem: Problem, key: Any, *, native: bool = False) -> Report:
    """Judges a candidate by the contract, the mathematics, kinks, Taylor's theorem and numerics, in this order.

    Raises:
        ValueError: if the function can neither run in float64 nor be differentiated by JAX.
    """
    generator = points.generator_of(key)
    special = points.special(problem, generator)
    saturated = [place for place in points.stressed(problem, generator) if place.saturating]
    places = [*special, *points.generic(problem, generator), *saturated, *points.cotangents(problem, generator)]
    first = contract.check(problem, special[0])
    if first.fatal:
        return Report(problem.subject, first.findings, {}, first.notes, _conditions(problem, native, 1))
    trial, notes = prepare(problem, generator, special[0], native=native, traced=first.traced)
    notes = [*first.notes, *notes]
    comparisons = _in_the_domain([trial.compare(place) for place in places])
    if trial.unit == DOUBLE and trial.traced and _wrong(comparisons):
        narrow = narrowest(problem, special[0].cotangent)
        if DOUBLE < narrow <= own_unit(problem):
            # What computes in the user's own dtype inside is no worse for the user than the dtype itself.
            trial = trial._replace(unit=narrow)
            notes.append(f"the candidate computes in {_named(narrow)} inside, and is judged by that dtype's rounding")
            comparisons = _in_the_domain([trial.compare(place) for place in places])
    findings = [*first.findings, *calls.forward_pass(trial, comparisons[0])]
    found, autodiff_is_right = mathematics.judge(trial, comparisons, notes)
    findings += found
    if not findings and autodiff_is_right:
        findings += numerics.judge(trial, comparisons)
    if not findings:
        findings += calls.same_however_called(trial, comparisons, notes)
    reported = {finding.path for finding in findings}
    leaves = {
        path: max((_units(c, i, path in reported) for c in comparisons if c.comparable(i)), default=math.inf)
        for i, path in enumerate(problem.paths)
    }
    conditions = _conditions(problem, trial.native, len(comparisons))
    return Report(problem.subject, tuple(findings), leaves, tuple(notes), conditions)


def _units(comparison: Comparison, leaf: int, wrong: bool) -> float:
    """The largest error in units of rounding; in a leaf that is right, without what a convention at a kink explains."""
    units = comparison.units(leaf)
    return float(units.max(initial=0, where=wrong | (units <= comparison.limit)))


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


def _in_the_domain(comparisons: list[Comparison]) -> list[Comparison]:
    """Without the random points where outputs are not finite that are so at the given point: log(1 - p) at p = 20."""
    usual = [np.isfinite(output) for output in comparisons[0].truth.outputs]

    def inside(comparison: Comparison) -> bool:
        return all((np.isfinite(o) | ~u).all() for o, u in zip(comparison.truth.outputs, usual, strict=True))

    return [c for c in comparisons if inside(c) or c.place.role == "special"]


def _wrong(comparisons: Sequence[Comparison]) -> bool:
    count = len(comparisons[0].candidate)
    return any(c.comparable(i) and bool(c.wrong(i).any()) for c in comparisons for i in range(count))
