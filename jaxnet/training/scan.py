"""A scan that takes another step now and then."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def alternating_scan(
    due: Callable[[Any], Array],
    usual: Callable[[Any, Any], tuple[Any, Any]],
    other: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any,
    length: int,
) -> tuple[Any, Any]:
    """`lax.scan` of the step `other` where due(carry), of `usual` elsewhere; xs may be None, as there.

    It alternates two loops, which cost nothing from step to step. A `lax.cond` in every step costs a copy of the carry:
    it doubled the time of small steps.
    """

    def run(step: Callable[[Any, Any], tuple[Any, Any]], wanted: bool, loop: Any) -> Any:
        def condition(loop: Any) -> Array:
            i, carry, _ = loop
            return (i < length) & (due(carry) == wanted)

        def body(loop: Any) -> Any:
            i, carry, ys = loop
            carry, y = step(carry, jax.tree.map(lambda x: x[i], xs))
            return i + 1, carry, jax.tree.map(lambda all_y, y: all_y.at[i].set(y), ys, y)

        return jax.lax.while_loop(condition, body, loop)

    _, y = jax.eval_shape(usual, carry, jax.tree.map(lambda x: x[0], xs))
    ys = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), y)
    _, carry, ys = jax.lax.while_loop(
        lambda loop: loop[0] < length,
        lambda loop: run(other, True, run(usual, False, loop)),
        (jnp.zeros([], jnp.int32), carry, ys),
    )
    return carry, ys
