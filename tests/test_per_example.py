"""Per-example gradients and norms, and the gradient noise scale: against autodiff, closed forms, bad input."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import (
    Layer,
    cost,
    dense,
    elementwise,
    gradient_noise_scale,
    mlp,
    relu,
    repeat,
    serial,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.initializers import zeros
from jaxnet.readings import per_example_gradient_norms, per_example_gradients
from tests.changed import Written
from tests.compare import WIDEST, assert_close, random_like

M = 8
HIDDEN = serial(dense(6, 6), elementwise(tanh))
NETWORK = serial(dense(4, 6), elementwise(relu), repeat(HIDDEN, 3), dense(6, 5))


@pytest.fixture(scope="module")
def deep():
    """A network with every kind of composite, a batch for it, and the gradient of each example."""
    params = jax.tree.map(lambda leaf: leaf / 2, random_like(jax.eval_shape(NETWORK.init, jax.random.key(0))))
    x = random_like(jax.ShapeDtypeStruct((M, 4), WIDEST), seed=1)
    y = jnp.arange(M) % 5
    return NETWORK, params, x, y, jax.jit(per_example_gradients(NETWORK, softmax_cross_entropy))(params, x, y)


def test_per_example_gradients_equal_vmapped_autodiff(deep):
    network, params, x, y, gradients = deep
    reference = jax.jit(jax.vmap(jax.grad(cost(network, softmax_cross_entropy)), in_axes=(None, 0, 0)))
    assert_close(gradients, reference(params, x, y), 1e-13)


def test_per_example_norms_equal_the_norms_of_the_gradients(deep):
    network, params, x, y, gradients = deep
    squares = sum(jnp.square(leaf).reshape(M, -1).sum(1) for leaf in jax.tree.leaves(gradients))
    norms = per_example_gradient_norms(network, softmax_cross_entropy)
    assert_close(norms(params, x, y), jnp.sqrt(squares), 1e-14)


def test_per_example_norms_form_no_gradient_of_an_example():
    """Nothing as large as one weight gradient for each example exists in the compiled program."""
    network = mlp((50, 40, 30, 10))
    params = jax.eval_shape(network.init, jax.random.key(0))
    x, y = jax.ShapeDtypeStruct((20, 50), WIDEST), jax.ShapeDtypeStruct((20,), "int32")
    compiled = jax.jit(per_example_gradient_norms(network, softmax_cross_entropy)).lower(params, x, y).compile()
    memory: Any = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 20 * 50 * 40 * 8 / 4


def explicit(gradients):
    """Each example's gradient as a row."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradients)], axis=1)


@pytest.mark.float64
def test_noise_scale_equals_that_of_explicit_gradients(deep):
    """tr(Σ) as the sum of each coordinate's sample variance, from autodiff."""
    network, params, x, y, _ = deep
    grad = jax.jit(jax.vmap(jax.grad(cost(network, softmax_cross_entropy)), in_axes=(None, 0, 0)))
    rows = explicit(grad(params, x, y))
    noise = rows.var(axis=0, ddof=1).sum()
    square = np.square(rows.mean(axis=0)).sum() - noise / M
    measured = jax.jit(gradient_noise_scale(network, softmax_cross_entropy))(params, x, y)
    np.testing.assert_allclose(measured, [square, noise, noise / square], rtol=1e-12)


@pytest.mark.float64
def test_noise_scale_is_unbiased(deep):
    """The mean over all pairs that can be drawn from 8 examples is |G|² and tr(Σ) of those 8, exactly."""
    network, params, x, y, gradients = deep
    first, second = (index.ravel() for index in np.indices((M, M)))
    pairs = np.stack([first, second], axis=1)
    measure = jax.jit(jax.vmap(gradient_noise_scale(network, softmax_cross_entropy), in_axes=(None, 0, 0)))
    estimates = measure(params, x[pairs], y[pairs])
    rows = explicit(gradients)
    np.testing.assert_allclose(estimates.noise.mean(), rows.var(axis=0).sum(), rtol=1e-12)
    np.testing.assert_allclose(estimates.squared_gradient.mean(), np.square(rows.mean(axis=0)).sum(), rtol=1e-12)


@pytest.mark.float64
def test_noise_scale_of_a_mean_is_variance_over_squared_mean():
    """One bias that learns the mean of y: g(i) = -y(i), so that B_simple = s²/(ȳ² - s²/m)."""
    network, y = dense(1, 1, zeros), np.array([1.0, 2.0, 4.0, 5.0])
    measured = gradient_noise_scale(network, squared_error)(network.init(jax.random.key(0)), jnp.zeros((4, 1)), y)
    np.testing.assert_allclose(measured, [9 - 10 / 12, 10 / 3, (10 / 3) / (9 - 10 / 12)], rtol=1e-14)


