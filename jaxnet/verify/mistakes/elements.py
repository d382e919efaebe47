"""Gradients of which some elements are right."""

import functools

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict


def masked(evidence: Evidence) -> Verdict | None:
    """Elements get a gradient that should have none, or none that should have one; the others are right."""
    leaf, shown = evidence.leaf, evidence.shown
    if not _some_right(evidence):
        return None
    if all(not c.truth.gradient[leaf][c.wrong(leaf)].any() for c in shown):
        count, size = _count(shown[0], leaf)
        return "mask", f"{count} of {size} elements get a gradient where the right one is 0; the others are right"
    if all((np.abs(c.answer(leaf)) <= c.truth.floor(leaf))[c.wrong(leaf)].all() for c in shown):
        count, size = _count(shown[0], leaf)
        return "mask", f"{count} of {size} elements are 0 where the right gradient is not; the others are right"
    return None


def scaled_in_places(evidence: Evidence) -> Verdict | None:
    """The wrong elements are all the same number of times too large; the others are right."""
    leaf, shown = evidence.leaf, evidence.shown
    if not _some_right(evidence):
        return None
    ratios = []
    for c in shown:
        bad = c.wrong(leaf) & (c.truth.gradient[leaf] != 0)
        if not (c.wrong(leaf) <= bad).all():
            return None
        ratios.append(c.answer(leaf)[bad] / c.truth.gradient[leaf][bad])
    factors = np.concatenate(ratios)
    k = float(np.median(factors))
    if not k or not np.allclose(factors, k, rtol=1e-6 if evidence.trial.exact else 1e-2, atol=0):
        return None
    count, size = _count(shown[0], leaf)
    which = f"{count} of {size} elements; the others are right"
    if np.isclose(k, -1, rtol=1e-3):
        return "sign", f"the sign is wrong in {which}"
    return "scale", f"it is {k:.6g} times the right gradient in {which}"


def in_a_triangle(evidence: Evidence) -> Verdict | None:
    """Of a square matrix, what belongs to [i, j] and to [j, i] is right together, and divided otherwise."""
    leaf, shape = evidence.leaf, evidence.shape
    if len(shape) != 2 or shape[0] != shape[1]:
        return None

    def symmetric(c: Comparison) -> bool:
        error = c.answer(leaf) - c.truth.gradient[leaf]
        slack = c.limit * np.max(c.truth.noise[leaf])
        if c.any_wrong(leaf):
            slack = min(slack, 0.05 * np.max(np.abs(error)))  # where rounding is coarse, it could be anything
        return bool((np.abs(error + error.T) <= 2 * slack).all())

    if not all(symmetric(c) for c in evidence.comparisons if c.comparable(leaf)):
        return None
    one_sided = all(
        not np.triu(c.answer(leaf), 1).any() or not np.tril(c.answer(leaf), -1).any() for c in evidence.shown
    )
    where = "it stands in one triangle" if one_sided else "it is divided otherwise"
    return "mask", f"the sum of [i, j] and [j, i] is right, but {where}: the function tells the two apart"


def some_elements(evidence: Evidence) -> Verdict | None:
    """Some elements are right everywhere, others wrong."""
    leaf, shown = evidence.leaf, evidence.shown
    wrong = functools.reduce(np.logical_or, (c.wrong(leaf) for c in shown))
    informative = functools.reduce(np.logical_or, (c.judged(leaf) & (c.truth.gradient[leaf] != 0) for c in shown))
    right = ~wrong & informative
    if not right.any():
        return None
    return "partial", f"{_where(wrong)} wrong, the other {right.sum()} right"


def _some_right(evidence: Evidence) -> bool:
    """Whether there are right elements beside the wrong ones that are not 0 anyway."""
    leaf = evidence.leaf
    return any((~c.wrong(leaf) & c.judged(leaf) & (c.truth.gradient[leaf] != 0)).any() for c in evidence.shown)


def _count(comparison: Comparison, leaf: int) -> tuple[int, int]:
    wrong = comparison.wrong(leaf)
    return int(wrong.sum()), int(wrong.size)


def _where(wrong: Floats) -> str:
    """The pattern of the wrong elements in words."""
    if wrong.sum() == 1:
        return f"element {[int(i) for i in np.argwhere(wrong)[0]]} is"
    for axis in range(wrong.ndim):
        lines = np.moveaxis(wrong, axis, 0).reshape(wrong.shape[axis], -1)
        hit = np.flatnonzero(lines.any(axis=1))
        if len(hit) == 1 and wrong.ndim > 1:
            return f"{wrong.sum()} elements are, all at position {hit[0]} of axis {axis},"
    return f"{wrong.sum()} of {wrong.size} elements are"


HYPOTHESES = (
    Hypothesis(Level.PARTS, in_a_triangle, ("mask",)),
    Hypothesis(Level.ELEMENTS, masked, ("mask",)),
    Hypothesis(Level.ELEMENTS, scaled_in_places, ("sign", "scale")),
    Hypothesis(Level.REST, some_elements, ("partial",)),
)
