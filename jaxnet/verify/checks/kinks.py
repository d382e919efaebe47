"""Kinks: where a function has no derivative, any value between its one-sided slopes is a convention, not a mistake."""

from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.cancellation import cancelled, summed
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import DOUBLE, HALF, Floats, Leaves
from jaxnet.verify.engine.rounding import PERTURBATIONS
from jaxnet.verify.engine.trial import Trial
from jaxnet.verify.engine.truth import largest, limit_of

PATIENCE = 12  # how often more gradients beside a point are sampled in vain
AMPLIFIED = 1e6  # times its usual size: rounding that moves a gradient by so much leaves nothing to be right about
SMALL = 1e-9  # a jump below this share of the cotangent may be what float64 leaves of terms that cancel
AFFINE = 1e-4  # how far from the affine hull of the gradients beside a point a candidate may be, relative


class Steps(NamedTuple):
    """How far beside a point slopes are taken, and what jump between them is more than a smooth function makes."""

    wide: float
    close: float
    jump: float


class Beside(NamedTuple):
    """Gradients right beside a point, which span Clarke's subdifferential of a function that is continuous there.

    Attributes:
        wide: for each leaf, gradients at some distance, one a row.
        close: for each leaf, those in the same directions, much closer.
        nearer: how many times closer.
        jump: what they differ by, relative to the largest, where they do jump.
        slack: how far outside of them a number still counts as between, relative to the largest: it allows for the bend
            of a smooth function and for rounding.
        least: for each leaf, what a jump is at least, as less may be what rounding leaves of terms that cancel.
        continuous: whether the function's values beside the point are those at it.
    """

    wide: Leaves
    close: Leaves
    nearer: float
    jump: float
    slack: float
    least: list[float]
    continuous: bool

    def bounds(self, leaf: int) -> tuple[Floats, Floats]:
        """The least and the largest gradient, element by element."""
        samples = self.samples(leaf)
        known = np.isfinite(samples)
        return np.where(known, samples, np.inf).min(axis=0), np.where(known, samples, -np.inf).max(axis=0)

    def samples(self, leaf: int) -> Floats:
        """All gradients, one a row."""
        return np.concatenate([self.wide[leaf], self.close[leaf]])

    def kinked(self, leaf: int) -> Floats:
        """Where they jump: a smooth function's differ a thousand times less a thousand times closer."""
        jump, closer, jumps = self._jumps(leaf)
        with np.errstate(all="ignore"):
            return jumps & (0.5 * jump < closer) & (closer < 2 * jump)

    def singular(self, leaf: int) -> Floats:
        """Where they grow the nearer they are: there is nothing to be right about.

        Rounding grows, too, by as much as one is nearer: what is singular is so in more than half of the directions.
        """
        jump, closer, jumps = self._jumps(leaf)
        with np.errstate(all="ignore"):
            usual = np.median(np.abs(self.close[leaf]), axis=0)
            grown = usual > self.nearer * self.jump * _largest(*_bounds(self.close[leaf]))
            return ~(np.isfinite(jump) & np.isfinite(closer)) | (jumps & grown & (closer >= 2 * jump))

    def _jumps(self, leaf: int) -> tuple[Floats, Floats, Floats]:
        (low, high), (c, d) = _bounds(self.wide[leaf]), _bounds(self.close[leaf])
        with np.errstate(all="ignore"):
            return high - low, d - c, high - low > max(self.jump * _largest(low, high), self.least[leaf])

    def joined(self, other: "Beside") -> "Beside":
        """What both have seen."""
        both = zip((self.wide, self.close), (other.wide, other.close), strict=True)
        wide, close = ([np.concatenate(pair) for pair in zip(*pairs, strict=True)] for pairs in both)
        return self._replace(wide=wide, close=close, continuous=self.continuous and other.continuous)


def steps(trial: Trial) -> Steps | None:
    """Far above the rounding of the dtype that the truth is computed in, far below what bends a smooth function.

    None in half precision, where there is nothing between the two.
    """
    if trial.function.exact:
        return Steps(1e-9, 1e-12, 1e-6)
    return Steps(256 * trial.unit, 16 * trial.unit, 1e-2) if trial.unit < HALF else None


def beside(trial: Trial, comparison: Comparison, leaf: int | None, directions: Floats) -> Beside | None:
    """The gradients right beside a point; None where they cannot be had."""
    how = steps(trial)
    if how is None or trial.function.mode == "differences":
        return None
    if not all(np.isfinite(output).all() for output in comparison.truth.outputs):
        return None
    (_, wide), (outputs, close) = trial.function.beside(comparison.place, (how.wide, how.close), leaf, directions)
    continuous = all(
        largest(moved - here) <= how.jump * (largest(here) or 1.0)
        for moved, here in zip(outputs, comparison.truth.outputs, strict=True)
    )
    slack = max(how.jump, limit_of(trial.unit) * trial.unit)
    around = Beside(wide, close, how.wide / how.close, how.jump, slack, [0.0] * len(wide), continuous)
    return around._replace(least=_least_jumps(trial, comparison, around))


