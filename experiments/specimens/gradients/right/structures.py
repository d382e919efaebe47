# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Arguments and results of other structures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    DENSE,
    dense,
    dense_rule,
    layer,
    m,
    n_hidden,
    n_in,
    n_out,
    normal,
    tanh_layer_rule,
)
from experiments.specimens.specimen import Catalogue
from jaxnet.activations import sigmoid

catalogue = Catalogue()
right = catalogue.right


class Dense(NamedTuple):
    """The parameters of a dense layer, which may have no bias."""

    W: Array
    b: Array | None


def named_layer(x, parameters):
    """A dense layer with or without a bias."""
    z = x @ parameters.W.T
    return z if parameters.b is None else z + parameters.b


def bias_free(generator: np.random.Generator, scale: float) -> tuple:
    """x and parameters without a bias."""
    x, W, _ = DENSE.arguments(generator, scale)
    return x, Dense(W, None)


@right(of=Function("dense", named_layer, bias_free))
def named_parameters_without_a_bias(ct, x, parameters):
    """None where the parameters have None."""
    return ct @ parameters.W, Dense(ct.T @ x, None)


def nested(parameters, inputs):
    """A list of layers in dictionaries, with inputs and outputs by name."""
    a = inputs["x"]
    for each in parameters["layers"]:
        a = jnp.tanh(a @ each["W"].T + each["b"])
    return {"a": a, "sum": (a.sum(axis=0), parameters["unused"])}


def nested_arguments(generator: np.random.Generator, scale: float) -> tuple:
    """Two layers, a parameter that passes through, and a None."""
    layers = [
        dict(zip("Wb", layer(generator, scale, n_hidden, n_in), strict=True)),
        dict(zip("Wb", layer(generator, scale, n_out, n_hidden), strict=True)),
    ]
    unused = normal(generator, n_in)
    return {"layers": layers, "unused": unused, "none": None}, {"x": normal(generator, m, n_in), "mask": None}


@right(of=Function("composition", nested, nested_arguments))
def nested_dictionaries_with_none(ct, parameters, inputs):
    """Every gradient in the place of its argument."""
    first, second = parameters["layers"]
    a1 = jnp.tanh(dense(inputs["x"], first["W"], first["b"]))
    d_sum, d_unused = ct["sum"]
    d_a1, dW2, db2 = tanh_layer_rule(ct["a"] + d_sum, a1, second["W"], second["b"])
    dx, dW1, db1 = tanh_layer_rule(d_a1, inputs["x"], first["W"], first["b"])
    layers = [{"W": dW1, "b": db1}, {"W": dW2, "b": db2}]
    return {"layers": layers, "unused": d_unused, "none": None}, {"x": dx, "mask": None}


def dropout(a, key):
    """Inverted dropout that keeps 8 of 10; the probability has a type, so that the mask is the same in every other."""
    return jnp.where(jax.random.bernoulli(key, jnp.float32(0.8), a.shape), a / 0.8, 0)


@right(of=Function("composition", dropout, lambda g, scale: (normal(g, m, n_in, scale=scale), jax.random.key(3))))
def dropout_with_an_explicit_key(ct, a, key):
    """The same mask again; a key has no gradient."""
    return dropout(ct, key), None


@right(of=Function("composition", dropout, lambda g, scale: (normal(g, m, n_in), jax.random.PRNGKey(4))))
def dropout_with_a_key_of_integers(ct, a, key):
    """The same mask again, from a key of the older sort."""
    return dropout(ct, key), None


def selected(x, W, b, training):
    """A sigmoid layer, or a linear one where the flag is off."""
    z = x @ W.T + b
    return jnp.where(training, jax.nn.sigmoid(z), z)


@right(of=Function("dense", selected, lambda g, scale: (*DENSE.arguments(g, scale), jnp.asarray(True))))
def flag_among_the_arguments(ct, x, W, b, training):
    """A Boolean has no gradient."""
    delta = jnp.where(training, ct * sigmoid.derivative(dense(x, W, b)), ct)
    return *dense_rule(delta, x, W, b), None
