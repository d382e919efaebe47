"""Products in bfloat16, everything else in float32: as near to the truth as automatic differentiation gets."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from jaxnet.readings import in_precision
from tests.compare import assert_close

LOSS = jaxnet.softmax_cross_entropy
LAYER = jaxnet.serial(jaxnet.dense(16, 16, dtype="float32"), jaxnet.elementwise(jaxnet.tanh))
NETWORK = jaxnet.serial(
    jaxnet.dense(8, 16, dtype="float32"), jaxnet.repeat(LAYER, 3), jaxnet.dense(16, 4, dtype="float32")
)
NARROW = in_precision(NETWORK, jnp.bfloat16)


@pytest.fixture(scope="module")
def point():
    x = jax.random.normal(jax.random.key(1), (64, 8), "float32")
    return NETWORK.init(jax.random.key(0)), x, jnp.arange(64) % 4


def distance(a, b):
    """The largest relative distance of a leaf."""
    norms = jax.tree.map(lambda a, b: np.linalg.norm(np.subtract(a, b, dtype=float)) / np.linalg.norm(b), a, b)
    return max(jax.tree.leaves(norms))


def test_gradient_is_as_near_to_the_truth_as_that_of_autodiff(point):
    truth = jaxnet.cost_and_gradient(NETWORK, LOSS)(*point)[1]
    cost, gradient = jax.jit(jaxnet.cost_and_gradient(NARROW, LOSS))(*point)
    by_autodiff = jax.jit(jax.grad(jaxnet.cost(NARROW, LOSS)))(*point)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((cost, gradient))} == {"float32"}
    assert 1e-4 < distance(gradient, truth) < 1.25 * distance(by_autodiff, truth)


def test_gradients_of_weight_and_bias_are_not_rounded_to_the_narrow_dtype(point):
    """bfloat16, which has 8 bits, would lose the second of the two examples."""
    layer = in_precision(jaxnet.dense(1, 1, jaxnet.initializers.zeros, dtype="float32"), jnp.bfloat16)
    params = layer.init(jax.random.key(0))
    a = jnp.array([[1.0], [2.0**-3]], "float32")
    _, cache = layer.forward(params, a)
    _, gradient = layer.backward(params, cache, jnp.array([[1.0], [2.0**-10]], "float32"))
    assert float(gradient.weight[0, 0]) == 1 + 2.0**-13
    assert float(gradient.bias[0]) == 1 + 2.0**-10


def test_products_are_in_the_narrow_dtype(point):
    program = jax.jit(jaxnet.cost_and_gradient(NARROW, LOSS)).lower(*point).as_text()
    operands = re.findall(r"stablehlo\.dot_general.* : \((.*)\) ->", program)
    assert len(operands) >= 8
    assert all(of.count("xbf16>") == 2 for of in operands)


@pytest.mark.usefixtures("nans_allowed")
def test_layers_can_still_be_mapped(point):
    """Every layer is observed, and what is observed changes nothing."""
    optimizer = jaxnet.gradient_descent(0.1)
    state = jaxnet.init_state(NARROW, optimizer, jax.random.key(0))
    stepped, _, observed = jaxnet.observed_step(NARROW, LOSS, optimizer, state, *point[1:])
    assert len(jaxnet.layer_names(NARROW)) == len(jaxnet.layer_names(NETWORK)) == observed.mean.shape[-1]
    expected, _ = jaxnet.training.train_step(NARROW, LOSS, optimizer, state, *point[1:])
    assert_close(stepped.params, expected.params, 1e-6)


def test_outputs_of_integers_are_not_integers(point):
    params, x, _ = point
    pictures = jnp.asarray(20 * jnp.abs(x), "uint8")
    outputs, _ = NARROW.forward(params, pictures)
    expected, _ = NARROW.forward(params, pictures.astype("float32"))
    assert outputs.dtype == "float32"
    np.testing.assert_array_equal(outputs, expected)


def test_same_dtype_changes_nothing(point):
    wide = in_precision(NETWORK, jnp.float32)
    assert_close(jaxnet.cost_and_gradient(wide, LOSS)(*point), jaxnet.cost_and_gradient(NETWORK, LOSS)(*point), 1e-6)


def test_fit_trains_float32_parameters(point):
    _, x, y = point
    options = {"key": jax.random.key(0), "batch_size": None, "epochs": 30}
    narrow, narrow_history = jaxnet.fit(NETWORK, LOSS, jaxnet.adam(0.01), x, y, compute_dtype=jnp.bfloat16, **options)
    _, history = jaxnet.fit(NETWORK, LOSS, jaxnet.adam(0.01), x, y, **options)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow.params)} == {"float32"}
    np.testing.assert_allclose(narrow_history.cost, history.cost, rtol=0.03)
    assert np.any(narrow_history.cost != history.cost)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="in_precision needs a floating-point dtype, got int8"):
        in_precision(NETWORK, jnp.int8)
