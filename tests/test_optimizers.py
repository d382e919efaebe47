"""Update rules against Optax and against their equations in NumPy, updates and every state field; and as pytrees."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import adam, gradient_descent, heavy_ball, momentum, nesterov, rmsprop
from tests.compare import assert_close, compiled_programs

RATE = 0.02

# (ours, Optax's, the fields of Optax's state that correspond to ours after the count)
PAIRS = {
    "gradient_descent": (gradient_descent(RATE), optax.sgd(RATE), []),
    "momentum": (momentum(RATE, 0.8), optax.chain(optax.ema(0.8, debias=False), optax.scale(-RATE)), ["ema"]),
    "heavy_ball": (heavy_ball(RATE, 0.8), optax.sgd(RATE, 0.8), ["trace"]),
    "nesterov": (nesterov(RATE, 0.8), optax.sgd(RATE, 0.8, nesterov=True), ["trace"]),
    "rmsprop": (rmsprop(RATE, 0.8, 0.1, 0.5), optax.rmsprop(RATE, 0.8, 0.1, 0.5), ["nu"]),
    "adam": (adam(RATE, 0.8, 0.99, 0.1, 0.05), optax.adam(RATE, 0.8, 0.99, 0.1, 0.05), ["mu", "nu"]),
    "adam at its defaults": (adam(RATE), optax.adam(RATE), ["mu", "nu"]),
}
STEPS = 1000


def parameters(dtype):
    return {"weight": jnp.linspace(-2, 2, 6, dtype=dtype).reshape(2, 3), "nothing": (), "bias": jnp.ones(3, dtype)}


def gradients(dtype):
    """Large, tiny, sparse and vanishing gradients, one a step."""
    generator = np.random.default_rng(3)
    scale = 10.0 ** generator.integers(-4, 3, STEPS) * generator.binomial(1, 0.8, STEPS)
    scale[300:400] = 0

    def leaf(*shape):
        return jnp.asarray((generator.standard_normal((STEPS, *shape)).T * scale).T, dtype)

    return {"weight": leaf(2, 3), "nothing": (), "bias": leaf(3)}


@jax.jit
def trajectory(optimizer, params, gradients):
    """The updates and the state after each step."""

    def step(state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return state, (updates, state)

    return jax.lax.scan(step, optimizer.init(params), gradients)[1]


def optax_trajectory(optimizer, params, gradients):
    """The same for closures, which become static, and for Optax's rules, which mix dtypes."""
    optimizer = jax.tree.map(lambda leaf: jax.tree_util.Partial(leaf) if callable(leaf) else leaf, optimizer)
    with jax.numpy_dtype_promotion("standard"):
        return trajectory(optimizer, params, gradients)


@pytest.mark.parametrize("name", PAIRS)
def test_updates_and_state_equal_optax_over_1000_steps(name):
    ours, theirs, fields = PAIRS[name]
    params, gradient = parameters("float64"), gradients("float64")
    updates, state = trajectory(ours, params, gradient)
    expected_updates, expected_state = optax_trajectory(theirs, params, gradient)
    assert_close(updates, expected_updates, 1e-12)
    np.testing.assert_array_equal(state.count, np.arange(1, STEPS + 1))
    for slot, field in zip([slot for slot in state[1:] if slot is not None], fields, strict=True):
        assert_close(slot, optax.tree_utils.tree_get(expected_state, field), 1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_one_float32_step_is_within_two_units_in_the_last_place(name):
    ours, theirs, _ = PAIRS[name]
    params = parameters("float32")
    for step in range(0, 50, 10):
        gradient = jax.tree.map(lambda leaf, step=step: leaf[step : step + 1], gradients("float32"))
        (updates, _), (expected, _) = trajectory(ours, params, gradient), optax_trajectory(theirs, params, gradient)
        for leaf, reference in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_max_ulp(np.asarray(leaf), np.asarray(reference), 2)


def equations(name, gradients):
    """Each rule as its paper writes it, one number at a time in NumPy float64."""
    v = s = 0.0
    for t, g in enumerate(gradients, start=1):
        if name == "gradient_descent":
            yield -RATE * g
        elif name == "momentum":
            v = 0.8 * v + 0.2 * g
            yield -RATE * v
        elif name == "heavy_ball":
            v = 0.8 * v + g
            yield -RATE * v
        elif name == "nesterov":
            v = 0.8 * v + g
            yield -RATE * (0.8 * v + g)
        elif name == "rmsprop":
            s = 0.8 * (s if t > 1 else 0.5) + 0.2 * g**2
            yield -RATE * g / np.sqrt(s + 0.1)
        elif name == "adam":
            v, s = 0.8 * v + 0.2 * g, 0.99 * s + 0.01 * g**2
            yield -RATE * (v / (1 - 0.8**t)) / (np.sqrt(s / (1 - 0.99**t) + 0.05) + 0.1)


@pytest.mark.parametrize("name", [name for name in PAIRS if "defaults" not in name])
def test_updates_equal_the_published_equations(name):
    sequence = gradients("float64")
    updates, _ = trajectory(PAIRS[name][0], parameters("float64"), sequence)
    expected = np.array(list(equations(name, np.asarray(sequence["bias"][:, 0]))))
    assert_close(updates["bias"][:, 0], expected, 1e-12)


def test_momentum_is_heavy_ball_with_a_scaled_rate():
    params, sequence = parameters("float64"), gradients("float64")
    ema, _ = trajectory(momentum(RATE, 0.8), params, sequence)
    ball, _ = trajectory(heavy_ball(RATE * (1 - 0.8), 0.8), params, sequence)
    assert_close(ema, ball, 1e-13)


@pytest.mark.parametrize("name", PAIRS)
def test_another_learning_rate_does_not_retrace(name):
    optimizer = PAIRS[name][0]
    params, sequence = parameters("float64"), gradients("float64")
    trajectory(optimizer, params, sequence)
    compiled = compiled_programs(trajectory)
    trajectory(jax.tree.map(lambda number: number * 0.5, optimizer), params, sequence)
    assert compiled_programs(trajectory) == compiled


def test_hyperparameters_are_leaves_that_vmap_can_stack():
    params, sequence = parameters("float64"), gradients("float64")
    rates, b2s = jnp.array([0.1, 0.01, 0.001]), jnp.array([0.9, 0.99, 0.999])
    stacked, _ = jax.vmap(lambda rate, b2: trajectory(adam(rate, b2=b2), params, sequence))(rates, b2s)
    for i in range(3):
        one, _ = trajectory(adam(float(rates[i]), b2=float(b2s[i])), params, sequence)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), one, 1e-12)


