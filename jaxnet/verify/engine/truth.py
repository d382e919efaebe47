"""The right gradient at a point, and how many units of what rounding does to it are still rounding."""

import functools
from collections.abc import Callable

import numpy as np

from jaxnet.verify.engine.precision import DOUBLE, HALF, Floats, Leaves

# Right gradients stay below about 30 units of measured rounding and the mildest mistakes begin at a billion, so that
# any number between would do.
UNITS_IN_FLOAT64 = 1e4
# In the user's own dtype every operation rounds, and there are as many ways to round as to write a formula.
UNITS_IN_OWN_DTYPE = 32.0
# In half precision 32 would be a tenth of the gradient and hide mistakes; right rules stay within 1 there.
UNITS_IN_HALF_PRECISION = 8.0


def limit_of(unit: float) -> float:
    """How many units of noise are still rounding, where one unit in the last place is this."""
    if unit == DOUBLE:
        return UNITS_IN_FLOAT64
    return UNITS_IN_OWN_DTYPE if unit < HALF else UNITS_IN_HALF_PRECISION


def size(leaf: Floats) -> float:
    """The root of the mean square of a leaf, 1 for zeros."""
    return float(np.sqrt(np.mean(np.square(leaf)))) or 1.0


class Truth:
    """The right gradient at a point.

    Attributes:
        outputs: what the function returns there.
        gradient: for each leaf; NaN where nothing is known.
        unit: one unit in the last place of what is judged.
        noise: for each element, what rounding explains: the largest change when inputs, cotangent and every
            intermediate result move by one unit in their last place. It is measured when it is asked for.
    """

    def __init__(self, outputs: Leaves, gradient: Leaves, unit: float, measure: Callable[[float], Leaves]) -> None:
        """A gradient, and how its noise is measured in numbers of a unit in the last place."""
        self.outputs, self.gradient, self.unit = outputs, gradient, unit
        self._measure = measure

    @functools.cached_property
    def noise(self) -> Leaves:
        """What rounding explains, measured once."""
        return [np.asarray(leaf) + self.floor(i) for i, leaf in enumerate(self._measure(self.unit))]

    def floor(self, leaf: int) -> float:
        """What the noise of every element of a leaf is at least: a unit of its largest."""
        return self.unit * self.largest(leaf)

    def largest(self, leaf: int) -> float:
        """The largest element of a leaf."""
        return largest(self.gradient[leaf])

    def in_unit(self, unit: float) -> "Truth":
        """The same for numbers of another unit in the last place."""
        return self if unit == self.unit else Truth(self.outputs, self.gradient, unit, self._measure)

    def with_noise(self, noise: Callable[[], Leaves], gradient: Leaves | None = None) -> "Truth":
        """With another noise, and perhaps another gradient."""
        return Truth(self.outputs, self.gradient if gradient is None else gradient, self.unit, lambda unit: noise())

    def in_doubt(self, doubt: Callable[[], Leaves]) -> "Truth":
        """With so much more that nobody can know, however small a unit is."""

        def measure(unit: float) -> Leaves:
            return [noise + d / limit_of(unit) for noise, d in zip(self._measure(unit), doubt(), strict=True)]

        return Truth(self.outputs, self.gradient, self.unit, measure)

    def times(self, factor: float) -> "Truth":
        """For a cotangent that is so many times as large."""
        gradient = [factor * leaf for leaf in self.gradient]
        return Truth(self.outputs, gradient, self.unit, lambda unit: [abs(factor) * n for n in self._measure(unit)])


def largest(leaf: Floats) -> float:
    """The largest finite magnitude."""
    with np.errstate(all="ignore"):
        found = float(np.max(np.abs(leaf), initial=0))
    return found if np.isfinite(found) else float(np.max(np.abs(leaf), initial=0, where=np.isfinite(leaf)))
