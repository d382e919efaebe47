"""Layers under `jax.grad`: the gradient is the hand-written one, in plain JAX, in Flax and in Equinox."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxnet import (
    dense,
    elementwise,
    gelu,
    mlp,
    repeat,
    serial,
    sigmoid,
    tanh,
)
from jaxnet.activations import softplus
from jaxnet.interop import as_custom_vjp
from jaxnet.layers import Dense, map_layers
from tests.changed import Changed, Written
from tests.compare import WIDEST, assert_close, compiled_programs, random_like

LAYERS = {
    "dense": dense(4, 3),
    "elementwise": elementwise(tanh),
    "serial": serial(dense(4, 6), elementwise(sigmoid), dense(6, 4), elementwise(gelu)),
    "repeat": repeat(serial(dense(4, 4), elementwise(tanh)), 3),
    "empty": serial(),
    "mlp": mlp((4, 6, 5, 1), tanh, softplus),
}


def plain(layer):
    """The forward pass alone, which autodiff differentiates."""
    return lambda params, inputs: layer.forward(params, inputs)[0]


def wrong(layer):
    """The layer whose backward is wrong on purpose: 2 ∂L/∂inputs and 3 ∂L/∂params."""

    def backward(params, cache, delta):
        grad_inputs, grad_params = layer.backward(params, cache, delta)
        return 2 * grad_inputs, jax.tree.map(lambda g: 3 * g, grad_params)

    return Changed(layer, backward)


def at_a_point(layer, batch=(7,)):
    shapes = jax.eval_shape(layer.init, jax.random.key(0)), jax.ShapeDtypeStruct((*batch, 4), WIDEST)
    return jax.tree.map(lambda leaf: leaf / 2, random_like(shapes))


def gradients(apply):
    """(params, inputs) -> the gradients by both of Σ sin a, whose cotangent differs in every entry."""
    return jax.grad(lambda params, inputs: jnp.sin(apply(params, inputs)).sum(), argnums=(0, 1))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("batch", [(7,), (), (2, 3)], ids=str)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradients_equal_autodiff_of_the_plain_forward(layer, batch):
    point = at_a_point(layer, batch)
    by_hand, autodiff = (jax.jit(gradients(apply))(*point) for apply in (as_custom_vjp(layer), plain(layer)))
    assert_close(by_hand, autodiff, 1e-14)
    assert_close(as_custom_vjp(layer)(*point), plain(layer)(*point), 0)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradients_are_the_hand_written_ones(layer):
    point = at_a_point(layer)
    grad_params, grad_inputs = jax.jit(gradients(plain(layer)))(*point)
    expected = jax.tree.map(lambda g: 3 * g, grad_params), 2 * grad_inputs
    assert_close(gradients(as_custom_vjp(wrong(layer)))(*point), expected, 1e-14)


def test_a_wrong_layer_inside_serial_gives_the_gradient_that_its_backward_would():
    layer = LAYERS["serial"]
    wrong_inside = map_layers(lambda leaf: wrong(leaf) if leaf == dense(6, 4) else leaf, layer)
    params, inputs = at_a_point(layer)
    (first, _, last, _), grad_inputs = gradients(plain(layer))(params, inputs)
    expected = (Dense(*(2 * g for g in first)), (), Dense(*(3 * g for g in last)), ()), 2 * grad_inputs
    assert_close(gradients(as_custom_vjp(wrong_inside))(params, inputs), expected, 1e-14)


def test_functions_of_the_parts_compose_to_the_function_of_the_whole():
    layer = LAYERS["serial"]
    point = at_a_point(layer)

    def one_by_one(params, a):
        for part, part_params in zip(layer.parts, params, strict=True):
            a = as_custom_vjp(part)(part_params, a)
        return a

    assert_close(gradients(one_by_one)(*point), gradients(as_custom_vjp(layer))(*point), 0)


def test_jit_compiles_once_and_vmap_maps_over_examples_and_over_parameters():
    layer = LAYERS["mlp"]
    params, inputs = at_a_point(layer)
    for in_axes in [(None, 0), (0, 0)]:
        arguments = (jax.tree.map(lambda leaf: jnp.stack([leaf] * 7), params) if in_axes[0] == 0 else params, inputs)
        by_hand = jax.jit(jax.vmap(gradients(as_custom_vjp(layer)), in_axes))
        autodiff = jax.jit(jax.vmap(gradients(plain(layer)), in_axes))
        assert_close(by_hand(*arguments), autodiff(*arguments), 1e-14)
        by_hand(*arguments)
        assert compiled_programs(by_hand) == 1


def test_scan_over_the_function_equals_repeat():
    layer = serial(dense(4, 4), elementwise(tanh))
    stack = repeat(layer, 3)
    point = at_a_point(stack)

    def scanned(params, a):
        return jax.lax.scan(lambda a, one: (as_custom_vjp(layer)(one, a), None), a, params)[0]

    assert_close(gradients(scanned)(*point), gradients(as_custom_vjp(stack))(*point), 1e-14)


@pytest.mark.parametrize("name", ["elementwise", "serial", "mlp"])
def test_second_derivatives_differentiate_the_hand_written_backward(name):
    layer = LAYERS[name]
    params, inputs = at_a_point(layer, ())

    def both_ways(apply):
        gradient = jax.grad(lambda inputs: jnp.sin(apply(params, inputs)).sum())
        return jax.jit(lambda inputs: (jax.jacfwd(gradient)(inputs), jax.jacrev(gradient)(inputs)))(inputs)

    assert_close(both_ways(as_custom_vjp(layer)), both_ways(plain(layer)), 1e-13)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(both_ways(as_custom_vjp(wrong(layer))), both_ways(plain(layer)), 1e-13)


def test_forward_mode_is_refused():
    layer = LAYERS["mlp"]
    params, inputs = at_a_point(layer)
    for derivative in [jax.jacfwd, lambda f: lambda x: jax.jvp(f, (x,), (x,))]:
        with pytest.raises(TypeError, match=r"can't apply forward-mode autodiff \(jvp\) to a custom_vjp function"):
            derivative(lambda inputs: as_custom_vjp(layer)(params, inputs))(inputs)


def test_integers_and_keys_have_no_gradient():
    """Rows of a table, times a scale; the layer counts steps and keeps a key, and says nothing of their gradients."""

    def forward(params, rows):
        return params["table"][rows] * params["scale"], rows

    def backward(params, rows, delta) -> Any:
        table = jnp.zeros_like(params["table"]).at[rows].add(delta * params["scale"])
        scale = (delta * params["table"][rows]).sum()
        return None, {"table": table, "scale": scale, "steps": None, "key": None}

    layer = Written(lambda key: (), forward, backward, "rows of a table")
    table = jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    params = {"table": table, "scale": jnp.asarray(3.0), "steps": jnp.asarray(9), "key": jax.random.key(0)}
    rows = jnp.asarray([2, 0, 2])
    grad = jax.grad(lambda params, rows: as_custom_vjp(layer)(params, rows).sum(), argnums=(0, 1), allow_int=True)
    for function in [grad, jax.jit(grad)]:
        grad_params, grad_rows = function(params, rows)
        assert grad_rows.dtype == grad_params["steps"].dtype == grad_params["key"].dtype == jax.dtypes.float0
        numbers = grad_params["table"], grad_params["scale"]
        assert_close(numbers, (jnp.asarray([[3.0, 3.0], [0.0, 0.0], [6.0, 6.0]]), jnp.asarray(25.0)), 0)


@pytest.mark.parametrize(("params_dtype", "inputs_dtype"), [("float64", "float32"), ("float32", "float64")])
def test_gradients_have_the_dtypes_of_what_they_are_taken_by(params_dtype, inputs_dtype):
    layer = serial(dense(4, 3, dtype=params_dtype), elementwise(tanh))
    params, inputs = at_a_point(layer)
    inputs = inputs.astype(inputs_dtype)
    with jax.numpy_dtype_promotion("standard"):
        by_hand, autodiff = (gradients(apply)(params, inputs) for apply in (as_custom_vjp(layer), plain(layer)))
    assert_close(by_hand, autodiff, 1e-6)


def test_one_layer_gives_one_function_under_its_name():
    apply = as_custom_vjp(dense(4, 3))
    assert apply is as_custom_vjp(dense(4, 3))
    assert apply is not as_custom_vjp(dense(4, 2))
    assert getattr(apply, "__name__", None) == "dense 4→3"
    assert "outputs of dense 4→3" in (apply.__doc__ or "")


def test_bad_calls_and_bad_backwards_are_refused():
    layer = dense(4, 3)
    params, inputs = at_a_point(layer)
    with pytest.raises(ValueError, match=r"dense 4→3 needs inputs of shape \(\.\.\., 4\), got \(7, 5\)"):
        as_custom_vjp(layer)(params, jnp.ones((7, 5)))
    transposed = Changed(layer, lambda params, a, delta: (a, Dense(params.weight.T, params.bias)))
    with pytest.raises(ValueError, match="shapes do not match"):
        gradients(as_custom_vjp(transposed))(params, inputs)
    another_tree = Changed(layer, lambda params, a, delta: (a, {"weight": params.weight}))
    with pytest.raises(ValueError, match="pytree structure error"):
        gradients(as_custom_vjp(another_tree))(params, inputs)


def by_plain_ops(params, a):
    """The network of the two tests below, without the library."""
    first, _, last = params
    return jnp.tanh(a @ first.weight.T + first.bias) @ last.weight.T + last.bias


IN_A_MODULE = mlp((6, 5, 2), tanh)


def test_a_flax_module_trains_by_the_hand_written_gradient():
    """Above a layer of Flax, whose gradient is thus ∂L/∂inputs carried on."""
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, apply, rngs):
            self.below = nnx.Linear(4, 6, param_dtype=WIDEST, rngs=rngs)
            self.network = nnx.Param(IN_A_MODULE.init(rngs.params()))
            self.apply = apply

        def __call__(self, x):
            return jax.vmap(self.apply, (None, 0))(self.network.get_value(), self.below(x))

    x, y = random_like((jnp.ones((7, 4)), jnp.ones((7, 2))))

    def gradient_of(apply):
        graph, params, rest = nnx.split(Model(apply, nnx.Rngs(0)), nnx.Param, ...)
        return jax.jit(jax.grad(lambda params: jnp.square(nnx.merge(graph, params, rest)(x) - y).mean()))(params)

    expected = gradient_of(by_plain_ops)
    assert len(jax.tree.leaves(expected)) == 6
    assert_close(gradient_of(as_custom_vjp(IN_A_MODULE)), expected, 1e-14)
    doubled = gradient_of(as_custom_vjp(wrong(IN_A_MODULE)))
    assert_close(doubled["below"], jax.tree.map(lambda g: 2 * g, expected["below"]), 1e-14)
    assert_close(doubled["network"], jax.tree.map(lambda g: 3 * g, expected["network"]), 1e-14)


def test_an_equinox_module_trains_by_the_hand_written_gradient():
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        below: Any
        network: tuple
        apply: Any = eqx.field(static=True)

        def __init__(self, apply, key):
            below_key, network_key = jax.random.split(key)
            self.below = eqx.nn.Linear(4, 6, dtype=WIDEST, key=below_key)
            self.network = IN_A_MODULE.init(network_key)
            self.apply = apply

        def __call__(self, x):
            return self.apply(self.network, self.below(x))

    x, y = random_like((jnp.ones((7, 4)), jnp.ones((7, 2))))

    def gradient_of(apply):
        gradient = eqx.filter_jit(eqx.filter_grad(lambda model: jnp.square(jax.vmap(model)(x) - y).mean()))(
            Model(apply, jax.random.key(0))
        )
        return (gradient.below.weight, gradient.below.bias), gradient.network

    below, network = gradient_of(by_plain_ops)
    assert_close(gradient_of(as_custom_vjp(IN_A_MODULE)), (below, network), 1e-14)
    expected = jax.tree.map(lambda g: 2 * g, below), jax.tree.map(lambda g: 3 * g, network)
    assert_close(gradient_of(as_custom_vjp(wrong(IN_A_MODULE))), expected, 1e-14)
