"""Sweeps: every network equals what `fit` makes of it, whatever the tiles; interruption, the bar, and bad input."""

import os
import signal
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import (
    adam,
    dense,
    elementwise,
    fit,
    lecun_uniform,
    mlp,
    momentum,
    repeat,
    serial,
    softmax_cross_entropy,
    sweep,
    tanh,
)
from jaxnet.training.tiles import chosen_chunk, cores, tiles_of
from tests.compare import assert_close, compiled_programs

MODULE = import_module("jaxnet.training.sweep")  # the attribute of this name is the function
M, N, CLASSES = 50, 4, 3
NETWORK = mlp((N, 6, CLASSES), initializer=lecun_uniform)
RATES = jnp.array([0.001, 0.01, 0.1])
KEYS = jax.random.split(jax.random.key(3), 4)


@pytest.fixture(scope="module")
def data():
    x = jnp.asarray(np.random.default_rng(7).standard_normal((M, N)))
    return x, jnp.argmax(x[:, :CLASSES], axis=1)


def train(data, optimizers=None, network=NETWORK, **options):
    options = {"keys": KEYS, "batch_size": 16, "epochs": 3, "chunk": 6} | options
    return sweep(network, softmax_cross_entropy, optimizers or jax.vmap(adam)(RATES), *data, **options)


def assert_members_equal_fit(trained, data, optimizers, keys, network=NETWORK, **options):
    state, history = trained
    options = {"batch_size": 16, "epochs": 3} | options
    assert history.cost.shape[:2] == (len(optimizers), len(keys))
    assert not history.interrupted
    for i, optimizer in enumerate(optimizers):
        for j, key in enumerate(keys):
            alone, measured = fit(network, softmax_cross_entropy, optimizer, *data, key=key, **options)
            member = jax.tree.map(lambda leaf, i=i, j=j: np.asarray(leaf)[i, j], state._replace(key=None))
            assert_close(np.asarray(history.cost)[i, j], measured.cost, 1e-12)
            assert_close(jax.tree.leaves(member), jax.tree.leaves(alone._replace(key=None)), 1e-12)
            assert (state.key[i, j] == alone.key).all()


@pytest.mark.parametrize("chunk", [6, 2])
def test_every_network_is_what_fit_makes_of_it(data, chunk):
    """Whole columns of the grid, and tiles that overlap."""
    assert_members_equal_fit(train(data, chunk=chunk), data, [adam(rate) for rate in RATES], KEYS)


def test_several_keys_of_one_foreign_optimizer_and_all_examples_a_step(data):
    """Keys of the old kind too, which are pairs of integers."""
    keys, options = jax.random.split(jax.random.PRNGKey(3), 3), {"batch_size": None, "epochs": 5}
    with jax.numpy_dtype_promotion("standard"):
        trained = train(data, optax.adam(0.01), keys=keys, chunk=2, **options)
    assert_members_equal_fit(trained, data, [adam(0.01)], keys, **options)


def test_hyperparameters_that_are_scalars_are_shared(data):
    """In a stack too, whose layers are updated while δ flows back."""
    stack = serial(
        dense(N, 6, lecun_uniform),
        repeat(serial(dense(6, 6, lecun_uniform), elementwise(tanh)), 3),
        dense(6, CLASSES, lecun_uniform),
    )
    trained = train(data, momentum(RATES), stack, keys=KEYS[:1])
    assert_members_equal_fit(trained, data, [momentum(rate) for rate in RATES], KEYS[:1], stack)


def test_another_sweep_of_the_same_form_compiles_nothing(data, caplog):
    train(data)
    compiled = compiled_programs(MODULE._init_tile)
    with caplog.at_level("WARNING"), jax.log_compiles():
        train(data, jax.vmap(adam)(RATES / 2), epochs=40, keys=jax.random.split(jax.random.key(9), 4))
    assert compiled_programs(MODULE._init_tile) == compiled
    assert "_train_tile" not in caplog.text


