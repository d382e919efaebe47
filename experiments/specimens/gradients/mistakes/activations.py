# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Activations: another derivative, another mask, another array from the cache."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    ABSOLUTE_AT_ZERO,
    BINARY_CROSS_ENTROPY,
    CLASSIFIER,
    RECTIFIERS,
    REGRESSOR,
    RELU,
    RELU_AT_ZERO,
    ROOT_MEAN_SQUARE,
    SIGMOID,
    SIGMOID_LAYER,
    SOFTPLUS,
    TANH,
    TANH_LAYER,
    binary_cross_entropy_rule,
    classifier_rule,
    clipped,
    dense,
    dense_rule,
    m,
    n_hidden,
    normal,
    rectifiers_rule,
    squared_error_rule,
    tanh_layer,
    tanh_layer_rule,
)
from experiments.specimens.specimen import Catalogue
from jaxnet.activations import sigmoid, tanh

catalogue = Catalogue()
planted = catalogue.planted


# activation -----------------------------------------------------------------------------------------------------------


@planted("activation", of=TANH_LAYER)
def derivative_of_the_activation_missing(ct, x, W, b):
    """g'(z) is missing from δ."""
    return dense_rule(ct, x, W, b)


@planted("activation", of=REGRESSOR)
def derivative_of_the_hidden_activation_missing(ct, x, W1, b1, W2, b2, y):
    """g'(z) is missing from the hidden layer's δ."""
    a1 = tanh_layer(x, W1, b1)
    delta2, dy = squared_error_rule(ct, dense(a1, W2, b2), y)
    d_a1, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    return *dense_rule(d_a1, x, W1, b1), dW2, db2, dy


@planted("activation", of=TANH_LAYER)
def derivative_taken_at_the_output(ct, x, W, b):
    """g'(a) instead of g'(z)."""
    return dense_rule(ct * tanh.derivative(tanh_layer(x, W, b)), x, W, b)


@planted("activation", of=SIGMOID_LAYER)
def sigmoid_derivative_taken_at_the_output(ct, x, W, b):
    """σ'(a) instead of σ'(z)."""
    return dense_rule(ct * sigmoid.derivative(jax.nn.sigmoid(dense(x, W, b))), x, W, b)


@planted("activation", of=TANH_LAYER)
def derivative_multiplied_twice(ct, x, W, b):
    """g'(z)² instead of g'(z)."""
    return dense_rule(ct * tanh.derivative(dense(x, W, b)) ** 2, x, W, b)


@planted("activation", of=SIGMOID_LAYER)
def derivative_of_tanh_for_a_sigmoid(ct, x, W, b):
    """1 - a² for a sigmoid."""
    return dense_rule(ct * (1 - jax.nn.sigmoid(dense(x, W, b)) ** 2), x, W, b)


@planted("activation", of=TANH)
def square_of_the_output_forgotten(ct, z):
    """1 - a instead of 1 - a²."""
    return (ct * (1 - jnp.tanh(z)),)


@planted("activation", of=SIGMOID)
def second_factor_of_the_sigmoid_forgotten(ct, z):
    """a instead of a(1 - a)."""
    return (ct * jax.nn.sigmoid(z),)


@planted("activation", of=SOFTPLUS)
def derivative_of_the_sigmoid_for_softplus(ct, z):
    """The second derivative of softplus, σ', instead of the first, σ."""
    return (ct * sigmoid.derivative(z),)


@planted("activation", of=RELU)
def leak_for_a_rectifier(ct, z):
    """Slope 0.01 for negative z, as a leaky rectifier would have."""
    return (ct * jnp.where(z > 0, 1.0, 0.01).astype(z.dtype),)


@planted("activation", of=CLASSIFIER)
def output_weight_gradient_from_z_in_place_of_a(ct, x, W1, b1, W2, b2, y):
    """The output's weight gradient is δ z₁ᵀ instead of δ a₁ᵀ."""
    dx, dW1, db1, _, db2, dy = classifier_rule(ct, x, W1, b1, W2, b2, y)
    z1 = dense(x, W1, b1)
    delta2, _ = binary_cross_entropy_rule(ct, dense(jnp.tanh(z1), W2, b2), y)
    return dx, dW1, db1, delta2.T @ z1, db2, dy


@planted("activation", of=CLASSIFIER)
def output_derivative_on_a_delta_that_contains_it(ct, x, W1, b1, W2, b2, y):
    """a - y contains the output's g' already and is multiplied by a(1 - a) again."""
    a1 = tanh_layer(x, W1, b1)
    z2 = dense(a1, W2, b2)
    delta2, dy = binary_cross_entropy_rule(ct, z2, y)
    d_a1, dW2, db2 = dense_rule(delta2 * sigmoid.derivative(z2), a1, W2, b2)
    return *tanh_layer_rule(d_a1, x, W1, b1), dW2, db2, dy


@planted("activation", of=BINARY_CROSS_ENTROPY)
def sigmoid_derivative_on_the_gradient_by_logits(ct, z, y):
    """The gradient by logits contains σ'(z) already and is multiplied by it again."""
    dz, dy = binary_cross_entropy_rule(ct, z, y)
    return dz * sigmoid.derivative(z), dy


