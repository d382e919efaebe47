"""A layer that breaks its contract is told by name, at `cost_and_gradient`, at `fit` and by the verifier."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compare import WIDEST

X, Y = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4)), WIDEST), jnp.asarray([0, 1])


@dataclasses.dataclass(frozen=True)
class Scale(jn.Layer):
    """z = s ⊙ a, with a mistake."""

    mistake: str = ""

    def init(self, key):
        return {"s": jnp.ones(4, WIDEST)}

    def forward(self, params, inputs, key: Any = None):
        if self.mistake == "key":
            inputs = inputs * jax.random.uniform(key, inputs.shape)
        outputs = inputs * params["s"][None]
        return {
            "no cache": outputs,
            "three": (outputs, inputs, 3),
            "axis": (outputs.T.reshape(-1), inputs),
        }.get(self.mistake, (outputs, inputs))

    def backward(self, params, cache, grad_outputs):
        grad_inputs, gradient = grad_outputs * params["s"][None], {"s": (grad_outputs * cache).sum(0)}
        return {
            "exchanged": (gradient, grad_inputs),
            "structure": (grad_inputs, gradient["s"]),
            "shape": (grad_inputs, {"s": grad_outputs * cache}),
            "alone": grad_inputs,
        }.get(self.mistake, (grad_inputs, gradient))


TOLD = {
    "key": (TypeError, r"forward was given no key and raised .*: .* says so by the class attribute needs_key = True"),
    "no cache": (TypeError, r"forward must return \(outputs, cache\), got an array of shape \(2, 4\)"),
    "three": (TypeError, r"forward must return \(outputs, cache\), got a tuple of 3"),
    "axis": (ValueError, r"the first axis of the outputs must be that of the inputs, the batch of 2, got .* \(8,\)"),
    "exchanged": (ValueError, "backward's gradient by the inputs has .*; the two are exchanged"),
    "structure": (ValueError, r"backward's gradient by the parameters has the structure .* where .*'s'.* is expected"),
    "shape": (
        ValueError,
        r"backward's gradient by the parameters has shape \(2, 4\) at \['s'\] where \(4,\) is expected",
    ),
    "alone": (TypeError, r"backward must return \(gradient by the inputs, gradient by the parameters\), got an array"),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("mistake", TOLD)
def test_mistake_is_told_with_the_layers_name(mistake):
    error, message = TOLD[mistake]
    network = jn.serial(jn.dense(4, 4, dtype=WIDEST), Scale(mistake), jn.dense(4, 2, dtype=WIDEST))
    told = pytest.raises(error, match=rf"Scale\(mistake='{mistake}'\): {message}")
    with told:
        jn.cost_and_gradient(network, jn.softmax_cross_entropy)(network.init(jax.random.key(0)), X, Y)
    with told:
        jn.fit(network, jn.softmax_cross_entropy, jn.adam(0.1), X, Y, key=jax.random.key(0), batch_size=2, epochs=1)


@pytest.mark.parametrize("mistake", ["key", "no cache", "three", "exchanged", "shape"])
def test_mistake_is_told_by_the_verifier(mistake, key):
    layer = Scale(mistake)
    if mistake in ("exchanged", "shape"):
        report = jn.verify_layer(layer, X, key=key)
        assert report.subject == layer.name
        kind, says = {"exchanged": ("structure", "order of the"), "shape": ("missing_reduction", "sum over")}[mistake]
        assert report.findings[0].kind == kind
        assert says in report.findings[0].explanation
        return
    error, message = TOLD[mistake]
    with pytest.raises(error, match=rf"Scale\(mistake='{mistake}'\): {message}"):
        jn.verify_layer(layer, X, key=key)


def test_right_layer_passes(key):
    network = jn.serial(jn.repeat(jn.residual(Scale()), 2), jn.dense(4, 2, dtype=WIDEST))
    outputs = jn.layers.abstract_passes(network, network.init(key), X)
    assert outputs.shape == (2, 2)
    jn.verify_layer(Scale(), X, key=key).raise_if_failed()


@pytest.mark.usefixtures("unchecked")
def test_calls_that_mean_something_else_are_told_how_to_be_written():
    network, loss = jn.mlp((4, 3)), jn.softmax_cross_entropy
    with pytest.raises(TypeError, match=r"sizes must be a sequence, such as mlp\(\(3, 4, 1\)\), got 3"):
        jn.mlp(3, 4, 1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"hidden must be one activation .*, got \[tanh, relu\]; where they differ"):
        jn.mlp((3, 4, 1), hidden=[jn.tanh, jn.relu])  # pyright: ignore[reportArgumentType]
    for function, then in (
        (jn.predict, "(params, x)"),
        (jn.cost, "(params, x, y)"),
        (jn.cost_and_gradient, "(params, x, y)"),
    ):
        with pytest.raises(TypeError) as told:
            function(network, loss, (), X)
        assert str(told.value).endswith(f"write {function.__name__}(network, loss){then}")
