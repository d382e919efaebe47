# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Planted mistakes: rules for derivatives that are wrong in one way each, as people get them wrong by hand.

Each is a right rule with one thing changed; its docstring says which. They stand in the order of their kinds.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    ABSOLUTE_AT_ZERO,
    AFFINE,
    ATTENTION,
    BINARY_CROSS_ENTROPY,
    CLASSIFIER,
    DENSE,
    GATED,
    LAYER_NORM,
    LOG_SIGMOID,
    LOG_SOFTMAX,
    PLAIN_SIGMOID_NEAR_20,
    RECTIFIERS,
    REGRESSOR,
    RELU,
    RELU_AT_ZERO,
    RESIDUAL,
    ROW_OFFSETS,
    SCALED_TANH,
    SEQUENCES,
    SIGMOID,
    SIGMOID_LAYER,
    SILU,
    SOFTMAX,
    SOFTMAX_CROSS_ENTROPY,
    SOFTPLUS,
    SQUARE_ATTENTION,
    SQUARE_BATCH,
    SQUARE_DENSE,
    SQUARE_REGRESSOR,
    SQUARED_ERROR,
    TANH,
    TANH_LAYER,
    TEMPERED,
    TEXTBOOK_CROSS_ENTROPY,
    TIED,
    affine_rule,
    at_least_float32,
    attention_rule,
    binary_cross_entropy_rule,
    classifier_rule,
    clipped,
    dense,
    dense_rule,
    gated_rule,
    layer_norm,
    layer_norm_rule,
    m,
    n_hidden,
    n_in,
    normal,
    plain_sigmoid,
    rectifiers_rule,
    regressor_rule,
    residual_rule,
    row_offsets_rule,
    softmax_cross_entropy_rule,
    squared_error_rule,
    tanh_layer,
    tanh_layer_rule,
    tempered_rule,
    textbook_cross_entropy_rule,
    tied_rule,
    uniform,
    with_zeros,
)
from experiments.specimens.specimen import Catalogue, Specimen
from jaxnet.activations import sigmoid, tanh

catalogue = Catalogue()
planted = catalogue.planted

# scale ---------------------------------------------------------------------------------------------------------------


@planted("scale", of=SQUARED_ERROR)
def mean_over_the_batch_forgotten(ct, a, y):
    """1/m is missing."""
    delta = 2 * (a - y)
    return ct * delta, -ct * delta


@planted("scale", of=SQUARED_ERROR)
def factor_two_of_the_square_missing(ct, a, y):
    """The derivative of a square is written as (a - y)."""
    delta = (a - y) / len(y)
    return ct * delta, -ct * delta


@planted("scale", of=REGRESSOR)
def mean_over_the_batch_taken_twice(ct, x, W1, b1, W2, b2, y):
    """The cost's 1/m is in δ already, and the weight gradient is divided by m once more."""
    dx, dW1, db1, dW2, db2, dy = regressor_rule(ct, x, W1, b1, W2, b2, y)
    return dx, dW1 / len(y), db1 / len(y), dW2 / len(y), db2 / len(y), dy


@planted("scale", of=DENSE)
def weight_gradient_averaged_over_the_batch(ct, x, W, b):
    """The layer takes no mean, and still its weight gradient is a mean where it should be a sum."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW / len(x), db


@planted("scale", of=CLASSIFIER)
def mean_forgotten_in_the_bias_gradients(ct, x, W1, b1, W2, b2, y):
    """1/m is missing from the bias gradients alone."""
    dx, dW1, db1, dW2, db2, dy = classifier_rule(ct, x, W1, b1, W2, b2, y)
    return dx, dW1, db1 * len(y), dW2, db2 * len(y), dy


@planted("scale", of=BINARY_CROSS_ENTROPY)
def divided_by_the_number_of_outputs(ct, z, y):
    """The cost sums the outputs of an example; the gradient is that of their mean."""
    dz, dy = binary_cross_entropy_rule(ct, z, y)
    return dz / z.shape[-1], dy


@planted("scale", of=SOFTMAX_CROSS_ENTROPY)
def divided_by_the_number_of_classes(ct, z, y):
    """The gradient is divided by the number of classes."""
    dz, dy = softmax_cross_entropy_rule(ct, z, y)
    return dz / z.shape[-1], dy


@planted("scale", of=SCALED_TANH)
def inner_derivative_forgotten(ct, z):
    """The chain rule's factor 2/3 is missing."""
    return (ct * 1.7159 * tanh.derivative(2 / 3 * z),)


