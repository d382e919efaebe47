# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Right rules for derivatives, which a verifier must not object to, the unusual ones first of all.

Among them are rules at kinks, where any slope between those of the two sides is right; rules in half precision; rules
of functions whose gradient is zero; arguments that have no gradient; and arguments of extreme size.
"""

import math
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
    CLIPPED,
    DENSE,
    GATED,
    LAYER_NORM,
    LOG_SIGMOID,
    LOG_SOFTMAX,
    PLAIN_SIGMOID_NEAR_20,
    RECTIFIERS,
    REGRESSOR,
    RELU_AT_ZERO,
    RESIDUAL,
    ROW_OFFSETS,
    SCALED_TANH,
    SEQUENCES,
    SIGMOID_LAYER,
    SOFTMAX,
    SOFTMAX_CROSS_ENTROPY,
    SQUARE_DENSE,
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
    dense,
    dense_rule,
    gated_rule,
    labels,
    layer,
    layer_norm_rule,
    m,
    n_hidden,
    n_in,
    n_out,
    normal,
    preactivations,
    rectifiers_rule,
    regressor_rule,
    residual_rule,
    row_offsets_rule,
    sigmoid_layer_rule,
    softmax_cross_entropy_rule,
    softmax_rule,
    squared_error_rule,
    tanh_layer_rule,
    tempered_rule,
    textbook_cross_entropy_rule,
    tied_rule,
    uniform,
    weights,
)
from experiments.specimens.specimen import Catalogue, Rule, Specimen
from jaxnet import activations
from jaxnet.activations import sigmoid, tanh

catalogue = Catalogue()
right = catalogue.right


def enter(function: Function, what: str, rule: Rule) -> None:
    """Enter a rule that has a name already."""
    catalogue.enter(f"{function.area}: {what}", None, function.case(rule))


# Rules that the mistakes start from ----------------------------------------------------------------------------------

for subject, what, rule in (
    (DENSE, "a batch", dense_rule),
    (SQUARE_DENSE, "as many outputs as inputs", dense_rule),
    (DENSE._replace(arguments=lambda g, scale: (normal(g, 1, n_in), *layer(g, scale, 3, n_in))), "one row", dense_rule),
    (DENSE.cast(jnp.bfloat16), "dense in bfloat16", dense_rule),
    (DENSE.cast(jnp.float16), "dense in float16", dense_rule),
    (TANH_LAYER, "tanh layer", tanh_layer_rule),
    (SIGMOID_LAYER, "sigmoid layer", sigmoid_layer_rule),
    (AFFINE, "gain and shift", affine_rule),
    (ROW_OFFSETS, "offsets of the examples", row_offsets_rule),
    (TEMPERED, "temperature", tempered_rule),
    (SOFTMAX, "softmax", softmax_rule),
    (SQUARED_ERROR, "squared error", squared_error_rule),
    (TEXTBOOK_CROSS_ENTROPY, "cross-entropy of probabilities", textbook_cross_entropy_rule),
    (BINARY_CROSS_ENTROPY, "binary cross-entropy of logits", binary_cross_entropy_rule),
    (SOFTMAX_CROSS_ENTROPY, "softmax cross-entropy of logits", softmax_cross_entropy_rule),
    (LAYER_NORM, "layer normalization", layer_norm_rule),
    (GATED, "gated linear unit", gated_rule),
    (TIED, "tied weights", tied_rule),
    (RESIDUAL, "residual connection", residual_rule),
    (ATTENTION, "attention", attention_rule),
    (REGRESSOR, "two layers and the squared error", regressor_rule),
    (CLASSIFIER, "two layers and the cross-entropy", classifier_rule),
    (RECTIFIERS, "three layers with rectifiers", rectifiers_rule),
):
    enter(subject, what, rule)

# Activations ---------------------------------------------------------------------------------------------------------


def enter_activation(activation: activations.Activation) -> None:
    """Enter an activation of the library with its derivative."""

    def rule(ct, z):
        return (ct * activation.derivative(z if activation.reads == "input" else activation.value(z)),)

    enter(Function("activation", activation.value, preactivations), activation.name, rule)


for activation in (
    activations.sigmoid,
    activations.tanh,
    activations.relu,
    activations.identity,
    activations.softplus,
    activations.silu,
    activations.gelu,
    activations.gelu_tanh,
    activations.leaky_relu,
    activations.elu,
):
    enter_activation(activation)


@right(of=SCALED_TANH)
def scaled_tanh(ct, z):
    """The chain rule's inner factor included."""
    return (ct * (1.7159 * 2 / 3) * tanh.derivative(2 / 3 * z),)


