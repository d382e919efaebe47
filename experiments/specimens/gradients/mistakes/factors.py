# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Factors: one too many, one too few, another; a sign."""

import jax

from experiments.specimens.gradients.subjects import (
    AFFINE,
    ATTENTION,
    BINARY_CROSS_ENTROPY,
    CLASSIFIER,
    DENSE,
    REGRESSOR,
    ROOT_MEAN_SQUARE,
    SCALED_TANH,
    SOFTMAX_CROSS_ENTROPY,
    SQUARED_ERROR,
    TEMPERED,
    TEXTBOOK_CROSS_ENTROPY,
    attention_rule,
    binary_cross_entropy_rule,
    classifier_rule,
    dense_rule,
    regressor_rule,
    root_mean_square_norm,
    softmax_cross_entropy_rule,
    squared_error_rule,
)
from experiments.specimens.specimen import Catalogue
from jaxnet.activations import tanh

catalogue = Catalogue()
planted = catalogue.planted


# scale ----------------------------------------------------------------------------------------------------------------


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


# sign -----------------------------------------------------------------------------------------------------------------


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


# missing_factor -------------------------------------------------------------------------------------------------------


@planted("missing_factor", of=AFFINE)
def gain_left_out_of_the_input_gradient(ct, x, gain, shift):
    """y = gain x + shift, and the cotangent is handed on to x without the gain."""
    return ct, (ct * x).sum(axis=0), ct.sum(axis=0)


# value ----------------------------------------------------------------------------------------------------------------


@planted("value", "0.02", of=ROOT_MEAN_SQUARE)
def another_epsilon_than_in_the_forward_pass(ct, x):
    """ε is 0.02 in the gradient and 0.1 in the function."""
    return jax.vjp(lambda x: root_mean_square_norm(x, 0.02), x)[1](ct)
