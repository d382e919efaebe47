"""Networks: the lecture's formulas, the gradient against autodiff, bad input."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from jaxnet import (
    binary_cross_entropy,
    cost,
    cost_and_gradient,
    dense,
    elementwise,
    is_correct,
    mlp,
    predict,
    relu,
    repeat,
    serial,
    sigmoid,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.activations import identity
from jaxnet.layers import Dense
from jaxnet.losses import squared_error_through, textbook_cross_entropy
from jaxnet.readings import per_example_gradients
from tests.compare import WIDEST, assert_close, random_like

M = 8


def a_case(network, loss, n_in, n_out, dtype=WIDEST):
    """Parameters, biases too, inputs and targets."""
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf / 2, random_like(shapes))
    x, y = random_like((jax.ShapeDtypeStruct((M, n_in), dtype), jax.ShapeDtypeStruct((M, n_out), dtype)), seed=1)
    if loss is softmax_cross_entropy:
        y = y.argmax(axis=1)
    if loss in (binary_cross_entropy, textbook_cross_entropy):
        y = (y > 0).astype(dtype)
    return params, x, y


# Each loss once, each depth once, with and without `repeat`; at float64 and float32.
CASES = {
    "logistic regression": ((5, 1), relu, identity, binary_cross_entropy),
    "the lecture's network": ((12, 3, 2, 1), sigmoid, identity, binary_cross_entropy),
    "on probabilities": ((12, 3, 2, 1), sigmoid, sigmoid, textbook_cross_entropy),
    "classes": ((6, 8, 7, 5), relu, identity, softmax_cross_entropy),
    "a vector": ((4, 9, 3), jaxnet.gelu, identity, squared_error),
    "a price": ((4, 9, 2), jaxnet.activations.silu, identity, squared_error_through(relu)),
    "a reward": ((4, *[6] * 8, 1), tanh, identity, squared_error_through(tanh)),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_autodiff_of_the_cost(name, dtype):
    sizes, hidden, output, loss = CASES[name]
    network = mlp(sizes, hidden, output, dtype=dtype)
    params, x, y = a_case(network, loss, sizes[0], sizes[-1], dtype)
    manual, automatic = cost_and_gradient(network, loss), jax.value_and_grad(cost(network, loss))
    actual, expected = jax.jit(lambda *args: (manual(*args), automatic(*args)))(params, x, y)
    assert_close(actual, expected, {"float64": 1e-13, "float32": 1e-5}[dtype])


def test_gradient_of_the_3_2_1_network_is_the_lectures():
    """Every formula of the derivation for one example, in NumPy."""
    network = mlp((12, 3, 2, 1), sigmoid)
    params, x, _ = a_case(network, binary_cross_entropy, 12, 1)
    x, y = x[0], 1.0
    (w1, b1), _, (w2, b2), _, (w3, b3) = jax.tree.map(np.asarray, params)

    def g(z):
        return 1 / (1 + np.exp(-z))

    a1 = g(w1 @ x + b1)
    a2 = g(w2 @ a1 + b2)
    a3 = g(w3 @ a2 + b3)
    loss = -(y * np.log(a3) + (1 - y) * np.log(1 - a3))
    d3 = a3 - y
    d2 = w3.T @ d3 * a2 * (1 - a2)
    d1 = w2.T @ d2 * a1 * (1 - a1)
    outer: Any = np.outer
    expected = (Dense(outer(d1, x), d1), (), Dense(outer(d2, a1), d2), (), Dense(outer(d3, a2), d3))
    value, gradient = cost_and_gradient(network, binary_cross_entropy)(params, x, jnp.asarray(y))
    np.testing.assert_allclose(value, loss[0], rtol=1e-14)
    assert_close(gradient, expected, 1e-13)
    np.testing.assert_allclose(predict(network, binary_cross_entropy)(params, x), a3, rtol=1e-14)


@pytest.fixture(scope="module")
def deep():
    """A network with every kind of composite, a batch for it, and one pass of everything."""
    hidden = serial(dense(6, 6), elementwise(tanh))
    network = serial(dense(4, 6), elementwise(relu), repeat(hidden, 3), dense(6, 5))
    params, x, y = a_case(network, softmax_cross_entropy, 4, 5)
    return network, params, x, y, jax.jit(per_example_gradients(network, softmax_cross_entropy))(params, x, y)


def test_cost_and_gradient_are_means_over_examples(deep):
    network, params, x, y, gradients = deep
    costs = [cost(network, softmax_cross_entropy)(params, x[i], y[i]) for i in range(M)]
    mean = jax.tree.map(lambda leaf: leaf.mean(0), gradients)
    assert_close(cost_and_gradient(network, softmax_cross_entropy)(params, x, y), (np.mean(costs), mean), 1e-14)


def test_same_network_gives_the_same_functions():
    assert mlp([5, 4, 1]) == mlp((5, 4, 1))
    for factory in (cost, cost_and_gradient, predict, per_example_gradients):
        assert factory(mlp((5, 4, 1)), squared_error) == factory(mlp((5, 4, 1)), squared_error)


def test_mlp_weights_follow_the_activation():
    """Variance 2/n_in before a rectifier, 1/n_in elsewhere; zero biases."""
    for hidden, variance in [(relu, 2), (jaxnet.activations.leaky_relu, 2), (tanh, 1), (sigmoid, 1), (identity, 1)]:
        first, _, last = mlp((400, 300, 200), hidden).init(jax.random.key(0))
        assert first.weight.var() == pytest.approx(variance / 400, rel=0.02)
        assert last.weight.var() == pytest.approx(1 / 300, rel=0.02)
        assert not first.bias.any()
        assert not last.bias.any()


def test_identity_network_is_one_affine_map():
    """W[3]W[2]W[1] x + (W[3]W[2]b[1] + W[3]b[2] + b[3])."""
    network = mlp((4, 5, 6, 2), identity)
    params, x, _ = a_case(network, squared_error, 4, 2)
    (w1, b1), _, (w2, b2), _, (w3, b3) = params
    x = x[0]
    expected = w3 @ w2 @ w1 @ x + (w3 @ w2 @ b1 + w3 @ b2 + b3)
    assert_close(network.forward(params, x)[0], expected, 1e-14)


@pytest.mark.parametrize("scale", [1.5, 0.5])
def test_scaled_identity_network_grows_or_shrinks_exponentially(scale):
    network = serial(repeat(dense(2, 2, jaxnet.initializers.scaled_identity(scale)), 11))
    x = jnp.array([1.0, -3.0])
    assert_close(network.forward(network.init(jax.random.key(0)), x)[0], scale**11 * x, 1e-15)


@pytest.mark.usefixtures("nans_allowed")
def test_is_correct_reads_classes_and_probabilities():
    classes = jnp.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    assert is_correct(classes, jnp.array([1, 2])).tolist() == [True, False]
    assert not is_correct(jnp.full((2, 3), jnp.nan), jnp.array([0, 0])).any()
    assert not is_correct(jnp.full((2, 1), jnp.nan), jnp.array([0, 0])).any()
    probabilities = jnp.array([[0.7], [0.2], [0.6]])
    for y in (jnp.array([1, 0, 0]), jnp.array([[1.0], [0.0], [0.0]])):
        assert is_correct(probabilities, y).tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"needs labels of shape \(3,\), got \(2,\)"):
        is_correct(probabilities, jnp.array([1, 0]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((5,), ValueError, r"at least two entries, inputs and outputs, got \(5,\)"),
        ((), ValueError, "at least two entries"),
        ((5, 0, 1), ValueError, "every size must be at least 1, got 0"),
        ((5, -3), ValueError, "at least 1"),
        ((5, 2.0), TypeError, r"every size must be an integer, got 2\.0"),
    ],
)
def test_mlp_refuses_sizes_that_make_no_network(sizes, error, message):
    with pytest.raises(error, match=message):
        mlp(sizes)


@pytest.mark.parametrize("function", [cost, cost_and_gradient])
def test_cost_refuses_bad_batches(function, key):
    network = mlp((5, 4, 1))
    evaluate, params = function(network, binary_cross_entropy), network.init(key)
    x = jnp.ones((3, 5))
    with pytest.raises(ValueError, match=r"inputs of shape \(\.\.\., 5\), got \(3, 4\)"):
        evaluate(params, jnp.ones((3, 4)), jnp.ones(3))
    with pytest.raises(ValueError, match="x has no examples"):
        evaluate(params, jnp.ones((0, 5)), jnp.ones(0))
    with pytest.raises(ValueError, match=r"outputs of shape \(3, 1\) need targets of the same shape, got \(2,\)"):
        evaluate(params, x, jnp.ones(2))
    with pytest.raises(ValueError, match=r"outputs of shape \(3, 1\) need targets of the same shape, got \(1, 3\)"):
        evaluate(params, x, jnp.ones((1, 3)))
    column = evaluate(params, x, jnp.ones((3, 1)))
    assert_close(evaluate(params, x, jnp.ones(3)), column, 0)
