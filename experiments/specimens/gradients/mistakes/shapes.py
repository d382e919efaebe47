# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Shapes: what was transposed, not summed, or taken along another axis."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    AFFINE,
    DENSE,
    ROW_OFFSETS,
    SEQUENCES,
    SQUARE_ATTENTION,
    SQUARE_BATCH,
    SQUARE_DENSE,
    SQUARE_REGRESSOR,
    TEMPERED,
    TEXTBOOK_CROSS_ENTROPY,
    affine_rule,
    attention_rule,
    dense,
    dense_rule,
    normal,
    row_offsets_rule,
    squared_error_rule,
    tanh_layer,
    tanh_layer_rule,
    tempered_rule,
    textbook_cross_entropy_rule,
)
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
planted = catalogue.planted


# transpose ------------------------------------------------------------------------------------------------------------


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


# missing_reduction ----------------------------------------------------------------------------------------------------


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


# shape ----------------------------------------------------------------------------------------------------------------


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


# axis -----------------------------------------------------------------------------------------------------------------

GATED = Function(
    "gated unit", lambda x: x[:, ::2] * jax.nn.sigmoid(x[:, 1::2]), lambda g, scale: (normal(g, 3, 6, scale=scale),)
)


@planted("axis", of=GATED)
def values_and_gates_one_behind_the_other(ct, x):
    """The gradients of values and gates in halves, where the input has them alternating."""
    value, gate = x[:, ::2], jax.nn.sigmoid(x[:, 1::2])
    return (jnp.concatenate([ct * gate, ct * value * gate * (1 - gate)], axis=1),)
