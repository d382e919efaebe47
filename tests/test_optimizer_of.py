"""Anybody's optimizer as a pytree: the functions that it is made of, what is a number and what decides the program."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxnet import adam, optimizer_of, verify_optimizer
from tests.compare import assert_close

PARAMS = {"weight": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
GRADIENTS = {"weight": jnp.full((2, 3), 0.5), "bias": jnp.arange(3.0)}


def init(params, start):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, start), params)


def update(gradients, state, params, rate, start, ascend=False):
    state = jax.tree.map(jnp.add, state, gradients)
    return jax.tree.map(lambda leaf: (rate if ascend else -rate) * leaf, state), state


def test_functions_are_given_the_hyperparameters_that_they_name():
    optimizer = optimizer_of(init, update, rate=0.1, start=2.0)
    updates, state = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)
    assert_close(state, jax.tree.map(lambda g: 2 + g, GRADIENTS), 0)
    assert_close(updates, jax.tree.map(lambda g: -0.1 * (2 + g), GRADIENTS), 1e-15)
    ascending = optimizer_of(init, update, rate=0.1, start=2.0, ascend=True)
    assert_close(
        ascending.update(GRADIENTS, state, PARAMS)[0], jax.tree.map(lambda g: 0.1 * (2 + 2 * g), GRADIENTS), 1e-15
    )


def test_another_number_does_not_compile_again_and_another_choice_does():
    traced = []

    @jax.jit
    def step(optimizer):
        traced.append(optimizer)
        return optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)[0]

    first = step(optimizer_of(optax.sgd, learning_rate=0.1, momentum=0.9))
    assert_close(
        step(optimizer_of(optax.sgd, learning_rate=0.2, momentum=0.9)), jax.tree.map(lambda u: 2 * u, first), 1e-15
    )
    assert len(traced) == 1
    nesterov = step(optimizer_of(optax.sgd, learning_rate=0.1, momentum=0.9, nesterov=True))
    assert_close(nesterov, jax.tree.map(lambda u: 1.9 * u, first), 1e-15)
    assert len(traced) == 2


def test_a_factory_may_take_extra_arguments_of_its_update():
    optimizer: Any = optimizer_of(optax.contrib.reduce_on_plateau, rtol=0.1)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS, value=jnp.asarray(3.0, "float32"))
    assert state.best_value == 3


def test_it_is_the_optimizer_that_it_is_made_of():
    def made(rate, **others):
        return optimizer_of(optax.adam, learning_rate=rate, **others)

    with jax.numpy_dtype_promotion("standard"):
        assert verify_optimizer(made, adam, PARAMS, key=jax.random.key(0))
        assert not verify_optimizer(lambda rate: made(rate, eps=1e-5), adam, PARAMS, key=jax.random.key(0))


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_function_and_cannot_be_hashed_is_refused():
    with pytest.raises(TypeError, match=r"init must be a function, got 0.1"):
        optimizer_of(0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"update must be a function, got 0.1"):
        optimizer_of(init, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"mask decides the program and must be hashable, got \{'weight': True\}"):
        optimizer_of(optax.adamw, learning_rate=0.1, mask={"weight": True})