@planted("scale", of=ATTENTION)
def scores_not_divided_by_the_root(ct, q, k, v):
    """The queries' gradient misses the 1/√n of the scores."""
    dq, dk, dv = attention_rule(ct, q, k, v)
    return dq * q.shape[-1] ** 0.5, dk, dv


# sign ----------------------------------------------------------------------------------------------------------------


@planted("sign", of=CLASSIFIER)
def target_minus_prediction(ct, x, W1, b1, W2, b2, y):
    """The output's δ is y - a, and every gradient before it changes sign."""
    return classifier_rule(-ct, x, W1, b1, W2, b2, y)


@planted("sign", of=TEXTBOOK_CROSS_ENTROPY)
def minus_of_the_log_loss_lost(ct, a, y):
    """The minus before the sum of logarithms is lost."""
    return ct * (y / a - (1 - y) / (1 - a)) / len(y), None


@planted("sign", of=SOFTMAX_CROSS_ENTROPY)
def label_minus_prediction(ct, z, y):
    """1{k = y} - p instead of p - 1{k = y}."""
    return ct * (jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype) - jax.nn.softmax(z)) / len(y), None


@planted("sign", of=DENSE)
def bias_gradient_negated(ct, x, W, b):
    """The bias gradient alone has the wrong sign."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW, -db


@planted("sign", of=SQUARED_ERROR)
def target_gradient_not_negated(ct, a, y):
    """The gradient by the targets is that by the predictions."""
    da, _ = squared_error_rule(ct, a, y)
    return da, da


@planted("sign", of=TEMPERED)
def quotient_rule_without_its_minus(ct, z, temperature):
    """The derivative of 1/T is written as 1/T²."""
    return ct / temperature, (ct * z).sum() / temperature**2


# transpose -----------------------------------------------------------------------------------------------------------


@planted("transpose", of=SQUARE_DENSE)
def square_weight_gradient_transposed(ct, x, W, b):
    """xᵀ δ instead of δᵀ x, of the same shape because W is square."""
    dx, _, db = dense_rule(ct, x, W, b)
    return dx, x.T @ ct, db


@planted("transpose", of=SQUARE_DENSE)
def delta_sent_back_by_the_forward_weights(ct, x, W, b):
    """The input gradient is δ Wᵀ, the forward pass once more, instead of δ W."""
    _, dW, db = dense_rule(ct, x, W, b)
    return ct @ W.T, dW, db


@planted("transpose", of=DENSE)
def weight_gradient_of_shape_inputs_by_outputs(ct, x, W, b):
    """The weight gradient is (n_in, n_out), W is (n_out, n_in)."""
    dx, _, db = dense_rule(ct, x, W, b)
    return dx, x.T @ ct, db


@planted("transpose", of=SQUARE_REGRESSOR)
def hidden_delta_by_the_forward_weights(ct, x, W1, b1, W2, b2, y):
    """The output's δ comes to the hidden layer through W₂ᵀ instead of W₂; all of the first layer is wrong."""
    a1 = tanh_layer(x, W1, b1)
    delta2, dy = squared_error_rule(ct, dense(a1, W2, b2), y)
    _, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    return *tanh_layer_rule(delta2 @ W2.T, x, W1, b1), dW2, db2, dy


@planted("transpose", of=SQUARE_ATTENTION)
def values_mixed_by_the_forward_weights(ct, q, k, v):
    """The values' gradient is P ct instead of Pᵀ ct."""
    dq, dk, _ = attention_rule(ct, q, k, v)
    return dq, dk, jax.nn.softmax(q @ k.T / q.shape[-1] ** 0.5) @ ct


# missing_reduction ---------------------------------------------------------------------------------------------------


@planted("missing_reduction", of=DENSE)
def bias_gradient_not_summed_over_the_batch(ct, x, W, b):
    """The bias gradient is δ itself, of shape (m, n_out)."""
    dx, dW, _ = dense_rule(ct, x, W, b)
    return dx, dW, ct


@planted("missing_reduction", of=DENSE)
def weight_gradient_kept_for_each_example(ct, x, W, b):
    """The weight gradient is the outer products themselves, of shape (m, n_out, n_in)."""
    dx, _, db = dense_rule(ct, x, W, b)
    return dx, ct[:, :, None] * x[:, None, :], db


