"""Right formulas that lose their digits in float64 already."""

import math

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import DOUBLE, Floats
from jaxnet.verify.engine.trial import narrowest
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict

NEARLY = 1e-5
ROUNDED = 0.05  # what is farther off than this is not called rounding


def lost_digits(evidence: Evidence) -> Verdict | None:
    """Everything that is wrong is nearly right, in no pattern."""
    leaf, shown = evidence.leaf, evidence.shown
    errors = [c.error(leaf) for c in shown]
    if _few(evidence):
        return None
    for comparison in shown:
        bad = comparison.wrong(leaf)
        expected = comparison.truth.gradient[leaf][bad]
        with np.errstate(over="ignore"):
            relative = np.abs(comparison.answer(leaf)[bad] - expected) / (np.abs(expected) + 1e-300)
        errors.append(float(np.median(relative)))
    if not max(errors) < NEARLY:
        return None
    digits = -math.log10(max(*errors, 1e-17))
    if _small_and_smooth(evidence):
        return "unknown", (
            f"it agrees to {digits:.0f} digits, and what is missing changes smoothly: a small term was left out or "
            "added, such as the ε under a root"
        )
    return "precision", (
        f"the formula agrees to {digits:.0f} digits and no further in float64: part of it is computed in a narrower "
        "dtype, by finite differences, or as a difference of nearly equal numbers"
    )


def _few(evidence: Evidence) -> bool:
    """Whether less than a hundredth of a large leaf is wrong: rounding would not choose so few."""
    return any(bad.size >= 100 and bad.mean() < 0.01 for bad in (c.wrong(evidence.leaf) for c in evidence.shown))


def _small_and_smooth(evidence: Evidence) -> bool:
    """Whether the error, a millionth or so, is the same a hair's breadth away: then it is no rounding."""
    leaf, here = evidence.leaf, evidence.shown[0]
    if here.error(leaf) < 1e-8 or not evidence.trial.exact:
        return False
    point = [x * (1 + 1e-7) for x in here.place.point]
    there = evidence.trial.compare(here.place._replace(point=point))
    errors = [c.answer(leaf) - c.truth.gradient[leaf] for c in (here, there)]
    return bool(np.linalg.norm(errors[1] - errors[0]) < 1e-2 * np.linalg.norm(errors[0]))


def lost_tail(evidence: Evidence) -> Verdict | None:
    """What is wrong is tiny beside the gradient's size elsewhere, where it is right."""
    leaf, shown = evidence.leaf, evidence.shown

    def largest(values: Floats, comparison: Comparison) -> float:
        upstream = math.sqrt(sum(float(np.mean(np.square(c))) for c in comparison.place.cotangent)) or 1.0
        return float(np.abs(values).max(initial=0)) / upstream

    known = [c for c in evidence.comparisons if c.comparable(leaf)]
    scale = max(largest(np.where(c.judged(leaf), c.truth.gradient[leaf], 0), c) for c in known)
    lost = max(largest(np.where(c.wrong(leaf), c.answer(leaf) - c.truth.gradient[leaf], 0), c) for c in shown)
    if not lost < NEARLY * scale:
        return None
    return "precision", "the derivative is lost where it is tiny beside its size elsewhere: it is not 0 there"


def narrow(evidence: Evidence) -> Verdict | None:
    """The candidate rounds to a narrower dtype than the user's, and that explains how far it is off."""
    leaf, shown = evidence.leaf, evidence.shown
    if not evidence.trial.traced or not evidence.trial.exact or _few(evidence):
        return None
    unit = narrowest(evidence.case)
    if unit <= max(DOUBLE, *evidence.case.units) or max(c.error(leaf) for c in shown) > min(64 * unit, ROUNDED):
        return None
    return (
        "precision",
        f"it is right to {unit:.0e} and no further: part of it is rounded to a dtype of that spacing inside",
    )


HYPOTHESES = (
    Hypothesis(Level.DIGITS, lost_digits, ("precision", "unknown")),
    Hypothesis(Level.DIGITS, lost_tail, ("precision",)),
    Hypothesis(Level.ELEMENTS, narrow, ("precision",)),
)