def _least_jumps(trial: Trial, comparison: Comparison, around: Beside) -> list[float]:
    """For each leaf, what float64 may leave of terms that cancel; 0 where what jumps is more than that anyway."""
    sent = max(largest(c) for c in comparison.place.cotangent)
    jumps = [around.wide[leaf].max(axis=0) - around.wide[leaf].min(axis=0) for leaf in range(len(around.wide))]
    small = any(0 < largest(jump) < SMALL * sent for jump in jumps)
    if not small or not trial.function.exact or trial.function.mode != "reverse":
        return [0.0] * len(jumps)
    return [limit_of(DOUBLE) * DOUBLE * largest(m) for m in summed(trial.function, comparison.place)]


def _all_around(trial: Trial) -> Floats:
    """Directions in which the later elements go the farther, and random ones."""
    size = max(leaf.size for leaf in trial.case.differentiated)
    ramp = 0.5 + np.arange(size) / size
    return np.asarray([ramp, -ramp, *trial.generator.uniform(-1, 1, (PERTURBATIONS - 2, size))])


def _towards(trial: Trial, mask: Floats) -> Floats:
    """Directions in which some elements of a mask are the first, the last or in the midst of all, and ramps."""
    generator, size = trial.generator, mask.size
    directions = 0.5 * generator.uniform(-1, 1, (PERTURBATIONS, size))
    for direction in directions[::2]:
        chosen = generator.choice(np.flatnonzero(mask), (mask.sum() + 1) // 2, replace=False)
        direction[chosen] = generator.choice((1.0, 0.0, 0.0, -1.0), len(chosen)) + 1e-2 * direction[chosen]
    for direction in directions[1::2]:
        direction[:] = 1e-2 * direction + _ramp(generator, mask.shape)
    return directions


def _ramp(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Numbers that grow or fall along every axis: of equal ones, autodiff chooses the first, or the last."""
    slopes = generator.choice((-1.0, 1.0), len(shape)) * generator.uniform(0.1, 1, len(shape))
    axes = np.ix_(*(np.linspace(-0.5, 0.5, length) for length in shape))
    return sum((slope * axis for slope, axis in zip(slopes, axes, strict=True)), np.zeros(shape)).ravel()


def _bounds(samples: Floats) -> tuple[Floats, Floats]:
    return samples.min(axis=0), samples.max(axis=0)


def _largest(low: Floats, high: Floats) -> float:
    sizes = np.maximum(np.abs(low), np.abs(high))
    return float(sizes.max(initial=0, where=np.isfinite(sizes)))


class Settled(NamedTuple):
    """What is wrong at a place after what kinks explain.

    Attributes:
        wrong: for each leaf that was asked for, its wrong elements.
        unknown: the same for elements of which nothing is known.
        around: the gradients beside the point, where they were looked at.
    """

    wrong: dict[int, Floats]
    unknown: dict[int, Floats]
    around: Beside | None


def settled(trial: Trial, comparison: Comparison, leaves: list[int], usual: Comparison) -> Settled:
    """For each leaf the elements that are wrong and that the gradients beside the point do not explain.

    Args:
        trial: how the candidate is judged.
        comparison: at the point.
        leaves: that are looked at.
        usual: at the given point, where the gradient has its usual size.
    """
    doubtful = {leaf: _doubtful(trial, comparison, leaf, usual) for leaf in leaves}
    unknown = {leaf: ~np.isfinite(comparison.truth.gradient[leaf]) for leaf in leaves}
    looked = any(mask.any() for mask in doubtful.values())
    around = beside(trial, comparison, None, _all_around(trial)) if looked else None
    if around is None:
        return Settled({leaf: comparison.wrong(leaf) & doubtful[leaf] for leaf in leaves}, unknown, None)
    for leaf in leaves:
        around = _with_more(trial, comparison, leaf, doubtful[leaf], around)
    wrong = {leaf: _outside(comparison, leaf, around, doubtful[leaf]) for leaf in leaves}
    unknown = {leaf: mask & around.singular(leaf) for leaf, mask in unknown.items()}
    return Settled(wrong, unknown, around)


def _with_more(trial: Trial, comparison: Comparison, leaf: int, doubtful: Floats, around: Beside) -> Beside:
    """More gradients beside the point, as long as they explain more elements of a leaf that seem to be wrong."""
    patience, vain = (1 if trial.case.large else PATIENCE), 0
    wrong = _outside(comparison, leaf, around, doubtful)
    while vain < patience and wrong.any():
        if comparison.place.role != "special" and not (wrong & around.kinked(leaf)).any():
            break
        more = beside(trial, comparison, leaf, _towards(trial, wrong))
        if more is None:
            break
        around, before = around.joined(more), wrong.sum()
        wrong = _outside(comparison, leaf, around, doubtful)
        vain = 0 if wrong.sum() < before else vain + 1
    return around


def _doubtful(trial: Trial, comparison: Comparison, leaf: int, usual: Comparison) -> Floats:
    """The elements that are wrong; at a special point also those beside which autodiff says otherwise.

    What rounding does is no measure at a kink, where it changes everything: every difference is doubtful there.
    """
    gradient, how, excused = comparison.truth.gradient[leaf], steps(trial), cancelled(trial.function, comparison, leaf)
    if comparison.place.role != "special" or how is None or trial.function.mode == "differences":
        return comparison.wrong(leaf) & ~excused
    nearby = trial.function.nearby(comparison.place, how.wide)
    scale = max(comparison.truth.largest(leaf), *(largest(near[leaf]) for near in nearby))
    with np.errstate(all="ignore"):
        bend = 1e3 * how.wide * usual.truth.largest(leaf)  # what a smooth function may change by on the way
        jumps = [~(np.abs(near[leaf] - gradient) <= how.jump * scale + bend) for near in nearby]
    # Where autodiff is not finite the gradients beside decide, but only at a point that somebody asked about.
    known = np.isfinite(gradient) | (comparison.place.name == "given")
    doubtful = (comparison.differs(leaf) | np.logical_or.reduce(jumps)) & known & ~excused
    if comparison.place.name != "given" and doubtful.any():
        doubtful &= not _lost_to_rounding(comparison, leaf, usual)
    return doubtful


def _lost_to_rounding(comparison: Comparison, leaf: int, usual: Comparison) -> bool:
    """Whether rounding moves the gradient by more than its size, as beside a singular matrix: nothing is right there.

    One leaf's rounding may by chance be less than its size there; a million times the usual size in any is enough, too.
    """
    noise = [largest(noise) for noise in comparison.truth.noise]
    sizes = [usual.truth.largest(other) for other in range(len(noise))]
    own = max(comparison.truth.largest(leaf), sizes[leaf])
    return noise[leaf] > own or max(noise) > AMPLIFIED * (max(sizes) or 1.0)


def _outside(comparison: Comparison, leaf: int, around: Beside, doubtful: Floats) -> Floats:
    """The doubtful elements that the gradients right beside the point do not explain."""
    (low, high), kinked = around.bounds(leaf), around.kinked(leaf)
    found, expected = comparison.answer(leaf), comparison.truth.gradient[leaf]
    doubtful = doubtful & ~around.singular(leaf)
    with np.errstate(all="ignore"):
        # Where nothing jumps, the gradient goes on as it comes nearer: by less than it has changed already.
        slack = around.slack * _largest(low, high) + np.where(kinked, 0, high - low)
        between = (found >= low - slack) & (found <= high + slack)
        smooth = ~kinked & (np.abs(expected - (low + high) / 2) <= slack)
    outside = doubtful & ~between
    # At a kink, what autodiff says is a convention like others; where there is none, it is right.
    on_kinks = doubtful & kinked & comparison.differs(leaf)
    outside = np.where(smooth, doubtful & comparison.wrong(leaf), np.where(kinked, outside & on_kinks, outside))
    if not around.continuous:  # what lies beside a jump is another function
        outside &= comparison.wrong(leaf)
    if outside.any() or not on_kinks.any() or _in_affine_hull(found, leaf, around):
        return outside
    return on_kinks


def _in_affine_hull(found: Floats, leaf: int, around: Beside) -> bool:
    """Whether the gradient as a whole may be a mixture of those beside the point; they must be enough to tell."""
    samples = around.samples(leaf)
    samples = samples.reshape(len(samples), -1)
    samples = samples[np.isfinite(samples).all(axis=1)]
    if len(samples) < 2 or not np.isfinite(found).all():
        return True
    centre = samples.mean(axis=0)
    spread = samples - centre
    size = np.abs(spread).max()
    _, s, basis = np.linalg.svd(spread / size, full_matrices=False)
    basis = basis[s > 1e-5 * s[0]]
    if len(basis) > len(samples) // 2:
        return True  # more samples would span more
    rest = (found.ravel() - centre) / size
    rest = rest - basis.T @ (basis @ rest)
    return bool(np.abs(rest).max() <= AFFINE)


def convention(comparison: Comparison, leaf: int, path: str, around: Beside) -> str:
    """The convention that the candidate follows at the kinks of a leaf, in a sentence; empty if it has no kinks."""
    kinked = around.kinked(leaf)
    if not kinked.any():
        return ""
    index = tuple(int(i) for i in np.argwhere(kinked)[0])
    low, high = (float(bound[index]) for bound in around.bounds(leaf))
    found, automatic = (float(values[index]) for values in (comparison.answer(leaf), comparison.truth.gradient[leaf]))
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
