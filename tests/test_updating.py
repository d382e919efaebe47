"""Updating inside the backward pass makes the step that the whole gradient makes, with less memory."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet
from jaxnet.readings.update import fastest_step
from tests.compare import assert_close

HIDDEN = jaxnet.serial(jaxnet.dense(4, 4), jaxnet.elementwise(jaxnet.tanh))
NETWORK = jaxnet.serial(
    jaxnet.dense(3, 4),
    jaxnet.elementwise(jaxnet.relu),
    jaxnet.repeat(HIDDEN, 3),
    jaxnet.repeat(jaxnet.serial(jaxnet.repeat(HIDDEN, 2), jaxnet.dense(4, 4)), 2),
    jaxnet.repeat(HIDDEN, 1),
    jaxnet.dense(4, 2),
)
LOSS = jaxnet.squared_error
OPTIMIZERS = {
    "gradient descent": jaxnet.gradient_descent(0.1),
    "momentum": jaxnet.optimizers.momentum(0.1),
    "nesterov": jaxnet.optimizers.nesterov(lambda count: 0.1 / (1 + count.astype(float))),
    "rmsprop": jaxnet.optimizers.rmsprop(0.01, centered=True, momentum=0.9),
    "adam": jaxnet.adam(0.01),
    "adamw": jaxnet.optimizers.adamw(0.01, weight_decay=0.1),
    "amsgrad": jaxnet.optimizers.amsgrad(0.01, mu_dtype=jnp.float32),
}


@pytest.fixture(scope="module")
def data():
    return jax.random.normal(jax.random.key(1), (5, 3)), jax.random.normal(jax.random.key(2), (5, 2))


@functools.partial(jax.jit, static_argnames=("step", "network"))
def steps(step, optimizer, state, data, network=NETWORK):
    def body(state, _):
        return step(network, LOSS, optimizer, state, *data)

    return jax.lax.scan(body, state, length=6)


@pytest.mark.one_in(10)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_whole_gradient(name, data):
    optimizer = OPTIMIZERS[name]
    start = jaxnet.init_state(NETWORK, optimizer, jax.random.key(0))
    expected, expected_cost = steps(jaxnet.training.train_step, optimizer, start, data)
    found, cost = steps(jaxnet.readings.updating_step, optimizer, start, data)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert_close(cost, expected_cost, 1e-13)
    assert_close(found.opt_state, expected.opt_state, 1e-12)
    assert_close(found.params, expected.params, 1e-12)
    assert found.step == 6


def test_no_second_copy_of_the_parameters_exists():
    """The plain step needs one more stack of weights, the gradient; this one a few layers."""
    network = jaxnet.repeat(jaxnet.serial(jaxnet.dense(64, 64), jaxnet.elementwise(jaxnet.tanh)), 32)
    optimizer = jaxnet.adam(0.01)
    state = jax.eval_shape(functools.partial(jaxnet.init_state, network, optimizer), jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, 64), "float64")
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))

    def memory(step):
        train = jax.jit(steps, static_argnames=("step", "network"), donate_argnames="state")
        analysis = train.lower(step, optimizer, state, (x, x), network).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert memory(jaxnet.training.train_step) > size
    assert memory(jaxnet.readings.updating_step) < size / 2


def test_fit_uses_it_where_it_saves_something():
    adam = jaxnet.adam(0.01)
    assert fastest_step(NETWORK, adam) is jaxnet.readings.updating_step
    assert fastest_step(jaxnet.mlp((3, 4, 2)), adam) is jaxnet.training.train_step
    assert fastest_step(jaxnet.repeat(jaxnet.elementwise(jaxnet.tanh), 2), adam) is jaxnet.training.train_step


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
        optax.chain(optax.clip_by_global_norm(0.1), jaxnet.gradient_descent(0.1)),
        jaxnet.optimizers.adamw(
            0.1, weight_decay=0.1, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
        ),
    ],
    ids=["clipped", "ours, clipped", "masked"],
)
def test_an_optimizer_that_looks_at_the_whole_gradient_gets_it(optimizer, data):
    assert fastest_step(NETWORK, optimizer) is jaxnet.training.train_step
    state = jaxnet.init_state(NETWORK, optimizer, jax.random.key(0))
    with pytest.raises(ValueError, match=r"needs an optimizer of jaxnet\.optimizers without a mask"):
        jaxnet.readings.updating_step(NETWORK, LOSS, optimizer, state, *data)


def test_fit_with_repeat_equals_a_plain_loop(data):
    optimizer = jaxnet.adam(0.01)
    state, history = jaxnet.fit(NETWORK, LOSS, optimizer, *data, key=jax.random.key(0), batch_size=None, epochs=6)
    expected, cost = steps(
        jaxnet.training.train_step, optimizer, jaxnet.init_state(NETWORK, optimizer, jax.random.key(0)), data
    )
    assert_close(history.cost, cost, 1e-13)
    assert_close(state.params, expected.params, 1e-12)


def test_learning_rates_may_be_mapped_over(data):
    rates = jnp.array([0.01, 0.1])

    def cost(rate):
        optimizer = jaxnet.optimizers.momentum(rate)
        start = jaxnet.init_state(NETWORK, optimizer, jax.random.key(0))
        return steps(jaxnet.readings.updating_step, optimizer, start, data)[1]

    assert_close(jax.vmap(cost)(rates), jnp.stack([cost(rate) for rate in rates]), 1e-12)


def test_network_without_parameters_takes_its_step():
    network, optimizer, x = jaxnet.elementwise(jaxnet.tanh), jaxnet.adam(0.01), jnp.ones((2, 3))
    start = jaxnet.init_state(network, optimizer, jax.random.key(0))
    state, cost = jaxnet.readings.updating_step(network, LOSS, optimizer, start, x, x)
    assert int(state.step) == int(state.opt_state.count) == 1
    assert cost == jaxnet.cost(network, LOSS)((), x, x) > 0
