"""Kinks: where a function has no derivative, any value between its one-sided slopes is a convention, not a mistake."""

from typing import NamedTuple

import numpy as np

from jaxnet.verify.comparison import Comparison
from jaxnet.verify.evaluation import PERTURBATIONS, outputs_and_gradients, stacked
from jaxnet.verify.points import Place, size
from jaxnet.verify.problem import Leaves, Problem

# Far above the rounding of float64, far below anything that a smooth function does.
STEP = 1e-9
SMOOTH = 1e-6


class Slopes(NamedTuple):
    """For each leaf the least and the largest gradient right beside a point."""

    lowest: Leaves
    highest: Leaves

    @property
    def kinked(self) -> Leaves:
        """The elements whose gradient jumps."""
        return [
            np.isfinite(low) & np.isfinite(high) & (high - low > SMOOTH * _largest(low, high))
            for low, high in zip(self.lowest, self.highest, strict=True)
        ]

    def joined(self, other: "Slopes") -> "Slopes":
        """What both have seen."""
        return Slopes(
            [np.minimum(a, b) for a, b in zip(self.lowest, other.lowest, strict=True)],
            [np.maximum(a, b) for a, b in zip(self.highest, other.highest, strict=True)],
        )


def slopes(problem: Problem, place: Place, generator: np.random.Generator, rounds: int) -> Slopes:
    """The gradients at points a billionth away, in random directions: their limits span Clarke's subdifferential."""
    lowest = [np.full(leaf.shape, np.inf) for leaf in place.point]
    highest = [np.full(leaf.shape, -np.inf) for leaf in place.point]
    cotangents = stacked(place.cotangent)
    for _ in range(rounds):
        moved = []
        for leaf in place.point:
            moves = generator.standard_normal((PERTURBATIONS // 2, *leaf.shape))
            both = np.concatenate([moves[:1], moves, -moves])
            moved.append(leaf + STEP * np.where(leaf, np.abs(leaf), size(leaf)) * both)
        _, gradients = outputs_and_gradients(problem, moved, cotangents)
        for i, gradient in enumerate(gradients):
            known = np.isfinite(gradient)
            lowest[i] = np.minimum(lowest[i], np.where(known, gradient, np.inf).min(axis=0))
            highest[i] = np.maximum(highest[i], np.where(known, gradient, -np.inf).max(axis=0))
    return Slopes(lowest, highest)


def _largest(low: np.ndarray, high: np.ndarray) -> float:
    sizes = np.maximum(np.abs(low), np.abs(high))
    return float(sizes.max(initial=0, where=np.isfinite(sizes)))


def outside(comparison: Comparison, leaf: int, beside: Slopes) -> np.ndarray:
    """The elements that are wrong or on a kink, and not between the slopes right beside the point.

    Autodiff itself may be wrong in a point, as where `jnp.where` singles it out; its neighbours are not.
    """
    low, high = beside.lowest[leaf], beside.highest[leaf]
    found = comparison.answer(leaf)
    slack = SMOOTH * _largest(low, high)
    with np.errstate(all="ignore"):
        between = (found >= low - slack) & (found <= high + slack)
    return (comparison.wrong(leaf) | beside.kinked[leaf]) & comparison.judged(leaf) & ~between


def convention(comparison: Comparison, leaf: int, path: str, beside: Slopes) -> str:
    """The convention that the candidate follows at the kinks of a leaf, in a sentence; empty if it has no kinks."""
    kinked = beside.kinked[leaf] & comparison.judged(leaf)
    if not kinked.any():
        return ""
    index = tuple(int(i) for i in np.argwhere(kinked)[0])
    low, high, found, automatic = (
        float(values[index])
        for values in (
            beside.lowest[leaf],
            beside.highest[leaf],
            comparison.answer(leaf),
            comparison.truth.gradient[leaf],
        )
    )
    # The slope per unit of cotangent, where the function is elementwise, reads best.
    (first, *others) = comparison.place.cotangent
    if not others and first.shape == comparison.answer(leaf).shape and first[index]:
        low, high = sorted((low / first[index], high / first[index]))
        found, automatic = found / first[index], automatic / first[index]
    low, high, found, automatic = (round(value, 6) + 0.0 for value in (low, high, found, automatic))
    share = f"{kinked.sum()} of {kinked.size} elements lie" if kinked.size > 1 else "the function lies"
    return (
        f"{path or 'gradient'}: at {comparison.place.name}, {share} on a kink; at {list(index)} the one-sided slopes "
        f"are {low:g} and {high:g}, the candidate's convention is {found:g}, autodiff's {automatic:g}"
    )
