"""The right gradient without autodiff and without the verifier: differences in float64, extrapolated to a step of 0."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

STEP, LEVELS = 2e-3, 5


def widened(tree):
    """Every float of a tree in float64, for use where JAX has it."""

    def widen(leaf):
        return jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

    return jax.tree.map(widen, tree)


def floats(tree):
    """The leaves that are floating-point numbers."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]


def gradient_by_differences(function, args, cotangent, argnums):
    """Jᵀ ct for the arguments chosen, leaf by leaf, with an error of about 1e-10 of the largest slope.

    Central differences at h, h/2, h/4, ... have errors in even powers of h, which Richardson's scheme takes away one by
    one (Ridders, 1982).
    """
    return _slopes(function, args, cotangent, argnums, _central)


def bounds_by_differences(function, args, cotangent, argnums):
    """The smaller and the larger of each element's one-sided slopes: the gradients there may be at a kink.

    One-sided differences have errors in all powers of h.
    """
    sides = [_slopes(function, args, cotangent, argnums, side) for side in (_behind, _ahead)]
    return [np.stack([np.minimum(*pair), np.maximum(*pair)]) for pair in zip(*sides, strict=True)]


def _slopes(function, args, cotangent, argnums, slope):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        args, weights = widened(args), [np.asarray(c, np.float64) for c in floats(cotangent)]
        chosen = [args[i] for i in argnums]
        leaves = floats(chosen)
        vector, restored = ravel_pytree(leaves)

        def value(moved):
            given = iter(restored(jnp.asarray(moved)))
            new = [
                jax.tree.map(
                    lambda leaf: next(given) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf, arg
                )
                for arg in chosen
            ]
            replaced = dict(zip(argnums, new, strict=True))
            outputs = floats(function(*(replaced.get(i, arg) for i, arg in enumerate(args))))
            return sum(jnp.sum(c * o) for c, o in zip(weights, outputs, strict=True))

        run = _compiled(value, vector)
        base = np.asarray(vector)
        slopes = np.array([slope(run, base, i) for i in range(len(base))])
        return [np.asarray(leaf) for leaf in restored(jnp.asarray(slopes))]


def _central(run, base, i):
    return _extrapolated([_quotient(run, base, i, h, -h) for h in _steps(base[i])], 4.0)


def _ahead(run, base, i):
    return _extrapolated([_quotient(run, base, i, h, 0.0) for h in _steps(base[i])], 2.0)


def _behind(run, base, i):
    return _extrapolated([_quotient(run, base, i, 0.0, -h) for h in _steps(base[i])], 2.0)


def _steps(number):
    return [STEP * max(abs(number), 1.0) / 2**level for level in range(LEVELS)]


def _quotient(run, base, i, ahead, behind):
    high, low = base.copy(), base.copy()
    high[i] += ahead
    low[i] += behind
    return (float(run(high)) - float(run(low))) / (high[i] - low[i])


def _compiled(value, vector):
    compiled = jax.jit(value)
    try:
        compiled(vector)
    except Exception:  # NumPy code and its like run as they are
        return value
    return compiled


def _extrapolated(row, ratio):
    for order in range(1, len(row)):
        factor = ratio**order
        row = [(factor * finer - coarser) / (factor - 1) for coarser, finer in itertools.pairwise(row)]
    return row[0]