def test_noise_scale_forms_no_gradient_of_an_example_nor_of_the_whole_stack():
    network = serial(repeat(serial(dense(50, 50), elementwise(tanh)), 30), dense(50, 10))
    params = jax.eval_shape(network.init, jax.random.key(0))
    x, y = jax.ShapeDtypeStruct((20, 50), WIDEST), jax.ShapeDtypeStruct((20,), "int32")
    compiled = jax.jit(gradient_noise_scale(network, softmax_cross_entropy)).lower(params, x, y).compile()
    memory: Any = compiled.memory_analysis()
    caches, gradient = 30 * 2 * 20 * 50 * 8, 30 * 50 * 50 * 8
    assert memory.temp_size_in_bytes < caches + gradient / 2


def test_same_network_gives_the_same_function():
    for factory in (per_example_gradients, per_example_gradient_norms, gradient_noise_scale):
        assert factory(mlp((5, 4, 1)), squared_error) == factory(mlp((5, 4, 1)), squared_error)


@pytest.mark.parametrize("function", [per_example_gradients, per_example_gradient_norms, gradient_noise_scale])
def test_per_example_functions_refuse_what_the_cost_refuses(function, key):
    network = mlp((5, 3))
    evaluate, params = function(network, softmax_cross_entropy), network.init(key)
    with pytest.raises(ValueError, match="labels must lie in 0 to 2, got values from 3 to 3"):
        evaluate(params, jnp.ones((2, 5)), jnp.array([3, 3]))
    with pytest.raises(ValueError, match=r"need labels of shape \(2,\), got \(3,\)"):
        evaluate(params, jnp.ones((2, 5)), jnp.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"with m at least 1, got \(0, 5\)"):
        evaluate(params, jnp.ones((0, 5)), jnp.zeros(0, int))


def test_norms_of_a_leaf_without_a_closed_form_are_those_of_its_gradients(key):
    scale = Written(
        lambda key: jnp.ones(()), lambda s, a: (s * a, a), lambda s, a, delta: (s * delta, (a * delta).sum()), "scale"
    )
    x, y = random_like(jax.ShapeDtypeStruct((3, 1), WIDEST)), jnp.ones((3, 1), WIDEST)
    params = jnp.asarray(1.5, WIDEST)
    expected = jnp.abs(per_example_gradients(scale, squared_error)(params, x, y))
    assert_close(per_example_gradient_norms(scale, squared_error)(params, x, y), expected, 1e-14)


@pytest.mark.parametrize("function", [per_example_gradients, per_example_gradient_norms, gradient_noise_scale])
def test_one_example_without_a_batch_is_refused(function, key):
    network = mlp((5, 1))
    with pytest.raises(ValueError, match=r"a batch of shape \(m, n_in\) with m at least 1, got \(5,\)"):
        function(network, squared_error)(network.init(key), jnp.ones(5), jnp.ones(1))


def test_norms_of_examples_with_several_positions_are_those_of_their_gradients(deep):
    network, params, *_ = deep
    x = random_like(jax.ShapeDtypeStruct((M, 3, 4), WIDEST), seed=1)
    y = jnp.arange(M * 3).reshape(M, 3) % 5
    gradients = jax.jit(per_example_gradients(network, softmax_cross_entropy))(params, x, y)
    squares = sum(jnp.square(leaf).reshape(M, -1).sum(1) for leaf in jax.tree.leaves(gradients))
    norms = jax.jit(per_example_gradient_norms(network, softmax_cross_entropy))
    assert_close(norms(params, x, y), jnp.sqrt(squares), 1e-14)


def test_coupled_examples_have_no_gradients_of_their_own(key):
    @dataclasses.dataclass(frozen=True)
    class Centred(Layer):
        couples_examples = True

        def init(self, key):
            return ()

        def forward(self, params, inputs):
            return inputs - inputs.mean(0), ()

        def backward(self, params, cache, grad_outputs):
            return grad_outputs - grad_outputs.mean(0), ()

    network = serial(dense(5, 1), Centred())
    for function in (per_example_gradients, per_example_gradient_norms, gradient_noise_scale):
        with pytest.raises(ValueError, match=r"Centred\(\)\) couples the examples of a batch"):
            function(network, squared_error)(network.init(key), jnp.ones((3, 5)), jnp.ones((3, 1)))


def test_noise_of_one_example_is_refused(key):
    network = mlp((5, 1))
    with pytest.raises(ValueError, match="the gradient noise scale needs at least 2 examples, got 1"):
        gradient_noise_scale(network, squared_error)(network.init(key), jnp.ones((1, 5)), jnp.ones(1))
