"""What enters a table is proved: each layer, activation, loss, initializer and optimizer."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import activations, initializers, layers, losses, optimizers
from jaxnet.layers import Layer
from jaxnet.layers.layer import spelled
from tests.compare import WIDEST, assert_close, random_like
from tests.layer_points import at_a_point, by_autodiff
from tests.optimizer_cases import FACTORIES

M = 5


@pytest.mark.parametrize("sample", layers.ALL.values(), ids=layers.ALL)
def test_layer(sample):
    """Against autodiff, one example and the batch, the norms of each example's gradient, as a value, in words."""
    point = at_a_point(sample, WIDEST, (M,))
    layer, params, inputs, outputs, cache, cotangent = point
    gradients, expected = jax.jit(lambda *args: (layer.backward(*args), by_autodiff(point)))(params, cache, cotangent)
    assert_close(gradients, expected, 1e-12)
    if not (layer.couples_examples or layer.needs_key):
        each_outputs, each_gradients = jax.vmap(lambda *each: one(layer, params, *each))(inputs, cotangent)
        assert_close(outputs, each_outputs, 1e-12)
        assert_close(gradients[0], each_gradients[0], 1e-12)
        assert_close(gradients[1], jax.tree.map(lambda leaf: leaf.sum(0), each_gradients[1]), 1e-12)
        squares = [jnp.square(leaf).reshape(M, -1).sum(1) for leaf in jax.tree.leaves(each_gradients[1])]
        norms = jax.jit(layer.squared_norms)(params, cache, cotangent)
        assert_close(norms, sum(squares, jnp.zeros(M, norms.dtype)), 1e-12)

    again = sample.make(WIDEST)
    assert (layer, hash(layer)) == (again, hash(again)) == (pickle.loads(pickle.dumps(layer)), hash(again))
    assert "\n" not in repr(layer)
    key = jax.random.key(3) if layer.needs_key else None
    assert layers.abstract_passes(layer, params, inputs, key).shape == outputs.shape


def one(layer, params, inputs, cotangent):
    outputs, cache = layer.forward(params, inputs)
    return outputs, layer.backward(params, cache, cotangent)


def test_every_layer_is_in_the_table():
    """Every class of `jaxnet.layers` that is no part of the contract."""

    def leaves(layer):
        return [layer, *(leaf for part in layer.parts for leaf in leaves(part))]

    inside = {type(leaf) for sample in layers.ALL.values() for leaf in leaves(sample.make(WIDEST))}
    written = {kind for kind in subclasses(Layer) if kind.__module__.startswith("jaxnet.layers.")}
    abstract = {kind for kind in written if kind.__abstractmethods__}
    readings = {kind for kind in written if issubclass(kind, layers.Reading)}
    assert written - abstract - readings == inside


def subclasses(kind):
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


@pytest.mark.parametrize("activation", activations.ALL, ids=lambda activation: activation.name)
def test_activation(activation):
    z = random_like(jax.ShapeDtypeStruct((M, 40), WIDEST), seed=2)
    layer = jn.elementwise(activation)
    a, cache = layer.forward((), z)
    slope = layer.slope(cache)
    assert_close(slope, jax.grad(lambda z: layer.forward((), z)[0].sum())(z), 1e-12)
    assert_close(layer.backward((), cache, a)[0], slope * a, 1e-14)
    assert pickle.loads(pickle.dumps(activation)) == activation


@pytest.mark.parametrize("loss", losses.ALL, ids=lambda loss: loss.name)
def test_loss(loss):
    z = random_like(jax.ShapeDtypeStruct((M, 3), WIDEST), seed=3)
    y = jnp.arange(M) % 3 if loss == jn.softmax_cross_entropy else jax.nn.sigmoid(random_like(z, seed=4))
    assert loss.value(z, y).shape == (M,)
    assert_close(loss.gradient(z, y), jax.grad(lambda z: loss.value(z, y).sum())(z), 1e-12)
    assert pickle.loads(pickle.dumps(loss)) == loss


@pytest.mark.parametrize("initializer", initializers.ALL, ids=spelled)
def test_initializer(initializer):
    layer = jn.dense(300, 200, initializer, dtype=WIDEST)
    weight = layer.init(jax.random.key(0)).weight
    assert weight.shape == (200, 300)
    assert weight.dtype == WIDEST
    assert abs(float(weight.mean()) - float(layer.init(jax.random.key(1)).weight.mean())) < 0.01
    assert jn.dense(300, 200, initializer, dtype=WIDEST) == layer == pickle.loads(pickle.dumps(layer))


def test_every_optimizer_is_held_against_another():
    assert {factory.__name__ for factory in optimizers.ALL} == set(FACTORIES)


@pytest.mark.parametrize("factory", optimizers.ALL, ids=lambda factory: factory.__name__)
def test_optimizer(factory):
    """Its numbers are leaves: vmap stacks them, jit does not compile again; no gradient moves nothing at 0."""
    params = {"weight": jnp.zeros((2, 3), WIDEST)}
    rates = jnp.asarray([0.1, 0.2], WIDEST)
    stacked = jax.vmap(factory)(rates)
    traced = []

    @jax.jit
    def first(optimizer, gradients):
        traced.append(optimizer)
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    gradients = random_like(params, seed=5)
    both = jax.vmap(first, in_axes=(0, None))(stacked, gradients)
    for i, rate in enumerate((0.1, 0.2)):
        assert_close(first(factory(rate), gradients), jax.tree.map(lambda leaf, i=i: leaf[i], both), 1e-12)
    assert len(traced) == 2  # stacked, and alone
    np.testing.assert_array_equal(first(factory(0.1), jax.tree.map(jnp.zeros_like, params))["weight"], 0)
