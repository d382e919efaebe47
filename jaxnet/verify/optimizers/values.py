"""Another value of one number of a recipe, solved for: the one with which the recipe's updates are the candidate's."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.optimizers.recipe import Recipe, simulate

STEPS, ELEMENTS = 64, 24  # of what is simulated for every value
ROUNDS, STEP = 24, 1e-6
DIGITS = range(1, 9)


class Number(NamedTuple):
    """A number of a recipe, and where its values may lie.

    Attributes:
        symbol: what it is called.
        usual: values that people choose.
        grid: values to start from.
        of_rate: whether it lies between 0 and 1, where distances from 1 count.
    """

    symbol: str
    usual: tuple[float, ...]
    grid: Floats
    of_rate: bool = False


_sizes = 10.0 ** np.arange(-20, 1.1, 0.25)
_rates = 1 - 10.0 ** np.arange(-5, -0.01, 0.1)
NUMBERS = {
    "rate": Number("the learning rate α", (), 10.0 ** np.arange(-8, 3.1, 0.25)),
    "b1": Number("β₁", (0.5, 0.9, 0.95, 0.99), _rates, of_rate=True),
    "b2": Number("β₂", (0.9, 0.95, 0.98, 0.99, 0.995, 0.996, 0.999, 0.9999), _rates, of_rate=True),
    "eps": Number("ε", (1e-16, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3), _sizes),
    "eps_root": Number("ε_root", (1e-16, 1e-10, 1e-8, 1e-6), _sizes),
    "initial": Number("v before the first step", (0.0, 0.1, 1.0), _sizes),
    "decay": Number("weight decay λ", (1e-4, 1e-3, 1e-2), np.concatenate([_sizes, -_sizes])),
    "trail": Number("the momentum β", (0.5, 0.9, 0.99), _rates, of_rate=True),
}


def with_number(recipe: Recipe, field: str, value: Floats) -> Recipe:
    """The recipe with another number; a learning rate stays the same in every step."""
    rate = np.broadcast_to(value, (len(recipe.rate), *np.shape(value))) if field == "rate" else value
    return recipe._replace(**{field: rate})


def solved(recipe: Recipe, field: str, gradients: Floats, parameters: Floats, wanted: Floats) -> float | None:
    """The value of a number with which the recipe's updates come nearest to those wanted; None where it tells nothing.

    From the best of a grid, by Gauss and Newton's rule in the logarithm of the number, or of its distance from 1.
    """
    number = NUMBERS[field]
    sizes = np.abs(np.where(np.isfinite(wanted), wanted, 0)).max(axis=0)
    kept = np.isfinite(wanted).all(axis=0) & (sizes > 0)
    if not kept.any():
        return None
    gradients, parameters, wanted, sizes = gradients[:, kept], parameters[:, kept], wanted[:, kept], sizes[kept]

    def remains(values: Floats) -> Floats:
        """(values, steps · elements), relative to the size of each element."""
        found = simulate(with_number(recipe, field, values[:, None]), gradients, parameters)
        return (np.moveaxis(found, 1, 0) - wanted).reshape(len(values), -1) / np.tile(sizes, len(wanted))

    starts = np.concatenate([number.usual, number.grid])
    sums = _squares(remains(starts))
    best = float(starts[np.argmin(sums)])
    if not np.isfinite(sums.min()) or sums.min() == sums.max():
        return None
    if sums.min() < 1e-20 or best == 0:
        return best
    refined = _refined(best, remains, of_rate=number.of_rate)
    return rounded(refined) if refined is not None else best


def _refined(value: float, remains: Callable[[Floats], Floats], *, of_rate: bool) -> float | None:
    sign = np.sign(value)

    def at(coordinates: Floats) -> Floats:
        return 1 - np.exp(coordinates) if of_rate else sign * np.exp(coordinates)

    place = float(np.log(1 - value) if of_rate else np.log(abs(value)))
    for _ in range(ROUNDS):
        here, ahead, behind = remains(at(place + STEP * np.array([0, 1, -1])))
        slope = (ahead - behind) / (2 * STEP)
        steep = float(slope @ slope)
        if not np.isfinite(steep) or steep == 0:
            return None
        move = float(np.clip(-(slope @ here) / steep, -0.5, 0.5))
        place += move
        if abs(move) < 1e-13:
            break
    return float(at(np.asarray(place)))


def _squares(remains: Floats) -> Floats:
    with np.errstate(all="ignore"):
        sums = np.square(remains).sum(axis=1)
    return np.where(np.isfinite(sums), sums, np.inf)


def rounded(value: float) -> float:
    """The value with as few digits as leave it what it is, up to the error of solving for it."""
    for digits in DIGITS:
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= 1e-7 * min(abs(value), abs(1 - value) or 1):
            return short
    return value
