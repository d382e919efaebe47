"""The precisions that everything is run in: the user's own, and float64."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Leaves = list[Any]
Floats = Any  # a NumPy array of float64, or the scalar that NumPy makes of one without axes


def is_float(leaf: Any) -> bool:
    """Whether a leaf, or the description of one, is a real floating-point array."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def spacing(dtype: Any) -> float:
    """One unit in the last place of numbers near 1."""
    return float(jnp.finfo(dtype).eps)


DOUBLE = spacing(np.float64)
HALF = 1e-5  # a unit in the last place above this is that of half precision


def dtype_of_spacing(unit: float) -> str:
    """The dtype of such a unit in the last place, in words."""
    names = ("float64", "float32", "bfloat16", "float16")
    return next((name for name in names if np.isclose(spacing(name), unit)), f"a dtype of spacing {unit:.1g}")


@contextlib.contextmanager
def as_the_user_runs_it() -> Iterator[None]:
    """The user's own settings, but that matrix products are not rounded to fewer bits than the dtype has."""
    with jax.default_matmul_precision("highest"), jax.debug_nans(False):
        yield


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Float64, where arrays that the user's function closes over in a narrower dtype are promoted."""
    with as_the_user_runs_it(), jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def precision(exact: bool) -> contextlib.AbstractContextManager[None]:
    """Float64 where exact, else the user's own settings."""
    return in_float64() if exact else as_the_user_runs_it()


def has_float64() -> bool:
    """Whether JAX has float64 now."""
    return jnp.result_type(float) == jnp.float64


def widened(leaves: Sequence[Any]) -> Leaves:
    """The leaves with every float as a NumPy float64."""
    return [np.asarray(leaf, np.float64) if is_float(leaf) else leaf for leaf in leaves]


def held(leaves: Sequence[Any], like: Sequence[Any]) -> Leaves:
    """The leaves in the dtypes of others."""
    with np.errstate(over="ignore"):
        return [np.asarray(leaf, own.dtype) for leaf, own in zip(leaves, like, strict=True)]


# Machine code for programs that run for milliseconds: XLA makes it in a third of its usual time, with the same numbers
# up to the last bit. The third option went with jaxlib 0.11.
CHEAP = (
    {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True},
    {"xla_cpu_use_fusion_emitters": False},
)
LARGE = 2**16  # elements from which running takes longer than compiling


@functools.cache
def _cheap_options() -> dict[str, Any] | None:
    if jax.default_backend() != "cpu":
        return None
    for options in (CHEAP[0] | CHEAP[1], CHEAP[0]):
        try:
            jax.jit(lambda x: x, compiler_options=options)(0)
        except Exception:  # XLA refuses options that it does not know
            continue
        return options
    return None


def compiled(function: Callable[..., Any], *, large: bool = False) -> Callable[..., Any]:
    """`jax.jit` of a function that is run a few times; large arrays are worth the usual optimization."""
    return jax.jit(function, compiler_options=None if large else _cheap_options())


def is_large(leaves: Sequence[Any]) -> bool:
    """Whether arrays are so large that running takes longer than compiling."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in leaves) > LARGE
