"""Pooling: the largest number of each window, or their mean; no parameters."""

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from jaxnet.arguments import positive_integer
from jaxnet.layers.layer import Layer
from jaxnet.layers.windows import Padding, Windows, as_padding, one_for_each


@dataclass(frozen=True)
class _Pool(Layer):
    """z_p = what becomes of the inputs s p + k - low, k running over the window."""

    windows: Windows

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"{self.factory}({self.windows})"

    def init(self, key: Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    @abstractmethod
    def forward(self, params: tuple[()], a: Float[Array, "..."], *, key: Array | None = None) -> tuple[Array, Any]:
        """z and what its gradient reads."""

    def _offsets(self) -> Iterator[tuple[int, ...]]:
        """k, in the order in which numbers lie in memory."""
        return itertools.product(*map(range, self.windows.window))

    def _padded(self, a: Array, space: tuple[int, ...], filled_by: float) -> Array:
        edges = [(low, high, 0) for low, high in self.windows.pads(space)]
        return lax.pad(a, jnp.asarray(filled_by, a.dtype), [(0, 0, 0), *edges, (0, 0, 0)])

    def _at(self, padded: Array, offset: tuple[int, ...], places: tuple[int, ...]) -> Array:
        """Of all windows the input at an offset k: those at s p + k."""
        strides = self.windows.strides
        stop = [k + s * (count - 1) + 1 for k, s, count in zip(offset, strides, places, strict=True)]
        return lax.slice(padded, (0, *offset, 0), (len(padded), *stop, padded.shape[-1]), (1, *strides, 1))

    def _back(self, part: Array, offset: tuple[int, ...], space: tuple[int, ...]) -> Array:
        """Its adjoint: numbers of all windows, put to the inputs at an offset k."""
        edges = self.windows.pads(space)
        config = [
            (k - low, length + low - k - (s * (count - 1) + 1), s - 1)
            for k, (low, _), length, s, count in zip(
                offset, edges, space, self.windows.strides, part.shape[1:-1], strict=True
            )
        ]
        return lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *config, (0, 0, 0)])


@dataclass(frozen=True)
class _MaxPool(_Pool):
    """The largest."""

    factory = "max_pool"

    def forward(
        self, params: tuple[()], a: Float[Array, "..."], *, key: Array | None = None
    ) -> tuple[Array, tuple[Array, Array]]:
        """The cache is a and z."""
        batch, space = self.windows.split(self.name, a)
        padded = self._padded(a.reshape(-1, *space, a.shape[-1]), space, -np.inf)
        axes = ((1, *self.windows.window, 1), (1, *self.windows.strides, 1))
        z = lax.reduce_window(padded, np.asarray(-np.inf, a.dtype), lax.max, *axes, "VALID")
        z = z.reshape(*batch, *z.shape[1:])
        return z, (a, z)

    def backward(
        self, params: tuple[()], cache: tuple[Array, Array], delta: Float[Array, "..."]
    ) -> tuple[Array, tuple[()]]:
        """∂L/∂a_q = Σ δ_p over the windows p whose first maximum lies at q: where windows overlap, they add."""
        a, z = cache
        batch, space = self.windows.split(self.name, a)
        padded = self._padded(a.reshape(-1, *space, a.shape[-1]), space, -np.inf)
        z, delta = (leaf.reshape(-1, *leaf.shape[len(batch) :]) for leaf in (z, delta))
        free, grad_a = jnp.ones(z.shape, bool), jnp.zeros((len(padded), *space, a.shape[-1]), delta.dtype)
        for offset in self._offsets():
            first = free & (self._at(padded, offset, z.shape[1:-1]) == z)
            free = free & ~first
            grad_a = grad_a + self._back(jnp.where(first, delta, jnp.zeros_like(delta)), offset, space)
        return grad_a.reshape(a.shape), ()


