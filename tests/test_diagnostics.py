"""Diagnostics: equal to NumPy and to closed forms, in layer order, the step unchanged, the first failure named."""

import functools
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import (
    adam,
    cost,
    dense,
    elementwise,
    first_nonfinite,
    fit,
    gelu,
    gradient_descent,
    init_state,
    layer_names,
    mlp,
    observed_step,
    relu,
    repeat,
    serial,
    sigmoid,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.activations import (
    elu,
    identity,
    leaky_relu,
    silu,
    softplus,
)
from jaxnet.examples import Examples
from jaxnet.layers import Dense
from jaxnet.training import train_epochs, train_step
from jaxnet.training.epochs import Task
from tests.compare import assert_close, compiled_programs, random_like

pytestmark = pytest.mark.usefixtures("nans_allowed")  # what does not apply to a layer

M, N, CLASSES = 50, 4, 3
FIT = import_module("jaxnet.training.fit")  # the attribute of this name is the function
NETWORK = mlp((N, 6, CLASSES), tanh)


@pytest.fixture(scope="module")
def data():
    x = jnp.asarray(np.random.default_rng(7).standard_normal((M, N)))
    return x, jnp.argmax(x[:, :CLASSES], axis=1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def observe(network, loss, optimizer, state, x, y):
    return observed_step(network, loss, optimizer, state, x, y)


def observed(network, params, x, y, optimizer=None, loss=squared_error):
    """The diagnostics of one step from given parameters."""
    optimizer = gradient_descent(0.1) if optimizer is None else optimizer
    state = init_state(network, optimizer, jax.random.key(0))._replace(params=params)
    return observe(network, loss, optimizer, state, x, y)[2]


def watched(history):
    """The diagnostics of a run that was observed."""
    assert history.diagnostics is not None
    return history.diagnostics


def through(activation, z):
    """The diagnostics of one activation of z, the layer before it being the identity."""
    network = serial(dense(z.shape[1], z.shape[1]), elementwise(activation))
    params = (Dense(jnp.eye(z.shape[1]), jnp.zeros(z.shape[1])), ())
    return observed(network, params, jnp.asarray(z), jnp.zeros(z.shape))


def norm(*arrays):
    return np.sqrt(sum((np.asarray(array, float) ** 2).sum() for array in arrays))


@pytest.mark.float64
def test_every_number_equals_numpy(data):
    x, y = data
    state = init_state(NETWORK, adam(0.01), jax.random.key(1))._replace(step=jnp.asarray(5))
    after, _, got = observe(NETWORK, softmax_cross_entropy, adam(0.01), state, x, y)
    first, _, last = state.params
    z = np.asarray(x) @ np.asarray(first.weight).T + np.asarray(first.bias)
    a = np.tanh(z)
    out = a @ np.asarray(last.weight).T + np.asarray(last.bias)
    slope = 1 - a**2
    gradient = jax.grad(cost(NETWORK, softmax_cross_entropy))(state.params, x, y)
    update = jax.tree.map(lambda new, old: new - old, after.params, state.params)
    nan = np.nan
    expected = {
        "step": 5,
        "cost": cost(NETWORK, softmax_cross_entropy)(state.params, x, y),
        "mean": [outputs.mean() for outputs in (z, a, out)],
        "variance": [outputs.var() for outputs in (z, a, out)],
        "saturated": [nan, (slope < 0.1).mean(), nan],
        "dead": [nan, 0, nan],
        "gradient_norm": [norm(*gradient[0]), nan, norm(*gradient[2])],
        "parameter_norm": [norm(*first), nan, norm(*last)],
        "update_norm": [norm(*update[0]), nan, norm(*update[2])],
        "update_ratio": [norm(*update[0]) / norm(*first), nan, norm(*update[2]) / norm(*last)],
    }
    assert 0 < expected["saturated"][1] < 1
    for name, numbers in expected.items():
        np.testing.assert_allclose(getattr(got, name), numbers, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("network", [NETWORK, mlp((N, 5, 5, CLASSES), relu)], ids=["tanh", "relu"])
def test_an_observed_step_is_the_same_step(network, data):
    state = init_state(network, adam(0.01), jax.random.key(0))
    expected = jax.jit(train_step, static_argnums=(0, 1))(network, softmax_cross_entropy, adam(0.01), state, *data)
    after, before, _ = observe(network, softmax_cross_entropy, adam(0.01), state, *data)
    assert_close((after._replace(key=None), before), (expected[0]._replace(key=None), expected[1]), 1e-15)


def test_repeat_is_listed_like_the_same_layers_in_serial(data):
    """Nested too: [dense, 2 × (tanh, 3 × (dense, relu)), dense] in the order of the forward pass."""
    x, _ = data
    inner, g = serial(dense(N, N), elementwise(relu)), elementwise(tanh)
    stack = serial(dense(N, N), repeat(serial(g, repeat(inner, 3)), 2), dense(N, 1))
    flat = serial(dense(N, N), *[g, *[dense(N, N), elementwise(relu)] * 3] * 2, dense(N, 1))
    params = random_like(jax.eval_shape(stack.init, jax.random.key(0)))
    copies = [
        [
            (),
            *(
                entry
                for i in range(3)
                for entry in (jax.tree.map(lambda leaf, o=o, i=i: leaf[o, i], params[1][1][0]), ())
            ),
        ]
        for o in range(2)
    ]
    unrolled = (params[0], *copies[0], *copies[1], params[2])
    y = jnp.zeros((M, 1))
    assert layer_names(stack) == layer_names(flat)
    assert layer_names(stack)[:4] == ("[0] dense 4→4", "[1] tanh", "[2] dense 4→4", "[3] relu")
    for got, expected in zip(observed(stack, params, x, y), observed(flat, unrolled, x, y), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


# Slopes ---------------------------------------------------------------------------------------------------------------


def test_units_that_no_example_switches_on_are_dead():
    z = np.array([[-1.0, 2.0, -3.0, 0.0], [-2.0, -1.0, -0.5, 0.0]])
    got = through(relu, z)
    assert got.dead[1] == 0.75  # all but the second, which one example switches on
    assert got.saturated[1] == 7 / 8
    assert through(leaky_relu, z).dead[1] == 0
    assert through(leaky_relu, z).saturated[1] == 7 / 8  # its small slope is a hundredth of its large one
    assert through(relu, -abs(z)).dead[1] == 1


@pytest.mark.parametrize(
    ("activation", "edges"),
    [
        (sigmoid, (-3.6369, 3.6369)),  # σ'(z) = σ(z)(1 - σ(z)) = 0.1/4
        (tanh, (-1.8184, 1.8184)),  # 1 - tanh²(z) = 0.1
        (softplus, (np.log(0.1 / 0.9), np.inf)),  # σ(z) = 0.1
        (elu, (np.log(0.1), np.inf)),  # e^z = 0.1
        (relu, (0, np.inf)),
        (identity, (-np.inf, np.inf)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_saturated_is_a_slope_below_a_tenth_of_the_largest(activation, edges):
    z = np.linspace(-12, 12, 4800).reshape(-1, 2)  # no multiple of the edges, nor 0
    inside = (z > edges[0]) & (z < edges[1])
    assert float(through(activation, z).saturated[1]) == pytest.approx(1 - inside.mean(), abs=2 / z.size)


@pytest.mark.parametrize(("activation", "largest"), [(silu, 1.0998), (gelu, 1.1290)], ids=["silu", "gelu"])
def test_the_largest_slope_may_exceed_1(activation, largest):
    z = np.linspace(-12, 12, 4800).reshape(-1, 2)
    slope = jax.jit(jax.vmap(jax.grad(activation.value)))(z.ravel())
    expected = float((abs(slope) < 0.1 * largest).mean())
    assert float(through(activation, z).saturated[1]) == pytest.approx(expected, abs=4 / z.size)


def test_large_weights_saturate_a_sigmoid_and_none_of_its_units_is_dead():
    z = 1e3 * np.random.default_rng(0).choice([-1.0, 1.0], (20, 5))
    got = through(sigmoid, z / 50)
    assert got.saturated[1] == 1
    assert got.dead[1] == 0  # σ'(20) = 2e-9 is small, not 0
    assert through(sigmoid, z).dead[1] == 1  # σ'(1000) underflows


def test_one_example_is_its_own_batch():
    got = observed(NETWORK, NETWORK.init(jax.random.key(0)), jnp.ones(N), jnp.zeros(CLASSES))
    assert got.mean.shape == (3,)
    assert float(6 * got.saturated[1]) in range(7)


# Extremes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_norms_neither_underflow_nor_overflow(size):
    """‖∂J/∂W‖ for one linear layer with y = 0, W = 0 and a δ of that size, whose square float32 does not hold."""
    network = dense(2, 1, dtype="float32")
    x, y = jnp.array([[3.0, 4.0]], "float32"), jnp.full((1, 1), size, "float32")
    got = observed(network, Dense(jnp.zeros((1, 2), "float32"), jnp.zeros(1, "float32")), x, y)
    np.testing.assert_allclose(got.gradient_norm, size * np.sqrt(26), rtol=1e-6)
    np.testing.assert_allclose(got.update_norm, 0.1 * size * np.sqrt(26), rtol=1e-6)
    assert got.parameter_norm == 0


def test_infinite_weight_is_named_with_its_layer(data):
    params = NETWORK.init(jax.random.key(0))
    broken = (params[0], (), params[2]._replace(weight=params[2].weight.at[1, 1].set(jnp.inf)))
    got = observed(NETWORK, broken, *data, loss=softmax_cross_entropy)
    assert first_nonfinite(NETWORK, got) == "step 0: an activation of [2] dense 6→3 is not finite"
    assert first_nonfinite(NETWORK, observed(NETWORK, params, *data, loss=softmax_cross_entropy)) is None


@pytest.mark.parametrize(
    ("weights", "x", "y", "rate", "where"),
    [
        ((1e30, 1e30), 1.0, 0.0, 0.1, "an activation of [1] dense 1→1"),
        ((1.0, 1.0), 1e25, 0.0, 0.1, "the cost"),  # δ = 1e25 is finite, its square is not
        ((1.0, 1e30), 0.0, 1e15, 0.1, "the gradient of [0] dense 1→1"),  # δ[2] = -1e15, δ[1] = W[2] δ[2]
        ((1.0, 1.0), 0.0, 1e15, 1e30, "the update of [0] dense 1→1"),
    ],
)
def test_overflow_is_named_where_it_arises(weights, x, y, rate, where):
    """Two linear layers of one unit in float32, and one example."""
    network = serial(*[dense(1, 1, dtype="float32")] * 2)
    params = tuple(Dense(jnp.full((1, 1), weight, "float32"), jnp.zeros(1, "float32")) for weight in weights)
    x, y = jnp.full((1, 1), x, "float32"), jnp.full((1, 1), y, "float32")
    got = observed(network, params, x, y, gradient_descent(rate))
    assert first_nonfinite(network, got) == f"step 0: {where} is not finite"


def test_steps_are_stacked_and_the_first_is_named(data):
    options: Any = {"key": jax.random.key(0), "batch_size": 16, "epochs": 8, "observe_every": 3}
    options["on_nonfinite"] = "ignore"
    _, history = fit(
        mlp((N, 6, CLASSES)), squared_error, gradient_descent(1e4), data[0], data[0][:, :CLASSES], **options
    )
    found = first_nonfinite(mlp((N, 6, CLASSES)), watched(history))
    assert found is not None
    step = int(found.split(":")[0].removeprefix("step "))
    assert step % 3 == 0
    assert np.isfinite(watched(history).cost[: step // 3]).all()
    assert not np.isfinite(watched(history).mean[step // 3 + 1]).all()


def test_diagnostics_of_another_network_are_refused(data):
    got = observed(NETWORK, NETWORK.init(jax.random.key(0)), data[0], data[0][:, :CLASSES])
    with pytest.raises(ValueError, match="has 1 layers, the diagnostics 3"):
        first_nonfinite(dense(4, 3), got)


# In training ----------------------------------------------------------------------------------------------------------


def train(data, **options):
    start = {} if "state" in options else {"key": jax.random.key(0)}
    options = start | {"batch_size": 16, "epochs": 3} | options
    return fit(NETWORK, softmax_cross_entropy, adam(0.01), *data, **options)


def test_another_number_of_epochs_compiles_nothing(data, caplog):
    """Neither the steps nor what brings their rows to the host."""
    train(data, observe_every=2)
    with caplog.at_level("WARNING"), jax.log_compiles():
        train(data, observe_every=2, epochs=5)
    assert not [record.message for record in caplog.records if "Finished XLA compilation" in record.message]


@pytest.mark.one_in(5)
@pytest.mark.parametrize(("batch_size", "every"), [(16, 3), (16, 1), (10, 7), (64, 3), (None, 2)])
def test_fit_observes_every_nth_step_and_trains_the_same(data, every, batch_size):
    plain, unobserved = train(data, batch_size=batch_size, epochs=7)
    state, history = train(data, batch_size=batch_size, epochs=7, observe_every=every)
    assert unobserved.diagnostics is None
    assert_close(history.cost, unobserved.cost, 1e-14)
    assert_close(state.params, plain.params, 1e-12)
    np.testing.assert_array_equal(watched(history).step, np.arange(len(history.cost))[::every])
    np.testing.assert_array_equal(watched(history).cost, history.cost[::every])
    assert watched(history).mean.shape == (len(watched(history).step), 3)


def test_observation_goes_on_where_training_does(data):
    _, whole = train(data, epochs=7, observe_every=3)
    state, first = train(data, epochs=4, observe_every=3)
    _, second = train(data, epochs=3, observe_every=3, state=state)
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), watched(first), watched(second))
    for got, expected in zip(joined, watched(whole), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_every_row_is_used_where_observation_begins_between_two_steps(data):
    """Steps 16 to 27 hold 18, 21, 24 and 27: four, for which four rows are made."""
    start = init_state(NETWORK, adam(0.01), jax.random.key(0))._replace(step=jnp.asarray(16, "int32"))
    options = {"batch_size": 16, "capacity": 3, "observe_every": 3}
    run = jax.jit(train_epochs, static_argnums=(0, 1), static_argnames=tuple(options))
    _, (_, record) = run(NETWORK, softmax_cross_entropy, adam(0.01), start, *data, 3, **options)
    assert record.step.tolist() == [18, 21, 24, 27]


def test_rows_of_fit_are_observed_steps(data):
    """The last of a few steps, made by hand from the state before it."""
    state, _ = train(data, batch_size=None, epochs=4)
    _, _, expected = observe(NETWORK, softmax_cross_entropy, adam(0.01), state, *data)
    _, history = train(data, batch_size=None, epochs=5, observe_every=2)
    for got, number in zip(watched(history), expected, strict=True):
        np.testing.assert_allclose(got[-1], number, rtol=1e-10)


def test_training_that_does_not_observe_compiles_nothing_of_it(data):
    """No norm: gradient descent by itself has no square root."""
    state = init_state(NETWORK, gradient_descent(0.1), jax.random.key(0))

    def program(observe_every):
        task = Task(NETWORK, softmax_cross_entropy, 10, 2, observe_every)
        return FIT._run_epochs.lower(task, gradient_descent(0.1), state, Examples(*data), 2).as_text()

    assert "sqrt" not in program(None)
    assert "sqrt" in program(2)


def test_another_rate_does_not_retrace_an_observed_run(data):
    train(data, observe_every=2)
    compiled = compiled_programs(FIT._run_epochs)
    fit(
        NETWORK,
        softmax_cross_entropy,
        adam(0.3),
        *data,
        key=jax.random.key(1),
        batch_size=16,
        epochs=5,
        observe_every=2,
    )
    assert compiled_programs(FIT._run_epochs) == compiled


def test_seeds_are_observed_under_vmap(data):
    x, y = data

    def run(key):
        state = init_state(NETWORK, adam(0.01), key)
        return train_epochs(
            NETWORK, softmax_cross_entropy, adam(0.01), state, x, y, 2, batch_size=16, capacity=2, observe_every=3
        )[1][1]

    keys = jax.random.split(jax.random.key(5), 2)
    several = jax.jit(jax.vmap(run))(keys)
    for i in range(2):
        _, history = train(data, key=keys[i], epochs=2, observe_every=3)
        np.testing.assert_allclose(several.gradient_norm[i], watched(history).gradient_norm, rtol=1e-10)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("every", "error", "message"),
    [
        (0, ValueError, "observe_every must be at least 1, got 0"),
        (2.5, TypeError, r"observe_every must be an integer, got 2\.5"),
        (True, TypeError, "observe_every must be an integer, got True"),
    ],
)
def test_fit_refuses_to_observe_every_no_step(data, every, error, message):
    with pytest.raises(error, match=message):
        train(data, observe_every=every)


def test_a_page_shows_the_newest_row(data):
    _, history = train(data, observe_every=5)
    shown = watched(history)._repr_html_()
    assert f"step 10, cost {watched(history).cost[-1]:.4g}" in shown
    assert shown.count("<tr>") == 1 + 3
    assert f">{watched(history).gradient_norm[-1, 2]:.3g}</td>" in shown
    assert "step 0" in jax.tree.map(lambda rows: rows[0], watched(history))._repr_html_()
