# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""The functions whose derivatives the specimens compute, the points to judge them at, and their right rules.

Sizes are all different, so that a transpose or a forgotten sum shows in the shapes: m = 5 examples, 4 inputs, 3 hidden
units, 2 outputs. Where a mistake would be caught by its shape alone, square subjects give it the right one.

A rule is written (ct, *arguments) -> cotangents, where ct is the cotangent of the function's output: δ for a layer, a
number for a cost. A layer computes z = x Wᵀ + b for a batch x of rows. Everything is of order 1 except the weights,
which are multiplied by the scale under judgement.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.specimens.gradients.derivative import Function
from jaxnet.activations import sigmoid, silu, softplus, tanh

m, n_in, n_hidden, n_out = 5, 4, 3, 2

# Drawing -------------------------------------------------------------------------------------------------------------


def normal(generator: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """Normal numbers of this standard deviation."""
    return jnp.asarray(scale * generator.standard_normal(shape), jnp.float32)


def uniform(generator: np.random.Generator, low: float, high: float, *shape: int) -> Array:
    """Uniform numbers between two bounds."""
    return jnp.asarray(generator.uniform(low, high, shape), jnp.float32)


def labels(generator: np.random.Generator, classes: int, *shape: int) -> Array:
    """Classes as integers from 0."""
    return jnp.asarray(generator.integers(classes, size=shape), jnp.int32)


def weights(generator: np.random.Generator, scale: float, *shape: int) -> Array:
    """A matrix (n_out, n_in), or several, that keeps the size of its input, times the scale."""
    return normal(generator, *shape, scale=scale / shape[-1] ** 0.5)


def layer(generator: np.random.Generator, scale: float, n_out: int, n_in: int) -> tuple[Array, Array]:
    """W and b."""
    return weights(generator, scale, n_out, n_in), normal(generator, n_out)


def at_least_float32(array: Array) -> Array:
    """The array in float32 if it has half precision, else as it is."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


# Layers --------------------------------------------------------------------------------------------------------------


def dense(x, W, b):
    """z = x Wᵀ + b."""
    return x @ W.T + b


def dense_rule(ct, x, W, b):
    """δ W, δᵀ x and the sum of δ over the examples."""
    return ct @ W, ct.T @ x, ct.sum(axis=0)


DENSE = Function("dense", dense, lambda g, scale: (normal(g, m, n_in), *layer(g, scale, n_hidden, n_in)))
SQUARE_DENSE = DENSE._replace(arguments=lambda g, scale: (normal(g, m, n_in), *layer(g, scale, n_in, n_in)))
SQUARE_BATCH = DENSE._replace(arguments=lambda g, scale: (normal(g, n_in, n_in), *layer(g, scale, n_in, n_in)))
SEQUENCES = Function("batching", dense, lambda g, scale: (normal(g, 2, m, n_in), *layer(g, scale, n_hidden, n_in)))


def tanh_layer(x, W, b):
    """a = tanh(x Wᵀ + b)."""
    return jnp.tanh(x @ W.T + b)


def tanh_layer_rule(ct, x, W, b):
    """The dense layer's rule for δ = ct ⊙ (1 - a²)."""
    return dense_rule(ct * tanh.derivative(dense(x, W, b)), x, W, b)


def sigmoid_layer(x, W, b):
    """a = σ(x Wᵀ + b)."""
    return jax.nn.sigmoid(x @ W.T + b)


def sigmoid_layer_rule(ct, x, W, b):
    """The dense layer's rule for δ = ct ⊙ a(1 - a)."""
    return dense_rule(ct * sigmoid.derivative(dense(x, W, b)), x, W, b)


TANH_LAYER = Function("activation", tanh_layer, DENSE.arguments)
SIGMOID_LAYER = Function("activation", sigmoid_layer, DENSE.arguments)


def affine(x, gain, shift):
    """Gain and shift of each feature, the same for all examples."""
    return x * gain + shift


def affine_rule(ct, x, gain, shift):
    """Both parameters are sums over the examples that share them."""
    return ct * gain, (ct * x).sum(axis=0), ct.sum(axis=0)


def row_offsets(x, c):
    """x + c, with one offset for each example: c is (m, 1)."""
    return x + c


def row_offsets_rule(ct, x, c):
    """The offset of an example is shared by its features."""
    return ct, ct.sum(axis=1, keepdims=True)


def tempered(z, temperature):
    """z / T with a single number T."""
    return z / temperature


def tempered_rule(ct, z, temperature):
    """1/T for z, and the sum of -z/T² for T."""
    return ct / temperature, -(ct * z).sum() / temperature**2


AFFINE = Function("batching", affine, lambda g, scale: (normal(g, m, n_in), weights(g, scale, n_in), normal(g, n_in)))
ROW_OFFSETS = Function("batching", row_offsets, lambda g, scale: (normal(g, m, n_in, scale=scale), normal(g, m, 1)))
TEMPERED = Function("batching", tempered, lambda g, scale: (normal(g, m, n_in, scale=scale), uniform(g, 0.5, 2.0)))


def gated(x, W, V):
    """A gated linear unit, x Wᵀ ⊙ σ(x Vᵀ)."""
    return (x @ W.T) * jax.nn.sigmoid(x @ V.T)


def gated_rule(ct, x, W, V):
    """The product rule: x acts through both factors."""
    value, gate_z = x @ W.T, x @ V.T
    d_value, d_gate = ct * jax.nn.sigmoid(gate_z), ct * value * sigmoid.derivative(gate_z)
    return d_value @ W + d_gate @ V, d_value.T @ x, d_gate.T @ x


def tied(x, W):
    """An autoencoder that decodes with its encoder's weights: tanh(x Wᵀ) W."""
    return jnp.tanh(x @ W.T) @ W


def tied_rule(ct, x, W):
    """W is used twice, and its gradient is the sum of the two."""
    z = x @ W.T
    delta = (ct @ W.T) * tanh.derivative(z)
    return delta @ W, delta.T @ x + jnp.tanh(z).T @ ct


def residual(x, W, b):
    """x + tanh(x Wᵀ + b)."""
    return x + jnp.tanh(x @ W.T + b)


def residual_rule(ct, x, W, b):
    """The cotangent reaches x directly and through the layer."""
    dx, dW, db = tanh_layer_rule(ct, x, W, b)
    return ct + dx, dW, db


def attention(q, k, v):
    """Attention of a single head, softmax(Q Kᵀ / √n) V."""
    return jax.nn.softmax(q @ k.T / q.shape[-1] ** 0.5) @ v


def attention_rule(ct, q, k, v):
    """Back through the weighted sum, the softmax of each row, and the scores."""
    root = q.shape[-1] ** 0.5
    p = jax.nn.softmax(q @ k.T / root)
    d_scores = softmax_rule(ct @ v.T, q @ k.T / root)[0] / root
    return d_scores @ k, d_scores.T @ q, p.T @ ct


GATED = Function(
    "composition",
    gated,
    lambda g, scale: (normal(g, m, n_in), weights(g, scale, n_hidden, n_in), weights(g, scale, n_hidden, n_in)),
)
TIED = Function("composition", tied, lambda g, scale: (normal(g, m, n_in), weights(g, scale, n_hidden, n_in)))
RESIDUAL = Function("composition", residual, SQUARE_DENSE.arguments)
ATTENTION = Function(
    "composition",
    attention,
    lambda g, scale: (normal(g, m, n_hidden, scale=scale), normal(g, 4, n_hidden), normal(g, 4, n_out)),
)
SQUARE_ATTENTION = ATTENTION._replace(
    arguments=lambda g, scale: (normal(g, 4, 4, scale=scale), normal(g, 4, 4), normal(g, 4, 4))
)

# Activations ---------------------------------------------------------------------------------------------------------


def preactivations(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """z."""
    return (normal(generator, m, n_hidden, scale=scale),)


def with_zeros(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """z, exactly zero at every other element."""
    return (normal(generator, m, n_hidden, scale=scale).at[:, ::2].set(0),)


def rectified(z):
    """max(z, 0)."""
    return jnp.maximum(z, 0)


def clipped(z):
    """z kept between -1 and 1."""
    return jnp.clip(z, -1, 1)


def plain_sigmoid(z):
    """σ as the lecture writes it, 1/(1 + e^-z)."""
    return 1 / (1 + jnp.exp(-z))


def scaled_tanh(z):
    """1.7159 tanh(2z/3)."""
    return 1.7159 * jnp.tanh(2 / 3 * z)


def softmax(z):
    """The softmax of each row."""
    return jax.nn.softmax(z, axis=-1)


def softmax_rule(ct, z):
    """p_k (ct_k - Σ_j p_j ct_j) for each row, as p_k Σ_j p_j (ct_k - ct_j): exact also where p_k is near 1."""
    p = jax.nn.softmax(z, axis=-1)
    differences = ct[..., :, None] - ct[..., None, :]
    return (p * (p[..., None, :] * differences).sum(axis=-1),)


SIGMOID = Function("activation", jax.nn.sigmoid, preactivations)
TANH = Function("activation", jnp.tanh, preactivations)
SCALED_TANH = Function("activation", scaled_tanh, preactivations)
SILU = Function("activation", silu.value, preactivations)
SOFTPLUS = Function("activation", softplus.value, preactivations)
RELU = Function("activation", jax.nn.relu, preactivations)
RELU_AT_ZERO = Function("activation", rectified, with_zeros)
ABSOLUTE_AT_ZERO = Function("activation", jnp.abs, with_zeros)
CLIPPED = Function("activation", clipped, preactivations)
SOFTMAX = Function("activation", softmax, preactivations)
LOG_SOFTMAX = Function("activation", jax.nn.log_softmax, preactivations)
LOG_SIGMOID = Function("activation", jax.nn.log_sigmoid, preactivations)
PLAIN_SIGMOID_NEAR_20 = Function("activation", plain_sigmoid, lambda g, scale: (uniform(g, 19.0, 21.0, m, n_hidden),))

# Losses --------------------------------------------------------------------------------------------------------------


def squared_error(a, y):
    """J = (1/m) Σ |a - y|²."""
    return jnp.mean(jnp.sum((a - y) ** 2, axis=-1))


def squared_error_rule(ct, a, y):
    """2 (a - y)/m, and its negative for the targets."""
    delta = 2 * (a - y) / len(y)
    return ct * delta, -ct * delta


def textbook_cross_entropy(a, y):
    """J = -(1/m) Σ y log a + (1 - y) log(1 - a), of probabilities."""
    return -jnp.mean(jnp.sum(y * jnp.log(a) + (1 - y) * jnp.log(1 - a), axis=-1))


def textbook_cross_entropy_rule(ct, a, y):
    """(-y/a + (1 - y)/(1 - a))/m."""
    return ct * ((1 - y) / (1 - a) - y / a) / len(y), None


def binary_cross_entropy(z, y):
    """J = (1/m) Σ y softplus(-z) + (1 - y) softplus(z), of logits."""
    return jnp.mean(jnp.sum(y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z), axis=-1))


def binary_cross_entropy_rule(ct, z, y):
    """(σ(z) - y)/m, without the subtraction."""
    return ct * ((1 - y) * jax.nn.sigmoid(z) - y * jax.nn.sigmoid(-z)) / len(y), None


def softmax_cross_entropy(z, y):
    """J = -(1/m) Σ log softmax(z)_y, of logits."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=-1))


def softmax_cross_entropy_rule(ct, z, y):
    """(p - 1{k = y})/m, where p - 1 is the negative sum of the other probabilities, which does not cancel."""
    is_label = jax.nn.one_hot(y, z.shape[-1], dtype=bool)
    others = jnp.where(is_label, 0, jax.nn.softmax(z))
    return ct * jnp.where(is_label, -others.sum(axis=-1, keepdims=True), others) / len(y), None


SQUARED_ERROR = Function(
    "loss", squared_error, lambda g, scale: (normal(g, m, n_out, scale=scale), normal(g, m, n_out))
)
TEXTBOOK_CROSS_ENTROPY = Function(
    "loss", textbook_cross_entropy, lambda g, scale: (uniform(g, 0.05, 0.95, m, n_out), labels(g, 2, m, n_out))
)
BINARY_CROSS_ENTROPY = Function(
    "loss", binary_cross_entropy, lambda g, scale: (normal(g, m, n_out, scale=scale), labels(g, 2, m, n_out))
)
SOFTMAX_CROSS_ENTROPY = Function(
    "loss", softmax_cross_entropy, lambda g, scale: (normal(g, m, n_hidden, scale=scale), labels(g, n_hidden, m))
)

# Normalization -------------------------------------------------------------------------------------------------------


def layer_norm(x, gain):
    """(x - mean)/√(variance + ε) of each row, times the gain."""
    centered = x - x.mean(axis=-1, keepdims=True)
    return gain * centered / jnp.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)


def layer_norm_rule(ct, x, gain):
    """x acts on its own output, on the mean and on the variance of its row."""
    centered = x - x.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
    x_hat, d_x_hat = centered / deviation, ct * gain
    through_mean = d_x_hat.mean(axis=-1, keepdims=True)
    through_variance = x_hat * (d_x_hat * x_hat).mean(axis=-1, keepdims=True)
    return (d_x_hat - through_mean - through_variance) / deviation, (ct * x_hat).sum(axis=0)


def root_mean_square_norm(x, epsilon=0.1):
    """x divided by the root of its mean square."""
    return x * jax.lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)


ROOT_MEAN_SQUARE = Function("normalization", root_mean_square_norm, lambda g, scale: (normal(g, m, n_in, scale=scale),))
LAYER_NORM = Function("normalization", layer_norm, lambda g, scale: (normal(g, m, n_in), weights(g, scale, n_in)))

# Networks ------------------------------------------------------------------------------------------------------------


def network_arguments(generator: np.random.Generator, scale: float, n_in: int, n_hidden: int, n_out: int) -> tuple:
    """x and the parameters of two layers; bounds keep the textbook's logarithms of probabilities finite."""
    W1, b1 = layer(generator, scale, n_hidden, n_in)
    W2, b2 = uniform(generator, -0.5 * scale, 0.5 * scale, n_out, n_hidden), uniform(generator, -1.0, 1.0, n_out)
    return normal(generator, m, n_in), W1, b1, W2, b2


def regressor(x, W1, b1, W2, b2, y):
    """The mean squared error of two layers, tanh and linear."""
    a1 = jnp.tanh(x @ W1.T + b1)
    z2 = a1 @ W2.T + b2
    return squared_error(z2, y)


def regressor_rule(ct, x, W1, b1, W2, b2, y):
    """Backpropagation."""
    a1 = tanh_layer(x, W1, b1)
    delta2, dy = squared_error_rule(ct, dense(a1, W2, b2), y)
    d_a1, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    dx, dW1, db1 = tanh_layer_rule(d_a1, x, W1, b1)
    return dx, dW1, db1, dW2, db2, dy


def classifier(x, W1, b1, W2, b2, y):
    """The mean binary cross-entropy of two layers, tanh and sigmoid, as the textbook writes it."""
    a1 = jnp.tanh(x @ W1.T + b1)
    a2 = jax.nn.sigmoid(a1 @ W2.T + b2)
    return textbook_cross_entropy(a2, y)


def classifier_rule(ct, x, W1, b1, W2, b2, y):
    """Backpropagation; the sigmoid's derivative cancels against the cross-entropy's."""
    a1 = tanh_layer(x, W1, b1)
    delta2, _ = binary_cross_entropy_rule(ct, dense(a1, W2, b2), y)
    d_a1, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    dx, dW1, db1 = tanh_layer_rule(d_a1, x, W1, b1)
    return dx, dW1, db1, dW2, db2, None


REGRESSOR = Function(
    "composition",
    regressor,
    lambda g, scale: (*network_arguments(g, scale, n_in, n_hidden, n_out), normal(g, m, n_out)),
)
SQUARE_REGRESSOR = REGRESSOR._replace(
    arguments=lambda g, scale: (*network_arguments(g, scale, 4, 4, 4), normal(g, m, 4)),
)
CLASSIFIER = Function(
    "composition",
    classifier,
    lambda g, scale: (*network_arguments(g, scale, n_in, n_hidden, n_out), labels(g, 2, m, n_out)),
)


def rectifiers(x, W1, b1, W2, b2, W3):
    """Two hidden layers of rectifiers and a linear output."""
    a1 = jax.nn.relu(x @ W1.T + b1)
    a2 = jax.nn.relu(a1 @ W2.T + b2)
    return a2 @ W3.T


def rectifiers_rule(ct, x, W1, b1, W2, b2, W3):
    """Backpropagation; the mask of a layer comes from its own z."""
    z1 = dense(x, W1, b1)
    a1 = jax.nn.relu(z1)
    z2 = dense(a1, W2, b2)
    delta2 = (ct @ W3) * (z2 > 0)
    d_a1, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    return *dense_rule(d_a1 * (z1 > 0), x, W1, b1), dW2, db2, ct.T @ jax.nn.relu(z2)


def rectifiers_arguments(generator: np.random.Generator, scale: float) -> tuple:
    """Biases of mixed signs, different in the two layers, so that at every scale some units of each are off."""
    b1, b2 = (
        uniform(generator, 0.5, 1.0, 4) * jnp.asarray(signs, jnp.float32) for signs in ([1, -1, 1, -1], [1, 1, -1, -1])
    )
    W1, W2 = weights(generator, scale, 4, 4), weights(generator, scale, 4, 4)
    return normal(generator, m, 4), W1, b1, W2, b2, weights(generator, scale, n_out, 4)


RECTIFIERS = Function("composition", rectifiers, rectifiers_arguments)
