"""Why a gradient has the wrong shape."""

from typing import Any

import numpy as np

from jaxnet.verify.mistakes.evidence import Evidence, Verdict
from jaxnet.verify.mistakes.examples import examples


def wrong_shape(evidence: Evidence) -> Verdict:
    """Why a leaf has the wrong shape."""
    leaf = evidence.leaf
    shown = [c for c in evidence.comparisons if not c.comparable(leaf)]
    found, expected = shown[0].answer(leaf), shown[0].truth.gradient[leaf]
    differ = f"shape {list(found.shape)} where {list(expected.shape)} is expected"

    def all_equal(transform: Any, to: int = leaf) -> bool:
        pairs = [(transform(c.answer(leaf)), c.truth.gradient[to], c.limit * np.max(c.truth.noise[to])) for c in shown]
        return all(f.shape == e.shape and np.allclose(f, e, rtol=1e-6, atol=noise) for f, e, noise in pairs)

    for other, path in enumerate(evidence.case.paths):
        if other != leaf and all_equal(np.asarray, other):
            return "structure", f"{differ}: it is the gradient of {path}, the order of the leaves is mixed up"
    if found.ndim == expected.ndim == 2 and found.shape == expected.shape[::-1]:
        more = "" if all_equal(np.transpose) else ", and not only that"
        return "transpose", f"{differ}: it is transposed{more}; swap the factors of the matrix product"
    if found.size == expected.size and all_equal(lambda x: x.reshape(expected.shape)):
        return "shape", f"{differ}: the numbers are right, reshape them"
    extra = found.ndim - expected.ndim
    if extra > 0 and found.shape[extra:] == expected.shape:
        axes = tuple(range(extra))
        if all_equal(lambda x: x.sum(axis=axes)):
            return "missing_reduction", f"{differ}: sum over the {'batch axis' if extra == 1 else 'batch axes'}"
        if all_equal(lambda x: x.mean(axis=axes)):
            return "missing_reduction", f"{differ}: take the mean over the batch axis"
    for axis in range(found.ndim):
        if np.delete(found.shape, axis).tolist() == list(expected.shape) and all_equal(lambda x, a=axis: x.sum(axis=a)):
            return "missing_reduction", f"{differ}: sum over axis {axis}"
    if found.ndim == expected.ndim and _broadcasts(expected.shape, found.shape):
        axes = tuple(i for i, (a, b) in enumerate(zip(expected.shape, found.shape, strict=True)) if a != b)
        if all_equal(lambda x: x.sum(axis=axes, keepdims=True)):
            return (
                "missing_reduction",
                f"{differ}: the argument was broadcast, sum over the axes {list(axes)} it was broadcast along",
            )
    batches = [examples(evidence, c) for c in shown[:2]]
    if all(batches):
        stacks = [np.stack([example[leaf] for example in batch]) for batch in batches]
        pairs = list(zip(shown, stacks, strict=False))
        for axis in range(1, stacks[0].ndim):
            sums = [s.sum(axis=axis) for s in stacks]
            if all(
                s.shape == c.answer(leaf).shape and np.allclose(c.answer(leaf), s, rtol=1e-6)
                for (c, _), s in zip(pairs, sums, strict=True)
            ):
                return "missing_reduction", f"{differ}: the wrong axis is summed; sum over the batch"
    return "shape", f"{differ}: a gradient has its argument's shape"


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return all(a in (1, b) for a, b in zip(small, large, strict=True))
