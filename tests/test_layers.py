"""Every layer's backward is the vector-Jacobian product of its forward, alone and composed."""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import (
    concatenate,
    dense,
    elementwise,
    relu,
    repeat,
    residual,
    serial,
    tanh,
)
from jaxnet.activations import ALL as ACTIVATIONS
from jaxnet.activations import elu_with, leaky_relu_with
from jaxnet.initializers import constant, he_normal, lecun_normal
from jaxnet.layers import ALL as LAYERS
from jaxnet.layers import Sample, dense_transpose, map_layers, tied
from tests.changed import Changed
from tests.compare import WIDEST, assert_close, random_like
from tests.layer_points import SAMPLES, Point, at_a_point, by_autodiff, forward, is_float

TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


ONE_AXIS = [(name, dtype, (7,)) for name in SAMPLES for dtype in TOLERANCE]
OTHER_BATCHES = [(name, "float64", batch) for name in LAYERS for batch in [(), (2, 3)] if name != "batch_norm" or batch]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("name", "dtype", "batch"), [*ONE_AXIS, *OTHER_BATCHES], ids=str)
def test_backward_equals_autodiff_of_forward(name, dtype, batch):
    point = at_a_point(SAMPLES[name], dtype, batch)

    @jax.jit
    def both(params, inputs, outputs, cache, cotangent):
        here = Point(point.layer, params, inputs, outputs, cache, cotangent)
        return point.layer.backward(params, cache, cotangent), by_autodiff(here)

    found, expected = both(*point[1:])
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "nested"])
@pytest.mark.float64
def test_backward_leaves_a_second_order_taylor_remainder(name):
    """f(x + hv) - f(x) - h⟨g, v⟩ falls like h²: independent of autodiff."""
    layer, params, inputs, outputs, cache, cotangent = at_a_point(SAMPLES[name], WIDEST, (7,))
    grad_inputs, grad_params = layer.backward(params, cache, cotangent)
    point, gradient = (params, inputs), (grad_params, jnp.zeros_like(inputs) if grad_inputs is None else grad_inputs)
    direction = jax.tree.map(lambda leaf: leaf if is_float(leaf) else jnp.zeros_like(leaf), random_like(point, seed=9))

    both = list(zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))

    def remainder(h):
        moved = jax.tree.map(lambda a, v: a + h * v if is_float(a) else a, point, direction)
        change = ((forward(layer, *moved)[0] - outputs) * cotangent).sum()
        slope = sum((g * v).sum() for g, v in both if is_float(v))
        return abs(float(change - h * slope)), abs(float(h * slope))

    (coarse, scale), (fine, _) = remainder(1e-3), remainder(1e-4)
    if coarse > 1e-12:  # piecewise linear layers leave none at all
        assert 80 < coarse / fine < 120
    assert coarse < 0.1 * scale


@pytest.mark.parametrize("name", ["serial", "repeat"])
def test_batch_gradient_is_the_sum_over_examples(name):
    layer, params, inputs, _, cache, cotangent = at_a_point(SAMPLES[name], WIDEST, (7,))

    def one(inputs, cotangent):
        _, cache = layer.forward(params, inputs)
        return layer.backward(params, cache, cotangent)

    grad_inputs, grad_params = jax.vmap(one)(inputs, cotangent)
    summed = jax.tree.map(lambda leaf: leaf.sum(0), grad_params)
    assert_close(layer.backward(params, cache, cotangent), (grad_inputs, summed), 1e-14)


@pytest.mark.parametrize("name", ["serial", "nested"])
def test_jit_and_vmap_over_parameters_equal_eager(name):
    layer = SAMPLES[name].make(WIDEST)
    points = [at_a_point(SAMPLES[name], WIDEST, (3,), i) for i in range(4)]

    def passes(params, inputs, cotangent):
        outputs, cache = layer.forward(params, inputs)
        return outputs, layer.backward(params, cache, cotangent)

    arguments = [(point.params, point.inputs, point.cotangent) for point in points]
    eager = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(passes(*point) for point in arguments))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arguments)
    assert_close(jax.jit(jax.vmap(passes))(*stacked), eager, 1e-14)


