"""A number that is not finite: named by step, layer and quantity, and the state before it is handed back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet.examples import Examples
from jaxnet.training.epochs import epoch_batches
from jaxnet.training.nonfinite import all_finite, first_failure

pytestmark = pytest.mark.usefixtures("nans_allowed")

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((30, 4))
Y = np.stack([X[:, 0], X[:, 1]], axis=1)
NETWORK, LOSS = jaxnet.mlp((4, 8, 2), jaxnet.activations.softplus), jaxnet.squared_error
LINEAR, TOO_FAST = jaxnet.mlp((4, 2)), jaxnet.gradient_descent(20.0)  # the cost grows a thousandfold a step
RUN = {"key": KEY, "batch_size": 8, "epochs": 40}


@functools.cache
def by_a_plain_loop():
    """The state before the first step whose cost is not finite, and the costs of those before it."""
    state, costs = jaxnet.init_state(LINEAR, TOO_FAST, KEY), []
    step = jax.jit(jaxnet.training.train_step, static_argnums=(0, 1))
    while True:
        for batch in list(epoch_batches(state, Examples(jnp.asarray(X), jnp.asarray(Y)), RUN["batch_size"])):
            after, cost = step(LINEAR, LOSS, TOO_FAST, state, *batch)
            if not np.isfinite(cost):
                return state, np.array(costs)
            costs.append(float(cost))
            state = after


def assert_same(actual, expected, rtol=1e-9):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol)


def test_raise_names_the_step_and_hands_back_the_state_before_it():
    state, costs = by_a_plain_loop()
    with pytest.raises(jaxnet.TrainingError, match=rf"^step {len(costs)}: .* is not finite") as caught:
        jaxnet.fit(LINEAR, LOSS, TOO_FAST, X, Y, **RUN)
    error = caught.value
    assert int(error.state.step) == len(costs) == len(error.history.cost) > 10
    np.testing.assert_allclose(error.history.cost, costs, rtol=1e-9)
    assert_same((error.state.params, error.state.opt_state), (state.params, state.opt_state))
    assert not error.history.interrupted


def test_stop_returns_the_same_and_what_was_observed():
    state, costs = by_a_plain_loop()
    stopped, history = jaxnet.fit(LINEAR, LOSS, TOO_FAST, X, Y, **RUN, on_nonfinite="stop", observe_every=3)
    assert history.nonfinite is not None
    assert history.nonfinite.startswith(f"step {len(costs)}: ")
    assert history.diagnostics is not None
    assert_same(stopped.params, state.params)
    np.testing.assert_array_equal(history.diagnostics.step, np.arange(0, len(costs), 3))
    assert np.isfinite(history.diagnostics.cost).all()


def test_ignore_goes_on():
    state, history = jaxnet.fit(LINEAR, LOSS, TOO_FAST, X, Y, **RUN, on_nonfinite="ignore")
    assert int(state.step) == len(history.cost) == 40 * 4
    assert history.nonfinite is None
    assert not np.isfinite(history.cost[-1])


def test_a_good_run_is_the_same_to_the_bit_whether_watched_or_not():
    runs = [
        jaxnet.fit(NETWORK, LOSS, jaxnet.adam(0.01), X, Y, **RUN, on_nonfinite=word) for word in ("raise", "ignore")
    ]
    for watched, free in zip(
        *map(jax.tree.leaves, [(state.params, history.cost) for state, history in runs]), strict=True
    ):
        np.testing.assert_array_equal(watched, free)


def constant_updates(value, at):
    """An optimizer whose every update is `value` at one step and 0 at others."""

    def update(updates, count, params=None):
        return jax.tree.map(lambda u: jnp.full_like(u, jnp.where(count == at, value, 0.0)), updates), count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros([], jnp.int32), update)  # pyright: ignore[reportArgumentType]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("value", "step", "what"),
    [
        (np.nan, 7, r"step 7: the update of \[0\] dense 4→8 is not finite"),
        (1e308, 8, r"step 8: an activation of \[0\] dense 4→8 is not finite"),
        (1e200, 8, r"step 8: an activation of \[2\] dense 8→2 is not finite"),
        (1e120, 8, r"step 8: the cost is not finite"),
    ],
)
@pytest.mark.float64
def test_layer_and_quantity_are_named(value, step, what):
    scale = 100.0 if value == 1e308 else 1.0
    with pytest.raises(jaxnet.TrainingError, match=what) as caught:
        jaxnet.fit(NETWORK, LOSS, constant_updates(value, 7), scale * X, Y, **RUN)
    assert int(caught.value.state.step) == step
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(caught.value.state.params))


def test_a_parameter_that_overflows_unseen_by_the_cost_is_found():
    network = jaxnet.mlp((1, 1), dtype=jnp.float32)
    optimizer = optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.full_like(u, 2e38), updates))
    x, y = np.zeros((4, 1)), np.ones(4)
    with pytest.raises(jaxnet.TrainingError, match="step 1: a parameter is not finite after the update"):
        jaxnet.fit(network, jaxnet.binary_cross_entropy, optimizer, x, y, key=KEY, batch_size=None, epochs=9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_among_many_is_seen(bad):
    tree = {"a": np.ones((2, 3), np.float32), "b": np.ones(4), "count": np.ones(2, np.int32)}
    assert all_finite(tree)
    for name in "ab":
        spoiled = tree[name].copy()
        spoiled.flat[-1] = bad
        assert not all_finite(tree | {name: spoiled})
    assert all_finite({})


def test_jaxs_own_switch_loses_no_state():
    state, costs = by_a_plain_loop()
    with jax.debug_nans(True), pytest.raises(jaxnet.TrainingError, match=rf"^step {len(costs)}: ") as caught:
        jaxnet.fit(LINEAR, LOSS, TOO_FAST, X, Y, **RUN)
    assert_same(caught.value.state.params, state.params)


def test_another_word_is_refused(unchecked):
    with pytest.raises(ValueError, match='"raise", "stop" or "ignore", got \'warn\''):
        jaxnet.fit(LINEAR, LOSS, TOO_FAST, X, Y, **RUN, on_nonfinite="warn")  # pyright: ignore[reportArgumentType]


def test_a_failure_that_does_not_repeat_is_told_and_hands_back_the_beginning():
    state = jaxnet.init_state(NETWORK, TOO_FAST, KEY)
    failure = first_failure(
        NETWORK, LOSS, jaxnet.gradient_descent(0.0), [Examples(X, Y)] * 3, state._replace(step=5 + state.step)
    )
    assert failure.what == ("after step 5: a number is not finite, but not when the steps are repeated one by one")
    assert int(failure.state.step) == 5
    assert failure.cost.size == 0
    assert failure.diagnostics is None