@right(of=PLAIN_SIGMOID_NEAR_20)
def sigmoid_derivative_without_cancellation(ct, z):
    """e/(1 + e)² with e = exp(-|z|)."""
    e = jnp.exp(-jnp.abs(z))
    return (ct * e / (1 + e) ** 2,)


@right(of=LOG_SIGMOID._replace(arguments=lambda g, scale: (uniform(g, -1000.0, 1000.0, m, n_hidden),)))
def log_sigmoid_of_large_arguments(ct, z):
    """1 - σ(z) = σ(-z)."""
    return (ct * jax.nn.sigmoid(-z),)


@right(of=LOG_SOFTMAX._replace(arguments=lambda g, scale: (uniform(g, 100.0, 1000.0, m, n_hidden),)))
def log_softmax_of_large_logits(ct, z):
    """ct - p Σ ct, with the maximum of each row taken off before the exponentials."""
    e = jnp.exp(z - z.max(axis=-1, keepdims=True))
    return (ct - e / e.sum(axis=-1, keepdims=True) * ct.sum(axis=-1, keepdims=True),)


ORDINARY_TANH = TANH._replace(arguments=lambda g, scale: (uniform(g, -1.0, 1.0, m, n_hidden),))


@right(of=ORDINARY_TANH)
def tanh_from_its_output(ct, z):
    """1 - a², for z between -1 and 1, where nothing cancels."""
    a = jnp.tanh(z)
    return (ct * (1 - a * a),)


enter(ORDINARY_TANH.cast(jnp.bfloat16), "tanh from its output in bfloat16", tanh_from_its_output)
enter(ORDINARY_TANH.cast(jnp.float16), "tanh from its output in float16", tanh_from_its_output)


# Kinks and ties ------------------------------------------------------------------------------------------------------


@right(of=RELU_AT_ZERO)
def rectifier_of_slope_0_at_zero(ct, z):
    """The usual convention."""
    return (ct * (z > 0),)


@right(of=RELU_AT_ZERO)
def rectifier_of_slope_one_half_at_zero(ct, z):
    """The mean of both sides."""
    return (ct * jnp.heaviside(z, 0.5).astype(z.dtype),)


@right(of=RELU_AT_ZERO)
def rectifier_of_slope_1_at_zero(ct, z):
    """The right-hand slope."""
    return (ct * (z >= 0),)


@right(of=ABSOLUTE_AT_ZERO)
def absolute_value_flat_at_its_tip(ct, z):
    """sign(0) = 0."""
    return (ct * jnp.sign(z),)


@right(of=ABSOLUTE_AT_ZERO)
def absolute_value_of_slope_1_at_its_tip(ct, z):
    """The right-hand slope."""
    return (jnp.where(z >= 0, ct, -ct),)


@right(of=CLIPPED)
def clipping(ct, z):
    """Nothing comes back from beyond the bounds."""
    return (jnp.where(jnp.abs(z) < 1, ct, 0),)


def pair(generator: np.random.Generator, scale: float) -> tuple[Array, Array]:
    """Two matrices of the same shape, equal in their first column."""
    x, y = normal(generator, m, n_in, scale=scale), normal(generator, m, n_in, scale=scale)
    return x, y.at[:, 0].set(x[:, 0])


@right(of=Function("reduction", jnp.maximum, pair))
def larger_of_two_with_ties_split(ct, x, y):
    """Each of two equals gets half."""
    share = jnp.where(x == y, 0.5, x > y).astype(ct.dtype)
    return ct * share, ct * (1 - share)


@right(of=Function("reduction", jnp.minimum, pair))
def smaller_of_two_with_ties_to_the_first(ct, x, y):
    """The first of two equals gets all."""
    return jnp.where(x <= y, ct, 0), jnp.where(x <= y, 0, ct)


def max_pool(x):
    """The largest of each window of two."""
    return x.reshape(len(x), -1, 2).max(axis=-1)


