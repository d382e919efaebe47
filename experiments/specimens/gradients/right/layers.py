# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Layers, losses, normalization and the sums in them."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    BINARY_CROSS_ENTROPY,
    DENSE,
    LAYER_NORM,
    SEQUENCES,
    SOFTMAX_CROSS_ENTROPY,
    TANH_LAYER,
    at_least_float32,
    binary_cross_entropy_rule,
    dense_rule,
    labels,
    layer,
    m,
    n_hidden,
    n_in,
    n_out,
    normal,
    softmax_cross_entropy_rule,
    tanh_layer_rule,
    uniform,
)
from experiments.specimens.specimen import Catalogue
from jaxnet.activations import tanh

catalogue = Catalogue()
right = catalogue.right

# Layers ---------------------------------------------------------------------------------------------------------------


@right(of=DENSE._replace(arguments=lambda g, scale: (normal(g, n_in), *layer(g, scale, n_hidden, n_in))))
def one_example_without_a_batch(ct, x, W, b):
    """The weight gradient is an outer product."""
    return W.T @ ct, jnp.outer(ct, x), ct


@right(of=SEQUENCES)
def sequences(ct, x, W, b):
    """The parameters' gradients are sums over sequences and steps."""
    return ct @ W, jnp.einsum("smi,smj->ij", ct, x), ct.sum(axis=(0, 1))


@right(of=DENSE.cast(jnp.bfloat16))
def dense_in_bfloat16_summed_in_float32(ct, x, W, b):
    """Products and sums in float32, rounded once at the end."""
    dx, dW, db = dense_rule(at_least_float32(ct), at_least_float32(x), at_least_float32(W), b)
    return dx.astype(x.dtype), dW.astype(W.dtype), db.astype(b.dtype)


@right(of=DENSE)
def written_in_numpy(ct, x, W, b):
    """A rule that JAX cannot trace."""
    ct, x, W = np.asarray(ct), np.asarray(x), np.asarray(W)
    return np.matmul(ct, W), np.matmul(ct.T, x), np.sum(ct, axis=0)


def duplicated_column(generator: np.random.Generator, scale: float) -> tuple:
    """Two inputs are the same, so that x has no full rank."""
    x, W, b = DENSE.arguments(generator, scale)
    return x.at[:, 1].set(x[:, 0]), W, b


def inputs_times(factor: float) -> Function:
    """The tanh layer at inputs times a factor and weights divided by it."""

    def arguments(generator: np.random.Generator, scale: float) -> tuple:
        x, W, b = DENSE.arguments(generator, scale)
        return factor * x, W / factor, b

    return TANH_LAYER._replace(arguments=arguments)


right(of=DENSE._replace(arguments=duplicated_column), what="rank-deficient inputs")(dense_rule)
right(of=inputs_times(1e8), what="inputs of 1e8")(tanh_layer_rule)
right(of=inputs_times(1e-8), what="inputs of 1e-8")(tanh_layer_rule)


def tanh_example(x, W, b):
    """A tanh layer for one example."""
    return jnp.tanh(W @ x + b)


@right(of=Function("batching", jax.vmap(tanh_example, (0, None, None)), DENSE.arguments))
def mapped_over_the_batch(ct, x, W, b):
    """The rule of one example, mapped; the parameters' gradients are summed afterwards."""

    def rule(ct, x):
        delta = ct * tanh.derivative(W @ x + b)
        return W.T @ delta, jnp.outer(delta, x), delta

    dx, dW, db = jax.vmap(rule)(ct, x)
    return dx, dW.sum(axis=0), db.sum(axis=0)


# Losses ---------------------------------------------------------------------------------------------------------------

LARGE_LOGITS = SOFTMAX_CROSS_ENTROPY._replace(
    arguments=lambda g, scale: (uniform(g, -1000.0, 1000.0, m, n_hidden), labels(g, n_hidden, m))
)
LARGE_BINARY_LOGITS = BINARY_CROSS_ENTROPY._replace(
    arguments=lambda g, scale: (uniform(g, -1000.0, 1000.0, m, n_out), labels(g, 2, m, n_out))
)
right(of=LARGE_LOGITS, what="softmax cross-entropy of logits up to 1000")(softmax_cross_entropy_rule)
right(of=LARGE_BINARY_LOGITS, what="binary cross-entropy of logits up to 1000")(binary_cross_entropy_rule)


def hinge(z, y):
    """The mean of max(0, 1 - yz) over the batch, for labels y of -1 and 1."""
    return jnp.maximum(0, 1 - y * z).mean()


