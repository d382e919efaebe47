"""How tests compare numbers: leaf by leaf, relative to the norm of the leaf, naming the leaf that differs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WIDEST = jax.dtypes.canonicalize_dtype("float64").name  # float32 where JAX has no float64

# For tests of last bits, which XLA loses at the level at which the suite is compiled.
OPTIMIZED: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}


def random_like(tree: Any, seed: int = 0) -> Any:
    """Normal numbers in the shapes and dtypes of a tree; from NumPy, since XLA takes seconds to compile a generator."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape), leaf.dtype), tree)


def compiled_programs(function: Any) -> int:
    """How many programs a jitted function has compiled."""
    return function._cache_size()


def assert_close(actual, expected, tolerance):
    """Every leaf: ‖actual - expected‖ <= tolerance · ‖expected‖, with the same tree, shapes and dtypes.

    Where JAX has no float64, a tolerance stays the same number of units in the last place.
    """
    if WIDEST == "float32":
        tolerance *= float(jnp.finfo("float32").eps / jnp.finfo("float64").eps)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    expected_leaves = jax.tree.leaves(expected)
    for (path, leaf), reference in zip(jax.tree.leaves_with_path(actual), expected_leaves, strict=True):
        name = jax.tree_util.keystr(path) or "value"
        assert (jnp.shape(leaf), jnp.result_type(leaf)) == (jnp.shape(reference), jnp.result_type(reference)), name
        a, e = np.asarray(leaf, np.float64), np.asarray(reference, np.float64)
        error, scale = np.linalg.norm(a - e), np.linalg.norm(e)
        assert error <= tolerance * scale, (
            f"{name}: relative error {error / scale if scale else error:.3g} > {tolerance:.3g}"
        )