def test_dense_matches_the_lecture_on_one_example(key):
    """z = W a + b; ∂L/∂W = δ aᵀ, ∂L/∂b = δ, ∂L/∂a = Wᵀ δ, in NumPy."""
    layer = dense(3, 2)
    params, a, delta = layer.init(key), jnp.array([1.0, -2.0, 3.0]), jnp.array([0.5, -1.0])
    z, cache = layer.forward(params, a)
    weight, bias = np.asarray(params.weight), np.asarray(params.bias)
    np.testing.assert_allclose(z, weight @ np.asarray(a) + bias, rtol=1e-15)
    grad_a, (grad_weight, grad_bias) = layer.backward(params, cache, delta)
    np.testing.assert_allclose(grad_weight, np.outer(delta, a), rtol=1e-15)
    np.testing.assert_allclose(grad_bias, delta)
    np.testing.assert_allclose(grad_a, weight.T @ np.asarray(delta), rtol=1e-15)


def test_dense_weight_gradient_is_one_matrix_product():
    layer, params, _, _, cache, cotangent = at_a_point(SAMPLES["dense"], WIDEST, (7,))
    program = jax.jit(layer.backward).lower(params, cache, cotangent).as_text()
    assert program.count("dot_general") == 2  # Wᵀ δ and δ aᵀ


@pytest.mark.float64
def test_dense_gradients_keep_the_dtype_of_the_parameters(key):
    with jax.numpy_dtype_promotion("standard"):
        layer = dense(4, 3, dtype="float32")
        params = layer.init(key)
        outputs, cache = layer.forward(params, jnp.ones((5, 4), "float64"))
        _, gradient = layer.backward(params, cache, outputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


def test_elementwise_caches_only_what_the_derivative_reads():
    z = jnp.array([-1.0, 2.0])
    for activation in ACTIVATIONS:
        outputs, cache = elementwise(activation).forward((), z)
        assert cache is (outputs if activation.reads == "output" else z)


def test_repeat_equals_serial_with_the_same_parameters():
    layer = serial(dense(4, 4), elementwise(tanh))
    stack, chain = repeat(layer, 5), serial(*[layer] * 5)
    _, params, inputs, _, cache, cotangent = at_a_point(Sample(lambda dtype: stack, (4,)), WIDEST, (7,))
    unstacked = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(5))
    outputs, chain_cache = chain.forward(unstacked, inputs)
    grad_inputs, grad_params = chain.backward(unstacked, chain_cache, cotangent)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grad_params)
    assert_close(stack.forward(params, inputs)[0], outputs, 1e-14)
    assert_close(stack.backward(params, cache, cotangent), (grad_inputs, stacked), 1e-14)


def test_repeat_draws_different_parameters_for_each_layer(key):
    weights = repeat(dense(4, 4), 3).init(key).weight
    assert weights.shape == (3, 4, 4)
    assert len(np.unique(weights)) == weights.size


def test_repeat_program_does_not_grow_with_depth():
    def lines(times):
        layer = repeat(serial(dense(4, 4), elementwise(tanh)), times)
        shapes = jax.eval_shape(layer.init, jax.random.key(0)), jax.ShapeDtypeStruct((7, 4), WIDEST)
        cotangent, cache = jax.eval_shape(layer.forward, *shapes)
        program = jax.jit(layer.backward).lower(shapes[0], cache, cotangent).as_text()
        return len(program.splitlines())

    assert lines(10) == lines(1000)