@right(of=Function("loss", hinge, lambda g, scale: (normal(g, m, scale=scale), 2 * labels(g, 2, m) - 1)))
def hinge_loss(ct, z, y):
    """-y within the margin."""
    return jnp.where(y * z < 1, -ct * y, 0) / len(y), None


# Reductions -----------------------------------------------------------------------------------------------------------

ROWS = Function("reduction", jnp.sum, lambda g, scale: (normal(g, m, n_in, scale=scale),))


@right(of=ROWS)
def sum_of_everything(ct, x):
    """One for each element."""
    return (jnp.broadcast_to(ct, x.shape),)


@right(of=ROWS._replace(function=lambda x: x.mean(axis=0)))
def mean_over_the_batch(ct, x):
    """1/m for each example."""
    return (jnp.broadcast_to(ct / len(x), x.shape),)


@right(of=ROWS._replace(function=lambda x: x.var(axis=0)))
def variance(ct, x):
    """2 (x - mean)/m: the mean's own derivative cancels."""
    return (2 * ct * (x - x.mean(axis=0)) / len(x),)


@right(of=ROWS._replace(function=lambda x: jax.nn.logsumexp(x, axis=-1)))
def log_sum_exp(ct, x):
    """The softmax of each row."""
    return (ct[:, None] * jax.nn.softmax(x, axis=-1),)


@right(of=ROWS._replace(function=lambda x: jnp.linalg.norm(x, axis=-1)))
def norm(ct, x):
    """x/|x|."""
    return (ct[:, None] * x / jnp.sqrt((x * x).sum(axis=-1, keepdims=True)),)


@right(of=ROWS._replace(function=lambda x: jnp.cumsum(x, axis=-1)))
def cumulative_sum(ct, x):
    """A cumulative sum from the other end."""
    return (jnp.cumsum(ct[:, ::-1], axis=-1)[:, ::-1],)


@right(of=ROWS._replace(function=lambda x: jnp.prod(x, axis=-1)))
def product(ct, x):
    """For each factor the product of the others, without a division."""
    others = jnp.where(jnp.eye(x.shape[-1], dtype=bool), 1, x[:, None, :])
    return (ct[:, None] * others.prod(axis=-1),)


@right(of=ROWS._replace(function=lambda x: jnp.sort(x, axis=-1)))
def sorting(ct, x):
    """Each cotangent goes back to where its element came from."""
    places = jnp.argsort(jnp.argsort(x, axis=-1), axis=-1)
    return (jnp.take_along_axis(ct, places, axis=-1),)


# Gradients that are zero ----------------------------------------------------------------------------------------------


@right(of=ROWS._replace(function=lambda x: jax.nn.softmax(x, axis=-1).sum(axis=-1)))
def sum_of_probabilities(ct, x):
    """The sum is always 1."""
    return (jnp.zeros_like(x),)


@right(of=ROWS._replace(function=lambda x: (x - x.mean(axis=-1, keepdims=True)).sum(axis=-1)))
def sum_of_deviations_from_the_mean(ct, x):
    """The sum is always 0."""
    return (jnp.zeros_like(x),)


@right(of=ROWS._replace(function=lambda x: jnp.ones_like(x)))
def constant(ct, x):
    """The output does not depend on x."""
    return (jnp.zeros_like(x),)


@right(of=ROWS._replace(function=lambda x: x * jax.lax.stop_gradient(jnp.zeros_like(x))))
def product_with_zero(ct, x):
    """0 x."""
    return (0 * ct,)


# Normalization --------------------------------------------------------------------------------------------------------


def rms_norm(x, gain):
    """x/√(mean of x² + ε) of each row, times the gain."""
    return gain * x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)


@right(of=LAYER_NORM._replace(function=rms_norm))
def rms_normalization(ct, x, gain):
    """x acts on its own output and on the root mean square of its row."""
    root = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    x_hat, d_x_hat = x / root, ct * gain
    dx = (d_x_hat - x_hat * (d_x_hat * x_hat).mean(axis=-1, keepdims=True)) / root
    return dx, (ct * x_hat).sum(axis=0)


def batch_norm(x):
    """(x - mean)/√(variance + ε) of each feature."""
    return (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-5)


@right(of=Function("normalization", batch_norm, lambda g, scale: (normal(g, 6, n_in),)))
def batch_normalization(ct, x):
    """x acts on its own output, on the mean and on the variance of its feature."""
    deviation = jnp.sqrt(x.var(axis=0) + 1e-5)
    x_hat = (x - x.mean(axis=0)) / deviation
    return ((ct - ct.mean(axis=0) - x_hat * (ct * x_hat).mean(axis=0)) / deviation,)