@planted("missing_reduction", of=SQUARE_BATCH)
def bias_gradient_summed_over_the_outputs(ct, x, W, b):
    """The bias gradient is summed over the wrong axis, of the right shape because m = n_out."""
    dx, dW, _ = dense_rule(ct, x, W, b)
    return dx, dW, ct.sum(axis=1)


@planted("missing_reduction", of=SEQUENCES)
def bias_gradient_summed_over_sequences_only(ct, x, W, b):
    """The bias gradient is summed over the sequences but not over their steps."""
    return ct @ W, jnp.einsum("smi,smj->ij", ct, x), ct.sum(axis=0)


@planted("missing_reduction", of=AFFINE)
def gain_gradient_keeps_the_batch(ct, x, gain, shift):
    """The gradient of the gain, which all examples share, keeps the batch axis."""
    dx, _, d_shift = affine_rule(ct, x, gain, shift)
    return dx, ct * x, d_shift


@planted("missing_reduction", of=ROW_OFFSETS)
def offset_gradient_keeps_the_features(ct, x, c):
    """The gradient of the offset, which all features of an example share, keeps the feature axis."""
    dx, _ = row_offsets_rule(ct, x, c)
    return dx, ct


@planted("missing_reduction", of=TEMPERED)
def temperature_gradient_for_each_element(ct, z, temperature):
    """The gradient of a single number is a matrix."""
    dz, _ = tempered_rule(ct, z, temperature)
    return dz, -ct * z / temperature**2


@planted("missing_reduction", of=DENSE)
def bias_gradient_of_the_first_example(ct, x, W, b):
    """The bias gradient is the first example's contribution instead of the sum."""
    dx, dW, _ = dense_rule(ct, x, W, b)
    return dx, dW, ct[0]


# zero ----------------------------------------------------------------------------------------------------------------


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


# extra_term ----------------------------------------------------------------------------------------------------------


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


# partial -------------------------------------------------------------------------------------------------------------


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


# activation ----------------------------------------------------------------------------------------------------------


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


# kink ----------------------------------------------------------------------------------------------------------------


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


# precision -----------------------------------------------------------------------------------------------------------


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


# non_finite ----------------------------------------------------------------------------------------------------------


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


# dtype ---------------------------------------------------------------------------------------------------------------


@planted("dtype", of=DENSE._replace(area="dtype"))
def float16_weight_gradient_for_float32(ct, x, W, b):
    """The weight gradient of a float32 layer is float16."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW.astype(jnp.float16), db


@planted("dtype", of=DENSE.cast(jnp.bfloat16))
def float32_gradients_for_bfloat16(ct, x, W, b):
    """The gradients of a bfloat16 layer are left in the float32 they were computed in."""
    return dense_rule(at_least_float32(ct), at_least_float32(x), at_least_float32(W), b)


@planted("dtype", of=TANH_LAYER.cast(jnp.float16))
def float32_bias_gradient_for_float16(ct, x, W, b):
    """The bias gradient is summed in float32 and not cast back."""
    dx, dW, _ = tanh_layer_rule(ct, x, W, b)
    delta = ct * tanh.derivative(dense(x, W, b))
    return dx, dW, at_least_float32(delta).sum(axis=0)


# impure --------------------------------------------------------------------------------------------------------------

calls = itertools.count()


@planted("impure", of=DENSE)
def weight_gradient_grows_with_each_call(ct, x, W, b):
    """A counter outside of the rule changes its result."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW * (1 + 0.001 * next(calls)), db


noise = np.random.default_rng(0)


@planted("impure", of=TANH_LAYER)
def noise_from_a_hidden_generator(ct, x, W, b):
    """A random number generator outside of the rule adds noise to the input gradient."""
    dx, dW, db = tanh_layer_rule(ct, x, W, b)
    return dx + 0.01 * jnp.asarray(noise.standard_normal(x.shape), x.dtype), dW, db


def numpy_preactivations(generator: np.random.Generator, scale: float) -> tuple[np.ndarray]:
    """z as a NumPy array."""
    return ((scale * generator.standard_normal((m, n_hidden))).astype(np.float32),)


