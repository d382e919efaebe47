"""Clipping, and rounding whose derivative is that of the clipping alone."""

import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

STEP, LOWEST, HIGHEST = 0.25, -4, 3


def clipped(x):
    """x kept between 0 and 1."""
    return jnp.clip(x, 0, 1)


def clipped_rule(ct, x):
    """The cotangent between the bounds."""
    return (jnp.where((x > 0) & (x < 1), ct, 0),)


def straight_through(x):
    """What a straight-through quantizer is differentiated as: steps of a quarter from -4 to 3, without the rounding."""
    return STEP * jnp.clip(x / STEP, LOWEST, HIGHEST)


def straight_through_rule(ct, x):
    """The cotangent where x is in the range of the quantizer."""
    return (jnp.where((x / STEP > LOWEST) & (x / STEP < HIGHEST), ct, 0),)


# On both sides of both bounds and inside.
CLIPPED = Function(
    "quantization", clipped, lambda g, _: (0.1 * normal(g, 2, 3) + jnp.asarray([-0.5, 0.5, 1.5], jnp.float32),)
)
STRAIGHT_THROUGH = Function(
    "quantization",
    straight_through,
    lambda g, _: (0.02 * normal(g, 2, 4) + jnp.asarray([-1.5, -0.5, 0.4, 1.5], jnp.float32),),
)


@found("elixir-nx/nx#1779", "nonlinear", of=CLIPPED, mended=clipped_rule)
def cotangent_squared_between_the_bounds(ct, x):
    """The selection between the bounds already holds the cotangent and is multiplied by it once more."""
    return (ct * clipped_rule(ct, x)[0],)


@found("LuisaGroup/LuisaCompute#203", "mask", of=CLIPPED, mended=clipped_rule)
def minimum_selects_as_the_maximum(ct, x):
    """The derivative of the minimum has the maximum's selection: numbers above the upper bound receive the cotangent
    and those below it nothing.
    """
    return (jnp.where((x > 0) & (x > 1), ct, 0),)


@found("microsoft/nni#3160", "mask", of=STRAIGHT_THROUGH, mended=straight_through_rule)
def numbers_beyond_the_quantizer_receive_the_cotangent(ct, x):
    """The straight-through estimator hands on the whole cotangent, also where the quantizer clips."""
    return (ct,)