@dataclass(frozen=True)
class _AveragePool(_Pool):
    """The mean of those that are inputs, and no padding."""

    factory = "average_pool"

    def _members(self, space: tuple[int, ...], dtype: Any) -> Array:
        """How many inputs each window has, (1, *places, 1)."""
        return self._sum(jnp.ones((1, *space, 1), dtype), space)

    def _sum(self, a: Array, space: tuple[int, ...]) -> Array:
        axes = ((1, *self.windows.window, 1), (1, *self.windows.strides, 1))
        return lax.reduce_window(self._padded(a, space, 0.0), np.zeros((), a.dtype), lax.add, *axes, "VALID")

    def forward(self, params: tuple[()], a: Float[Array, "..."], *, key: Array | None = None) -> tuple[Array, Array]:
        """The cache is an empty array that knows the axes of space."""
        batch, space = self.windows.split(self.name, a)
        summed = self._sum(a.reshape(-1, *space, a.shape[-1]), space)
        z = summed / jnp.broadcast_to(self._members(space, a.dtype), summed.shape)
        return z.reshape(*batch, *z.shape[1:]), jnp.zeros((*batch, 0, *space))

    def backward(self, params: tuple[()], cache: Array, delta: Float[Array, "..."]) -> tuple[Array, tuple[()]]:
        """∂L/∂a_q = Σ δ_p/n_p over the windows p that q is in, n_p being the inputs of a window."""
        axes = len(self.windows.window)
        batch, space = delta.shape[: -1 - axes], cache.shape[-axes:]
        delta = delta.reshape(-1, *delta.shape[len(batch) :])
        share = delta / jnp.broadcast_to(self._members(space, delta.dtype), delta.shape)
        grad_a = sum(self._back(share, offset, space) for offset in self._offsets())
        return jnp.reshape(grad_a, (*batch, *space, delta.shape[-1])), ()


@dataclass(frozen=True)
class _GlobalAveragePool(Layer):
    """The mean over space."""

    space: int = 2

    factory = "global_average_pool"

    def init(self, key: Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    def forward(self, params: tuple[()], a: Float[Array, "..."], *, key: Array | None = None) -> tuple[Array, Array]:
        """The cache is an empty array that knows the axes of space."""
        if a.ndim <= self.space:
            raise ValueError(f"{self.name} needs inputs with {self.space} axes of space, got shape {a.shape}")
        axes = tuple(range(-1 - self.space, -1))
        return a.mean(axes), jnp.zeros((*a.shape[: axes[0]], 0, *a.shape[axes[0] : -1]))

    def backward(self, params: tuple[()], cache: Array, delta: Float[Array, "..."]) -> tuple[Array, tuple[()]]:
        """∂L/∂a_q = δ/n at each of the n places."""
        space = cache.shape[-self.space :]
        share = jnp.expand_dims(delta / prod(space), tuple(range(-1 - self.space, -1)))
        return jnp.broadcast_to(share, (*delta.shape[:-1], *space, delta.shape[-1])), ()


def _windows(window: Any, strides: Any, padding: Any) -> Windows:
    lengths = (window,) if isinstance(window, int) else tuple(window)
    window = one_for_each("window", lengths, len(lengths))
    strides = window if strides is None else one_for_each("strides", strides, len(lengths))
    padding = as_padding(padding, len(lengths))
    if isinstance(padding, tuple) and any(max(pair) >= k for pair, k in zip(padding, window, strict=True)):
        raise ValueError(
            f"padding {padding} would make windows without an input: it must be below the window, {window}"
        )
    return Windows(window, strides, (1,) * len(window), padding)


def max_pool(
    window: int | tuple[int, ...], strides: int | tuple[int, ...] | None = None, padding: Padding = "VALID"
) -> Layer:
    """The largest number of each window and channel: (*space, n) → (*space', n), as many axes as the window has.

    Of several that are equal the first gets the gradient. `strides` are the window's lengths unless given; `padding` is
    as for `conv`, and never the largest.

    Raises:
        ValueError, TypeError: as `conv`, and for a padding that a whole window fits into.
    """
    return _MaxPool(_windows(window, strides, padding))


def average_pool(
    window: int | tuple[int, ...], strides: int | tuple[int, ...] | None = None, padding: Padding = "VALID"
) -> Layer:
    """The mean of each window and channel; what is padded is no member of it. As `max_pool` otherwise.

    Raises:
        ValueError, TypeError: as `max_pool`.
    """
    return _AveragePool(_windows(window, strides, padding))


def global_average_pool(space: int = 2) -> Layer:
    """The mean over so many axes of space, (*space, n) → (n). Lin et al. (2013).

    Raises:
        ValueError, TypeError: if it is no integer of at least 1; `ValueError` from `forward` for too few axes.
    """
    return _GlobalAveragePool(positive_integer("space", space))
