"""The gradient by autodiff: in reverse mode, or in forward mode where loops cannot be reversed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.case import Function, memoized
from jaxnet.verify.engine.precision import Leaves, compiled

Mode = Literal["reverse", "forward", "differences"]
COLUMNS = 64  # of the Jacobian at a time, in forward mode
Shapes = tuple[tuple[jax.ShapeDtypeStruct, ...], ...]


def described(*groups: Sequence[Any]) -> Shapes:
    """The shapes and dtypes of some groups of leaves: programs can be traced with them, and found again."""
    return tuple(tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in group) for group in groups)


def _reverse(function: Any, differentiated: Leaves, fixed: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
    """The outputs and, by reverse mode, Jᵀ ct."""
    outputs, pull = jax.vjp(lambda leaves: function.outputs(leaves, fixed), differentiated)
    (gradient,) = pull([c.astype(o.dtype) for c, o in zip(cotangent, outputs, strict=True)])
    return outputs, gradient


def _forward(function: Any, differentiated: Leaves, fixed: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
    """The same by forward mode: ⟨ct, J e⟩ for every unit vector e."""
    count = sum(leaf.size for leaf in differentiated)
    ends = np.cumsum([leaf.size for leaf in differentiated])[:-1].tolist()

    def apart(vector: Any) -> Leaves:
        parts = jnp.split(vector, ends)
        return [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, differentiated, strict=True)]

    def slope(index: Any) -> tuple[Any, Leaves]:
        unit = (jnp.arange(count) == index).astype(float)
        run = functools.partial(jax.jvp, lambda *leaves: function.outputs(list(leaves), fixed))
        outputs, moved = run(tuple(differentiated), tuple(apart(unit)))
        return sum(jnp.sum(c * m) for c, m in zip(cotangent, moved, strict=True)), outputs

    slopes, outputs = jax.lax.map(slope, jnp.arange(count), batch_size=COLUMNS)
    return [output[0] for output in outputs], apart(slopes)


AUTODIFF: dict[str, Callable[..., tuple[Leaves, Leaves]]] = {"reverse": _reverse, "forward": _forward}


@memoized
def program(function: Function, mode: Mode, exact: bool, large: bool) -> Callable[..., tuple[Leaves, Leaves]]:
    """Outputs and gradient, compiled for a precision: what is traced depends on it."""
    return compiled(functools.partial(AUTODIFF[mode], function), large=large)


@memoized
def values(function: Function, large: bool) -> Callable[..., Leaves]:
    """The outputs alone, compiled."""
    return compiled(function.outputs, large=large)
