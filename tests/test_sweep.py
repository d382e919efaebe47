"""Sweeps: every network equals what `fit` makes of it, whatever the tiles; interruption, the bar, and bad input."""

import os
import signal
from importlib import import_module
from typing import Any

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
    is_correct,
    mlp,
    optimizer_of,
    repeat,
    serial,
    softmax_cross_entropy,
    sweep,
    tanh,
)
from jaxnet.initializers import lecun_uniform
from jaxnet.optimizers import momentum
from jaxnet.training.tiles import chosen_chunk, cores, tiles_of
from tests.compare import assert_close, compiled_programs

pytestmark = pytest.mark.one_in(2)

MODULE = import_module("jaxnet.training.sweep")  # the attribute of this name is the function
M, N, CLASSES = 50, 4, 3
NETWORK = mlp((N, 6, CLASSES), initializer=lecun_uniform)
RATES = jnp.array([0.001, 0.01, 0.1])
KEYS = jax.random.split(jax.random.key(3), 4)


@pytest.fixture(scope="module")
def data():
    x = jnp.asarray(np.random.default_rng(7).standard_normal((M, N)))
    return x, jnp.argmax(x[:, :CLASSES], axis=1)


def train(data, optimizers=None, network=NETWORK, **options: Any):
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


@pytest.mark.one_in(4)
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


# What a sweep measures, and where it goes on --------------------------------------------------------------------------

HELD: dict[str, Any] = {"metrics": {"accuracy": is_correct}}


def with_held(data) -> dict[str, Any]:
    return HELD | {"validation": (data[0][:20], data[1][:20])}


@pytest.mark.parametrize("chunk", [2, 6])
@pytest.mark.one_in(2)
def test_every_network_is_judged_and_observed_as_by_fit(data, chunk):
    options = with_held(data) | {"observe_every": 5, "sample_weight": np.linspace(0, 2, M)}
    _, history = train(data, chunk=chunk, **options)
    assert history.diagnostics is not None
    assert history.diagnostics.mean.shape == (3, 4, 3, 3)
    assert history.validation["cost"].shape == (3, 4, 3)
    for i, j in ((0, 1), (2, 3)):
        alone: dict[str, Any] = {"key": KEYS[j], "batch_size": 16, "epochs": 3} | options
        _, expected = fit(NETWORK, softmax_cross_entropy, adam(RATES[i]), *data, **alone)
        own = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], history._replace(interrupted=None))
        assert expected.best is not None
        assert expected.diagnostics is not None
        assert_close(own.cost, expected.cost, 1e-12)
        assert_close(own.validation, expected.validation, 1e-12)
        assert_close(own.best.params, expected.best.params, 1e-12)
        assert own.best.step == expected.best.step
        for got, number in zip(own.diagnostics, expected.diagnostics, strict=True):
            np.testing.assert_allclose(got, number, rtol=1e-9)


def test_a_sweep_goes_on_from_its_states(data):
    whole, history = train(data, epochs=5)
    first, early = train(data, epochs=2)
    kept = jax.tree.map(jnp.copy, first.params)
    second, late = train(data, epochs=3, keys=None, state=first, chunk=2)
    assert_close(second.params, whole.params, 1e-12)
    assert_close(np.concatenate([early.cost, late.cost], -1), history.cost, 1e-12)
    assert_close(first.params, kept, 0)
    assert (second.key == whole.key).all()


def test_a_resumed_sweep_equals_the_uninterrupted_one(tmp_path, data):
    whole = train(data, epochs=5, **with_held(data))
    seen = []

    def stop(state, history):
        seen.append((state.step.shape, history.cost.shape, history.validation["cost"].shape))
        return len(seen) == 2

    train(data, epochs=5, checkpoint=tmp_path, on_epoch=stop, **with_held(data))
    assert seen == [((3, 4), (3, 4, 4), (3, 4, 1)), ((3, 4), (3, 4, 8), (3, 4, 2))]
    resumed = train(data, epochs=5, checkpoint=tmp_path, **with_held(data))
    for one, other in zip(*(jax.tree.leaves((s.params, s.step, h)) for s, h in (resumed, whole)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_optimizers_in_a_list_are_those_of_a_stack(data):
    stack = train(data)
    listed = train(data, [adam(float(rate)) for rate in RATES])
    assert_close(listed[0].params, stack[0].params, 1e-12)
    assert_close(listed[1].cost, stack[1].cost, 1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "optimizers", [[adam(0.1), momentum(0.1)], [optax.adam(0.1), optax.adam(0.2)], [adam(0.1), optax.adam(0.1)]]
)
def test_optimizers_in_a_list_that_differ_in_more_than_numbers_are_refused(data, optimizers):
    with pytest.raises(ValueError, match=r"may differ in numbers alone: .*write optimizer_of\(optax.adam"):
        train(data, optimizers)


def test_state_of_another_grid_is_refused(data):
    state, _ = train(data, epochs=1)
    with pytest.raises(ValueError, match=r"the state must be of \(2, 4\) networks, optimizers and keys, got \(3, 4\)"):
        train(data, jax.vmap(adam)(RATES[:2]), keys=None, state=state)
    with pytest.raises(ValueError, match=r"give keys= for a fresh start, or state=, .*, not both"):
        train(data, state=state)


# Anybody's optimizer --------------------------------------------------------------------------------------------------


def signed(gradients, state, params, learning_rate):
    return jax.tree.map(lambda g: -learning_rate.astype(g.dtype) * jnp.sign(g), gradients), state


def chained(rate):
    return optax.chain(optax.clip_by_global_norm(0.5), adam(rate))


def decaying(rate):
    return adam(optax.cosine_decay_schedule(rate, 10))


SWEPT = {
    "optax": (lambda rate: optimizer_of(optax.adam, learning_rate=rate), optax.adam),
    "own functions": (
        lambda rate: optimizer_of(lambda params: (), signed, learning_rate=rate),
        lambda rate: optax.stateless(
            lambda g, _: jax.tree.map(lambda leaf: -rate.astype(leaf.dtype) * jnp.sign(leaf), g)
        ),
    ),
    "chain": (lambda rate: optimizer_of(chained, rate=rate), chained),
    "schedule": (lambda rate: optimizer_of(decaying, rate=rate), decaying),
    "in the state": (
        lambda rate: optimizer_of(optax.inject_hyperparams(optax.sgd), learning_rate=rate),
        optax.sgd,
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "stacked", [lambda make: make(RATES), lambda make: jax.vmap(make)(RATES)], ids=["array", "vmap"]
)
@pytest.mark.parametrize("name", SWEPT)
def test_anybodys_optimizer_is_swept(data, name, stacked):
    make, plain = SWEPT[name]
    with jax.numpy_dtype_promotion("standard"):
        state, history = train(data, stacked(make), keys=KEYS[:2])
        for i, rate in enumerate(RATES):
            alone, expected = fit(
                NETWORK, softmax_cross_entropy, plain(rate), *data, key=KEYS[1], batch_size=16, epochs=3
            )
            assert_close(history.cost[i, 1], expected.cost, 1e-12)
            assert_close(jax.tree.map(lambda leaf, i=i: leaf[i, 1], state.params), alone.params, 1e-12)
