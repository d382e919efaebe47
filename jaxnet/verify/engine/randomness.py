"""Random numbers of a verification: by NumPy, since XLA would take seconds to compile a generator."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.arguments import check_key
from jaxnet.verify.engine.precision import Floats

SALT = 20230  # without it, `default_rng(0)` and key(0) would draw the same numbers
POOL = 65521  # a prime, so that repetitions keep step with no axis


def generator_of(key: Any) -> np.random.Generator:
    """NumPy's generator seeded by a JAX key of either kind.

    Raises:
        TypeError: if it is no key.
    """
    check_key(key)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words = np.asarray(jax.random.key_data(key) if typed else key).ravel()
    return np.random.default_rng([SALT, *map(int, words)])


def normals(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Normal numbers; of a large array, repetitions of some."""
    return np.resize(generator.standard_normal(min(math.prod(shape), POOL)), shape)


def signs(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """1 or -1; of a large array, repetitions of some."""
    return np.resize(generator.choice((-1.0, 1.0), min(math.prod(shape), POOL)), shape)
