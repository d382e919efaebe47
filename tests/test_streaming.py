"""Batches that come one by one train as `fit` does; what goes wrong among them loses nothing."""

import contextlib
import itertools
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet.examples import Examples
from jaxnet.training import streaming
from jaxnet.training.epochs import epoch_batches
from tests.compare import WIDEST

NETWORK, LOSS, OPTIMIZER = jaxnet.mlp((4, 8, 3)), jaxnet.softmax_cross_entropy, jaxnet.adam(0.01)
KEY, EPOCHS, BATCH_SIZE = jax.random.key(0), 4, 16
X = np.random.default_rng(0).standard_normal((70, 4))
Y = X[:, :3].argmax(axis=1)
ORDER = [
    np.asarray(examples)
    for epoch in range(EPOCHS)
    for examples, _, _ in epoch_batches(
        jaxnet.init_state(NETWORK, OPTIMIZER, KEY)._replace(step=jnp.asarray(5 * epoch)),
        Examples(jnp.arange(len(X)), jnp.asarray(Y)),
        BATCH_SIZE,
    )
]


def batches(x=X, y=Y):
    for examples in ORDER:
        yield x[examples], y[examples]


def train(batches, **options):
    start = {} if "state" in options else {"key": KEY}
    return jaxnet.fit_batches(NETWORK, LOSS, OPTIMIZER, batches, **start, **options)


def assert_same(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.fixture(scope="module")
def whole():
    return train(batches())


def test_trains_as_fit_does_on_the_same_order(whole):
    state, history = whole
    expected, at_once = jaxnet.fit(NETWORK, LOSS, OPTIMIZER, X, Y, key=KEY, batch_size=BATCH_SIZE, epochs=EPOCHS)
    np.testing.assert_allclose(history.cost, at_once.cost, rtol=1e-12)
    for a, e in zip(jax.tree.leaves(state._replace(key=0)), jax.tree.leaves(expected._replace(key=0)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-14)
    assert (state.key == expected.key).all()
    assert not history.interrupted


def test_memory_mapped_files_train_the_same(tmp_path, whole):
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / name, array)
    mapped = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    state, history = train(batches(*mapped))
    assert_same((state.params, history.cost), (whole[0].params, whole[1].cost))


def test_goes_on_from_a_state_and_leaves_it_whole(whole):
    first, history = train(itertools.islice(batches(), 6))
    then, rest = train(itertools.islice(batches(), 6, None), state=first)
    assert_same((then.params, then.opt_state), (whole[0].params, whole[0].opt_state))
    np.testing.assert_array_equal([*history.cost, *rest.cost], whole[1].cost)
    assert int(first.step) == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first.params))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_costs_have_the_dtype_of_the_parameters(dtype):
    _, history = jaxnet.fit_batches(jaxnet.mlp((4, 8, 3), dtype=dtype), LOSS, OPTIMIZER, batches(), key=KEY)
    assert history.cost.dtype == dtype


@pytest.mark.parametrize("last", [12, 10])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, whole, last):
    train(itertools.islice(batches(), 12), checkpoint=tmp_path, checkpoint_every=5)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [5, 10, 12]
    if last == 10:
        shutil.rmtree(tmp_path / "12")
    state, history = train(batches(), checkpoint=tmp_path, checkpoint_every=5)
    assert_same((state.params, state.opt_state, history.cost), (whole[0].params, whole[0].opt_state, whole[1].cost))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((X[:3], Y[:2]), r"batch 7: x and y need the same number of examples"),
        ((X[:3] * np.nan, Y[:3]), r"batch 7: x must be finite"),
        ((X[:3, :2], Y[:3]), r"batch 7: "),
        (X[:3], r"batch 7: "),
    ],
)
def test_wrong_batch_is_named_and_the_state_before_it_handed_back(whole, wrong, message):
    with pytest.raises(jaxnet.TrainingError, match=message) as caught:
        train(itertools.chain(itertools.islice(batches(), 7), [wrong], batches()))
    error = caught.value
    assert int(error.state.step) == 7
    np.testing.assert_array_equal(error.history.cost, whole[1].cost[:7])


def test_error_of_the_iterable_loses_nothing(whole):
    def failing():
        yield from itertools.islice(batches(), 9)
        raise OSError("the disk is gone")

    with pytest.raises(jaxnet.TrainingError, match="batch 9: the disk is gone") as caught:
        train(failing())
    np.testing.assert_array_equal(caught.value.history.cost, whole[1].cost[:9])
    assert isinstance(caught.value.__cause__, OSError)


LINEAR = jaxnet.mlp((4, 2))
LARGE = 10 * float(jnp.finfo(WIDEST).max) ** 0.5


def overflowing(read=None):
    """Batches of which the eighth drives a linear network with a squared error to infinity."""
    for number, (x, _) in enumerate(batches()):
        if read is not None:
            read.append(number)
        yield x * (LARGE if number == 7 else 1), x[:, :2]


