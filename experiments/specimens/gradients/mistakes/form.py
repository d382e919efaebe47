# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Form: what comes back is of another dtype or structure, or the rule is no function, or not linear."""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    AFFINE,
    DENSE,
    SIGMOID,
    SIGMOID_LAYER,
    SQUARE_REGRESSOR,
    SQUARED_ERROR,
    TANH,
    TANH_LAYER,
    affine_rule,
    at_least_float32,
    dense,
    dense_rule,
    m,
    n_hidden,
    plain_sigmoid,
    regressor_rule,
    squared_error_rule,
    tanh_layer_rule,
)
from experiments.specimens.specimen import Catalogue
from jaxnet.activations import sigmoid, tanh

catalogue = Catalogue()
planted = catalogue.planted


# dtype ----------------------------------------------------------------------------------------------------------------


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


# impure ---------------------------------------------------------------------------------------------------------------

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


# nonlinear ------------------------------------------------------------------------------------------------------------


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


# structure ------------------------------------------------------------------------------------------------------------


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


@planted("structure", "it is the gradient of [2]", of=DENSE)
def gradients_of_weight_and_bias_exchanged(ct, x, W, b):
    """∂L/∂b comes before ∂L/∂W."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, db, dW


@planted("structure", of=SQUARE_REGRESSOR)
def gradients_of_the_two_layers_swapped(ct, x, W1, b1, W2, b2, y):
    """The layers' gradients, of the same shapes, are returned from the last layer to the first."""
    dx, dW1, db1, dW2, db2, dy = regressor_rule(ct, x, W1, b1, W2, b2, y)
    return dx, dW2, db2, dW1, db1, dy
