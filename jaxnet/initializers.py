"""Initial weights: `(key, shape, dtype) -> Array` with shape (n_out, n_in), under their literature names.

A neuron sums n_in terms, so the more inputs, the smaller each weight should be: Var(z) = n_in · Var(w) · E[a²].
Every scheme below is zero-mean with the variance stated; the uniform form has the same variance, being
U(-√(3·variance), √(3·variance)).

| here | variance | source | the lecture's name |
|---|---|---|---|
| `lecun_*` | 1/n_in | LeCun et al. (1998) | for sigmoid; "Xavier" for tanh |
| `he_*` | 2/n_in | He et al. (2015) | for ReLU |
| `glorot_*` | 2/(n_in + n_out) | Glorot and Bengio (2010), known as Xavier | "He" |

`dtype` defaults to JAX's own: float32, or float64 where `jax_enable_x64` is on.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

Initializer = Callable[..., Array]  # (key, shape, dtype=float) -> Array


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"a weight has shape (n_out, n_in), got {tuple(shape)}")
    n_out, n_in = shape
    return n_in, n_out


def _wide(dtype: DTypeLike) -> DTypeLike:
    """At least float32: JAX draws bfloat16 from 7 bits, whose mean is -0.01 σ and whose tail ends at 2.9 σ."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def _normal(key: Array, shape: Sequence[int], dtype: DTypeLike, variance: float) -> Array:
    return (math.sqrt(variance) * jax.random.normal(key, shape, _wide(dtype))).astype(dtype)


def _uniform(key: Array, shape: Sequence[int], dtype: DTypeLike, variance: float) -> Array:
    bound = math.sqrt(3 * variance)
    return jax.random.uniform(key, shape, _wide(dtype), -bound, bound).astype(dtype)


def lecun_normal(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """N(0, 1/n_in): keeps Var(z) = E[a²]. LeCun et al. (1998), the lecture's √(1/n[l-1]) for sigmoid and tanh."""
    n_in, _ = _fans(shape)
    return _normal(key, shape, dtype, 1 / n_in)


def lecun_uniform(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """U(±√(3/n_in)): the uniform form of `lecun_normal`."""
    n_in, _ = _fans(shape)
    return _uniform(key, shape, dtype, 1 / n_in)


def he_normal(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """N(0, 2/n_in): ReLU zeroes half of z: E[a²] = Var(z)/2. He et al. (2015), the lecture's √(2/n[l-1]) for ReLU."""
    n_in, _ = _fans(shape)
    return _normal(key, shape, dtype, 2 / n_in)


def he_uniform(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """U(±√(6/n_in)): the uniform form of `he_normal`."""
    n_in, _ = _fans(shape)
    return _uniform(key, shape, dtype, 2 / n_in)


def glorot_normal(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """N(0, 2/(n_in + n_out)): between 1/n_in (forward) and 1/n_out (backward). Glorot and Bengio (2010).

    Known as Xavier initialization; the lecture calls √(2/(n[l-1] + n[l])) "He".
    """
    n_in, n_out = _fans(shape)
    return _normal(key, shape, dtype, 2 / (n_in + n_out))


def glorot_uniform(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """U(±√(6/(n_in + n_out))): the uniform form of `glorot_normal`."""
    n_in, n_out = _fans(shape)
    return _uniform(key, shape, dtype, 2 / (n_in + n_out))


def zeros(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """0 everywhere: right for logistic regression, but in a hidden layer the neurons stay equal for ever."""
    del key
    return jnp.zeros(shape, dtype)


@dataclass(frozen=True)
class _Constant:
    c: float

    def __call__(self, key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
        del key
        return jnp.full(shape, self.c, dtype)

    def __repr__(self) -> str:
        return f"constant({self.c:g})"


def constant(c: float) -> Initializer:
    """The initializer that sets every weight to c; like `zeros`, it never breaks the symmetry between neurons."""
    return _Constant(float(c))


@dataclass(frozen=True)
class _ScaledIdentity:
    c: float

    def __call__(self, key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
        del key
        n_in, n_out = _fans(shape)
        return self.c * jnp.eye(n_out, n_in, dtype=dtype)

    def __repr__(self) -> str:
        return f"scaled_identity({self.c:g})"


def scaled_identity(c: float) -> Initializer:
    """The initializer c·I: with identity activations the output of L layers is c^L x."""
    return _ScaledIdentity(float(c))


ALL = (
    lecun_normal,
    lecun_uniform,
    he_normal,
    he_uniform,
    glorot_normal,
    glorot_uniform,
    zeros,
    constant(0.5),
    scaled_identity(2.0),
)
