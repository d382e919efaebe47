"""Optimizers as pytrees: arguments of jit, stacked by vmap, inside Optax's wrappers; and what they refuse."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import adam, gradient_descent
from jaxnet.optimizers import adagrad, adamax, adamw, amsgrad, heavy_ball, lion, momentum, nadam, nesterov, rmsprop
from tests.compare import WIDEST, assert_close, compiled_programs, random_like
from tests.optimizer_cases import FACTORIES, RATE, gradients, optax_trajectory, parameters

GRADIENT = {"weight": jnp.ones((2, 3)), "nothing": (), "bias": jnp.ones(3)}


@jax.jit
def step(optimizer, state, gradient, params):
    return optimizer.update(gradient, state, params)


def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


VARIED = {
    "gradient_descent": lambda x: gradient_descent(x),
    "momentum": lambda x: momentum(x, x),
    "heavy_ball": lambda x: heavy_ball(x, x),
    "nesterov": lambda x: nesterov(x, x),
    "adagrad": lambda x: adagrad(x, x, x),
    "rmsprop": lambda x: rmsprop(x, x, x, x, False, True, x, True, True),
    "adam": lambda x: adam(x, x, x, x, x),
    "adamw": lambda x: adamw(x, x, x, x, x, weight_decay=x, mask={"weight": True, "nothing": (), "bias": False}),
    "nadam": lambda x: nadam(x, x, x, x, x),
    "amsgrad": lambda x: amsgrad(x, x, x, x, x, None, True, False),
    "adamax": lambda x: adamax(x, x, x, x),
    "lion": lambda x: lion(x, x, x, None, x, matrices),
}


@pytest.mark.parametrize("name", VARIED)
def test_neither_a_second_step_nor_other_numbers_retrace(name):
    """Each optimizer built anew; every number of it may be traced, and stacked by vmap."""
    build, params = VARIED[name], parameters(WIDEST)
    assert hash(jax.tree.structure(build(0.5))) == hash(jax.tree.structure(build(0.25)))
    state = build(0.5).init(params)
    updates, state = step(build(0.5), state, GRADIENT, params)
    compiled = compiled_programs(step)
    expected, _ = step(build(0.25), state, GRADIENT, params)
    assert compiled_programs(step) == compiled
    stacked = jax.vmap(lambda x: step(build(x), state, GRADIENT, params)[0])(jnp.array([0.5, 0.25]))
    assert_close(jax.tree.map(lambda leaf: leaf[1], stacked), expected, 1e-12)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@pytest.mark.float64
def test_schedules_with_leaves_do_not_retrace():
    @jax.tree_util.Partial
    def rate(count):
        return 0.1 / (1 + count.astype(float))

    def scaled(base, count):
        return base / (1 + count.astype(float))

    optimizer, params = adam(rate), parameters(WIDEST)
    step(optimizer, optimizer.init(params), GRADIENT, params)
    compiled = compiled_programs(step)
    step(adam(rate), optimizer.init(params), GRADIENT, params)
    assert compiled_programs(step) == compiled
    for base in (0.1, 0.2):
        updates, _ = step(adam(jax.tree_util.Partial(scaled, base)), optimizer.init(params), GRADIENT, params)
        np.testing.assert_allclose(updates["bias"], -base, rtol=1e-6)
    assert compiled_programs(step) == compiled + 1


@pytest.mark.float64
def test_64_learning_rates_train_64_networks_in_one_program(key):
    network = jaxnet.mlp([2, 4, 1])
    x = random_like(jnp.zeros((16, 2)), 1)
    y = (x[:, :1] * x[:, 1:] > 0).astype(x.dtype)
    start = jaxnet.init_state(network, adam(0.0), key)

    @jax.jit
    def train(optimizer):
        def step(state, _):
            return jaxnet.training.train_step(network, jaxnet.binary_cross_entropy, optimizer, state, x, y)

        return jax.lax.scan(step, start, None, 30)[1]

    rates = jnp.geomspace(1e-3, 0.3, 64)
    optimizers = jax.vmap(adam)(rates)
    sweep = jax.jit(jax.vmap(train))
    costs = sweep(optimizers)
    assert costs.shape == (64, 30)
    assert costs[40, -1] < costs[40, 0]
    np.testing.assert_allclose(costs[17], train(adam(rates[17])), rtol=1e-12)
    sweep(jax.vmap(adam)(rates / 2))
    assert compiled_programs(sweep) == 1


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.usefixtures("nans_allowed")
def test_factories_work_inside_optax(name):
    """In chain, inject_hyperparams, MultiSteps, multi_transform and apply_if_finite, as Optax's own rule does."""
    params, sequence = parameters(WIDEST), dict(gradients(WIDEST, 30))
    sequence["bias"] = sequence["bias"].at[7].set(jnp.nan)
    labels = {"weight": "a", "nothing": (), "bias": "b"}

    def wrapped(factory):
        """One within the other, which takes one compilation."""
        inner = optax.multi_transform({"a": factory(RATE), "b": optax.inject_hyperparams(factory)(2 * RATE)}, labels)
        accumulated = optax.MultiSteps(inner, 3).gradient_transformation()
        return optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), accumulated), 5)

    ours, theirs = FACTORIES[name]
    updates, _ = optax_trajectory(wrapped(ours), params, sequence)
    expected, _ = optax_trajectory(wrapped(theirs), params, sequence)
    assert_close(updates, expected, 1e-12)


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
        (lambda: heavy_ball(0.1, 1.0), "momentum must be at least 0 and below 1, got 1.0"),
        (lambda: nesterov(0.1, -0.5), "momentum must be at least 0 and below 1, got -0.5"),
        (lambda: adagrad(0.1, -1), "initial_accumulator_value must be at least 0"),
        (lambda: adagrad(0.1, eps=-1), "eps must be at least 0"),
        (lambda: rmsprop(0.1, decay=2), "decay must be at least 0 and below 1, got 2"),
        (lambda: rmsprop(0.1, eps=-1e-8), "eps must be at least 0"),
        (lambda: rmsprop(0.1, initial_scale=-1), "initial_scale must be at least 0"),
        (lambda: rmsprop(0.1, momentum=1), "momentum must be at least 0 and below 1, got 1"),
        (lambda: adam(0.1, b2=1.5), "b2 must be at least 0 and below 1, got 1.5"),
        (lambda: adam(0.1, eps_root=-1), "eps_root must be at least 0"),
        (lambda: adamw(0.1, weight_decay=-1), "weight_decay must be at least 0"),
        (lambda: nadam(0.1, b1=1), "b1 must be at least 0 and below 1, got 1"),
        (lambda: amsgrad(0.1, b2=np.nan), "b2 must be at least 0 and below 1, got nan"),
        (lambda: adamax(0.1, b2=-1), "b2 must be at least 0 and below 1, got -1"),
        (lambda: lion(0.1, b2=1), "b2 must be at least 0 and below 1, got 1"),
        (lambda: lion(0.1, weight_decay=-0.1), "weight_decay must be at least 0"),
    ],
    ids=[f"{i:02}" for i in range(19)],
)
def test_hyperparameters_outside_their_range_are_refused(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


def test_moments_are_floating_point():
    with pytest.raises(TypeError, match="mu needs a floating-point dtype, got int32"):
        adam(0.1, mu_dtype="int32")


@pytest.mark.parametrize("optimizer", [adamw(RATE), lion(RATE)], ids=["adamw", "lion"])
def test_weight_decay_needs_parameters(optimizer):
    message = "weight decay needs the parameters: call update(gradients, state, params)"
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.update(GRADIENT, optimizer.init(GRADIENT))


def bad_gradients():
    matrix, bias = jnp.ones((2, 3)), jnp.ones(3)
    yield "leaf lost", {"weight": matrix, "nothing": ()}, "['bias'] that the gradients lack"
    yield "None for a leaf", {"weight": matrix, "nothing": (), "bias": None}, "['bias'] that the gradients lack"
    yield "leaf more", {**GRADIENT, "other": bias}, "the gradients have a leaf ['other'] that"
    yield "shape", {**GRADIENT, "bias": jnp.ones((3, 1))}, "['bias'] has shape (3, 1) in the gradients and (3,) in "
    yield "containers", {**GRADIENT, "nothing": []}, "the gradients are PyTreeDef"


@pytest.mark.parametrize(
    ("gradient", "message"), [row[1:] for row in bad_gradients()], ids=[r[0] for r in bad_gradients()]
)
@pytest.mark.parametrize("factory", [gradient_descent, adam, adamw], ids=["gradient_descent", "adam", "adamw"])
def test_gradients_that_do_not_match_are_refused(factory, gradient, message):
    optimizer = factory(RATE)
    state = optimizer.init(GRADIENT)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        optimizer.update(gradient, state, GRADIENT)
    assert ("the parameters" if factory is gradient_descent else "the state's mu") in str(caught.value)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "float0"])
def test_gradients_that_are_no_real_floating_point_numbers_are_refused(dtype):
    bias = np.zeros(3, jax.dtypes.float0) if dtype == "float0" else jnp.ones(3, dtype)
    optimizer = momentum(RATE)
    with pytest.raises(
        TypeError, match=r"gradient\['bias'\] must be a real floating-point array, got .*" + dtype.strip("0")
    ):
        optimizer.update({**GRADIENT, "bias": bias}, optimizer.init(GRADIENT))