def test_factories_build_the_same_layer_once():
    assert dense(4, 3) == dense(4, n_out=3, initializer=lecun_normal) != dense(4, 3, he_normal)
    assert dense(4, 3, dtype="float32") == dense(4, 3, dtype=jnp.float32) != dense(4, 3, dtype="bfloat16")
    layer = serial(dense(4, 4), elementwise(leaky_relu_with(0.2)))
    assert serial(dense(4, 4), elementwise(leaky_relu_with(0.2))) == layer
    assert hash(serial(dense(4, 4), elementwise(leaky_relu_with(0.2)))) == hash(layer)
    assert serial(dense(4, 4), elementwise(leaky_relu_with(0.3))) != layer
    assert repeat(layer, 3) == repeat(layer, 3) != repeat(layer, 2)
    assert dense(4, 3, constant(0.1)) == dense(4, 3, constant(0.1)) != dense(4, 3, constant(0.2))


def test_layers_pickle_and_say_how_they_are_made():
    layer = serial(dense(4, 4, he_normal), elementwise(elu_with(0.5)), residual(dense(4, 4)), repeat(dense(4, 4), 2))
    assert hash(layer) == hash(pickle.loads(pickle.dumps(layer)))
    assert pickle.loads(pickle.dumps(layer)) == layer
    expected = "serial(dense(4, 4, initializer=he_normal), elementwise(elu(0.5)), residual(dense(4, 4)), "
    assert repr(layer) == expected + "repeat(dense(4, 4), 2))"


def test_layer_in_another_process_has_another_hash_of_its_own():
    """Hashes of strings differ from process to process: what is pickled must not carry its own along."""
    layer = dense(4, 3)
    assert hash(layer) == hash(dense(4, 3))
    assert "_hash" not in layer.__getstate__()


def test_program_compiled_for_a_network_serves_an_equal_one(key):
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(network, params, x):
        traced.append(network)
        return network.forward(params, x)[0]

    for _ in range(2):
        network = serial(dense(4, 3), elementwise(leaky_relu_with(0.2)))
        run(network, network.init(key), jnp.ones((2, 4)))
    assert len(traced) == 1


def test_map_layers_rebuilds_every_composite_around_transformed_leaves():
    network, params, _, _, cache, cotangent = at_a_point(SAMPLES["nested"], WIDEST, (7,))
    assert map_layers(lambda leaf: leaf, network) == network

    def doubled(leaf):
        """The leaf whose backward returns twice its parameters' gradient."""

        def backward(params, cache, delta):
            grad_inputs, gradient = leaf.backward(params, cache, delta)
            return grad_inputs, jax.tree.map(lambda g: 2 * g, gradient)

        return Changed(leaf, backward)

    grad_inputs, gradient = network.backward(params, cache, cotangent)
    expected = (grad_inputs, jax.tree.map(lambda g: 2 * g, gradient))
    assert_close(map_layers(doubled, network).backward(params, cache, cotangent), expected, 0)


def test_names_say_what_the_layers_are():
    layer = serial(dense(64, 32), elementwise(relu), repeat(dense(32, 32), 3))
    assert layer.name == "serial(dense 64→32, relu, 3 × dense 32→32)"


def test_dense_refuses_a_wrong_number_of_features(key):
    layer = dense(4, 3)
    with pytest.raises(ValueError, match=r"dense 4→3 needs inputs of shape \(\.\.\., 4\), got \(7, 5\)"):
        layer.forward(layer.init(key), jnp.ones((7, 5)))
    with pytest.raises(ValueError, match="n_in must be at least 1, got 0"):
        dense(0, 3)


@pytest.mark.usefixtures("unchecked")
def test_dense_refuses_sizes_that_are_no_integers_and_parameters_of_another_layer(key):
    with pytest.raises(TypeError, match=r"n_in must be an integer, got 41\.0"):
        dense(41.0, 3)  # pyright: ignore[reportArgumentType]
    layer, other = dense(4, 3), dense(4, 1).init(key)
    with pytest.raises(
        ValueError, match=r"weight of shape \(3, 4\) and a bias of shape \(3,\), got \(1, 4\) and \(1,\)"
    ):
        layer.forward(other, jnp.ones((7, 4)))


def test_repeat_of_a_layer_without_parameters_runs_as_often_as_it_says():
    layer = repeat(elementwise(tanh), 3)
    z = jnp.array([0.5, -2.0])
    assert_close(layer.forward((), z)[0], jnp.tanh(jnp.tanh(jnp.tanh(z))), 1e-15)