def windows_with_ties(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """Windows of two, in the first of which both are equal."""
    x = normal(generator, m, 6, scale=scale)
    return (x.at[:, 1].set(x[:, 0]),)


@right(of=Function("reduction", max_pool, windows_with_ties))
def max_pooling_with_ties_split(ct, x):
    """All winners of a window get the same share."""
    windows = x.reshape(len(x), -1, 2)
    winners = (windows == windows.max(axis=-1, keepdims=True)).astype(ct.dtype)
    return ((ct[..., None] * winners / winners.sum(axis=-1, keepdims=True)).reshape(x.shape),)


@right(of=Function("reduction", max_pool, windows_with_ties))
def max_pooling_with_ties_to_the_first(ct, x):
    """The first winner of a window gets everything."""
    first = x.reshape(len(x), -1, 2).argmax(axis=-1)
    return ((ct[..., None] * jax.nn.one_hot(first, 2, dtype=ct.dtype)).reshape(x.shape),)


# Layers --------------------------------------------------------------------------------------------------------------


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


enter(DENSE._replace(arguments=duplicated_column), "rank-deficient inputs", dense_rule)
enter(inputs_times(1e8), "inputs of 1e8", tanh_layer_rule)
enter(inputs_times(1e-8), "inputs of 1e-8", tanh_layer_rule)


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


# Losses --------------------------------------------------------------------------------------------------------------

LARGE_LOGITS = SOFTMAX_CROSS_ENTROPY._replace(
    arguments=lambda g, scale: (uniform(g, -1000.0, 1000.0, m, n_hidden), labels(g, n_hidden, m))
)
LARGE_BINARY_LOGITS = BINARY_CROSS_ENTROPY._replace(
    arguments=lambda g, scale: (uniform(g, -1000.0, 1000.0, m, n_out), labels(g, 2, m, n_out))
)
enter(LARGE_LOGITS, "softmax cross-entropy of logits up to 1000", softmax_cross_entropy_rule)
enter(LARGE_BINARY_LOGITS, "binary cross-entropy of logits up to 1000", binary_cross_entropy_rule)


def hinge(z, y):
    """The mean of max(0, 1 - yz) over the batch, for labels y of -1 and 1."""
    return jnp.maximum(0, 1 - y * z).mean()


@right(of=Function("loss", hinge, lambda g, scale: (normal(g, m, scale=scale), 2 * labels(g, 2, m) - 1)))
def hinge_loss(ct, z, y):
    """-y within the margin."""
    return jnp.where(y * z < 1, -ct * y, 0) / len(y), None


# Reductions ----------------------------------------------------------------------------------------------------------

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


# Gradients that are zero ---------------------------------------------------------------------------------------------


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


# Normalization -------------------------------------------------------------------------------------------------------


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


# Indices, convolutions, linear algebra -------------------------------------------------------------------------------


def embedding(table, words):
    """The rows of a table."""
    return table[words]


def repeated_words(generator: np.random.Generator, scale: float) -> tuple:
    """A table of seven words and a text in which some occur more than once, others never."""
    return weights(generator, scale, 7, n_in), jnp.asarray([[3, 1, 3], [0, 3, 6]], jnp.int32)


@right(of=Function("indexing", embedding, repeated_words))
def embedding_lookup(ct, table, words):
    """Each row is the sum over the occurrences of its word; an index has no gradient."""
    return jnp.zeros_like(table).at[words].add(ct), None


def picked(z, y):
    """The element y of each row."""
    return jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0]


@right(of=SOFTMAX_CROSS_ENTROPY._replace(area="indexing", function=picked))
def picked_elements(ct, z, y):
    """One cotangent in each row, zero elsewhere."""
    return ct[:, None] * jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype), None


def convolve(x, kernel):
    """The convolution of a signal with a kernel that lies within it."""
    return jnp.convolve(x, kernel, mode="valid")


@right(of=Function("convolution", convolve, lambda g, scale: (normal(g, 9), normal(g, 3, scale=scale))))
def convolution(ct, x, kernel):
    """By x a correlation with the kernel, by the kernel a correlation with x."""
    windows = x[jnp.arange(len(ct))[:, None] + jnp.arange(len(kernel))]
    return jnp.convolve(ct, kernel[::-1]), (ct @ windows)[::-1]


def channels(x, kernel):
    """A convolution layer in one dimension: x is (m, channels, length), the kernel (outputs, channels, width)."""
    return jax.lax.conv(x, kernel, (1,), "VALID")


