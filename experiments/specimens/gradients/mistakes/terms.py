# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Terms: left out, added, or right in a part of the elements only."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    CLASSIFIER,
    DENSE,
    GATED,
    LAYER_NORM,
    REGRESSOR,
    RESIDUAL,
    ROOT_MEAN_SQUARE,
    SILU,
    SOFTMAX,
    SOFTMAX_CROSS_ENTROPY,
    SQUARE_DENSE,
    SQUARED_ERROR,
    TANH_LAYER,
    TIED,
    classifier_rule,
    dense,
    dense_rule,
    gated_rule,
    layer_norm_rule,
    regressor_rule,
    residual_rule,
    softmax_cross_entropy_rule,
    squared_error_rule,
    tanh_layer_rule,
    tied_rule,
)
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
planted = catalogue.planted


# zero -----------------------------------------------------------------------------------------------------------------


@planted("zero", of=DENSE)
def weight_gradient_left_at_zero(ct, x, W, b):
    """The weight gradient is allocated and never filled."""
    dx, _, db = dense_rule(ct, x, W, b)
    return dx, jnp.zeros_like(W), db


@planted("zero", of=DENSE)
def no_gradient_for_the_bias(ct, x, W, b):
    """None stands for the gradient of a bias that has one."""
    dx, dW, _ = dense_rule(ct, x, W, b)
    return dx, dW, None


@planted("zero", of=REGRESSOR)
def delta_not_passed_back_to_the_inputs(ct, x, W1, b1, W2, b2, y):
    """Backpropagation stops at the first layer's parameters; the inputs get zeros."""
    _, dW1, db1, dW2, db2, dy = regressor_rule(ct, x, W1, b1, W2, b2, y)
    return jnp.zeros_like(x), dW1, db1, dW2, db2, dy


@planted("zero", of=CLASSIFIER)
def delta_not_passed_back_to_the_hidden_layer(ct, x, W1, b1, W2, b2, y):
    """Backpropagation stops at the output layer."""
    _, _, _, dW2, db2, dy = classifier_rule(ct, x, W1, b1, W2, b2, y)
    return jnp.zeros_like(x), jnp.zeros_like(W1), jnp.zeros_like(b1), dW2, db2, dy


@planted("zero", of=SQUARED_ERROR)
def targets_taken_for_constants(ct, a, y):
    """The targets are a differentiable argument and get zeros."""
    da, _ = squared_error_rule(ct, a, y)
    return da, jnp.zeros_like(y)


# omission -------------------------------------------------------------------------------------------------------------


def direction(x):
    """x divided by its length."""
    return x / jnp.sqrt((x**2).sum(axis=-1, keepdims=True))


@planted("omission", "sqrt", of=Function("normalization", direction, ROOT_MEAN_SQUARE.arguments))
def root_of_the_length_left_out(ct, x):
    """The gradient is that of x divided by its squared length."""
    return jax.vjp(lambda x: x / (x**2).sum(axis=-1, keepdims=True), x)[1](ct)


# extra_term -----------------------------------------------------------------------------------------------------------


@planted("extra_term", of=DENSE)
def weight_decay_added(ct, x, W, b):
    """The weight gradient contains λW of a penalty that the function does not have."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW + 0.1 * W, db


@planted("extra_term", of=DENSE)
def lasso_penalty_added(ct, x, W, b):
    """The weight gradient contains λ sign(W) of a penalty that the function does not have."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW + 0.1 * jnp.sign(W), db


@planted("extra_term", of=REGRESSOR)
def weight_decay_in_both_layers(ct, x, W1, b1, W2, b2, y):
    """Both weight gradients contain the λW of a cost with a penalty, in proportion to ct."""
    dx, dW1, db1, dW2, db2, dy = regressor_rule(ct, x, W1, b1, W2, b2, y)
    return dx, dW1 + ct * 0.1 * W1, db1, dW2 + ct * 0.1 * W2, db2, dy


@planted("extra_term", of=REGRESSOR)
def weights_updated_before_they_are_used(ct, x, W1, b1, W2, b2, y):
    """δ is sent back through W2 - λ ∂L/∂W2."""
    a1 = jnp.tanh(dense(x, W1, b1))
    delta2, dy = squared_error_rule(ct, dense(a1, W2, b2), y)
    _, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    d_a1 = delta2 @ (W2 - 0.1 * dW2)
    return *tanh_layer_rule(d_a1, x, W1, b1), dW2, db2, dy