def test_residual_refuses_layers_that_change_the_shape_and_concatenate_none(key):
    layer = residual(dense(4, 3))
    with pytest.raises(ValueError, match=rf"residual adds what it is given: its layers turn {WIDEST}\(7, 4\) into"):
        layer.forward(layer.init(key), jnp.ones((7, 4)))
    with pytest.raises(ValueError, match="concatenate needs at least one layer"):
        concatenate()


def test_tied_has_the_shared_parameters_once_and_refuses_ends_that_differ(key):
    layer = tied(elementwise(tanh), dense(4, 3), dense_transpose(4, 3))
    own, shared = layer.init(key)
    assert (own, shared.weight.shape) == ((), (3, 4))
    x = jnp.linspace(-1, 1, 8).reshape(2, 4)
    h = jnp.tanh(x @ shared.weight.T + jnp.broadcast_to(shared.bias, (2, 3)))
    assert_close(layer.forward((own, shared), x)[0], h @ shared.weight, 1e-15)
    assert repr(layer) == "tied(elementwise(tanh), dense(4, 3), dense_transpose(4, 3))"
    with pytest.raises(ValueError, match=r"tied layers have the same parameters: those of dense 4→3 are .*, those of"):
        tied(elementwise(tanh), dense(4, 3), dense_transpose(3, 4))
    with pytest.raises(ValueError, match=r"dense_transpose 3→4 needs inputs of shape \(\.\.\., 3\), got \(2, 4\)"):
        dense_transpose(4, 3).forward(shared, x)


def test_tied_computes_compiled_what_two_layers_compute(key):
    """The shared leaf is asked twice in each pass; what that repeats is not computed."""
    layer = tied(dense(30, 30), dense(40, 30), dense_transpose(40, 30))
    plain = serial(dense(40, 30), dense(30, 30), dense_transpose(40, 30))

    def flops(layer):
        def passes(params, x):
            outputs, cache = layer.forward(params, x)
            return outputs, layer.backward(params, cache, outputs)

        costs: Any = jax.jit(passes).lower(layer.init(key), jnp.ones((50, 40))).compile().cost_analysis()
        return costs["flops"]

    assert flops(layer) < 1.02 * flops(plain)


def test_repeat_refuses_layers_that_change_the_shape(key):
    layer = repeat(dense(4, 3), 2)
    with pytest.raises(ValueError, match=rf"dense 4→3 turns {WIDEST}\(7, 4\) into {WIDEST}\(7, 3\)"):
        layer.forward(layer.init(key), jnp.ones((7, 4)))
    with pytest.raises(ValueError, match="times must be at least 1, got 0"):
        repeat(dense(4, 4), 0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("build", "argument", "message"),
    [
        (serial, [dense(4, 3)], r"expected a jaxnet Layer, such as jaxnet.dense\(64, 32\), got list"),
        (serial, tanh, "expected a jaxnet Layer, .*, got Activation"),
        (functools.partial(repeat, times=3), tanh, "expected a jaxnet Layer, .*, got Activation"),
        (elementwise, "tanh", "expected a jaxnet Activation, such as jaxnet.tanh, got str"),
        (elementwise, jnp.tanh, "expected a jaxnet Activation, such as jaxnet.tanh, got PjitFunction"),
    ],
)
def test_what_is_no_layer_or_activation_is_refused(build, argument, message):
    with pytest.raises(TypeError, match=message):
        build(argument)


@pytest.mark.parametrize("make", [residual, lambda layer: repeat(layer, 2)], ids=["residual", "repeat"])
def test_inputs_may_be_arrays_of_numpy(make, key):
    network, x = make(dense(3, 3)), np.linspace(-1, 1, 6).reshape(2, 3)
    params = network.init(key)
    assert_close(network.forward(params, x)[0], network.forward(params, jnp.asarray(x))[0], 1e-15)
