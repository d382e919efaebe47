"""`verify_layer` and `verify_network`: right ones pass; of wrong ones the part that is wrong by itself is named."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import (
    binary_cross_entropy,
    dense,
    elementwise,
    gelu,
    mlp,
    relu,
    repeat,
    serial,
    sigmoid,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.activations import leaky_relu
from jaxnet.layers import Composite, map_layers
from jaxnet.losses import squared_error_through
from jaxnet.verify import verify_layer, verify_network
from tests.changed import Changed, Written
from tests.verify.rules import first, normal

pytestmark = pytest.mark.one_in(3)

LAYERS = {
    "dense": dense(4, 3, dtype="float32"),
    "serial": serial(dense(4, 4, dtype="float32"), elementwise(tanh), dense(4, 2, dtype="float32")),
    "repeat": repeat(serial(dense(4, 4, dtype="float32"), elementwise(sigmoid)), 3),
} | {activation.name: elementwise(activation) for activation in (relu, sigmoid, gelu, leaky_relu)}

WHOLE, ONE = normal(5, 2, seed=1), normal(5, seed=1)
TARGETS = {
    squared_error: WHOLE,
    squared_error_through(tanh): jnp.tanh(WHOLE),
    binary_cross_entropy: (ONE > 0).astype(int),
    softmax_cross_entropy: np.arange(5) % 2,
}


def spoiled(layer, spoil):
    """The layer with `spoil(grad_inputs, grad_params, params, delta)` in place of what its backward returns."""

    def backward(params, cache, delta):
        return spoil(*layer.backward(params, cache, delta), params, delta)

    return Changed(layer, backward)


def three(n, first_dense=None, activation=None, last_dense=None):
    """dense, tanh, dense, of which any may be given."""
    return serial(
        first_dense or dense(n, n, dtype="float32"),
        activation or elementwise(tanh),
        last_dense or dense(n, 2, dtype="float32"),
    )


TRANSPOSED = spoiled(dense(4, 4, dtype="float32"), lambda g, p, params, delta: (delta @ params.weight.T, p))
WEIGHT_TRANSPOSED = spoiled(
    dense(4, 4, dtype="float32"), lambda g, p, params, delta: (g, p._replace(weight=p.weight.T))
)
NO_BIAS = spoiled(dense(4, 2, dtype="float32"), lambda g, p, params, delta: (g, p._replace(bias=0 * p.bias)))
NO_SLOPE = spoiled(elementwise(tanh), lambda g, p, params, delta: (delta, p))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_passes(name, key):
    verify_layer(LAYERS[name], normal(5, 4, seed=3), key=key).raise_if_failed()


def test_layer_takes_one_example(key):
    verify_layer(LAYERS["dense"], normal(4), key=key).raise_if_failed()


@pytest.mark.parametrize("native", [False, True])
def test_layer_in_its_own_dtype_is_judged(native, key):
    verify_layer(LAYERS["dense"], normal(5, 4), key=key, native=native).raise_if_failed()
    assert not verify_layer(TRANSPOSED, normal(5, 4), key=key, native=native)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_network_in_half_precision_alone_is_judged(dtype, key):
    network = mlp((4, 3, 2), tanh, dtype=dtype)
    x, y = normal(5, 4, dtype=dtype), normal(5, 2, dtype=dtype)
    verify_network(network, squared_error, x, y, key=key, native=True).raise_if_failed()

    def doubled(leaf):
        return Changed(leaf, lambda *args: (2 * leaf.backward(*args)[0], leaf.backward(*args)[1]))

    wrong = map_layers(lambda leaf: doubled(leaf) if leaf.name == "tanh" else leaf, network)
    report = verify_network(wrong, squared_error, x, y, key=key, native=True)
    assert report.findings[0].part.startswith("tanh")
    assert report.findings[0].kind == "scale"


@pytest.mark.parametrize("native", [False, True])
def test_native_layer_never_runs_in_float64(native, key):
    """Its program is made for a matrix unit, say."""
    layer, seen = LAYERS["dense"], set()

    def backward(params, cache, delta):
        seen.add(delta.dtype.name)
        return layer.backward(params, cache, delta)

    verify_layer(Changed(layer, backward), normal(5, 4), key=key, native=native).raise_if_failed()
    assert seen == ({"float32"} if native else {"float32", "float64"})


@pytest.mark.one_in(4)
@pytest.mark.parametrize("loss", TARGETS, ids=lambda loss: loss.name)
def test_network_passes(loss, key):
    y = TARGETS[loss]
    network = mlp((4, 3, 1 if loss == binary_cross_entropy else 2), tanh, dtype="float32")
    report = verify_network(network, loss, normal(5, 4), y, key=key)
    report.raise_if_failed()
    assert report.conditions["parts judged alone"] == "4"


def test_network_with_repeated_layers_passes(key):
    network = serial(LAYERS["repeat"], dense(4, 2, dtype="float32"))
    verify_network(network, squared_error, normal(5, 4), WHOLE, key=key).raise_if_failed()


def test_paths_of_a_layer_begin_with_params_and_inputs(key):
    report = verify_layer(LAYERS["serial"], normal(5, 4), key=key)
    assert set(report.leaves) == {
        "params[0].weight", "params[0].bias", "params[2].weight", "params[2].bias", "inputs",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "path", "kind"),
    [
        (TRANSPOSED, "inputs", "transpose"),
        (WEIGHT_TRANSPOSED, "params.weight", "transpose"),
        (NO_BIAS, "params.bias", "zero"),
        (NO_SLOPE, "inputs", "activation"),
        (spoiled(dense(4, 2, dtype="float32"), lambda g, p, params, delta: g), "", "structure"),
        (spoiled(dense(4, 2, dtype="float32"), lambda g, p, params, delta: (p, g)), "", "structure"),
        (spoiled(dense(4, 2, dtype="float32"), lambda g, p, params, delta: (g, tuple(p)[:1])), "", "structure"),
    ],
    ids=["input transposed", "weight transposed", "bias 0", "g' missing", "no tuple", "swapped", "a leaf missing"],
)
def test_layer_is_found_wrong(layer, path, kind, key):
    found = first(verify_layer(layer, normal(5, 4), key=key))
    assert (found.path, found.kind) == (path, kind)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("parts", "part", "path", "kind"),
    [
        ({"first_dense": WEIGHT_TRANSPOSED}, "dense 4→4", "[0].weight", "transpose"),
        ({"last_dense": NO_BIAS}, "dense 4→2", "[2].bias", "zero"),
        ({"activation": NO_SLOPE}, "tanh", "[1] inputs", "activation"),
        ({"first_dense": WEIGHT_TRANSPOSED, "last_dense": NO_BIAS}, "dense 4→2", "[2].bias", "zero"),
    ],
    ids=["weight transposed", "bias 0", "g' missing", "two, output first"],
)
def test_network_names_the_part_that_is_wrong(parts, part, path, kind, key):
    report = verify_network(three(4, **parts), squared_error, normal(5, 4), WHOLE, key=key)
    found = first(report)
    assert (found.part, found.path, found.kind) == (part, path, kind)
    whole = [finding for finding in report.findings if not finding.part]
    assert all(f"{part} is wrong by itself at {path}" in finding.explanation for finding in whole)
    assert len({finding.part for finding in report.findings} - {""}) == len(parts)


def test_network_names_a_wrong_loss(key):
    loss = squared_error._replace(name="halved", gradient=lambda z, y: 0.5 * squared_error.gradient(z, y))
    found = first(verify_network(three(4), loss, normal(5, 4), WHOLE, key=key))
    assert (found.part, found.path, found.kind) == ("halved", "z", "scale")


@dataclasses.dataclass(frozen=True)
class LosingAFactor(Composite):
    """Serial composition that halves the gradient from one layer to the next."""

    whole: Any

    @property
    def parts(self):
        return self.whole.parts

    def with_parts(self, parts):
        return LosingAFactor(serial(*parts))

    def init(self, key):
        return self.whole.init(key)

    def forward(self, params, inputs, *, key=None):
        return self.whole.forward(params, inputs)

    def backward(self, params, cache, grad_outputs):
        delta, gradients = grad_outputs, []
        for layer, layer_params, saved in zip(reversed(self.parts), reversed(params), reversed(cache), strict=True):
            delta, gradient = layer.backward(layer_params, saved, delta)
            delta = 0.5 * delta
            gradients.append(gradient)
        return delta, tuple(reversed(gradients))


def test_network_tells_a_wrong_composition_from_a_wrong_part(key):
    report = verify_network(LosingAFactor(three(4)), squared_error, normal(5, 4), WHOLE, key=key)
    assert not report.passed
    assert {finding.part for finding in report.findings} == {""}
    assert all("every part is right by itself" in finding.explanation for finding in report.findings)
    assert "[2].weight" not in {finding.path for finding in report.findings}


@pytest.mark.parametrize("answer", [None, (1, 2, 3)], ids=str)
def test_wrong_answer_of_a_layer_becomes_a_finding(answer, key):
    layer = spoiled(dense(4, 2, dtype="float32"), lambda *args: answer)
    assert not verify_layer(layer, normal(5, 4), key=key)
    report = verify_network(serial(layer), squared_error, normal(5, 4), WHOLE, key=key)
    assert first(report).part == "dense 4→2"


class NotALayer(NamedTuple):
    forward: object = None


@pytest.mark.parametrize("layer", [NotALayer(), tanh, None, lambda x: x], ids=["tuple", "activation", "None", "lambda"])
def test_what_is_no_layer_is_refused(layer, key, unchecked):
    with pytest.raises(TypeError, match="Layer"):
        verify_layer(layer, normal(5, 4), key=key)
    with pytest.raises(TypeError, match="Layer"):
        verify_network(layer, squared_error, normal(5, 4), WHOLE, key=key)


def test_what_is_no_loss_is_refused(key, unchecked):
    refused: Any = jnp.square
    with pytest.raises(TypeError, match=r"expected a jaxnet Loss, such as jaxnet\.squared_error, got"):
        verify_network(LAYERS["dense"], refused, normal(5, 4), WHOLE, key=key)


def test_wrong_size_of_inputs_is_an_error(key):
    with pytest.raises(ValueError, match="the function itself raises"):
        verify_layer(LAYERS["dense"], normal(5, 7), key=key)


def test_layer_of_ones_own_is_judged(key):
    def made(factor):
        return Written(
            lambda key: {"gain": jnp.ones(4, "float32")},
            lambda params, a: (params["gain"] * a, a),
            lambda params, a, delta: (factor * params["gain"] * delta, {"gain": (a * delta).sum(0)}),
            "gain",
        )

    verify_layer(made(1), normal(5, 4), key=key).raise_if_failed()
    assert first(verify_layer(made(3), normal(5, 4), key=key)).path == "inputs"
