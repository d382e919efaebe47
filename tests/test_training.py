"""Training: equal to a plain loop, every example once an epoch, no retrace, donation, interruption, bad input."""

import os
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import (
    adam,
    binary_cross_entropy,
    cost,
    cost_and_gradient,
    dense,
    elementwise,
    fit,
    gradient_descent,
    init_state,
    mlp,
    sigmoid,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.examples import Examples
from jaxnet.initializers import constant, zeros
from jaxnet.losses import Loss
from jaxnet.optimizers import momentum
from jaxnet.training import train_epochs
from jaxnet.training.epochs import Task
from tests.compare import assert_close, compiled_programs

FIT = import_module("jaxnet.training.fit")  # the attribute of this name is the function
M, N, CLASSES = 50, 4, 3
NETWORK = mlp((N, 6, CLASSES))


@pytest.fixture(scope="module")
def data():
    x = jnp.asarray(np.random.default_rng(7).standard_normal((M, N)))
    return x, jnp.argmax(x[:, :CLASSES], axis=1)


def train(data, optimizer=None, **options):
    start = {} if "state" in options else {"key": jax.random.key(0)}
    options = start | {"batch_size": 16, "epochs": 3} | options
    return fit(NETWORK, softmax_cross_entropy, optimizer or adam(0.01), *data, **options)


def test_fit_equals_a_plain_loop_over_the_same_batches(data):
    """Every step recomputed with autodiff and Optax, on the batches that the documented order gives."""
    x, y = data
    state, history = train(data)
    start = init_state(NETWORK, adam(0.01), jax.random.key(0))
    optimizer = optax.adam(0.01)
    params, opt_state, costs = start.params, optimizer.init(start.params), []
    value_and_grad = jax.jit(jax.value_and_grad(cost(NETWORK, softmax_cross_entropy)))
    for epoch in range(3):
        bits = jax.random.bits(jax.random.fold_in(start.key, 4 * epoch), (M,), "uint32")
        order = np.lexsort((np.arange(M), np.asarray(bits) >> 6))
        for batch in np.split(order, [16, 32, 48]):
            value, gradient = value_and_grad(params, x[batch], y[batch])
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = optimizer.update(gradient, opt_state)
            params = optax.apply_updates(params, updates)
            costs.append(value)
    assert_close(history.cost, jnp.stack(costs), 1e-12)
    assert_close(state.params, params, 1e-12)
    assert state.step == len(costs) == 12
    assert not history.interrupted


@pytest.mark.float64
def test_batch_gradient_descent_follows_the_lectures_update(data):
    """W := W - α ∂J/∂W on all m examples."""
    state, history = train(data, gradient_descent(0.1), batch_size=None, epochs=5)
    params = init_state(NETWORK, gradient_descent(0.1), jax.random.key(0)).params
    for step in range(5):
        value, gradient = cost_and_gradient(NETWORK, softmax_cross_entropy)(params, *data)
        assert history.cost[step] == pytest.approx(float(value), rel=1e-13)
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient)
    assert_close(state.params, params, 1e-13)


@pytest.mark.parametrize(("batch_size", "steps"), [(None, 1), (1, 50), (16, 4), (25, 2), (50, 1), (64, 1)])
def test_history_has_one_cost_a_step(data, batch_size, steps):
    state, history = train(data, batch_size=batch_size, epochs=2)
    assert history.cost.shape == (2 * steps,)
    assert state.step == 2 * steps


def test_each_example_is_used_once_an_epoch():
    """At rate 0 a batch's cost is the mean of its own examples' losses, so that an epoch's add up to those of all."""
    y = 0.5 ** np.arange(10)
    network = dense(1, 1, zeros)
    _, history = fit(
        network,
        squared_error,
        gradient_descent(0.0),
        jnp.zeros((10, 1)),
        y,
        key=jax.random.key(0),
        batch_size=3,
        epochs=20,
    )
    epochs = history.cost.reshape(20, 4)
    sums = (np.asarray(epochs) * [3, 3, 3, 1]).sum(1)  # costs are means over each batch's own examples
    np.testing.assert_allclose(sums, 0.5 * (y**2).sum(), rtol=1e-14)
    assert len(np.unique(epochs[:, -1])) > 5  # the order changes from epoch to epoch


def test_training_in_one_call_or_in_several_is_the_same(data):
    whole, history = train(data, epochs=7)
    first, early = train(data, epochs=4)
    kept = jax.tree.map(lambda leaf: leaf.copy(), first)
    second, late = train(data, epochs=3, state=first)
    assert_close(jnp.concatenate([early.cost, late.cost]), history.cost, 0)
    assert_close(second.params, whole.params, 0)
    assert_close(first.params, kept.params, 0)  # the caller's own state was not donated


