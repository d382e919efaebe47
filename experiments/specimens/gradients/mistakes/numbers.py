# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Numbers: digits lost, NaN, contributions that overwrite one another."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    ABSOLUTE_AT_ZERO,
    DENSE,
    LOG_SIGMOID,
    LOG_SOFTMAX,
    PLAIN_SIGMOID_NEAR_20,
    SIGMOID,
    SOFTPLUS,
    TANH_LAYER,
    dense_rule,
    layer_norm,
    m,
    n_hidden,
    n_in,
    normal,
    plain_sigmoid,
    tanh_layer,
    uniform,
    with_zeros,
)
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
planted = catalogue.planted


# precision ------------------------------------------------------------------------------------------------------------


@planted("precision", of=DENSE)
def cotangent_rounded_to_bfloat16(ct, x, W, b):
    """The cotangent passes through bfloat16 inside a float32 rule."""
    return dense_rule(ct.astype(jnp.bfloat16).astype(ct.dtype), x, W, b)


@planted("precision", of=TANH_LAYER)
def output_cached_in_float16(ct, x, W, b):
    """The cached output passes through float16."""
    a = tanh_layer(x, W, b).astype(jnp.float16).astype(x.dtype)
    return dense_rule(ct * (1 - a**2), x, W, b)


@planted("precision", of=DENSE)
def bias_gradient_accumulated_in_float16(ct, x, W, b):
    """The sum over the batch is taken in float16."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW, ct.astype(jnp.float16).sum(axis=0).astype(db.dtype)


@planted("precision", of=SIGMOID)
def finite_differences_in_place_of_a_derivative(ct, z):
    """A central difference with step 1e-4, of which rounding leaves three digits."""
    return (ct * (jax.nn.sigmoid(z + 1e-4) - jax.nn.sigmoid(z - 1e-4)) / 2e-4,)


@planted("precision", of=PLAIN_SIGMOID_NEAR_20)
def sigmoid_derivative_from_an_output_that_rounds_to_one(ct, z):
    """a(1 - a), where 1 - a is 2e-9 and cancels to 0."""
    a = plain_sigmoid(z)
    return (ct * a * (1 - a),)


LOG_SIGMOID_NEAR_20 = LOG_SIGMOID._replace(arguments=PLAIN_SIGMOID_NEAR_20.arguments)


@planted("precision", of=LOG_SIGMOID_NEAR_20)
def chain_rule_through_a_probability_that_rounds_to_one(ct, z):
    """a(1 - a)/a, where 1 - a cancels to 0."""
    a = jax.nn.sigmoid(z)
    return (ct * a * (1 - a) / a,)


FAR_FROM_ZERO = Function("normalization", layer_norm, lambda g, scale: (1000 + normal(g, m, n_in), normal(g, n_in)))


@planted("precision", of=FAR_FROM_ZERO)
def variance_as_a_difference_of_squares(ct, x, gain):
    """The mean of x² minus the squared mean, which cancels for numbers around 1000."""
    mean = x.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) - mean**2 + 1e-5)
    x_hat, d_x_hat = (x - mean) / deviation, ct * gain
    through_variance = x_hat * (d_x_hat * x_hat).mean(axis=-1, keepdims=True)
    dx = (d_x_hat - d_x_hat.mean(axis=-1, keepdims=True) - through_variance) / deviation
    return dx, (ct * x_hat).sum(axis=0)


# non_finite -----------------------------------------------------------------------------------------------------------


@planted("non_finite", of=LOG_SOFTMAX._replace(arguments=lambda g, scale: (uniform(g, 100.0, 1000.0, m, n_hidden),)))
def softmax_without_the_shift(ct, z):
    """e^z overflows for logits in the hundreds."""
    e = jnp.exp(z)
    return (ct - e / e.sum(axis=-1, keepdims=True) * ct.sum(axis=-1, keepdims=True),)


@planted("non_finite", of=SOFTPLUS._replace(arguments=lambda g, scale: (uniform(g, 800.0, 1000.0, m, n_hidden),)))
def softplus_derivative_as_a_ratio_of_exponentials(ct, z):
    """e^z/(1 + e^z), both infinite for large z."""
    return (ct * jnp.exp(z) / (1 + jnp.exp(z)),)


@planted("non_finite", of=LOG_SIGMOID._replace(arguments=lambda g, scale: (uniform(g, -1000.0, -800.0, m, n_hidden),)))
def division_by_a_probability_that_is_zero(ct, z):
    """a(1 - a)/a, where a has underflowed to 0."""
    a = jax.nn.sigmoid(z)
    return (ct * a * (1 - a) / a,)


@planted("non_finite", of=ABSOLUTE_AT_ZERO)
def sign_as_a_quotient(ct, z):
    """z/|z|, which is 0/0 at 0."""
    return (ct * z / jnp.abs(z),)


@planted("non_finite", of=Function("activation", jnp.sinc, with_zeros))
def quotient_rule_at_zero(ct, z):
    """(cos πz - sinc z)/z, which is 0/0 at 0."""
    return (ct * (jnp.cos(jnp.pi * z) - jnp.sinc(z)) / z,)


def smooth_norm(x):
    """√(|x|² + ε) of each row."""
    return jnp.sqrt((x**2).sum(axis=-1) + 1e-12)


def with_a_zero_row(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """x, whose first row is zero."""
    return (normal(generator, m, n_in, scale=scale).at[0].set(0),)


@planted("non_finite", of=Function("normalization", smooth_norm, with_a_zero_row))
def norm_of_a_zero_row_without_its_epsilon(ct, x):
    """x/|x|, without the ε that makes it finite at 0."""
    return (ct[:, None] * x / jnp.sqrt((x**2).sum(axis=-1, keepdims=True)),)


# accumulation ---------------------------------------------------------------------------------------------------------

ROWS = jnp.asarray([2, 0, 2, 3, 0])
EMBEDDING = Function("embedding", lambda table: table[ROWS], lambda g, scale: (normal(g, 4, 3, scale=scale),))


@planted("accumulation", of=EMBEDDING)
def rows_that_are_read_twice_overwritten(ct, table):
    """The cotangents of a row that is read twice overwrite one another, where they must be added."""
    return (jnp.zeros_like(table).at[ROWS].set(ct),)