def test_schedules_see_the_finished_steps():
    schedule = optax.piecewise_constant_schedule(1.0, {3: 0.5})
    ones = {"bias": jnp.ones((6, 1))}
    updates, _ = optax_trajectory(gradient_descent(schedule), {"bias": jnp.zeros(1)}, ones)
    np.testing.assert_allclose(updates["bias"][:, 0], [-1, -1, -1, -0.5, -0.5, -0.5])
    decay = optax.exponential_decay(0.1, 5, 0.9)
    params, sequence = parameters("float64"), gradients("float64")
    ours, _ = optax_trajectory(adam(decay), params, sequence)
    theirs, _ = optax_trajectory(optax.adam(decay), params, sequence)
    assert_close(ours, theirs, 1e-12)


def test_optimizers_work_inside_optax():
    """In chain, inject_hyperparams, MultiSteps, multi_transform and apply_if_finite, as Optax's own rule does."""
    params, sequence = parameters("float64"), gradients("float64")

    def variants(factory):
        yield optax.chain(optax.clip_by_global_norm(1.0), factory(RATE))
        yield optax.inject_hyperparams(factory)(RATE)
        yield optax.MultiSteps(factory(RATE), 3).gradient_transformation()
        yield optax.multi_transform(
            {"a": factory(RATE), "b": factory(2 * RATE)}, {"weight": "a", "nothing": (), "bias": "b"}
        )
        yield optax.apply_if_finite(factory(RATE), 5)

    for ours, theirs in zip(variants(adam), variants(optax.adam), strict=True):
        updates, _ = optax_trajectory(ours, params, sequence)
        expected, _ = optax_trajectory(theirs, params, sequence)
        assert_close(updates, expected, 1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", PAIRS)
def test_dtype_and_structure_of_the_state_stay(name, dtype):
    optimizer, params = PAIRS[name][0], parameters(dtype)
    state: Any = optimizer.init(params)
    updates, new_state = optimizer.update(params, state, params)
    for before, after in [(params, updates), (state, new_state)]:
        assert jax.tree.structure(before) == jax.tree.structure(after)
        assert [leaf.dtype for leaf in jax.tree.leaves(before)] == [leaf.dtype for leaf in jax.tree.leaves(after)]


def test_bfloat16_decay_rates_do_not_round_to_one():
    """In bfloat16 β₂ = 0.999 is 1 and 1 - β₂ᵗ is 0; Adam's first update is nevertheless -α sign(g)."""
    optimizer = adam(0.01)
    gradient = {"a": jnp.array([3.0, -0.5], "bfloat16")}
    updates: Any = optimizer.update(gradient, optimizer.init(gradient))[0]
    np.testing.assert_allclose(updates["a"].astype("float32"), [-0.01, 0.01], rtol=2**-8)


def test_count_stays_at_the_largest_integer():
    optimizer, largest = adam(RATE), jnp.iinfo(jnp.int32).max
    start: Any = optimizer.init({"a": jnp.ones(1)})
    state: Any = start._replace(count=jnp.asarray(largest, jnp.int32))
    updates: Any
    updates, state = optimizer.update({"a": jnp.ones(1)}, state)
    assert state.count == largest
    assert jnp.isfinite(updates["a"]).all()


def test_stacked_hyperparameters_never_broadcast():
    optimizer, params = gradient_descent(jnp.array([0.1, 0.2])), {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"hyperparameters must be scalars; put stacked ones through jax\.vmap"):
        optimizer.update(params, optimizer.init(params))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gradient_descent(-0.1), "learning_rate must be at least 0 and below inf, got -0.1"),
        (lambda: adam(float("nan")), "learning_rate must be at least 0 and below inf, got nan"),
        (lambda: momentum(0.1, 1.0), "momentum must be at least 0 and below 1, got 1.0"),
        (lambda: nesterov(0.1, -0.5), "momentum must be at least 0 and below 1, got -0.5"),
        (lambda: rmsprop(0.1, decay=2), "decay must be at least 0 and below 1, got 2"),
        (lambda: rmsprop(0.1, eps=-1e-8), "eps must be at least 0"),
        (lambda: adam(0.1, b2=1.5), "b2 must be at least 0 and below 1, got 1.5"),
        (lambda: adam(0.1, eps_root=-1), "eps_root must be at least 0"),
    ],
)
def test_hyperparameters_outside_their_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