def test_same_key_same_run_and_another_key_another(data):
    assert_close(train(data)[1].cost, train(data)[1].cost, 0)
    assert not np.allclose(train(data)[1].cost, train(data, key=jax.random.key(1))[1].cost)


def test_nothing_retraces_for_another_rate_other_data_or_the_network_built_again(data):
    train(data)
    compiled = compiled_programs(FIT._run_epochs)
    x, y = data
    train(data, adam(0.5), epochs=9)
    train((x + 1, y[::-1]), key=jax.random.key(3))
    run = {"key": jax.random.key(0), "batch_size": 16, "epochs": 1}
    fit(mlp([N, 6, CLASSES]), softmax_cross_entropy, adam(0.1), x, y, **run)
    fit(mlp([N, 6, CLASSES], initializer=zeros), softmax_cross_entropy, adam(0.1), x, y, **run)
    assert compiled_programs(FIT._run_epochs) == compiled


@pytest.mark.usefixtures("nans_allowed")  # with that switch JAX donates no buffers
def test_state_buffers_are_donated(data):
    x, y = data
    optimizer = adam(0.01)
    state = init_state(NETWORK, optimizer, jax.random.key(0))
    new, _ = FIT._run_epochs(Task(NETWORK, softmax_cross_entropy, 16, 2), optimizer, state, Examples(x, y), 1)
    arrays = jax.tree.leaves((state.params, state.opt_state, state.step))
    assert all(leaf.is_deleted() for leaf in arrays)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_training_is_one_vmap_away_from_many_seeds(data):
    x, y = data

    def run(key):
        state = init_state(NETWORK, momentum(0.1), key)
        return train_epochs(NETWORK, softmax_cross_entropy, momentum(0.1), state, x, y, 3, batch_size=16, capacity=3)

    keys = jax.random.split(jax.random.key(5), 3)
    states, costs = jax.jit(jax.vmap(run))(keys)
    for i in range(3):
        state, history = train(data, momentum(0.1), key=keys[i])
        assert_close(costs[i].ravel(), history.cost, 1e-12)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], states.params), state.params, 1e-12)


def test_foreign_transformations_train_like_ours(data):
    with jax.numpy_dtype_promotion("standard"):
        theirs, _ = train(data, optax.adam(0.01))
        chained, _ = train(data, optax.chain(optax.clip_by_global_norm(1e9), adam(0.01)))
    assert_close(theirs.params, train(data)[0].params, 1e-12)
    assert_close(chained.params, train(data)[0].params, 1e-12)


@pytest.mark.usefixtures("unchecked")
def test_optax_multisteps_trains_as_it_is(data):
    with jax.numpy_dtype_promotion("standard"):
        state, _ = train(data, optax.MultiSteps(adam(0.01), 1))
    assert_close(state.params, train(data)[0].params, 1e-12)


def test_data_is_cast_to_the_dtype_of_the_parameters(data):
    x, y = data
    network = mlp((N, 6, CLASSES), dtype="float32")
    state, history = fit(
        network,
        softmax_cross_entropy,
        adam(0.01),
        np.asarray(x),
        np.asarray(y),
        key=jax.random.key(0),
        batch_size=16,
        epochs=1,
    )
    assert history.cost.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_one_output_takes_labels_as_vector_or_column_and_as_booleans(data):
    x, _ = data
    labels = np.asarray(x[:, 0] > 0)
    network = mlp((N, 3, 1), sigmoid)
    options = {"key": jax.random.key(0), "batch_size": 16, "epochs": 2}
    vector = fit(network, binary_cross_entropy, adam(0.01), x, labels, **options)[1]
    column = fit(network, binary_cross_entropy, adam(0.01), x, labels[:, None].astype(float), **options)[1]
    assert_close(vector.cost, column.cost, 0)


def test_loss_of_a_separable_problem_is_learned(data):
    _, history = train(data, adam(0.05), epochs=100)
    assert history.cost[-4:].mean() < 0.1 * history.cost[0]


def test_equal_weights_stay_equal_and_random_ones_do_not(data):
    """Neurons that start equal get the same gradient, but for the order in which a matrix product is summed."""
    spread = {}
    for initializer in (constant(0.1), None):
        network = mlp((N, 6, CLASSES), tanh, initializer=initializer)
        options = {"key": jax.random.key(0), "batch_size": 16, "epochs": 30}
        state, _ = fit(network, softmax_cross_entropy, adam(0.05), *data, **options)
        spread[initializer] = float(np.ptp(state.params[0].weight, axis=0).max())
    assert spread[constant(0.1)] < 1e-12
    assert spread[None] > 0.1


