# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Backpropagation through whole networks: faults of courses, tutorials and small libraries."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    DENSE,
    RECTIFIERS,
    REGRESSOR,
    binary_cross_entropy_rule,
    dense,
    dense_rule,
    labels,
    layer,
    m,
    n_hidden,
    n_in,
    n_out,
    network_arguments,
    normal,
    rectifiers_rule,
    regressor_rule,
    squared_error,
    squared_error_rule,
    tanh_layer,
    uniform,
    weights,
)
from experiments.specimens.specimen import Catalogue
from jaxnet.activations import sigmoid, tanh

catalogue = Catalogue()
found = catalogue.found

# One layer -----------------------------------------------------------------------------------------------------------

LAYER = DENSE._replace(area="layer")


@found("kvfrans/notes#5", "scale", of=LAYER, mended=dense_rule)
def bias_gradient_averaged(ct, x, W, b):
    """The bias gradient is the mean over the examples, the weight gradient beside it the sum."""
    dx, dW, db = dense_rule(ct, x, W, b)
    return dx, dW, db / len(x)


@found("rust0258/Deeplearning.ai-Natural-Language-Processing-Specialization#64", "unknown", of=LAYER, mended=dense_rule)
def bias_gradient_summed_over_the_weight_gradient(ct, x, W, b):
    """The bias gradient is the sum over a row of δᵀ x: it has the inputs for a factor."""
    dx, dW, _ = dense_rule(ct, x, W, b)
    return dx, dW, dW.sum(axis=1)


def added(x, b):
    """A layer that only adds a bias."""
    return x + b


def added_rule(ct, x, b):
    """The bias receives the sum over the examples."""
    return ct, ct.sum(axis=0)


ADDED = Function("layer", added, lambda g, scale: (normal(g, m, n_in), normal(g, n_in)))


@found("mlpack/mlpack#3679", "missing_reduction", of=ADDED, mended=added_rule)
def bias_gradient_of_each_example(ct, x, b):
    """The bias gradient is the cotangent itself, right for a batch of one example alone."""
    return ct, ct


DECAY = 0.2


def penalized(x, W, b, y):
    """The squared error of a layer plus ½ λ ΣW²."""
    return squared_error(dense(x, W, b), y) + 0.5 * DECAY * (W**2).sum()


def penalized_rule(ct, x, W, b, y):
    """The layer's rule, and λW for the weights."""
    delta, dy = squared_error_rule(ct, dense(x, W, b), y)
    dx, dW, db = dense_rule(delta, x, W, b)
    return dx, dW + ct * DECAY * W, db, dy


PENALIZED = Function(
    "layer",
    penalized,
    lambda g, scale: (normal(g, m, n_in), *layer(g, scale, n_hidden, n_in), normal(g, m, n_hidden)),
)


@found("andersbll/nnet#4", "sign", of=PENALIZED, mended=penalized_rule)
def weight_decay_subtracted(ct, x, W, b, y):
    """The penalty's term is subtracted from the gradient, and the weights grow where they should shrink."""
    dx, dW, db, dy = penalized_rule(ct, x, W, b, y)
    return dx, dW - 2 * ct * DECAY * W, db, dy


def neuron(x, w, b, y):
    """The mean squared error of a single sigmoid unit."""
    return jnp.mean((jax.nn.sigmoid(x @ w + b) - y) ** 2)


def neuron_rule(ct, x, w, b, y):
    """δ = 2(a - y) a(1 - a)/m."""
    z = x @ w + b
    error = 2 * ct * (jax.nn.sigmoid(z) - y) / len(y)
    delta = error * sigmoid.derivative(z)
    return delta[:, None] * w, delta @ x, delta.sum(), -error


NEURON = Function(
    "layer",
    neuron,
    lambda g, scale: (normal(g, m, n_in), weights(g, scale, n_in), normal(g), uniform(g, 0.0, 1.0, m)),
)


