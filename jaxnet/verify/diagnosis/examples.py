"""Mistakes about the sum over the examples of a batch."""

from collections.abc import Callable

import numpy as np

from jaxnet.verify.comparison import Comparison
from jaxnet.verify.diagnosis.evidence import Evidence, Verdict
from jaxnet.verify.problem import Floats, Leaves, Problem
from jaxnet.verify.reference import PERTURBATIONS, outputs_and_gradients, stacked
from jaxnet.verify.report import Kind

LARGEST_BATCH = 64


def by_example(evidence: Evidence) -> Verdict | None:
    """Some examples are left out, or the wrong axis is summed."""
    leaf, shown = evidence.leaf, evidence.shown
    batches = [examples(evidence.problem, c) for c in shown[:3]]
    if not all(batches):
        return None
    stacks = [np.stack([example[leaf] for example in batch]) for batch in batches]
    hypotheses: tuple[tuple[Kind, str, Callable[[np.ndarray], np.ndarray]], ...] = (
        ("partial", "the last example is left out of the sum over the batch", lambda s: s[:-1].sum(0)),
        ("partial", "the first example is left out of the sum over the batch", lambda s: s[1:].sum(0)),
        ("missing_reduction", "it is the first example's gradient alone: sum over the batch", lambda s: s[0]),
        ("missing_reduction", "it is the last example's gradient alone: sum over the batch", lambda s: s[-1]),
        ("missing_reduction", "the wrong axis is summed: sum over the batch", _summed_over_the_other_axis),
    )
    for kind, text, hypothesis in hypotheses:
        if all(evidence.explains(c, hypothesis(s)) for c, s in zip(shown, stacks, strict=False)):
            return kind, text
    return None


def _summed_over_the_other_axis(stack: Floats) -> Floats:
    summed = stack.sum(axis=-1)
    return summed if summed.shape == stack.shape[1:] else np.full(stack.shape[1:], np.nan)


def examples(problem: Problem, comparison: Comparison) -> list[Leaves]:
    """The gradients of the examples alone, whose sum is the gradient; empty where there is no batch.

    The cotangent of one example is the cotangent with all other rows 0.
    """
    cotangent = comparison.place.cotangent
    if problem.rule.scalar or len({c.shape[:1] for c in cotangent}) != 1 or cotangent[0].ndim == 0:
        return []
    m = len(cotangent[0])
    if not 2 <= m <= LARGEST_BATCH:
        return []
    rows = np.eye(m)
    return masked(problem, comparison, [row.reshape(-1, *[1] * (cotangent[0].ndim - 1)) for row in rows])


def masked(problem: Problem, comparison: Comparison, masks: list[np.ndarray]) -> list[Leaves]:
    """The gradient for the cotangent under each mask."""
    found: list[Leaves] = []
    points = stacked(comparison.place.point)
    together = 1 + PERTURBATIONS
    for start in range(0, len(masks), together):
        some = masks[start : start + together]
        filled = some + [some[-1]] * (together - len(some))
        cotangents = [np.stack([mask * c for mask in filled]) for c in comparison.place.cotangent]
        _, gradients = outputs_and_gradients(problem, points, cotangents)
        found += [[g[k] for g in gradients] for k in range(len(some))]
    return found
