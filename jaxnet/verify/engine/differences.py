"""Slopes by differences: what is known of a function whatever it is written in, and whatever its autodiff says."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.precision import DOUBLE, Floats, Leaves

STEP, LEVELS = 2.0**-7, 7
# Above this many numbers, slopes that are computed one at a time are computed for a random selection.
MOST = 2000


class Slope(NamedTuple):
    """The derivative of ⟨cotangent, f⟩ along a direction, and how far it is in doubt."""

    value: float
    doubt: float


def size(leaf: Floats) -> float:
    """The root of the mean square of a leaf, 1 for zeros."""
    return float(np.sqrt(np.mean(np.square(leaf)))) or 1.0


def slope(
    outputs: Callable[[Leaves], Leaves],
    point: Leaves,
    cotangent: Leaves,
    direction: Leaves,
    step: float = STEP,
    levels: int = LEVELS,
) -> Slope:
    """The slope of ⟨ct, f⟩ along a direction.

    Central differences at h, h/2, h/4, ... have errors in even powers of h, which Richardson's scheme takes away one by
    one; the entry of its table that differs least from its neighbours counts (Ridders, 1982).
    """
    row: list[float] = []
    best = Slope(np.nan, np.inf)
    for level in range(levels):
        h = step / 2**level
        ahead, behind = (
            outputs([leaf + sign * h * v for leaf, v in zip(point, direction, strict=True)]) for sign in (1, -1)
        )
        with np.errstate(all="ignore"):
            # The change of every output first, and the sum after: a large sum would round small changes away.
            terms = [((a - b) * c).sum() for a, b, c in zip(ahead, behind, cotangent, strict=True)]
            sizes = [np.abs(a * c).sum() for a, c in zip(ahead, cotangent, strict=True)]
        fresh = [float(sum(terms)) / (2 * h)]
        rounding = DOUBLE * float(sum(sizes)) / h
        for order, coarser in enumerate(row, start=1):
            fresh.append(fresh[-1] + (fresh[-1] - coarser) / (4.0**order - 1))
            spread = max(abs(fresh[-1] - fresh[-2]), abs(fresh[-1] - coarser)) + rounding
            if spread < best.doubt:
                best = Slope(fresh[-1], spread)
        row = fresh
    return best


def gradient(
    outputs: Callable[[Leaves], Leaves], point: Leaves, cotangent: Leaves, generator: np.random.Generator
) -> tuple[Leaves, Leaves]:
    """The gradient element by element, and its doubt; NaN, unknown, beyond the first `MOST` in a random order."""
    values = [np.full(leaf.shape, np.nan) for leaf in point]
    doubts = [np.full(leaf.shape, np.nan) for leaf in point]
    elements = [(i, j) for i, leaf in enumerate(point) for j in range(leaf.size)]
    chosen = elements if len(elements) <= MOST else generator.permutation(elements)[:MOST]
    for i, j in chosen:
        direction = [np.zeros(leaf.shape) for leaf in point]
        length = direction[i].flat[j] = size(point[i])
        found = slope(outputs, point, cotangent, direction)
        values[i].flat[j], doubts[i].flat[j] = found.value / length, found.doubt / length
    return values, doubts
