"""Mistakes about the sum over the examples of a batch."""

from collections.abc import Callable

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict
from jaxnet.verify.report import Kind

LARGEST_BATCH = 64
ROW = "row of the cotangent, the example of a batch,"


def by_example(evidence: Evidence) -> Verdict | None:
    """Some examples are left out, or the wrong axis is summed."""
    leaf, shown = evidence.leaf, evidence.shown
    batches = [examples(evidence, c) for c in shown[:3]]
    if not all(batches):
        return None
    stacks = [np.stack([example[leaf] for example in batch]) for batch in batches]
    hypotheses: tuple[tuple[Kind, str, Callable[[np.ndarray], np.ndarray]], ...] = (
        ("accumulation", f"what the last {ROW} gives is left out of the sum", lambda s: s[:-1].sum(0)),
        ("accumulation", f"what the first {ROW} gives is left out of the sum", lambda s: s[1:].sum(0)),
        ("missing_reduction", f"it is what the first {ROW} gives, alone: sum over all", lambda s: s[0]),
        ("missing_reduction", f"it is what the last {ROW} gives, alone: sum over all", lambda s: s[-1]),
        ("missing_reduction", f"the wrong axis is summed: sum what each {ROW} gives", _summed_over_the_other_axis),
    )
    for kind, text, hypothesis in hypotheses:
        if all(evidence.explains(c, hypothesis(s)) for c, s in zip(shown, stacks, strict=False)):
            return kind, text
    return None


def _summed_over_the_other_axis(stack: Floats) -> Floats:
    summed = stack.sum(axis=-1)
    return summed if summed.shape == stack.shape[1:] else np.full(stack.shape[1:], np.nan)


def examples(evidence: Evidence, comparison: Comparison) -> list[Leaves]:
    """The gradients of the examples alone, whose sum is the gradient; empty where there is no batch.

    The cotangent of one example is the cotangent with all other rows 0.
    """
    cotangent = comparison.place.cotangent
    if evidence.case.function.scalar or len({c.shape[:1] for c in cotangent}) != 1 or cotangent[0].ndim == 0:
        return []
    m = len(cotangent[0])
    if not 2 <= m <= LARGEST_BATCH:
        return []
    rows = [row.reshape(-1, *[1] * (cotangent[0].ndim - 1)) for row in np.eye(m)]
    return [evidence.pulled(comparison, [row * c for c in cotangent]) for row in rows]


HYPOTHESES = (Hypothesis(Level.PARTS, by_example, ("accumulation", "missing_reduction")),)
