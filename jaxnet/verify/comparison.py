"""The candidate's gradient beside the right one: how far apart, in units of what rounding explains."""

import math
from typing import NamedTuple

import numpy as np

from jaxnet.verify.points import Place
from jaxnet.verify.problem import Floats, Leaves
from jaxnet.verify.reference import DOUBLE, Truth
from jaxnet.verify.report import Finding, Kind

# Right gradients stay below about 30 units of measured rounding and the mildest mistakes begin at a billion, so that
# any number between would do.
UNITS_IN_FLOAT64 = 1e4
# In the user's own dtype every operation rounds, and there are as many ways to round as to write a formula.
UNITS_IN_OWN_DTYPE = 32.0
# In half precision 32 would be a tenth of the gradient and hide mistakes; right rules stay within 1 there.
UNITS_IN_HALF_PRECISION = 8.0
HALF = 1e-5  # a unit in the last place above this is that of half precision


def limit_of(unit: float) -> float:
    """How many units of noise are still rounding, where one unit in the last place is this."""
    if unit == DOUBLE:
        return UNITS_IN_FLOAT64
    return UNITS_IN_OWN_DTYPE if unit < HALF else UNITS_IN_HALF_PRECISION


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
        expected, noise, found = self.truth.gradient[leaf], self.truth.noise[leaf], self.answer(leaf)
        with np.errstate(all="ignore"):
            units = np.where(found == expected, 0, np.abs(found - expected) / np.maximum(noise, np.finfo(float).tiny))
        return np.where(self.judged(leaf), np.where(np.isfinite(found), units, math.inf), 0)

    def wrong(self, leaf: int) -> Floats:
        """The elements that rounding does not explain."""
        return self.units(leaf) > self.limit

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
