"""Taylor's theorem as a judge that knows nothing of autodiff: f(x + hv) - f(x) - h⟨g, v⟩ falls like h²."""

from typing import NamedTuple

import numpy as np

from jaxnet.verify.points import Place, size
from jaxnet.verify.problem import Leaves, Problem
from jaxnet.verify.reference import DOUBLE, Truth, outputs_alone, outputs_and_gradients, stacked

STEPS = np.array([1e-3, 1e-4, 1e-5])
# Above this many numbers, differences one at a time are made for a random selection.
MOST = 2000


class Slope(NamedTuple):
    """The directional derivative of ⟨cotangent, f⟩, and how far two step sizes disagree about it."""

    value: float
    doubt: float


def along(problem: Problem, place: Place, direction: Leaves, *, differentiable: bool = True) -> Slope:
    """The slope along a direction by central differences, (f(x + hv) - f(x - hv)) / 2h, at three sizes of h.

    Its error is O(h²) from Taylor's remainder and O(ε/h) from rounding; of the two neighbouring sizes that agree best,
    the smaller one counts.
    """
    multiples = np.concatenate([[0.0], STEPS, -STEPS])
    points = [
        leaf + multiples.reshape(-1, *[1] * leaf.ndim) * v for leaf, v in zip(place.point, direction, strict=True)
    ]
    if differentiable:
        cotangents = stacked(place.cotangent)
        outputs, _ = outputs_and_gradients(problem, points, cotangents)
    else:
        outputs = outputs_alone(problem, points)
    with np.errstate(all="ignore"):
        # The change of every output first, and the sum after: a large sum would round small changes away.
        ahead = sum(
            ((output[1:4] - output[4:7]) * c).reshape(len(STEPS), -1).sum(axis=1)
            for output, c in zip(outputs, place.cotangent, strict=True)
        )
        estimates = ahead / (2 * STEPS)
        size = sum(float(np.abs(output[0] * c).sum()) for output, c in zip(outputs, place.cotangent, strict=True))
        doubts = np.abs(np.diff(estimates)) + DOUBLE * size / STEPS[1:]
    if not np.isfinite(doubts).any():
        return Slope(np.nan, np.inf)
    best = int(np.nanargmin(doubts))
    return Slope(float(estimates[best + 1]), float(doubts[best]))


def random_direction(point: Leaves, generator: np.random.Generator) -> Leaves:
    """Normal numbers of the size of each leaf."""
    return [size(leaf) * generator.standard_normal(leaf.shape) for leaf in point]


def agrees(gradient: Leaves, direction: Leaves, slope: Slope) -> bool:
    """Whether ⟨g, v⟩ is the slope, up to a hundred times the doubt and a millionth of the size of its terms."""
    terms = [np.asarray(g) * v for g, v in zip(gradient, direction, strict=True)]
    scale = np.sqrt(sum(float(np.square(term).sum()) for term in terms))
    difference = abs(sum(float(term.sum()) for term in terms) - slope.value)
    return not difference > 100 * slope.doubt + 1e-6 * (scale + abs(slope.value))


def by_differences(problem: Problem, place: Place, generator: np.random.Generator) -> Truth:
    """The gradient by central differences, element by element, for a function that autodiff cannot take.

    Elements that are not computed, beyond the first `MOST` in a random order, are NaN: unknown.
    """
    gradient = [np.full(leaf.shape, np.nan) for leaf in place.point]
    noise = [np.full(leaf.shape, np.nan) for leaf in place.point]
    elements = [(i, j) for i, leaf in enumerate(place.point) for j in range(leaf.size)]
    chosen = generator.permutation(len(elements))[:MOST]
    for i, j in (elements[position] for position in chosen):
        direction = [np.zeros(leaf.shape) for leaf in place.point]
        direction[i].flat[j] = size(place.point[i])
        slope = along(problem, place, direction, differentiable=False)
        gradient[i].flat[j] = slope.value / direction[i].flat[j]
        noise[i].flat[j] = slope.doubt / direction[i].flat[j]
    largest = max((float(np.nanmax(np.abs(leaf), initial=0)) for leaf in gradient), default=0.0)
    # What is compared is divided by thousands of units of noise: see `UNITS_IN_FLOAT64`.
    noise = [leaf / 100 + 1e-11 * largest for leaf in noise]
    outputs = [output[0] for output in outputs_alone(problem, stacked(place.point))]
    return Truth(outputs, gradient, noise)
