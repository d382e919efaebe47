"""The candidate's gradient beside the right one: how far apart, in units of what rounding explains."""

import math
from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.places import Place
from jaxnet.verify.engine.precision import Floats, Leaves
from jaxnet.verify.engine.truth import Truth
from jaxnet.verify.report import Finding, Kind


class Comparison(NamedTuple):
    """What the candidate says at one place, and what is right there.

    Attributes:
        place: the point and the cotangent.
        truth: the right gradient, and the noise that rounding makes in it.
        candidate: the candidate's gradient; a leaf is None where the candidate returned None.
        limit: how many units of noise are still rounding.
    """

    place: Place
    truth: Truth
    candidate: Leaves
    limit: float

    def answer(self, leaf: int) -> Floats:
        """The candidate's leaf; None counts as zeros, as everywhere in JAX."""
        found = self.candidate[leaf]
        return np.zeros_like(self.truth.gradient[leaf]) if found is None else found

    def comparable(self, leaf: int) -> bool:
        """Whether the leaf has the right shape."""
        return self.answer(leaf).shape == self.truth.gradient[leaf].shape

    def judged(self, leaf: int) -> Floats:
        """The elements whose right value is known: those that are finite, with their noise."""
        return np.isfinite(self.truth.gradient[leaf]) & np.isfinite(self.truth.noise[leaf])

    def units(self, leaf: int) -> Floats:
        """|candidate - expected| in units of noise, element by element; 0 where nothing is known."""
        expected, found, floor = self.truth.gradient[leaf], self.answer(leaf), self.truth.floor(leaf)
        with np.errstate(all="ignore"):
            error = np.abs(found - expected)
            if np.max(error, initial=0) <= self.limit * floor:  # what rounding makes need not be measured
                return error / floor if floor else error
            noise = self.truth.noise[leaf]
            units = np.where(found == expected, 0, error / np.maximum(noise, np.finfo(float).tiny))
        return np.where(self.judged(leaf), np.where(np.isfinite(found), units, math.inf), 0)

    def differs(self, leaf: int) -> Floats:
        """The elements that are not the right ones to the last bits of the largest."""
        with np.errstate(all="ignore"):
            error = np.abs(self.answer(leaf) - self.truth.gradient[leaf])
        return ~(error <= self.limit * self.truth.floor(leaf))

    def wrong(self, leaf: int) -> Floats:
        """The elements that rounding does not explain."""
        return self.units(leaf) > self.limit

    def any_wrong(self, leaf: int) -> bool:
        """Whether a leaf of the right shape has elements that rounding does not explain."""
        return self.comparable(leaf) and bool(self.wrong(leaf).any())

    def error(self, leaf: int) -> float:
        """‖candidate - expected‖ / ‖expected‖ over the elements that are judged."""
        judged = self.judged(leaf)
        expected = self.truth.gradient[leaf][judged]
        return _ratio(self.answer(leaf)[judged] - expected, expected)

    def rounding(self, leaf: int) -> float:
        """‖noise‖ / ‖expected‖."""
        judged = self.judged(leaf)
        return _ratio(self.truth.noise[leaf][judged], self.truth.gradient[leaf][judged])

    def finding(self, leaf: int, path: str, kind: Kind, explanation: str, among: Floats | None = None) -> Finding:
        """The finding that says so, with the numbers of the worst element, among the wrong ones if not told."""
        if not self.comparable(leaf):
            return Finding(path, kind, explanation, where=self.place.name)
        found, expected = self.answer(leaf), self.truth.gradient[leaf]
        with np.errstate(all="ignore"):
            chosen = self.wrong(leaf) if among is None else among
            distance = np.where(chosen, np.nan_to_num(np.abs(found - expected), nan=math.inf), -1)
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(distance)), distance.shape))
        return Finding(
            path,
            kind,
            explanation,
            index,
            float(found[index]),
            float(expected[index]),
            self.error(leaf),
            self.rounding(leaf),
            self.place.name,
        )


def _ratio(part: Floats, whole: Floats) -> float:
    with np.errstate(all="ignore"):
        above, below = np.linalg.norm(part), np.linalg.norm(whole)
        return float(above / below) if below else (math.inf if above else 0.0)
