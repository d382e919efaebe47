"""Gradients of which some elements are right."""

import functools

import numpy as np

from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes.evidence import Evidence, Verdict


def some_elements(evidence: Evidence) -> Verdict | None:
    """Some elements are right everywhere, others wrong."""
    leaf, shown = evidence.leaf, evidence.shown
    wrong = functools.reduce(np.logical_or, (c.wrong(leaf) for c in shown))
    informative = functools.reduce(np.logical_or, (c.judged(leaf) & (c.truth.gradient[leaf] != 0) for c in shown))
    right = ~wrong & informative
    if not right.any():
        return None
    zeros = all(not c.answer(leaf)[wrong].any() for c in shown)
    return "partial", (
        f"{_where(wrong)} wrong, the other {right.sum()} right" + ("; the wrong ones are 0" if zeros else "")
    )


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
