"""The settings in which two optimizers are compared: as they come, or built with several hyperparameters."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from optax import GradientTransformation

# Numbers at which every term of a rule counts.
TELLING = {
    "momentum": 0.7,
    "decay": 0.8,
    "b1": 0.7,
    "b2": 0.9,
    "eps": 0.03,
    "eps_root": 0.02,
    "initial_scale": 0.5,
    "initial_accumulator_value": 0.3,
    "weight_decay": 0.1,
}


def changing_rate(count: ArrayLike) -> Array:
    """A learning rate that is another in every step: 0.004, 0.008, ..., 0.02, and again."""
    return 0.004 * (1 + jnp.asarray(count, float) % 5)


class Setting(NamedTuple):
    """How candidate and reference are built.

    Attributes:
        name: what reports call it; empty where there is but one.
        candidate: () -> the optimizer.
        reference: () -> the optimizer.
    """

    name: str
    candidate: Callable[[], Any]
    reference: Callable[[], Any]


def settings(candidate: Any, reference: Any) -> list[Setting]:
    """The settings to compare two optimizers in; of two factories, such that tell rules apart.

    Raises:
        TypeError: if one is neither, or they are not of the same sort.
    """
    finished = [_is_optimizer(given, name) for given, name in ((candidate, "candidate"), (reference, "reference"))]
    if finished[0] != finished[1]:
        raise TypeError(
            "candidate and reference must be two optimizers or two functions learning_rate -> optimizer, not a mixture"
        )
    if finished[0]:
        return [Setting("", lambda: candidate, lambda: reference)]
    shared = _numbers(candidate) & _numbers(reference)
    numbers = {name: value for name, value in TELLING.items() if name in shared}

    def built(rate: Any, numbers: dict[str, float]) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return lambda: candidate(rate, **numbers), lambda: reference(rate, **numbers)

    named = "".join(f", {name}={value}" for name, value in numbers.items())
    return [
        Setting("learning rate 0.013", *built(0.013, {})),
        Setting(f"changing learning rate{named}", *built(changing_rate, numbers)),
    ]


def _is_optimizer(given: Any, name: str) -> bool:
    if isinstance(given, GradientTransformation) or (hasattr(given, "init") and hasattr(given, "update")):
        return True
    if callable(given):
        return False
    raise TypeError(
        f"{name} must be an optax.GradientTransformation or a function learning_rate -> GradientTransformation, got "
        f"{type(given).__name__}; from_step adapts a rule (params, grads, state) -> (params, state)"
    )


def _numbers(factory: Any) -> set[str]:
    """The hyperparameters that a factory takes by name."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return set()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
