"""Checks of arguments that several modules share."""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def positive_integer(name: str, value: Any) -> int:
    """The value as an int; raises `TypeError` unless it is an integer, and `ValueError` unless it is at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def positive_integer_or_none(name: str, value: Any) -> int | None:
    """The same, where None means that there is none."""
    return None if value is None else positive_integer(name, value)


def check_instance(kind: type, value: Any, example: str) -> None:
    """Raises `TypeError` unless the value is one of the library's layers, losses or activations, whichever is meant."""
    if not isinstance(value, kind):
        raise TypeError(f"expected a jaxnet {kind.__name__}, such as {example}, got {type(value).__name__}")


def check_key(key: Any) -> None:
    """Raises `TypeError` unless it is one JAX key, of either kind."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32
    if not (typed and key.ndim == 0) and not (raw and key.ndim == 1):
        raise TypeError(f"key must be one JAX random key, such as jax.random.key(0), got {key!r}")


def check_finite(name: str, x: Any) -> None:
    """Raises `ValueError` if a concrete array holds a NaN or an infinity, naming the first."""
    if isinstance(x, Tracer) or not jnp.issubdtype(x.dtype, jnp.floating):
        return
    values = np.asarray(x)
    finite = np.isfinite(values)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite, got {values[first]} at index {first}")