@pytest.mark.parametrize("word", ["raise", "stop"])
@pytest.mark.parametrize("optimizer", [OPTIMIZER, optax.set_to_zero()], ids=["adam", "no updates"])
def test_number_that_is_not_finite_is_named(word, optimizer):
    arguments, read = (LINEAR, jaxnet.squared_error, optimizer), []
    if word == "raise":
        with jax.debug_nans(True), pytest.raises(jaxnet.TrainingError, match="step 7: the cost is not") as caught:
            jaxnet.fit_batches(*arguments, overflowing(read), key=KEY)
        state, history = caught.value.state, caught.value.history
    else:
        state, history = jaxnet.fit_batches(*arguments, overflowing(read), key=KEY, on_nonfinite="stop")
    assert history.nonfinite == "step 7: the cost is not finite"
    assert int(state.step) == len(history.cost) == 7
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert len(read) <= 8 + streaming.IN_FLIGHT + 2 < len(ORDER)  # steps dispatched before it was seen, and ahead


def test_stop_at_the_first_batch_hands_back_the_beginning():
    first = [(X * LARGE, X[:, :2])]
    state, history = jaxnet.fit_batches(LINEAR, jaxnet.squared_error, OPTIMIZER, first, key=KEY, on_nonfinite="stop")
    assert history.nonfinite == "step 0: the cost is not finite"
    assert int(state.step) == len(history.cost) == 0


def test_a_bad_state_is_not_saved(tmp_path):
    with pytest.raises(jaxnet.TrainingError, match="step 7"):
        jaxnet.fit_batches(
            LINEAR, jaxnet.squared_error, OPTIMIZER, overflowing(), key=KEY, checkpoint=tmp_path, checkpoint_every=4
        )
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


@pytest.mark.usefixtures("nans_allowed")
def test_ignore_goes_on():
    state, history = jaxnet.fit_batches(
        LINEAR, jaxnet.squared_error, OPTIMIZER, overflowing(), key=KEY, on_nonfinite="ignore"
    )
    assert int(state.step) == len(history.cost) == len(ORDER)
    assert history.nonfinite is None
    assert not np.isfinite(history.cost[7:]).any()


def test_a_parameter_that_overflows_unseen_by_the_cost_is_found():
    network = jaxnet.mlp((1, 1), dtype=jnp.float32)
    optimizer = optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.full_like(u, 2e38), updates))
    same = itertools.repeat((np.zeros((4, 1)), np.ones(4)))
    with pytest.raises(jaxnet.TrainingError, match="step 1: a parameter is not finite after the update"):
        jaxnet.fit_batches(network, jaxnet.binary_cross_entropy, optimizer, same, key=KEY)


@pytest.mark.parametrize("ahead", [1, 3])
def test_reads_as_far_ahead_as_told(ahead):
    read = [threading.Event() for _ in ORDER]

    def watched():
        for event, batch in zip(read, batches(), strict=True):
            assert threading.current_thread().name.startswith("read-ahead")
            event.set()
            yield batch

    taken = 2
    with contextlib.closing(streaming._read_ahead(watched(), taken, ahead)) as following:
        for _ in following:
            taken += 1
            assert all(event.wait(10) for event in read[: taken + ahead])
            assert not any(event.is_set() for event in read[taken + ahead :])
    assert taken == len(ORDER)


def test_training_reads_so_many_ahead(monkeypatch):
    told = []
    read_ahead = streaming._read_ahead
    monkeypatch.setattr(streaming, "_read_ahead", lambda *given: told.append(given[1:]) or read_ahead(*given))
    train(batches(), ahead=7)
    assert told == [(0, 7)]


def test_interrupt_returns_what_was_trained(whole):
    def interrupting():
        for number, batch in enumerate(batches()):
            if number == 8:
                signal.raise_signal(signal.SIGINT)
            yield batch

    state, history = train(interrupting(), ahead=1)
    assert history.interrupted
    assert int(state.step) == len(history.cost) < len(ORDER)
    np.testing.assert_array_equal(history.cost, whole[1].cost[: len(history.cost)])


def test_no_batches_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one batch"):
        train([], checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": [LINEAR]}, TypeError, "expected a jaxnet Layer, .*, got list"),
        ({"network": jaxnet.elementwise(jaxnet.tanh)}, ValueError, "the network has no parameters"),
        ({"loss": len}, TypeError, "expected a jaxnet Loss, .*, got builtin_function_or_method"),
        ({"optimizer": [OPTIMIZER]}, TypeError, "optimizer must come from jaxnet.optimizers or Optax"),
        ({"key": None}, TypeError, "key must be one JAX random key, .*, got None"),
    ],
)
def test_what_is_no_network_loss_optimizer_or_key_is_refused(change, error, message):
    arguments = {"network": LINEAR, "loss": jaxnet.squared_error, "optimizer": OPTIMIZER, "key": KEY} | change
    with pytest.raises(error, match=message):
        jaxnet.fit_batches(**arguments, batches=batches())