@planted("impure", of=Function("activation", plain_sigmoid, numpy_preactivations))
def argument_overwritten(ct, z):
    """The right derivative, computed in the memory of the argument."""
    np.exp(-np.abs(z), out=z)
    return (np.asarray(ct) * z / (1 + z) ** 2,)


# nonlinear -----------------------------------------------------------------------------------------------------------


@planted("nonlinear", of=SIGMOID)
def cotangent_ignored(ct, z):
    """The derivative alone, without the cotangent."""
    return (sigmoid.derivative(z),)


@planted("nonlinear", of=SQUARED_ERROR)
def cotangent_of_the_cost_taken_for_one(ct, a, y):
    """The cost is taken for the last function, its cotangent for 1."""
    return squared_error_rule(jnp.ones_like(ct), a, y)


@planted("nonlinear", of=DENSE)
def cotangent_squared(ct, x, W, b):
    """ct² instead of ct."""
    return dense_rule(ct**2, x, W, b)


@planted("nonlinear", of=TANH_LAYER)
def absolute_cotangent(ct, x, W, b):
    """|ct| instead of ct."""
    return tanh_layer_rule(jnp.abs(ct), x, W, b)


@planted("nonlinear", of=DENSE)
def cotangent_clipped(ct, x, W, b):
    """Gradient clipping inside the rule."""
    return dense_rule(jnp.clip(ct, -0.1, 0.1), x, W, b)


@planted("nonlinear", of=SIGMOID_LAYER)
def cotangent_divided_by_its_norm(ct, x, W, b):
    """Gradient normalization inside the rule."""
    return dense_rule(ct / jnp.linalg.norm(ct) * sigmoid.derivative(dense(x, W, b)), x, W, b)


# structure -----------------------------------------------------------------------------------------------------------


class GainAndShift(NamedTuple):
    """The parameters of an affine map."""

    gain: Array
    shift: Array


def affine_of_parameters(x, parameters):
    """An affine map with its parameters in a NamedTuple."""
    return x * parameters.gain + parameters.shift


def affine_of_dictionary(x, parameters):
    """An affine map with its parameters in a dictionary."""
    return x * parameters["gain"] + parameters["shift"]


def affine_in_dictionary(generator: np.random.Generator, scale: float) -> tuple:
    """x and the parameters by name."""
    x, gain, shift = AFFINE.arguments(generator, scale)
    return x, {"gain": gain, "shift": shift}


def affine_in_parameters(generator: np.random.Generator, scale: float) -> tuple:
    """x and the parameters in their NamedTuple."""
    x, gain, shift = AFFINE.arguments(generator, scale)
    return x, GainAndShift(gain, shift)


@planted("structure", of=Function("batching", affine_of_dictionary, affine_in_dictionary))
def gradients_of_gain_and_shift_swapped(ct, x, parameters):
    """The two gradients, of the same shape, are under each other's name."""
    dx, d_gain, d_shift = affine_rule(ct, x, parameters["gain"], parameters["shift"])
    return dx, {"gain": d_shift, "shift": d_gain}


@planted("structure", of=Function("batching", affine_of_parameters, affine_in_parameters))
def list_for_a_named_tuple(ct, x, parameters):
    """The parameters' gradients come in a list, the parameters in a NamedTuple."""
    dx, d_gain, d_shift = affine_rule(ct, x, *parameters)
    return dx, [d_gain, d_shift]


@planted("structure", of=DENSE)
def too_few_gradients(ct, x, W, b):
    """Two gradients for three arguments."""
    _, dW, db = dense_rule(ct, x, W, b)
    return dW, db


@planted("structure", of=TANH)
def array_for_a_tuple_of_one(ct, z):
    """The gradient itself, without the tuple around it."""
    return ct * tanh.derivative(z)


@planted("structure", of=SQUARE_REGRESSOR)
def gradients_of_the_two_layers_swapped(ct, x, W1, b1, W2, b2, y):
    """The layers' gradients, of the same shapes, are returned from the last layer to the first."""
    dx, dW1, db1, dW2, db2, dy = regressor_rule(ct, x, W1, b1, W2, b2, y)
    return dx, dW2, db2, dW1, db1, dy


# shape ---------------------------------------------------------------------------------------------------------------


