"""Where candidate and reference part: the first step, the leaf, the element, and how far in units of rounding."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.precision import Floats

LEANING = 4.0  # units: as many constants of a rule may be rounded to the same side


class Difference(NamedTuple):
    """The first step at which a leaf differs.

    Attributes:
        where: setting and sequence.
        step: counted from 1.
        index: the worst element there.
        candidate: its number.
        expected: the reference's.
        error: ‖candidate - expected‖ / ‖expected‖ over the leaf.
        rounding: the same for what rounding explains.
    """

    where: str
    step: int
    index: tuple[int, ...]
    candidate: float
    expected: float
    error: float
    rounding: float


@dataclass
class Pair:
    """A leaf of the candidate beside a leaf of the reference, over all that was run.

    Attributes:
        unit: one unit in the last place of what the candidate computes in.
        units: the largest error in units of rounding.
        first: where they differ first, in the sequence where it stands out most; None while they are equal.
        ratio: the least and the largest candidate/expected seen.
        offset: the same for candidate - expected.
        places: the sequences in which they differ.
        sums: for each sequence (‖e‖², ⟨f, e⟩, ‖f‖², ⟨o, e⟩) of the expected e, the found f and the
            reference's own o in the same dtype, where that is narrow.
    """

    unit: float = 0.0
    units: float = 0.0
    first: Difference | None = None
    ratio: tuple[float, float] = (np.inf, -np.inf)
    offset: tuple[float, float] = (np.inf, -np.inf)
    places: set[str] = field(default_factory=set)
    sums: dict[str, Floats] = field(default_factory=dict)

    def see(self, where: str, start: int, found: Floats, expected: Floats, noise: Floats, limit: float) -> None:
        """Compare the steps after `start`, one a row."""
        units = _units(found, expected, noise, self.unit)
        wrong = np.flatnonzero(units > limit)
        self.units = max(self.units, float(units.max(initial=0)))
        if len(wrong) and where not in self.places:
            self.places.add(where)
            step = int(wrong[0])
            first = _difference(where, start + step, found[step], expected[step], noise[step])
            if self.first is None or first.error > self.first.error:
                self.first = first
        with np.errstate(all="ignore"):
            seen = np.isfinite(found) & np.isfinite(expected)
            large = seen & (np.abs(expected) > 1e-3 * np.max(np.abs(expected), initial=0, where=seen))
            self.ratio = _widened(self.ratio, (found[large] / expected[large]))
            self.offset = _widened(self.offset, found[seen] - expected[seen])

    def lean(self, where: str, start: int, found: Floats, expected: Floats, own: Floats) -> None:
        """Compare the sums over all steps of a sequence, in which the rounding of narrow dtypes averages out.

        The candidate leans if it is k times as large in the mean, where k is more than a few units from 1, and more
        than twice as far as the k of the reference in the same dtype.
        """
        with np.errstate(all="ignore"):
            products = np.stack([expected**2, found * expected, found**2, own * expected]).reshape(4, -1)
        sums = np.where(np.isfinite(products).all(axis=0), products, 0).sum(axis=1) + self.sums.get(where, 0)
        self.sums[where] = sums
        if sums[0] and where not in self.places:
            off, off_itself = np.abs(sums[[1, 3]] / sums[0] - 1)
            if off > LEANING * self.unit + 2 * off_itself:
                self.places.add(where)
                with np.errstate(all="ignore"):
                    apart = np.abs(found - expected).reshape(len(found), -1).max(axis=1)
                step = int(np.argmax(np.nan_to_num(apart)))
                noise = self.unit * np.abs(expected[step])
                first = _difference(where, start + step, found[step], expected[step], noise)
                self.first = first if self.first is None or first.error > self.first.error else self.first

    @property
    def factor(self) -> float | None:
        """k where the candidate's leaf is k times the reference's throughout, and k is not 1."""
        if self.sums:
            return self._mean_factor()
        low, high = self.ratio
        middle, spread = (low + high) / 2, high - low
        same = np.isfinite(middle) and spread <= max(256 * self.unit * abs(middle), 1e-3 * abs(middle - 1))
        return middle if same and abs(middle - 1) > 8 * spread else None

    def _mean_factor(self) -> float | None:
        """The same in a narrow dtype: one k for all sequences, beside which little remains."""
        sums = np.array([row for row in self.sums.values() if row[0] and row[2]])
        if not len(sums):
            return None
        factors, remains = sums[:, 1] / sums[:, 0], 1 - sums[:, 1] ** 2 / (sums[:, 0] * sums[:, 2])
        middle, close = float(np.median(factors)), LEANING * self.unit
        same = np.ptp(factors) <= 2 * close * abs(middle) and (remains <= (2 * close) ** 2).all()
        return middle if same and abs(middle - 1) > close else None

    @property
    def shift(self) -> float | None:
        """c where the candidate's leaf is c more than the reference's throughout, and c is not 0."""
        low, high = self.offset
        return low if low == high and low else None


def _widened(seen: tuple[float, float], values: Floats) -> tuple[float, float]:
    return min(seen[0], float(np.min(values, initial=np.inf))), max(seen[1], float(np.max(values, initial=-np.inf)))


def _units(found: Floats, expected: Floats, noise: Floats, unit: float) -> Floats:
    """For each step the largest error over its noise, element by element; 0 where the right number is not known.

    The noise of an element is at least a unit in the last place of the largest in the leaf, as in the engine.
    """
    axes = tuple(range(1, expected.ndim))
    judged = np.isfinite(expected) & np.isfinite(noise)
    with np.errstate(all="ignore"):
        floor = unit * np.where(judged, np.abs(expected), 0).max(axis=axes, initial=0, keepdims=True)
        error = np.where(judged, np.where(found == expected, 0, np.abs(found - expected)), 0)
        error = np.where(np.isnan(error), np.inf, error)
        allowed = np.where(judged, noise, 0) + floor
        units = np.where(error == 0, 0, error / np.maximum(allowed, np.finfo(float).tiny))
        return units.max(axis=axes, initial=0)


def _difference(where: str, step: int, found: Floats, expected: Floats, noise: Floats) -> Difference:
    judged = np.isfinite(expected) & np.isfinite(noise)
    with np.errstate(all="ignore"):
        distance = np.where(judged, np.nan_to_num(np.abs(found - expected), nan=np.inf), -1)
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(distance)), distance.shape))
        below = float(np.linalg.norm(np.where(judged, expected, 0)))
        error, rounding = (float(np.linalg.norm(np.where(judged, part, 0))) for part in (found - expected, noise))
    ratios = [float(np.divide(part, below)) if below else (np.inf if part else 0.0) for part in (error, rounding)]
    return Difference(where, step + 1, index, float(found[index]), float(expected[index]), *ratios)
