"""Kinks: where a function has no derivative, any value between its one-sided slopes is a convention, not a mistake."""

from typing import NamedTuple

import numpy as np

from jaxnet.verify.comparison import HALF, UNITS_IN_HALF_PRECISION, Comparison, limit_of
from jaxnet.verify.points import Place, size
from jaxnet.verify.problem import Floats, Leaves
from jaxnet.verify.reference import PERTURBATIONS, outputs_and_gradients, stacked
from jaxnet.verify.trial import Trial


class Steps(NamedTuple):
    """How far beside a point slopes are taken, and what jump between them is more than a smooth function makes."""

    wide: float
    close: float
    jump: float


class Slopes(NamedTuple):
    """For each leaf the least and the largest gradient right beside a point, and where they jump.

    `slack` is how far outside the two a number still counts as between them, relative to the larger: it allows for the
    bend of a smooth function and for rounding.
    """

    lowest: Leaves
    highest: Leaves
    kinked: Leaves
    slack: float

    def joined(self, other: "Slopes") -> "Slopes":
        """What both have seen."""
        return Slopes(
            [np.minimum(a, b) for a, b in zip(self.lowest, other.lowest, strict=True)],
            [np.maximum(a, b) for a, b in zip(self.highest, other.highest, strict=True)],
            [a | b for a, b in zip(self.kinked, other.kinked, strict=True)],
            self.slack,
        )


def steps(trial: Trial) -> Steps | None:
    """Far above the rounding of the dtype that the truth is computed in, far below what bends a smooth function.

    None in half precision, where there is nothing between the two.
    """
    if trial.exact:
        return Steps(1e-9, 1e-12, 1e-6)
    return Steps(256 * trial.unit, 16 * trial.unit, 1e-2) if trial.unit < HALF else None


def slopes(trial: Trial, place: Place, how: Steps, rounds: int) -> Slopes:
    """The gradients right beside a point, in random directions and their opposites: they span Clarke's subdifferential.

    Where the function is smooth, the gradients a thousand times closer differ a thousand times less; at a kink not.
    """
    (low, high), (lower, higher) = _extremes(trial, place, how.wide, rounds), _extremes(trial, place, how.close, 1)
    with np.errstate(all="ignore"):
        kinked = [
            (b - a > how.jump * _largest(a, b)) & (d - c > 0.1 * (b - a)) & (d - c < 10 * (b - a)) & np.isfinite(b - a)
            for a, b, c, d in zip(low, high, lower, higher, strict=True)
        ]
    return Slopes(low, high, kinked, max(how.jump, limit_of(trial.unit) * trial.unit))


def _extremes(trial: Trial, place: Place, step: float, rounds: int) -> tuple[Leaves, Leaves]:
    lowest = [np.full(leaf.shape, np.inf) for leaf in place.point]
    highest = [np.full(leaf.shape, -np.inf) for leaf in place.point]
    cotangents = stacked(place.cotangent)
    for _ in range(rounds):
        moved = []
        for leaf in place.point:
            moves = trial.generator.standard_normal((PERTURBATIONS // 2, *leaf.shape))
            both = np.concatenate([moves[:1], moves, -moves])
            moved.append(leaf + step * np.where(leaf, np.abs(leaf), size(leaf)) * both)
        _, gradients = outputs_and_gradients(trial.problem, moved, cotangents, float64=trial.exact)
        for i, gradient in enumerate(gradients):
            known = np.isfinite(gradient)
            lowest[i] = np.minimum(lowest[i], np.where(known, gradient, np.inf).min(axis=0))
            highest[i] = np.maximum(highest[i], np.where(known, gradient, -np.inf).max(axis=0))
    return lowest, highest


def _largest(low: Floats, high: Floats) -> float:
    sizes = np.maximum(np.abs(low), np.abs(high))
    return float(sizes.max(initial=0, where=np.isfinite(sizes)))


def mended(comparison: Comparison, beside: Slopes) -> Comparison:
    """The comparison with what the neighbours agree on, where autodiff at the point is another thing altogether.

    It is where `jnp.where` singles a point out; there one unit in the last place changes everything. In half precision
    it may do so anywhere, and nothing is mended.
    """
    if comparison.limit == UNITS_IN_HALF_PRECISION:
        return comparison
    gradients, noises = [], []
    for leaf, (low, high) in enumerate(zip(beside.lowest, beside.highest, strict=True)):
        gradient, noise = comparison.truth.gradient[leaf], comparison.truth.noise[leaf]
        slack = beside.slack * _largest(low, high)
        with np.errstate(all="ignore"):
            singled_out = (high - low <= slack) & (comparison.limit * noise > _largest(low, high))
            gradients.append(np.where(singled_out, (low + high) / 2, gradient))
            noises.append(np.where(singled_out, slack / comparison.limit, noise))
    return comparison._replace(truth=comparison.truth._replace(gradient=gradients, noise=noises))


def outside(comparison: Comparison, leaf: int, beside: Slopes) -> Floats:
    """The elements that are wrong or on a kink, and not between the slopes right beside the point."""
    low, high = beside.lowest[leaf], beside.highest[leaf]
    found = comparison.answer(leaf)
    slack = beside.slack * _largest(low, high)
    with np.errstate(all="ignore"):
        between = (found >= low - slack) & (found <= high + slack)
    # Where autodiff is not finite the slopes beside decide, but only for a point that somebody asked about.
    known = comparison.judged(leaf) | (comparison.place.name == "given")
    return (comparison.wrong(leaf) | (beside.kinked[leaf] & known)) & ~between


def convention(comparison: Comparison, leaf: int, path: str, beside: Slopes) -> str:
    """The convention that the candidate follows at the kinks of a leaf, in a sentence; empty if it has no kinks."""
    kinked = beside.kinked[leaf]
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
