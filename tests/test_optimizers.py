"""Update rules against Optax and against their equations in NumPy, updates and every state field; their dtypes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import adam, gradient_descent, optimizers
from jaxnet.optimizers import adamw, heavy_ball, momentum
from tests.compare import OPTIMIZED, WIDEST, assert_close
from tests.optimizer_cases import (
    CASES,
    EQUATIONS,
    FACTORIES,
    RATE,
    STEPS,
    as_pytree,
    equations,
    gradients,
    optax_trajectory,
    parameters,
    slots_of,
    trajectory,
)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CASES)
def test_updates_and_state_equal_optax_over_1000_steps(name):
    ours, theirs, fields = CASES[name]
    params, gradient = parameters(WIDEST), gradients(WIDEST)
    updates, state = trajectory(ours, params, gradient)
    expected_updates, expected_state = optax_trajectory(theirs, params, gradient)
    assert_close(updates, expected_updates, 1e-12)
    np.testing.assert_array_equal(state.count, np.arange(1, STEPS + 1))
    slots = slots_of(state)
    assert len(slots) == len(fields)
    for slot, field in zip(slots, fields, strict=True):
        assert_close(slot, optax.tree_utils.tree_get(expected_state, field), 1e-12)


@functools.partial(jax.jit, compiler_options=OPTIMIZED)
def float32_steps(optimizer, states, params, gradients):
    """One step from each of many states."""
    return jax.vmap(lambda state, gradient: optimizer.update(gradient, state, params))(states, gradients)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CASES)
def test_one_float32_step_is_within_two_units_in_the_last_place(name):
    """From states that Optax reaches, which become ours field by field."""
    ours, theirs, fields = CASES[name]
    params, gradient = parameters("float32"), jax.tree.map(lambda leaf: leaf[1:51], gradients("float32"))
    _, reached = optax_trajectory(theirs, parameters(WIDEST), gradients(WIDEST))
    reached = jax.tree.map(lambda leaf: leaf[:50].astype("float32" if leaf.dtype == "float64" else leaf.dtype), reached)
    with jax.numpy_dtype_promotion("standard"):
        expected, expected_state = float32_steps(as_pytree(theirs), reached, params, gradient)
    start = ours.init(params)
    names = [field for field in start._fields[1:] if getattr(start, field) is not None]
    slots = {name: optax.tree_utils.tree_get(reached, field) for name, field in zip(names, fields, strict=True)}
    states = start._replace(count=jnp.arange(1, 51, dtype=jnp.int32), **slots)
    updates, state = float32_steps(ours, states, params, gradient)
    expected = [expected] + [optax.tree_utils.tree_get(expected_state, field) for field in fields]
    for leaf, reference in zip(jax.tree.leaves([updates, slots_of(state)]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(leaf), np.asarray(reference), 2)


@pytest.mark.parametrize("name", EQUATIONS)
def test_updates_equal_the_published_equations(name):
    params, sequence = parameters(WIDEST), gradients(WIDEST)
    updates, _ = trajectory(CASES[name][0], params, sequence)
    expected = np.array(list(equations(name, np.asarray(sequence["bias"][:, 0]), float(params["bias"][0]))))
    assert_close(updates["bias"][:, 0], expected, 1e-12)


def test_every_factory_has_cases_and_an_equation():
    assert set(FACTORIES) <= set(EQUATIONS)
    assert {factory.__name__ for factory in optimizers.ALL} == set(FACTORIES)
    assert {name for name in optimizers.__all__ if name.islower()} == {*FACTORIES, "optimizer_of"}


def test_momentum_is_heavy_ball_with_a_scaled_rate():
    params, sequence = parameters(WIDEST), gradients(WIDEST)
    ema, _ = trajectory(momentum(RATE, 0.8), params, sequence)
    ball, _ = trajectory(heavy_ball(RATE * (1 - 0.8), 0.8), params, sequence)
    assert_close(ema, ball, 1e-13)


def test_adagrad_takes_no_step_where_no_gradient_was_ever_seen():
    optimizer, gradient = jaxnet.optimizers.adagrad(1.0, 0.0, 0.0), {"a": jnp.array([0.0, 2.0])}
    updates: Any = optimizer.update(gradient, optimizer.init(gradient))[0]
    np.testing.assert_allclose(updates["a"], [0, -1])


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_a_variance_that_cancels_is_not_negative(decay, eps_in_sqrt):
    gradients = {"w": jnp.full((300, 1), 123456.7, "float32")}
    optimizer = optimizers.rmsprop(RATE, decay, eps_in_sqrt=eps_in_sqrt, centered=True)
    updates, _ = trajectory(optimizer, {"w": jnp.ones(1, "float32")}, gradients)
    assert jnp.isfinite(updates["w"]).all()


def test_schedules_see_the_finished_steps():
    schedule = optax.piecewise_constant_schedule(1.0, {3: 0.5})
    ones = {"bias": jnp.ones((6, 1))}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = trajectory(gradient_descent(schedule), {"bias": jnp.zeros(1)}, ones)
    np.testing.assert_allclose(updates["bias"][:, 0], [-1, -1, -1, -0.5, -0.5, -0.5])


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_learning_rate_and_weight_decay_may_be_schedules(name):
    rate, weight_decay = optax.exponential_decay(0.1, 5, 0.9), optax.linear_schedule(0.5, 0.1, 20)
    params, sequence = parameters(WIDEST), gradients(WIDEST)
    ours, theirs = (getattr(source, name)(rate, weight_decay=weight_decay) for source in (optimizers, optax))
    updates, _ = optax_trajectory(ours, params, sequence)
    expected, _ = optax_trajectory(theirs, params, sequence)
    assert_close(updates, expected, 1e-12)


MASKS = {
    "tree": {"weight": True, "nothing": (), "bias": False},
    "prefix": False,
    "all": True,
    "function": lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_masks_choose_what_decays(name, mask):
    params, sequence = parameters(WIDEST), gradients(WIDEST)
    ours, theirs = (getattr(source, name)(RATE, weight_decay=0.3, mask=MASKS[mask]) for source in (optimizers, optax))
    gradient = jax.tree.map(lambda leaf: leaf[0], sequence)
    with jax.numpy_dtype_promotion("standard"):
        expected, _ = jax.jit(theirs.update)(gradient, theirs.init(params), params)
    constant, _ = jax.jit(ours.update)(gradient, ours.init(params), params)
    traced, _ = jax.jit(lambda optimizer: optimizer.update(gradient, ours.init(params), params))(ours)
    assert_close(constant, expected, 1e-12)
    assert_close(traced, expected, 1e-12)


def one_step(optimizer, params):
    state = optimizer.init(params)
    return state, *optimizer.update(params, state, params)


compiled_step = jax.jit(one_step)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_dtype_and_structure_of_the_state_stay(name, dtype):
    params = parameters(dtype)
    state, updates, new_state = jax.eval_shape(one_step, CASES[name][0], params)
    for before, after in [(params, updates), (state, new_state)]:
        assert jax.tree.structure(before) == jax.tree.structure(after)
        assert [leaf.dtype for leaf in jax.tree.leaves(before)] == [leaf.dtype for leaf in jax.tree.leaves(after)]
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(state[1:]))


WITH_DTYPES = {name: ["mu_dtype", "nu_dtype"] for name in ("adam", "adamw", "nadam", "amsgrad", "adamax")}
WITH_DTYPES |= {name: ["accumulator_dtype"] for name in ("momentum", "heavy_ball", "nesterov", "adagrad", "rmsprop")}
WITH_DTYPES |= {"lion": ["mu_dtype"]}


@pytest.mark.parametrize("name", WITH_DTYPES)
def test_bfloat16_parameters_with_float32_slots_step_as_float32(name):
    """What the slots hold is what they hold for float32 parameters of the same values."""
    factory = getattr(optimizers, name)
    params = parameters("bfloat16")
    optimizer = factory(RATE, **dict.fromkeys(WITH_DTYPES[name], jnp.float32))
    state, updates, new_state = compiled_step(optimizer, params)
    wide = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
    _, expected, expected_state = compiled_step(factory(RATE), wide)
    assert_close(new_state, expected_state, 1e-6)
    assert_close(updates, expected, 1e-6)  # float32, as gradient and slots promote
    assert jax.tree.structure(state) == jax.tree.structure(new_state)


def test_mu_dtype_is_that_of_the_first_moment_alone():
    state, updates, new_state = jax.eval_shape(one_step, adam(RATE, mu_dtype="bfloat16"), parameters("float32"))
    for each in (state, new_state):
        assert {leaf.dtype.name for leaf in jax.tree.leaves(each.mu)} == {"bfloat16"}
        assert {leaf.dtype.name for leaf in jax.tree.leaves(each.nu)} == {"float32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"float32"}


@pytest.mark.parametrize("scalar", [2.0, np.float32(2), np.float64(2)], ids=lambda scalar: type(scalar).__name__)
@pytest.mark.float64
def test_scalars_are_parameters_too(scalar):
    optimizer = adamw(RATE, weight_decay=0.0)
    state = optimizer.init(scalar)
    update: Any
    update, state = optimizer.update(scalar, state, scalar)
    np.testing.assert_allclose(update, -RATE, rtol=1e-6)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))


def test_bfloat16_arithmetic_is_float32_rounded_once():
    """Not compiled: XLA may keep more digits between operations than their dtype has."""
    optimizer = adam(RATE)
    gradient = {"a": jnp.linspace(-2, 3, 16).astype("bfloat16")}
    start: Any = optimizer.init(gradient)
    state = start._replace(count=jnp.asarray(4, jnp.int32), nu={"a": jnp.full(16, 0.7, "bfloat16")})
    narrow = optimizer.update(gradient, state)
    state, gradient = jax.tree.map(lambda x: x.astype("float32") if x.ndim else x, (state, gradient))
    wide = optimizer.update(gradient, state)
    assert_close(narrow, jax.tree.map(lambda x: x.astype("bfloat16") if x.ndim else x, wide), 0)


def test_bfloat16_decay_rates_do_not_round_to_one():
    """In bfloat16 β₂ = 0.999 is 1 and 1 - β₂ᵗ is 0; Adam's first update is nevertheless -α sign(g)."""
    optimizer = adam(0.01)
    gradient = {"a": jnp.array([3.0, -0.5], "bfloat16")}
    updates: Any = optimizer.update(gradient, optimizer.init(gradient))[0]
    np.testing.assert_allclose(updates["a"].astype("float32"), [-0.01, 0.01], rtol=2**-8)


@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_count_stays_at_the_largest_integer(name):
    optimizer, largest = getattr(optimizers, name)(RATE), jnp.iinfo(jnp.int32).max
    state = optimizer.init({"a": jnp.ones(1)})._replace(count=jnp.asarray(largest, jnp.int32))
    updates, state = optimizer.update({"a": jnp.ones(1)}, state)
    assert state.count == largest
    np.testing.assert_allclose(state.mu["a"], 0.1)
    assert abs(updates["a"][0]) > 1e-3
