# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Order: what is all there, in another place."""

import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import DENSE, dense_rule, normal
from experiments.specimens.specimen import Catalogue

FILTERED = Function(
    "convolution", lambda x, k: jnp.convolve(x, k, mode="valid"), lambda g, scale: (normal(g, 9), scale * normal(g, 3))
)

ROLLED = Function("batching", lambda x: jnp.roll(x, 1, axis=1), lambda g, scale: (normal(g, 3, 5, scale=scale),))

catalogue = Catalogue()
planted = catalogue.planted


@planted("order", "in reverse order along axis 0", of=DENSE)
def bias_gradient_read_backwards(ct, x, W, b):
    """∂L/∂b from the last to the first, as a reversed scan leaves it that is not reversed again."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW, db[::-1]


@planted("order", "one place too late along axis 0", of=DENSE)
def input_gradient_one_row_late(ct, x, W, b):
    """∂L/∂x of each example in the row of the next."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return jnp.roll(dx, 1, 0), dW, db


@planted("order", "in reverse order along axis 0", of=FILTERED)
def kernel_gradient_not_turned(ct, x, k):
    """The gradient of the kernel as a correlation has it: a convolution reads its kernel backwards."""
    return jnp.convolve(ct, k[::-1], mode="full"), jnp.convolve(x, ct[::-1], mode="valid")


@planted("order", "one place too early along axis 1", of=ROLLED)
def steps_rolled_back_by_one_too_many(ct, x):
    """The steps are rolled by one, and the cotangent is rolled back by two."""
    return (jnp.roll(ct, -2, axis=1),)