@planted("activation", of=REGRESSOR)
def activation_derivative_on_a_linear_output(ct, x, W1, b1, W2, b2, y):
    """The output is linear, and its δ is multiplied by 1 - tanh²(z) as the hidden layer's is."""
    a1 = tanh_layer(x, W1, b1)
    z2 = dense(a1, W2, b2)
    delta2, dy = squared_error_rule(ct, z2, y)
    d_a1, dW2, db2 = dense_rule(delta2 * tanh.derivative(z2), a1, W2, b2)
    return *tanh_layer_rule(d_a1, x, W1, b1), dW2, db2, dy


@planted("activation", of=RECTIFIERS)
def mask_of_the_next_layer(ct, x, W1, b1, W2, b2, W3):
    """The first layer's δ is masked where the second layer is off."""
    a1 = jax.nn.relu(dense(x, W1, b1))
    mask = dense(a1, W2, b2) > 0
    _, _, _, dW2, db2, dW3 = rectifiers_rule(ct, x, W1, b1, W2, b2, W3)
    delta1 = (((ct @ W3) * mask) @ W2) * mask
    return *dense_rule(delta1, x, W1, b1), dW2, db2, dW3


@planted("activation", of=RECTIFIERS)
def mask_of_the_first_layer_missing(ct, x, W1, b1, W2, b2, W3):
    """The first layer's δ is not masked at all."""
    a1 = jax.nn.relu(dense(x, W1, b1))
    _, _, _, dW2, db2, dW3 = rectifiers_rule(ct, x, W1, b1, W2, b2, W3)
    delta1 = ((ct @ W3) * (dense(a1, W2, b2) > 0)) @ W2
    return *dense_rule(delta1, x, W1, b1), dW2, db2, dW3


# mask -----------------------------------------------------------------------------------------------------------------

MASKED_MEAN = Function(
    "batching",
    lambda x, mask: jnp.where(mask, x, 0).sum(axis=1) / mask.sum(axis=1),
    lambda g, scale: (normal(g, 4, 6, scale=scale), jnp.arange(6) < jnp.asarray([[6], [3], [4], [2]])),
)


@planted("mask", of=MASKED_MEAN)
def mean_shared_with_the_padding(ct, x, mask):
    """The mean is of the steps that the mask lets through; its gradient is that of the mean of all."""
    return jnp.broadcast_to(ct[:, None] / x.shape[1], x.shape), None


# cache ----------------------------------------------------------------------------------------------------------------


@planted(
    "cache", "operand of `sqrt`", of=Function("length", lambda x: jnp.sqrt((x**2).sum(-1)), ROOT_MEAN_SQUARE.arguments)
)
def squared_length_cached_for_the_length(ct, x):
    """x is divided by its squared length, which the forward pass has kept, where the length belongs."""
    return (ct[:, None] * x / (x**2).sum(axis=-1, keepdims=True),)


def recurrent(x: Array, W: Array) -> Array:
    """h_t = tanh(W h_(t-1) + x_t) from h = 0, all of them."""

    def step(h: Array, x: Array) -> tuple[Array, Array]:
        h = jnp.tanh(W @ h + x)
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1]


RECURRENT = Function(
    "recurrence", recurrent, lambda g, scale: (normal(g, 5, 3), normal(g, 3, 3, scale=min(scale, 1.0)))
)


@planted("cache", "state after each step where the one before it belongs", of=RECURRENT)
def states_not_shifted_by_one(ct, x, W):
    """∂L/∂W = Σ δ_t h_tᵀ, where h_(t-1) belongs."""
    h = recurrent(x, W)

    def back(carried, step):
        ct, h = step
        delta = (ct + carried) * (1 - h**2)
        return delta @ W, delta

    _, deltas = jax.lax.scan(back, jnp.zeros_like(ct[0]), (ct, h), reverse=True)
    return deltas, deltas.T @ h


# kink -----------------------------------------------------------------------------------------------------------------


@planted("kink", of=RELU_AT_ZERO)
def slope_above_one_at_zero(ct, z):
    """The rectifier's slope at 0 is 1.5, outside of [0, 1]."""
    return (jnp.where(z == 0, 1.5 * ct, jnp.where(z > 0, ct, 0)),)


@planted("kink", of=RELU_AT_ZERO)
def negative_slope_at_zero(ct, z):
    """The rectifier's slope at 0 is -0.5, outside of [0, 1]."""
    return (jnp.where(z == 0, -0.5 * ct, jnp.where(z > 0, ct, 0)),)


@planted("kink", of=ABSOLUTE_AT_ZERO)
def slope_two_at_the_tip(ct, z):
    """The slope of |z| at 0 is 2, outside of [-1, 1]."""
    return (jnp.where(z == 0, 2 * ct, ct * jnp.sign(z)),)


def at_the_bounds(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """z, at every other element exactly on a bound of the clipping."""
    return (normal(generator, m, n_hidden, scale=scale).at[::2, 0].set(1).at[1::2, 1].set(-1),)


@planted("kink", of=Function("activation", clipped, at_the_bounds))
def slopes_of_both_sides_added_at_the_bounds(ct, z):
    """At the bounds of the clipping the slope is 2, outside of [0, 1]."""
    return (jnp.where(jnp.abs(z) == 1, 2 * ct, jnp.where(jnp.abs(z) < 1, ct, 0)),)