@planted("extra_term", of=SQUARED_ERROR)
def targets_added(ct, a, y):
    """The gradient by the predictions contains y."""
    da, dy = squared_error_rule(ct, a, y)
    return da + ct * y, dy


@planted("extra_term", of=SQUARE_DENSE)
def inputs_added(ct, x, W, b):
    """The gradient by x contains x."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx + x, dW, db


@planted("extra_term", of=TANH_LAYER)
def constant_added(ct, x, W, b):
    """The bias gradient contains a constant."""
    dx, dW, db = tanh_layer_rule(ct, x, W, b)
    return dx, dW, db + 0.1


@planted("extra_term", of=SOFTMAX_CROSS_ENTROPY)
def logit_penalty_added(ct, z, y):
    """The gradient contains the λz of a penalty on the logits that the cost does not have."""
    dz, dy = softmax_cross_entropy_rule(ct, z, y)
    return dz + ct * 0.1 * z, dy


# partial --------------------------------------------------------------------------------------------------------------


@planted("mask", of=DENSE)
def one_weight_without_gradient(ct, x, W, b):
    """One element of the weight gradient is zero."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW.at[1, 2].set(0), db


@planted("scale", of=DENSE)
def one_row_of_the_weight_gradient_doubled(ct, x, W, b):
    """The weights of the last unit get twice their gradient."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW.at[-1].multiply(2), db


@planted("missing_term", of=DENSE)
def last_example_dropped_from_the_sum(ct, x, W, b):
    """The weight gradient leaves out the last example."""
    dx, _, db = dense_rule(ct, x, W, b)
    return dx, ct[:-1].T @ x[:-1], db


@planted("scale", of=SQUARE_DENSE)
def half_of_the_weight_gradient_halved(ct, x, W, b):
    """Every other column of the weight gradient is half of what it should be."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW.at[:, ::2].multiply(0.5), db


@planted("missing_term", of=RESIDUAL)
def skip_connection_forgotten(ct, x, W, b):
    """x gets the gradient through the layer, without the one that skips it."""
    dx, dW, db = residual_rule(ct, x, W, b)
    return dx - ct, dW, db


@planted("missing_term", of=RESIDUAL)
def layer_beside_the_skip_forgotten(ct, x, W, b):
    """x gets the gradient that skips the layer, without the one through it."""
    _, dW, db = residual_rule(ct, x, W, b)
    return ct, dW, db


@planted("activation", of=SILU)
def second_term_of_the_silu_forgotten(ct, z):
    """The derivative of z σ(z) is written as σ(z), without z σ'(z)."""
    return (ct * jax.nn.sigmoid(z),)


@planted("missing_term", of=SOFTMAX)
def softmax_jacobian_with_its_diagonal_only(ct, z):
    """The derivative of softmax is written as p(1 - p), as if it acted element by element."""
    p = jax.nn.softmax(z, axis=-1)
    return (ct * p * (1 - p),)


@planted("missing_term", of=LAYER_NORM)
def path_through_the_mean_forgotten(ct, x, gain):
    """The mean of the row is treated as a constant."""
    dx, d_gain = layer_norm_rule(ct, x, gain)
    deviation = jnp.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return dx + (ct * gain).mean(axis=-1, keepdims=True) / deviation, d_gain


@planted("missing_term", of=LAYER_NORM)
def path_through_the_variance_forgotten(ct, x, gain):
    """The variance of the row is treated as a constant."""
    _, d_gain = layer_norm_rule(ct, x, gain)
    deviation = jnp.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return (ct * gain - (ct * gain).mean(axis=-1, keepdims=True)) / deviation, d_gain


@planted("missing_term", of=GATED)
def path_through_the_gate_forgotten(ct, x, W, V):
    """The product rule has one term: x acts through the value only."""
    _, dW, dV = gated_rule(ct, x, W, V)
    return (ct * jax.nn.sigmoid(x @ V.T)) @ W, dW, dV


@planted("missing_term", of=TIED)
def second_use_of_the_tied_weights_forgotten(ct, x, W):
    """The tied weights get the encoder's gradient, without the decoder's."""
    dx, dW = tied_rule(ct, x, W)
    return dx, dW - jnp.tanh(x @ W.T).T @ ct