@found("Open-Deep-ML/DML-OpenProblem#54", "scale", of=NEURON, mended=neuron_rule)
def two_of_the_square_left_out(ct, x, w, b, y):
    """The text says 2/n, and the solution multiplies by 1/n."""
    return neuron_rule(ct / 2, x, w, b, y)


# Two layers ----------------------------------------------------------------------------------------------------------


def sigmoid_network(x, W1, b1, W2, b2, y):
    """The mean squared error of two sigmoid layers."""
    return squared_error(jax.nn.sigmoid(dense(jax.nn.sigmoid(dense(x, W1, b1)), W2, b2)), y)


def sigmoid_network_rule(ct, x, W1, b1, W2, b2, y):
    """Backpropagation."""
    z1 = dense(x, W1, b1)
    a1 = jax.nn.sigmoid(z1)
    z2 = dense(a1, W2, b2)
    d_a2, dy = squared_error_rule(ct, jax.nn.sigmoid(z2), y)
    d_a1, dW2, db2 = dense_rule(d_a2 * sigmoid.derivative(z2), a1, W2, b2)
    return *dense_rule(d_a1 * sigmoid.derivative(z1), x, W1, b1), dW2, db2, dy


SIGMOID_NETWORK = Function(
    "network",
    sigmoid_network,
    lambda g, scale: (*network_arguments(g, scale, n_in, n_hidden, n_out), uniform(g, 0.0, 1.0, m, n_out)),
)


@found("Bot-Academy/NeuralNetworkFromScratch#3", "activation", of=SIGMOID_NETWORK, mended=sigmoid_network_rule)
def derivative_of_the_output_unit_missing(ct, x, W1, b1, W2, b2, y):
    """The output's δ is the difference from the label, without the sigmoid's derivative, for a squared error."""
    z1 = dense(x, W1, b1)
    a1 = jax.nn.sigmoid(z1)
    delta2, dy = squared_error_rule(ct, jax.nn.sigmoid(dense(a1, W2, b2)), y)
    d_a1, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    return *dense_rule(d_a1 * sigmoid.derivative(z1), x, W1, b1), dW2, db2, dy


@found("joelgrus/data-science-from-scratch#31", "extra_term", of=SIGMOID_NETWORK, mended=sigmoid_network_rule)
def hidden_layer_sees_the_updated_weights(ct, x, W1, b1, W2, b2, y):
    """The output layer's weights take their step before the hidden layer's δ is computed with them."""
    z1 = dense(x, W1, b1)
    a1 = jax.nn.sigmoid(z1)
    z2 = dense(a1, W2, b2)
    d_a2, dy = squared_error_rule(1, jax.nn.sigmoid(z2), y)
    delta2 = d_a2 * sigmoid.derivative(z2)
    _, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    d_a1 = delta2 @ (W2 - 0.5 * dW2)
    dx, dW1, db1 = dense_rule(d_a1 * sigmoid.derivative(z1), x, W1, b1)
    return tuple(ct * d for d in (dx, dW1, db1, dW2, db2, dy))


@found("benoitfragit/libBrain#78", "activation", of=SIGMOID_NETWORK, mended=sigmoid_network_rule)
def derivative_taken_at_the_activation(ct, x, W1, b1, W2, b2, y):
    """The derivative is a function of the weighted sum, and the value passed to it is the activation."""
    a1 = jax.nn.sigmoid(dense(x, W1, b1))
    a2 = jax.nn.sigmoid(dense(a1, W2, b2))
    d_a2, dy = squared_error_rule(ct, a2, y)
    d_a1, dW2, db2 = dense_rule(d_a2 * sigmoid.derivative(a2), a1, W2, b2)
    return *dense_rule(d_a1 * sigmoid.derivative(a1), x, W1, b1), dW2, db2, dy


TANH_NETWORK = REGRESSOR._replace(area="network")