@right(of=Function("convolution", channels, lambda g, scale: (normal(g, 2, 3, 7), normal(g, 4, 3, 2, scale=scale))))
def convolution_layer(ct, x, kernel):
    """Each offset in the kernel is a dense layer on a shifted x."""
    length, offsets = ct.shape[-1], range(kernel.shape[-1])
    dx = jnp.zeros_like(x)
    for k in offsets:
        dx = dx.at[..., k : k + length].add(jnp.einsum("mot,oc->mct", ct, kernel[..., k]))
    d_kernel = [jnp.einsum("mot,mct->oc", ct, x[..., k : k + length]) for k in offsets]
    return dx, jnp.stack(d_kernel, axis=-1)


def well_conditioned(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """A matrix times the scale, with a dominant diagonal."""
    return (scale * (2 * jnp.eye(n_in, dtype=jnp.float32) + 0.2 * normal(generator, n_in, n_in)),)


@right(of=Function("linear algebra", jnp.linalg.inv, well_conditioned))
def inverse(ct, A):
    """-A⁻ᵀ ct A⁻ᵀ."""
    transposed = jnp.linalg.inv(A).T
    return (-transposed @ ct @ transposed,)


@right(of=Function("linear algebra", jnp.linalg.solve, lambda g, scale: (*well_conditioned(g, scale), normal(g, n_in))))
def solution_of_linear_equations(ct, A, b):
    """A solution with Aᵀ by b, and its outer product with the solution by A."""
    db = jnp.linalg.solve(A.T, ct)
    return -jnp.outer(db, jnp.linalg.solve(A, b)), db


@right(of=Function("linear algebra", lambda A: jnp.linalg.slogdet(A)[1], well_conditioned))
def logarithm_of_the_determinant(ct, A):
    """A⁻ᵀ."""
    return (ct * jnp.linalg.inv(A).T,)


# Elementary functions ------------------------------------------------------------------------------------------------


def positive(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """Numbers above zero."""
    return (uniform(generator, 0.5 * scale, 2.0 * scale, m, n_in),)


@right(of=Function("elementary", jnp.sqrt, positive))
def square_root(ct, x):
    """1/(2√x)."""
    return (ct / (2 * jnp.sqrt(x)),)


@right(of=Function("elementary", jnp.exp, positive))
def exponential(ct, x):
    """Its own derivative."""
    return (ct * jnp.exp(x),)


@right(of=Function("elementary", jnp.log, positive))
def logarithm(ct, x):
    """1/x."""
    return (ct / x,)


@right(of=Function("elementary", lambda x: x**3, positive))
def cube(ct, x):
    """3x²."""
    return (3 * ct * x * x,)


@right(of=Function("elementary", jnp.power, lambda g, scale: (*positive(g, scale), uniform(g, 0.5, 2.0, n_in))))
def power(ct, x, exponent):
    """By the base and, summed over the rows that share it, by the exponent."""
    by_exponent = ct * x**exponent * jnp.log(x)
    return ct * exponent * x ** (exponent - 1), by_exponent.sum(axis=0)


@right(of=Function("elementary", jnp.divide, lambda g, scale: (normal(g, m, n_in), *positive(g, scale))))
def quotient(ct, x, y):
    """1/y and -x/y²."""
    return ct / y, -ct * x / y**2


@right(of=Function("elementary", lambda x: jnp.log1p(jnp.expm1(x) ** 2), positive))
def reformulated_with_expm1(ct, x):
    """2u(u + 1)/(1 + u²) with u = e^x - 1; divided by u² where u is large, so that no square overflows."""
    u = jnp.expm1(x)
    return (ct * 2 * jnp.where(u < 1, u * (u + 1) / (1 + u**2), (1 + 1 / u) / (1 + 1 / u**2)),)


@right(of=Function("elementary", jnp.sin, lambda g, scale: (normal(g, m, n_in, scale=scale),)))
def sine_by_a_shift(ct, x):
    """cos x = 1 - 2 sin²(x/2)."""
    return (ct * (1 - 2 * jnp.sin(x / 2) ** 2),)


@right(of=Function("elementary", jax.lax.erf, lambda g, scale: (normal(g, m, n_in, scale=scale),)))
def error_function(ct, x):
    """2/√π e^(-x²)."""
    return (ct * (2 / math.sqrt(math.pi)) * jnp.exp(-x * x),)


# Structures ----------------------------------------------------------------------------------------------------------


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


RIGHT_RULES: tuple[Specimen, ...] = tuple(catalogue.specimens)