@planted("shape", of=DENSE)
def bias_gradient_as_a_column(ct, x, W, b):
    """The bias gradient is (n_out, 1), the bias (n_out,)."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW, db[:, None]


@planted("shape", of=DENSE)
def bias_gradient_summed_to_a_number(ct, x, W, b):
    """The bias gradient is summed over everything."""
    dx, dW, _ = dense_rule(ct, x, W, b)
    return dx, dW, ct.sum()


@planted("shape", of=DENSE)
def weight_gradient_flattened(ct, x, W, b):
    """The weight gradient is one long vector."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW.ravel(), db


@planted("shape", of=TEXTBOOK_CROSS_ENTROPY)
def gradient_with_an_axis_in_front(ct, a, y):
    """The gradient has an axis of length 1 that the argument has not."""
    da, dy = textbook_cross_entropy_rule(ct, a, y)
    return da[None], dy


# missing_factor ------------------------------------------------------------------------------------------------------


@planted("missing_factor", of=AFFINE)
def gain_left_out_of_the_input_gradient(ct, x, gain, shift):
    """y = gain x + shift, and the cotangent is handed on to x without the gain."""
    return ct, (ct * x).sum(axis=0), ct.sum(axis=0)


# accumulation --------------------------------------------------------------------------------------------------------

ROWS = jnp.asarray([2, 0, 2, 3, 0])
EMBEDDING = Function("embedding", lambda table: table[ROWS], lambda g, scale: (normal(g, 4, 3, scale=scale),))


@planted("accumulation", of=EMBEDDING)
def rows_that_are_read_twice_overwritten(ct, table):
    """The cotangents of a row that is read twice overwrite one another, where they must be added."""
    return (jnp.zeros_like(table).at[ROWS].set(ct),)


# mask ----------------------------------------------------------------------------------------------------------------

MASKED_MEAN = Function(
    "batching",
    lambda x, mask: jnp.where(mask, x, 0).sum(axis=1) / mask.sum(axis=1),
    lambda g, scale: (normal(g, 4, 6, scale=scale), jnp.arange(6) < jnp.asarray([[6], [3], [4], [2]])),
)


@planted("mask", of=MASKED_MEAN)
def mean_shared_with_the_padding(ct, x, mask):
    """The mean is of the steps that the mask lets through; its gradient is that of the mean of all."""
    return jnp.broadcast_to(ct[:, None] / x.shape[1], x.shape), None


# axis ----------------------------------------------------------------------------------------------------------------

ROLLED = Function("batching", lambda x: jnp.roll(x, 1, axis=1), lambda g, scale: (normal(g, 3, 5, scale=scale),))


@planted("axis", of=ROLLED)
def steps_rolled_back_by_one_too_many(ct, x):
    """The steps are rolled by one, and the cotangent is rolled back by two."""
    return (jnp.roll(ct, -2, axis=1),)


# value ---------------------------------------------------------------------------------------------------------------


def root_mean_square_norm(x, epsilon=0.1):
    """x divided by the root of its mean square."""
    return x * jax.lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)


ROOT_MEAN_SQUARE = Function("normalization", root_mean_square_norm, lambda g, scale: (normal(g, 5, 4, scale=scale),))


@planted("value", "0.02", of=ROOT_MEAN_SQUARE)
def another_epsilon_than_in_the_forward_pass(ct, x):
    """ε is 0.02 in the gradient and 0.1 in the function."""
    return jax.vjp(lambda x: root_mean_square_norm(x, 0.02), x)[1](ct)


# omission ------------------------------------------------------------------------------------------------------------


def direction(x):
    """x divided by its length."""
    return x / jnp.sqrt((x**2).sum(axis=-1, keepdims=True))


@planted("omission", "sqrt", of=Function("normalization", direction, ROOT_MEAN_SQUARE.arguments))
def root_of_the_length_left_out(ct, x):
    """The gradient is that of x divided by its squared length."""
    return jax.vjp(lambda x: x / (x**2).sum(axis=-1, keepdims=True), x)[1](ct)


# cache ---------------------------------------------------------------------------------------------------------------


@planted(
    "cache", "operand of `sqrt`", of=Function("length", lambda x: jnp.sqrt((x**2).sum(-1)), ROOT_MEAN_SQUARE.arguments)
)
def squared_length_cached_for_the_length(ct, x):
    """x is divided by its squared length, which the forward pass has kept, where the length belongs."""
    return (ct[:, None] * x / (x**2).sum(axis=-1, keepdims=True),)


MISTAKES: tuple[Specimen, ...] = tuple(catalogue.specimens)
