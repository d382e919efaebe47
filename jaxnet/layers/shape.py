"""Layers that only arrange: the backward pass arranges back."""

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxnet.arguments import positive_integer
from jaxnet.layers.layer import Layer


@dataclass(frozen=True)
class _Reshape(Layer):
    """The last axes, of shape `before`, as axes of shape `after`."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    factory = "reshape"

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"reshape({self.before}, {self.after})"

    def init(self, key: Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    def forward(
        self, params: tuple[()], a: Float[Array, "..."], *, key: Array | None = None
    ) -> tuple[Array, tuple[()]]:
        """The same numbers in the same order."""
        batch = a.ndim - len(self.before)
        if batch < 0 or a.shape[batch:] != self.before:
            raise ValueError(f"{self.name} needs inputs whose last axes are {self.before}, got shape {a.shape}")
        return a.reshape(*a.shape[:batch], *self.after), ()

    def backward(self, params: tuple[()], cache: tuple[()], delta: Float[Array, "..."]) -> tuple[Array, tuple[()]]:
        """δ in the shape of the inputs: every number went to one place."""
        return delta.reshape(*delta.shape[: delta.ndim - len(self.after)], *self.before), ()


@dataclass(frozen=True)
class _Flatten(Layer):
    """The last axes as one."""

    axes: int

    factory = "flatten"

    def init(self, key: Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    def forward(self, params: tuple[()], a: Float[Array, "..."], *, key: Array | None = None) -> tuple[Array, Array]:
        """The same numbers in the same order; the cache is an empty array that knows the axes."""
        if a.ndim < self.axes:
            raise ValueError(f"{self.name} needs inputs with {self.axes} axes, got shape {a.shape}")
        batch, last = a.shape[: a.ndim - self.axes], a.shape[a.ndim - self.axes :]
        return a.reshape(*batch, prod(last)), jnp.zeros((*batch, 0, *last))

    def backward(self, params: tuple[()], cache: Array, delta: Float[Array, "..."]) -> tuple[Array, tuple[()]]:
        """δ with the axes that the inputs had: every number went to one place."""
        return delta.reshape(*delta.shape[:-1], *cache.shape[delta.ndim :]), ()


@dataclass(frozen=True)
class _Transpose(Layer):
    """The last axes in another order."""

    axes: tuple[int, ...]

    factory = "transpose"

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"transpose({self.axes})"

    def init(self, key: Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    def _ordered(self, a: Array, axes: tuple[int, ...]) -> Array:
        batch = a.ndim - len(axes)
        if batch < 0:
            raise ValueError(f"{self.name} needs inputs with {len(axes)} axes, got shape {a.shape}")
        return a.transpose(*range(batch), *(batch + axis for axis in axes))

    def forward(
        self, params: tuple[()], a: Float[Array, "..."], *, key: Array | None = None
    ) -> tuple[Array, tuple[()]]:
        """Axis i of the outputs is axis axes[i] of the inputs."""
        return self._ordered(a, self.axes), ()

    def backward(self, params: tuple[()], cache: tuple[()], delta: Float[Array, "..."]) -> tuple[Array, tuple[()]]:
        """δ in the inverse order: axis axes[i] is axis i of δ."""
        return self._ordered(delta, tuple(self.axes.index(axis) for axis in range(len(self.axes)))), ()


def reshape(before: tuple[int, ...], after: tuple[int, ...]) -> Layer:
    """The last axes of an example, of shape `before`, as axes of shape `after`.

    Raises:
        ValueError, TypeError: if a length is no integer of at least 1, or the shapes have unlike numbers of elements.
    """
    shapes = [tuple(positive_integer("a length", length) for length in shape) for shape in (before, after)]
    if prod(shapes[0]) != prod(shapes[1]):
        raise ValueError(
            f"a reshape keeps every number: {shapes[0]} has {prod(shapes[0])}, {shapes[1]} has {prod(shapes[1])}"
        )
    return _Reshape(*shapes)


def flatten(axes: int) -> Layer:
    """The last so many axes as one.

    Raises:
        ValueError, TypeError: if it is no integer of at least 1; `ValueError` from `forward` for inputs with fewer.
    """
    return _Flatten(positive_integer("axes", axes))


def transpose(axes: tuple[int, ...]) -> Layer:
    """The last axes of an example in another order: axis i of the outputs is axis axes[i] of the inputs.

    Raises:
        ValueError: if it is no order of 0, 1, ...; from `forward` for inputs with fewer axes.
    """
    if sorted(axes) != list(range(len(axes))):
        raise ValueError(f"transpose needs an order of the axes 0 to {len(axes) - 1}, got {axes}")
    return _Transpose(tuple(axes))