def test_interrupt_hands_back_networks_equally_long_trained(data, monkeypatch):
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 6:  # in the third round of two tiles
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    original = MODULE._finished
    monkeypatch.setattr(MODULE, "_finished", interrupted)
    before = signal.getsignal(signal.SIGINT)
    state, history = train(data, epochs=10_000)
    assert signal.getsignal(signal.SIGINT) is before
    assert history.interrupted
    epochs = history.cost.shape[-1] // 4
    assert 1 <= epochs < 10_000
    assert (state.step == 4 * epochs).all()
    monkeypatch.undo()
    again, _ = train(data, epochs=epochs)
    assert_close(state.params, again.params, 0)


def test_a_failure_in_one_tile_ends_the_sweep(data, monkeypatch):
    def fails(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(MODULE, "_finished", fails)
    with pytest.raises(MemoryError, match="no room"):
        train(data)


def test_progress_bar_shows_epochs_and_the_lowest_cost(data, capsys):
    _, history = train(data, progress=True)
    shown = capsys.readouterr().out
    assert f"epoch 3, cost {float(history.cost[..., -1].min()):.4g}" in shown
    assert "100%" in shown


def test_tiles_cover_the_grid_with_at_most_a_chunk_each():
    for shape in [(1, 1), (1, 7), (5, 3), (16, 16), (9, 2)]:
        for chunk in (1, 2, 3, 8, 1000):
            covered = np.zeros(shape, int)
            sizes = set()
            for tile in tiles_of(shape, chunk):
                covered[tile] += 1
                sizes.add(covered[tile].shape)
            (size,) = sizes
            assert covered.min() >= 1
            assert np.prod(size) <= chunk


def test_chunks_are_large_for_small_networks_and_leave_no_core_idle():
    x = jnp.zeros(3)
    assert chosen_chunk(4_000, (16, 16), 2, x) == 64
    assert chosen_chunk(100_000, (16, 16), 2, x) == 10
    assert chosen_chunk(100_000, (1, 256), 2, x) == 2
    assert chosen_chunk(10**9, (16, 16), 2, x) == 1
    assert chosen_chunk(4_000, (2, 3), 2, x) == 3
    assert cores(x) >= 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"keys": jax.random.key(0)}, ValueError, r"keys must be a stack of keys, .*, got shape \(\)"),
        (
            {"keys": jax.random.key_data(jax.random.key(0))},
            ValueError,
            r"keys must be a stack of keys, .*, got shape \(2,\)",
        ),
        ({"keys": KEYS[:0]}, ValueError, r"keys must be a stack of keys, .*, got shape \(0,\)"),
        ({"keys": KEYS.reshape(2, 2)}, ValueError, r"keys must be a stack of keys, .*, got shape \(2, 2\)"),
        ({"keys": 3}, TypeError, "keys must be a stack of keys, .*, got 3"),
        ({"optimizers": adam(RATES, RATES[:2])}, ValueError, r"same number of optimizers, at least 1, got \[2, 3\]"),
        ({"optimizers": adam(RATES[:0])}, ValueError, r"same number of optimizers, at least 1, got \[0\]"),
        ({"network": [NETWORK]}, TypeError, "expected a jaxnet Layer, .*, got list"),
        ({"loss": None}, TypeError, "expected a jaxnet Loss, .*, got NoneType"),
        ({"optimizers": "adam"}, TypeError, "optimizer must come from jaxnet.optimizers or Optax, got 'adam'"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
        ({"chunk": 1.5}, TypeError, "chunk must be an integer, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"x": np.ones((M, N + 1))}, ValueError, r"inputs of shape \(\.\.\., 4\), got \(50, 5\)"),
        ({"x": np.full((M, N), np.nan)}, ValueError, r"x must be finite, got nan at index \(0, 0\)"),
    ],
)
def test_sweep_refuses_bad_input(data, change, error, message):
    arguments = {
        "network": NETWORK,
        "loss": softmax_cross_entropy,
        "optimizers": adam(0.01),
        "x": data[0],
        "y": data[1],
    }
    arguments |= {"keys": KEYS, "batch_size": 16, "epochs": 1} | change
    with pytest.raises(error, match=message):
        sweep(**arguments)