def test_a_loss_of_ones_own_needs_no_targets(data):
    own = Loss("own", squared_error.value, squared_error.gradient, squared_error.predict)
    x, _ = data
    options = {"key": jax.random.key(0), "batch_size": 16, "epochs": 2}
    costs = [fit(NETWORK, loss, adam(0.01), x, x[:, :CLASSES], **options)[1].cost for loss in (own, squared_error)]
    assert_close(costs[0], costs[1], 0)


def test_interrupt_returns_what_was_trained(data, monkeypatch):
    chunks = []

    def interrupted(*args, **kwargs):
        chunks.append(args[4])
        if len(chunks) == 2:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C in the middle of a chunk
        return original(*args, **kwargs)

    original = FIT._run_epochs
    monkeypatch.setattr(FIT, "_run_epochs", interrupted)
    before = signal.getsignal(signal.SIGINT)
    state, history = train(data, epochs=10_000)
    assert len(chunks) == 2
    assert state.step == len(history.cost) == 4 * sum(chunks)
    assert history.interrupted
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert_close(train(data, epochs=sum(chunks))[0].params, state.params, 0)


def test_fit_works_outside_the_main_thread(data):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(data)))
    thread.start()
    thread.join()
    assert_close(results[0][1].cost, train(data)[1].cost, 0)


def test_progress_bar_shows_epochs_and_cost(data, capsys):
    _, history = train(data, progress=True)
    shown = capsys.readouterr().out
    assert "epoch 3" in shown
    assert f"cost {float(history.cost[-1]):.4g}" in shown
    assert "100%" in shown


def test_progress_bar_says_what_it_needs(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match=r"a progress bar needs Rich: pip install 'jaxnet-by-hand\[experiments\]'"):
        train(data, progress=True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((0, N)), "y": np.ones(0, int)}, ValueError, r"at least one example, got shape \(0, 4\)"),
        ({"x": np.ones(N), "y": np.ones(N, int)}, ValueError, r"x must have shape \(m, n_in\), got \(4,\)"),
        ({"x": np.ones((M, N + 1))}, ValueError, r"inputs of shape \(\.\.\., 4\), got \(50, 5\)"),
        ({"y": np.zeros(M - 1, int)}, ValueError, r"same number of examples, got shapes \(50, 4\) and \(49,\)"),
        ({"x": np.full((M, N), np.nan)}, ValueError, r"x must be finite, got nan at index \(0, 0\)"),
        ({"y": np.zeros(M)}, TypeError, "integer class labels, got float64"),
        ({"y": np.full(M, CLASSES)}, ValueError, "labels must lie in 0 to 2, got values from 3 to 3"),
        ({"y": np.full(M, -1)}, ValueError, "labels must lie in 0 to 2, got values from -1 to -1"),
        ({"y": np.zeros((M, 1), int)}, ValueError, r"need labels of shape \(50,\), got \(50, 1\)"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, got 2.5"),
        ({"batch_size": -5}, ValueError, "batch_size must be at least 1"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"loss": binary_cross_entropy}, ValueError, r"outputs of shape \(50, 3\) need targets of the same shape"),
        ({"x": np.full((M, N), "a")}, TypeError, "x must hold real numbers, got <U1"),
        ({"x": np.ones((M, N), complex)}, TypeError, "x must hold real numbers, got complex128"),
        ({"y": np.full(M, None)}, TypeError, "y must hold real numbers, got object"),
        ({"network": mlp((N, 3), dtype="float16"), "x": np.full((M, N), 1e5)}, ValueError, "x must be finite, got inf"),
        ({"network": [dense(N, 3)]}, TypeError, r"expected a jaxnet Layer, such as jaxnet.dense\(64, 32\), got list"),
        ({"network": elementwise(tanh)}, ValueError, "the network has no parameters"),
        ({"loss": lambda z, y: z}, TypeError, "expected a jaxnet Loss, such as jaxnet.squared_error, got function"),
        ({"key": 3}, TypeError, r"key must be one JAX random key, such as jax.random.key\(0\), got 3"),
        ({"optimizer": "adam"}, TypeError, "optimizer must come from jaxnet.optimizers or Optax, got 'adam'"),
        ({"loss": squared_error, "y": np.full((M, 3), np.inf)}, ValueError, "y must be finite"),
    ],
)
def test_fit_refuses_bad_input(data, change, error, message):
    arguments = {"network": NETWORK, "loss": softmax_cross_entropy, "optimizer": adam(0.01), "x": data[0], "y": data[1]}
    arguments |= {"key": jax.random.key(0), "batch_size": 16, "epochs": 1} | change
    with pytest.raises(error, match=message):
        fit(**arguments)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux tells it")
def test_memory_stays_flat_over_a_million_steps():
    command, root = [sys.executable, "-m", "tests.long_run"], Path(__file__).parent.parent
    early, late = map(int, subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split())
    assert late < 1.02 * early  # 4 bytes a step are the costs of the history