@found("arthurdouillard/deepcourse#9", "activation", of=TANH_NETWORK, mended=regressor_rule)
def hidden_bias_behind_the_activation(ct, x, W1, b1, W2, b2, y):
    """The hidden bias receives the gradient of the activation, not that of the sum to which it is added."""
    a1 = tanh_layer(x, W1, b1)
    delta2, _ = squared_error_rule(ct, dense(a1, W2, b2), y)
    dx, dW1, _, dW2, db2, dy = regressor_rule(ct, x, W1, b1, W2, b2, y)
    return dx, dW1, (delta2 @ W2).sum(axis=0), dW2, db2, dy


def logistic_network(x, W1, b1, W2, b2, y):
    """The mean binary cross-entropy of two sigmoid layers, of the last layer's logits."""
    z2 = dense(jax.nn.sigmoid(dense(x, W1, b1)), W2, b2)
    return jnp.mean(jnp.sum(jax.nn.softplus(z2) - y * z2, axis=-1))


def logistic_network_rule(ct, x, W1, b1, W2, b2, y):
    """Backpropagation from δ = (σ(z) - y)/m."""
    z1 = dense(x, W1, b1)
    a1 = jax.nn.sigmoid(z1)
    delta2, _ = binary_cross_entropy_rule(ct, dense(a1, W2, b2), y)
    d_a1, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    return *dense_rule(d_a1 * sigmoid.derivative(z1), x, W1, b1), dW2, db2, None


LOGISTIC_NETWORK = Function(
    "network",
    logistic_network,
    lambda g, scale: (*network_arguments(g, scale, n_in, n_hidden, n_out), labels(g, 2, m, n_out)),
)


@found("hunkim/DeepLearningZeroToAll#173", "scale", of=LOGISTIC_NETWORK, mended=logistic_network_rule)
def weight_gradients_not_averaged(ct, x, W1, b1, W2, b2, y):
    """The cost is a mean, and the weight gradients are sums that grow with the number of examples."""
    dx, dW1, db1, dW2, db2, _ = logistic_network_rule(ct, x, W1, b1, W2, b2, y)
    return dx, len(y) * dW1, db1, len(y) * dW2, db2, None


# Three layers and graphs ---------------------------------------------------------------------------------------------

THREE_LAYERS = RECTIFIERS._replace(area="network")


@found("hanbt/learn_dl#1", "missing_factor", of=THREE_LAYERS, mended=rectifiers_rule)
def weights_of_the_layer_itself(ct, x, W1, b1, W2, b2, W3):
    """δ of layer i is formed with the weights of layer i, not with those of the layer behind it."""
    z1 = dense(x, W1, b1)
    a1 = jax.nn.relu(z1)
    z2 = dense(a1, W2, b2)
    delta2 = (ct @ W3) * (z2 > 0)
    _, dW2, db2 = dense_rule(delta2, a1, W2, b2)
    delta1 = (delta2 @ W1) * (z1 > 0)
    return *dense_rule(delta1, x, W1, b1), dW2, db2, ct.T @ jax.nn.relu(z2)


def branching(x, W):
    """A node that is used twice: 2h + h², with h = tanh(x Wᵀ)."""
    h = jnp.tanh(x @ W.T)
    return 2 * h + h**2


def branching_rule(ct, x, W, of_first=1, of_second=1):
    """The node's gradient is the sum of what its two uses send back."""
    z = x @ W.T
    d_h = of_first * 2 * ct + of_second * 2 * ct * jnp.tanh(z)
    delta = d_h * tanh.derivative(z)
    return delta @ W, delta.T @ x


BRANCHING = Function("graph", branching, lambda g, scale: (normal(g, m, n_in), weights(g, scale, n_hidden, n_in)))


@found("TrenTorch/TrenTorch#182", "partial", of=BRANCHING, mended=branching_rule)
def second_use_of_a_node_dropped(ct, x, W):
    """A node forgets its rule once it has been run, and what its second use sends back goes no further."""
    return branching_rule(ct, x, W, of_second=0)


@found("sebgao/cTensor#5", "accumulation", of=BRANCHING, mended=branching_rule)
def first_use_of_a_node_sent_back_twice(ct, x, W):
    """A node sends back at each visit what it has accumulated: the first share goes on again with the second."""
    return branching_rule(ct, x, W, of_first=2)
