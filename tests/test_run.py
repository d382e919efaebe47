"""What a run measures and is told: validation, the best parameters, callbacks, weights of examples, and states."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.training import validation as judging
from tests.compare import WIDEST, assert_close

KEY, M, N, CLASSES = jax.random.key(0), 50, 4, 3
NETWORK, LOSS, OPTIMIZER = jn.mlp((N, 6, CLASSES), dtype=WIDEST), jn.softmax_cross_entropy, jn.adam(0.02)
GENERATOR = np.random.default_rng(5)
X, X_HELD = GENERATOR.standard_normal((M, N)), GENERATOR.standard_normal((37, N))
Y, Y_HELD = (x[:, :CLASSES].argmax(axis=1) for x in (X, X_HELD))
HELD: dict[str, Any] = {"validation": (X_HELD, Y_HELD), "metrics": {"accuracy": jn.is_correct}}
STEPS = 4  # an epoch


def train(**options):
    start: dict[str, Any] = {"batch_size": 16, "epochs": 6} | ({} if "state" in options else {"key": KEY})
    return jn.fit(NETWORK, LOSS, OPTIMIZER, X, Y, **(start | options))


def batches(epochs=6):
    """The batches of `train`, as a stream."""
    state = jn.init_state(NETWORK, OPTIMIZER, KEY)
    for epoch in range(epochs):
        state = state._replace(step=jnp.asarray(STEPS * epoch, "int32"))
        for batch in jn.training.epochs.epoch_batches(state, jn.examples.Examples(X, Y), 16):
            yield batch[:2]


def stream(**options):
    return jn.fit_batches(NETWORK, LOSS, OPTIMIZER, batches(), key=KEY, steps_per_epoch=STEPS, **options)


@functools.cache
def plain():
    return train()


@functools.cache
def epoch_by_epoch():
    """The states after each epoch, by runs of one epoch."""
    states = [train(epochs=1)[0]]
    while len(states) < 6:
        states.append(train(epochs=1, state=states[-1])[0])
    return states


def held_cost(params):
    return float(jn.cost(NETWORK, LOSS)(params, jnp.asarray(X_HELD), Y_HELD))


def held_accuracy(params):
    return np.asarray(jn.is_correct(jn.predict(NETWORK, LOSS)(params, jnp.asarray(X_HELD)), Y_HELD)).mean()


# Validation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [train, stream], ids=["fit", "fit_batches"])
def test_validation_is_that_of_the_parameters_after_each_epoch(run):
    state, history = run(**HELD)
    assert_close(history.validation["cost"], np.array([held_cost(s.params) for s in epoch_by_epoch()]), 1e-12)
    assert_close(history.validation["accuracy"], np.array([held_accuracy(s.params) for s in epoch_by_epoch()]), 1e-12)
    assert_close(state.params, plain()[0].params, 1e-12)
    assert_close(history.cost, plain()[1].cost, 1e-12)
    assert plain()[1].validation == {}
    assert plain()[1].best is None


@pytest.mark.parametrize("run", [train, stream], ids=["fit", "fit_batches"])
def test_the_best_parameters_are_kept(run):
    _, history = run(**HELD)
    lowest = int(np.argmin(history.validation["cost"]))
    assert_close(history.best.params, epoch_by_epoch()[lowest].params, 1e-12)
    assert_close(history.best.cost, history.validation["cost"][lowest], 0)
    assert history.best.step == STEPS * (lowest + 1)


def test_the_best_is_not_the_last_where_training_goes_wrong():
    up = jn.gradient_descent(lambda step: jnp.where(step < 2 * STEPS, 0.5, 40.0))
    _, history = jn.fit(NETWORK, LOSS, up, X, Y, key=KEY, batch_size=16, epochs=6, validation=(X_HELD, Y_HELD))
    lowest = int(np.argmin(history.validation["cost"]))
    assert history.best is not None
    assert history.best.step == STEPS * (1 + lowest) < 6 * STEPS
    assert_close(held_cost(history.best.params), history.validation["cost"].min(), 1e-12)


def test_examples_are_judged_in_parts_as_all_at_once(monkeypatch):
    params, held = NETWORK.init(KEY), (jnp.asarray(X_HELD), jnp.asarray(Y_HELD))
    whole = judging.evaluate(NETWORK, LOSS, params, *held, metrics=(("accuracy", jn.is_correct),))
    monkeypatch.setattr(judging, "AT_ONCE", 8)  # 37 examples: four parts and a rest
    parts = judging.evaluate(NETWORK, LOSS, params, *held, metrics=(("accuracy", jn.is_correct),))
    assert_close(parts, whole, 1e-14)
    monkeypatch.setattr(judging, "AT_ONCE", 37)
    assert_close(judging.evaluate(NETWORK, LOSS, params, *held), {"cost": whole["cost"]}, 0)


def test_validation_compiles_once_for_all_data_of_a_form():
    from tests.compare import compiled_programs
    from tests.test_training import FIT

    train(**HELD)
    compiled = compiled_programs(FIT._run_epochs)
    train(epochs=9, validation=(X_HELD[::-1], Y_HELD), metrics={"accuracy": jn.is_correct})
    assert compiled_programs(FIT._run_epochs) == compiled


@pytest.mark.one_in(2)
@pytest.mark.parametrize("run", [train, stream], ids=["fit", "fit_batches"])
def test_a_resumed_run_has_the_same_validation_and_the_same_best(tmp_path, run):
    whole = run(**HELD)
    stopped, part = run(
        **HELD, checkpoint=tmp_path, checkpoint_every=1, on_epoch=lambda state, history: state.step >= 12
    )
    assert stopped.step == 12
    assert len(part.validation["cost"]) == 3
    resumed = run(**HELD, checkpoint=tmp_path)
    for one, other in zip(
        jax.tree.leaves((resumed[0].params, resumed[1])), jax.tree.leaves((whole[0].params, whole[1])), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_run_resumed_with_other_metrics_is_refused(tmp_path):
    train(**HELD, epochs=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"\['accuracy', 'cost'\] .*, and \['cost'\] here: resume it with the same"):
        train(validation=HELD["validation"], checkpoint=tmp_path)


def test_validation_in_half_precision_keeps_a_best():
    network = jn.mlp((N, 6, CLASSES), dtype="bfloat16")
    _, history = jn.fit(network, LOSS, OPTIMIZER, X, Y, key=KEY, batch_size=16, epochs=2, **HELD)
    assert history.best is not None
    assert float(history.best.cost) == pytest.approx(float(history.validation["cost"].min()), rel=1e-2)


# Callbacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [train, stream], ids=["fit", "fit_batches"])
def test_callback_sees_every_epoch_and_keeps_what_it_was_given(run):
    seen = []
    _, history = run(on_epoch=lambda state, history: seen.append((state, history)), **HELD)
    assert [int(state.step) for state, _ in seen] == [4, 8, 12, 16, 20, 24]
    for (state, so_far), expected in zip(seen, epoch_by_epoch(), strict=True):
        assert_close(state.params, expected.params, 1e-12)  # not overwritten by later epochs
        assert_close(so_far.cost, history.cost[: int(state.step)], 0)
        assert_close(so_far.validation["cost"], history.validation["cost"][: int(state.step) // STEPS], 0)


@pytest.mark.parametrize("run", [train, stream], ids=["fit", "fit_batches"])
def test_true_ends_the_run(run):
    state, history = run(on_epoch=lambda state, history: len(history.cost) >= 3 * STEPS)
    assert state.step == len(history.cost) == 3 * STEPS
    assert not history.interrupted
    assert_close(state.params, epoch_by_epoch()[2].params, 1e-12)


@pytest.mark.parametrize("run", [train, stream], ids=["fit", "fit_batches"])
def test_callback_that_raises_loses_nothing(run):
    for logged in (17, [1, [2, 3]], {"a": 1}):  # `csv.writer(file).writerow` returns a number, which means nothing
        state, _ = run(on_epoch=lambda state, history, logged=logged: logged)
        assert state.step == 6 * STEPS

    def fails(state, history):
        if state.step == 2 * STEPS:
            raise OSError("the disk is full")

    with pytest.raises(jn.TrainingError, match="on_epoch raised OSError: the disk is full") as caught:
        run(on_epoch=fails)
    assert_close(caught.value.state.params, epoch_by_epoch()[1].params, 1e-12)
    assert len(caught.value.history.cost) == 2 * STEPS


def test_a_run_that_ended_early_is_not_taken_further_when_it_is_resumed(tmp_path):
    def enough(state, history):
        return len(history.cost) >= 3 * STEPS

    first = train(on_epoch=enough, checkpoint=tmp_path)
    again = train(on_epoch=enough, checkpoint=tmp_path)
    assert again[0].step == first[0].step == 3 * STEPS


def test_history_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        plain()[1].cost[0] = 0


# Weights of examples --------------------------------------------------------------------------------------------------


def test_weights_of_whole_numbers_are_copies_of_examples():
    weight = GENERATOR.integers(0, 4, M)
    options = {"key": KEY, "batch_size": None, "epochs": 5}
    weighted, history = jn.fit(NETWORK, LOSS, OPTIMIZER, X, Y, sample_weight=weight, **options)
    copies, expected = jn.fit(NETWORK, LOSS, OPTIMIZER, np.repeat(X, weight, 0), np.repeat(Y, weight), **options)
    assert_close(history.cost, expected.cost, 1e-12)
    assert_close(weighted.params, copies.params, 1e-12)


def test_equal_weights_change_nothing_and_their_size_is_of_no_account():
    for weight in (np.ones(M), np.full(M, 7)):
        assert_close(train(sample_weight=weight)[0].params, plain()[0].params, 1e-12)


def test_weighted_gradient_is_that_of_autodiff():
    params, weight, x = NETWORK.init(KEY), jnp.asarray(GENERATOR.uniform(0, 2, M), WIDEST), jnp.asarray(X, WIDEST)
    by_hand = jn.cost_and_gradient(NETWORK, LOSS)(params, x, Y, sample_weight=weight)
    automatic = jax.value_and_grad(jn.cost(NETWORK, LOSS))(params, x, Y, sample_weight=weight)
    assert_close(by_hand, automatic, 1e-12)
    assert_close(by_hand[0], np.mean(weight * LOSS.value(NETWORK.forward(params, x)[0], Y)), 1e-12)


def test_batches_bring_weights_along():
    weight = np.linspace(0, 2, M)
    order = list(
        jn.training.epochs.epoch_batches(jn.init_state(NETWORK, OPTIMIZER, KEY), jn.examples.Examples(X, Y, weight), 16)
    )
    streamed, _ = jn.fit_batches(NETWORK, LOSS, OPTIMIZER, order, key=KEY)
    assert_close(streamed.params, train(epochs=1, sample_weight=weight)[0].params, 1e-12)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("step", [jn.training.train_step, jn.readings.updating_step, jn.observed_step])
def test_every_step_takes_weights(step):
    network = jn.serial(
        jn.repeat(jn.serial(jn.dense(N, N, dtype=WIDEST), jn.elementwise(jn.tanh)), 2), jn.dense(N, 3, dtype=WIDEST)
    )
    state, weight = jn.init_state(network, OPTIMIZER, KEY), jnp.linspace(0, 2, M, dtype=WIDEST)
    x = jnp.asarray(X, WIDEST)
    found = step(network, LOSS, OPTIMIZER, state, x, jnp.asarray(Y), weight)
    cost, gradient = jax.value_and_grad(jn.cost(network, LOSS))(state.params, x, Y, sample_weight=weight)
    updates, _ = OPTIMIZER.update(gradient, state.opt_state, state.params)
    assert_close(found[1], cost, 1e-12)
    assert_close(found[0].params, jax.tree.map(jnp.add, state.params, updates), 1e-12)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"metrics": {"accuracy": jn.is_correct}}, ValueError, "metrics are measured on validation data"),
        ({**HELD, "metrics": {"cost": jn.is_correct}}, ValueError, 'another name than "cost"'),
        ({**HELD, "metrics": {"accuracy": 3}}, TypeError, "metric 'accuracy' must be a function"),
        ({"validation": (X_HELD, Y)}, ValueError, "validation x and y need the same number of examples"),
        ({"validation": (X_HELD[:, :2], Y_HELD)}, ValueError, r"dense 4→6 needs inputs of shape \(..., 4\)"),
        ({"validation": X_HELD}, TypeError, r"validation must be a pair \(x, y\)"),
        ({"on_epoch": 3}, TypeError, "on_epoch must be a function"),
        ({"sample_weight": np.ones(M - 1)}, ValueError, r"sample_weight needs one number an example, shape \(50,\)"),
        ({"sample_weight": np.zeros(M)}, ValueError, "must not be negative, nor 0 for all"),
        ({"sample_weight": -np.ones(M)}, ValueError, "must not be negative, nor 0 for all"),
        ({"sample_weight": np.full(M, np.nan)}, ValueError, "sample_weight must be finite"),
        ({"sample_weight": np.full(M, "a")}, TypeError, "sample_weight must hold real numbers"),
    ],
    ids=lambda value: None if isinstance(value, type) else str(value)[:40],
)
def test_fit_refuses(change, error, message):
    with pytest.raises(error, match=message):
        train(**change)


def test_a_key_and_a_state_are_too_much():
    with pytest.raises(ValueError, match=r"give key= for a fresh start, or state=, .*, not both"):
        jn.fit(NETWORK, LOSS, OPTIMIZER, X, Y, key=KEY, state=plain()[0], batch_size=16, epochs=1)


@pytest.mark.usefixtures("unchecked")
def test_batches_do_not_tell_epochs():
    wanted: list[dict[str, Any]] = [{"validation": (X_HELD, Y_HELD)}, {"on_epoch": lambda state, history: None}]
    for options in wanted:
        with pytest.raises(ValueError, match="give steps_per_epoch"):
            jn.fit_batches(NETWORK, LOSS, OPTIMIZER, batches(), key=KEY, **options)
    with pytest.raises(TypeError, match=r"validation must be a pair \(x, y\)"):
        stream(validation=X_HELD)


def test_a_bad_batch_that_is_not_reached_any_more_is_no_error():
    def spoiled():
        yield from batches(1)
        yield X[:, :2], Y

    state, _ = jn.fit_batches(
        NETWORK, LOSS, OPTIMIZER, spoiled(), key=KEY, steps_per_epoch=STEPS, on_epoch=lambda state, history: True
    )
    assert state.step == STEPS


# What people see ------------------------------------------------------------------------------------------------------


def test_history_is_shown_in_a_line_and_as_a_figure():
    _, history = train(**HELD)
    assert repr(history).startswith(
        f"History(24 steps, cost {history.cost[0]:.4g} → {history.cost[-1]:.4g}, validation"
    )
    assert "\n" not in repr(history)
    axes = history.plot().axes[0]
    cost, held = axes.lines
    np.testing.assert_array_equal(cost.get_ydata(), history.cost)
    np.testing.assert_array_equal(held.get_xdata(), np.arange(4, 25, 4))
    np.testing.assert_array_equal(held.get_ydata(), history.validation["cost"])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cost", "validation cost"]
    page = history._repr_html_()
    assert repr(history).replace(">", "&gt;") in page
    assert "<svg" in page


def test_history_needs_no_figures(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _, history = plain()
    assert "<svg" not in history._repr_html_()
    with pytest.raises(ImportError, match=r"needs Matplotlib: pip install 'jaxnet-by-hand\[experiments\]'"):
        history.plot()


def test_an_empty_history_is_shown():
    assert repr(jn.training.History(np.zeros(0))) == "History(0 steps)"
    jn.training.History(np.zeros(0)).plot()
    assert "2 × 3 networks" in repr(jn.training.History(np.zeros((2, 3, 8))))


def test_a_state_is_shown_in_a_line():
    state, shown = jn.init_state(jn.mlp((4, 6, 3), dtype=jnp.float32), OPTIMIZER, KEY), []
    assert repr(state) == "TrainState(step 0, 51 parameters in float32)"
    assert repr(jax.eval_shape(lambda: state)) == "TrainState(51 parameters in float32)"
    assert repr(state._replace(params=())) == "TrainState(step 0, 0 parameters in no array)"
    jax.eval_shape(lambda state: shown.append(repr(state)), state)
    assert shown == ["TrainState(51 parameters in float32)"]
