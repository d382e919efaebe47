"""Anybody's optimizer as a pytree of its hyperparameters, which `jit`, `vmap` and `sweep` take."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.tree_util import Partial
from optax import GradientTransformation


def optimizer_of(
    init: Callable[..., Any], update: Callable[..., Any] | None = None, **hyperparameters: Any
) -> GradientTransformation:
    """An optimizer of one's own two functions, or of a factory, whose hyperparameters are leaves of its pytree.

    Of two functions, init(params) -> state and update(gradients, state, params, **hyperparameters) -> (updates, state);
    `init` is given those of the hyperparameters that it names:

        def update(gradients, state, params, learning_rate):
            return jax.tree.map(lambda g: -learning_rate * jnp.sign(g), gradients), state

        signed = optimizer_of(lambda params: (), update, learning_rate=jnp.geomspace(1e-4, 1e-2, 8))

    Of one function, a factory such as Optax's or a chain of one's own:

        optimizer_of(optax.adamw, learning_rate=rates, weight_decay=1e-4)
        optimizer_of(lambda rate: optax.chain(optax.clip(1.0), adam(rate)), rate=rates)
        optimizer_of(lambda rate: adam(optax.cosine_decay_schedule(rate, 100)), rate=rates)

    Arrays and Python's floats are leaves, which another value does not compile again, and which `sweep` and `jax.vmap`
    stack; all else, whole numbers of Python, booleans and functions among them, decides the program.

    Args:
        init: the function that makes a state, or without `update` the factory.
        update: the function that makes the updates, which are added to the parameters.
        **hyperparameters: passed to them by name.

    Raises:
        TypeError: if one is no function, or a hyperparameter that decides the program cannot be hashed.
    """
    for name, function in (("init", init), ("update", update)):
        if not callable(function) and not (name == "update" and function is None):
            raise TypeError(f"{name} must be a function, got {function!r:.80}")
    numbers = {name: value for name, value in hyperparameters.items() if _is_number(value)}
    choices = {name: value for name, value in hyperparameters.items() if name not in numbers}
    for name, value in choices.items():
        try:
            hash(value)
        except TypeError as error:
            raise TypeError(f"{name} decides the program and must be hashable, got {value!r:.80}") from error
    own = _Own(init, update, tuple(choices.items()))
    return GradientTransformation(Partial(_init, own, numbers), Partial(_update, own, numbers))  # pyright: ignore[reportArgumentType]


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Own:
    """The functions, and the hyperparameters that are no numbers."""

    init: Callable[..., Any]
    update: Callable[..., Any] | None
    choices: tuple[tuple[str, Any], ...]


def _is_number(value: Any) -> bool:
    """Whether a value, or all leaves of a tree, can be traced."""
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(leaf, float | np.ndarray | np.generic | Array) for leaf in leaves)


def _init(own: _Own, numbers: dict[str, Any], params: Any) -> Any:
    everything = numbers | dict(own.choices)
    if own.update is None:
        return own.init(**everything).init(params)
    parameters = inspect.signature(own.init).parameters.values()
    if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        named = [parameter.name for parameter in parameters]
        everything = {name: value for name, value in everything.items() if name in named}
    return own.init(params, **everything)


def _update(
    own: _Own, numbers: dict[str, Any], gradients: Any, state: Any, params: Any = None, **extra: Any
) -> tuple[Any, Any]:
    everything = numbers | dict(own.choices)
    if own.update is None:
        return own.init(**everything).update(gradients, state, params, **extra)
    return own.update(gradients, state, params, **everything, **extra)
