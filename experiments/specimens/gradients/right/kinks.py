"""Kinks and ties."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import ABSOLUTE_AT_ZERO, CLIPPED, RELU_AT_ZERO, m, n_in, normal
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right


# Kinks and ties -------------------------------------------------------------------------------------------------------


@right(of=RELU_AT_ZERO)
def rectifier_of_slope_0_at_zero(ct, z):
    """The usual convention."""
    return (ct * (z > 0),)


@right(of=RELU_AT_ZERO)
def rectifier_of_slope_one_half_at_zero(ct, z):
    """The mean of both sides."""
    return (ct * jnp.heaviside(z, 0.5).astype(z.dtype),)


@right(of=RELU_AT_ZERO)
def rectifier_of_slope_1_at_zero(ct, z):
    """The right-hand slope."""
    return (ct * (z >= 0),)


@right(of=ABSOLUTE_AT_ZERO)
def absolute_value_flat_at_its_tip(ct, z):
    """sign(0) = 0."""
    return (ct * jnp.sign(z),)


@right(of=ABSOLUTE_AT_ZERO)
def absolute_value_of_slope_1_at_its_tip(ct, z):
    """The right-hand slope."""
    return (jnp.where(z >= 0, ct, -ct),)


@right(of=CLIPPED)
def clipping(ct, z):
    """Nothing comes back from beyond the bounds."""
    return (jnp.where(jnp.abs(z) < 1, ct, 0),)


def pair(generator: np.random.Generator, scale: float) -> tuple[Array, Array]:
    """Two matrices of the same shape, equal in their first column."""
    x, y = normal(generator, m, n_in, scale=scale), normal(generator, m, n_in, scale=scale)
    return x, y.at[:, 0].set(x[:, 0])


@right(of=Function("reduction", jnp.maximum, pair))
def larger_of_two_with_ties_split(ct, x, y):
    """Each of two equals gets half."""
    share = jnp.where(x == y, 0.5, x > y).astype(ct.dtype)
    return ct * share, ct * (1 - share)


@right(of=Function("reduction", jnp.minimum, pair))
def smaller_of_two_with_ties_to_the_first(ct, x, y):
    """The first of two equals gets all."""
    return jnp.where(x <= y, ct, 0), jnp.where(x <= y, 0, ct)


def max_pool(x):
    """The largest of each window of two."""
    return x.reshape(len(x), -1, 2).max(axis=-1)


def windows_with_ties(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """Windows of two, in the first of which both are equal."""
    x = normal(generator, m, 6, scale=scale)
    return (x.at[:, 1].set(x[:, 0]),)


@right(of=Function("reduction", max_pool, windows_with_ties))
def max_pooling_with_ties_split(ct, x):
    """All winners of a window get the same share."""
    windows = x.reshape(len(x), -1, 2)
    winners = (windows == windows.max(axis=-1, keepdims=True)).astype(ct.dtype)
    return ((ct[..., None] * winners / winners.sum(axis=-1, keepdims=True)).reshape(x.shape),)


@right(of=Function("reduction", max_pool, windows_with_ties))
def max_pooling_with_ties_to_the_first(ct, x):
    """The first winner of a window gets everything."""
    first = x.reshape(len(x), -1, 2).argmax(axis=-1)
    return ((ct[..., None] * jax.nn.one_hot(first, 2, dtype=ct.dtype)).reshape(x.shape),)
