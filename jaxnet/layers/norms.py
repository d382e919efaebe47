"""Normalization: by each example's own mean and variance (layer, RMS, group, instance), or by the batch's.

Wherever it is, h has mean 0 and variance 1 over some axes, and z = scale ⊙ h + shift with a scale and a shift for each
of the n numbers on the last axis. What is kept for the backward pass is h and 1/s. Statistics are summed in float32 at
least.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxnet.arguments import positive_integer
from jaxnet.layers.layer import Layer


class Norm(NamedTuple):
    """The parameters of a normalization; without a shift where nothing is centred."""

    scale: Float[Array, " n"]
    shift: Float[Array, " n"] | None


def _wide(dtype: Any) -> Any:
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def _batch_sum(leaf: Array, like: Array) -> Array:
    """The sum over all axes but the last, in the dtype of a parameter."""
    return leaf.sum(tuple(range(leaf.ndim - 1))).astype(like.dtype)


@dataclass(frozen=True)
class _Affine(Layer):
    """z = scale ⊙ a + shift."""

    n: int
    dtype: Any = float

    factory = "affine"
    sums_widely = True
    shifts: ClassVar[bool] = True

    def init(self, key: Array) -> Norm:
        """1 and 0."""
        del key
        return Norm(jnp.ones(self.n, self.dtype), jnp.zeros(self.n, self.dtype) if self.shifts else None)

    def _check(self, a: Array) -> None:
        if a.shape[-1:] != (self.n,):
            raise ValueError(f"{self.name} needs inputs of shape (..., {self.n}), got {a.shape}")

    def _scaled(self, params: Norm, h: Array) -> Array:
        """scale ⊙ h + shift, in the dtype of h."""
        z = h * jnp.broadcast_to(params.scale.astype(h.dtype), h.shape)
        return z if params.shift is None else z + jnp.broadcast_to(params.shift.astype(h.dtype), h.shape)

    def _gradient(self, params: Norm, h: Array, delta: Array) -> Norm:
        """∂L/∂scale = Σ δ ⊙ h and ∂L/∂shift = Σ δ, over the batch."""
        wide = delta.astype(_wide(delta.dtype))
        of_scale = _batch_sum(wide * h.astype(wide.dtype), params.scale)
        return Norm(of_scale, None if params.shift is None else _batch_sum(wide, params.shift))

    def forward(
        self, params: Norm, a: Float[Array, "*batch n"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch n"], Any]:
        """z = scale ⊙ a + shift."""
        self._check(a)
        return self._scaled(params, a), a

    def backward(self, params: Norm, cache: Any, delta: Float[Array, "*batch n"]) -> tuple[Array, Norm]:
        """∂L/∂a = scale ⊙ δ: each z depends on the a at its place alone."""
        scale = jnp.broadcast_to(params.scale.astype(delta.dtype), delta.shape)
        return delta * scale, self._gradient(params, cache, delta)

    def squared_norms(self, params: Norm, cache: Any, delta: Float[Array, "m ... n"]) -> Array:
        """‖Σ_t δ_t ⊙ h_t‖² + ‖Σ_t δ_t‖² over the positions t of each example."""
        h = self._normalized(cache)
        positions = tuple(range(1, delta.ndim - 1))
        parts = [delta * h] if params.shift is None else [delta * h, delta]
        squares = [jnp.square(part.sum(positions)).sum(-1) for part in parts]
        return sum(squares[1:], squares[0])

    def _normalized(self, cache: Any) -> Array:
        return cache

    def without_init(self) -> Layer:
        """The sizes alone."""
        return replace(self, dtype=float)


@dataclass(frozen=True)
class _Normalization(_Affine):
    """z = scale ⊙ h + shift, with h = (a - μ)/s and s² = mean (a - μ)² + ε."""

    eps: float = 1e-6

    centred: ClassVar[bool] = True

    @abstractmethod
    def _parts(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        """The inputs in the shape in which they are normalized, and the axes over which."""

    def forward(
        self, params: Norm, a: Float[Array, "*batch n"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch n"], tuple[Array, Array]]:
        """The cache is h and 1/s."""
        self._check(a)
        parts, axes = self._parts(a.astype(_wide(a.dtype)))
        if self.centred:
            parts = parts - parts.mean(axes, keepdims=True)
        inverse = 1 / jnp.sqrt(jnp.square(parts).mean(axes, keepdims=True) + self.eps)
        h = (parts * inverse).reshape(a.shape).astype(a.dtype)
        return self._scaled(params, h), (h, inverse)

    def backward(self, params: Norm, cache: tuple[Array, Array], delta: Float[Array, "*batch n"]) -> tuple[Array, Norm]:
        """With g = δ ⊙ scale = ∂L/∂h, and means over what is normalized together, n numbers a:

        ∂s/∂a_j = (a_j - μ)/(n s) = h_j/n                as Σ (a - μ) = 0
        ∂h_i/∂a_j = (1[i = j] - 1/n - h_i h_j/n)/s       1/n is what a_j does to μ: it goes where nothing is centred
        ∂L/∂a_j = Σ_i g_i ∂h_i/∂a_j = (g_j - mean g - h_j mean(g ⊙ h))/s
        """
        h, inverse = cache
        g = delta.astype(inverse.dtype) * jnp.broadcast_to(params.scale.astype(inverse.dtype), delta.shape)
        (g, axes), (parts, _) = self._parts(g), self._parts(h.astype(inverse.dtype))
        across = g - parts * (g * parts).mean(axes, keepdims=True)
        if self.centred:
            across = across - g.mean(axes, keepdims=True)
        return (across * inverse).reshape(delta.shape).astype(delta.dtype), self._gradient(params, h, delta)

    def _normalized(self, cache: tuple[Array, Array]) -> Array:
        return cache[0]


@dataclass(frozen=True)
class _LayerNorm(_Normalization):
    """Over the last axis."""

    factory = "layer_norm"

    def _parts(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        """Each position by itself."""
        return a, (-1,)


@dataclass(frozen=True)
class _RMSNorm(_LayerNorm):
    """Not centred: h = a/r with r² = mean a² + ε."""

    factory = "rms_norm"
    shifts = False
    centred = False


@dataclass(frozen=True)
class _GroupNorm(_Normalization):
    """Over space and the channels of a group."""

    groups: int = 1
    space: int = 2

    factory = "group_norm"

    def _parts(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        """Groups are an axis of their own, before the last."""
        grouped = a.reshape(*a.shape[:-1], self.groups, self.n // self.groups)
        return grouped, (*range(-2 - self.space, -2), -1)

    def _check(self, a: Array) -> None:
        super()._check(a)
        if a.ndim <= self.space:
            raise ValueError(f"{self.name} needs inputs with {self.space} axes of space, got shape {a.shape}")


@dataclass(frozen=True)
class _BatchNorm(_Normalization):
    """Over the batch and space."""

    eps: float = 1e-5

    factory = "batch_norm"
    couples_examples = True

    def _parts(self, a: Array) -> tuple[Array, tuple[int, ...]]:
        """All axes but the last."""
        return a, tuple(range(a.ndim - 1))

    def _check(self, a: Array) -> None:
        super()._check(a)
        if prod(a.shape[:-1]) < 2:
            raise ValueError(
                f"{self.name} normalizes by the batch: it needs two examples at least, got shape {a.shape}"
            )

    def squared_norms(self, params: Norm, cache: Any, delta: Array) -> Array:
        """There are none: `ValueError`."""
        return Layer.squared_norms(self, params, cache, delta)

    def at_population(self) -> tuple[Layer, Callable[[Any, Any], Any]]:
        """scale ⊙ (a - μ)/s + shift with the statistics of all data, as one scale and one shift."""
        return _Affine(self.n, self.dtype), self._folded

    def _folded(self, params: Norm, inputs: Array) -> Norm:
        assert params.shift is not None
        parts, axes = self._parts(inputs.astype(_wide(inputs.dtype)))
        mean, inverse = parts.mean(axes), 1 / jnp.sqrt(parts.var(axes) + self.eps)
        scale = params.scale.astype(parts.dtype) * inverse
        shift = params.shift.astype(parts.dtype) - scale * mean
        return Norm(scale.astype(params.scale.dtype), shift.astype(params.shift.dtype))


def _arguments(n: int, eps: float, dtype: DTypeLike) -> tuple[int, Any, float]:
    if not eps > 0:
        raise ValueError(f"eps must be above 0, as a variance may be 0, got {eps!r}")
    return positive_integer("n", n), dtype if dtype is float else jnp.dtype(dtype), float(eps)


def affine(n: int, *, dtype: DTypeLike = float) -> Layer:
    """z = scale ⊙ a + shift, each of the n numbers by itself: what a batch norm is after training.

    Raises:
        ValueError, TypeError: if n is no integer of at least 1; from `forward`, for inputs of another size.
    """
    n, dtype, _ = _arguments(n, 1.0, dtype)
    return _Affine(n, dtype)


def layer_norm(n: int, eps: float = 1e-6, *, dtype: DTypeLike = float) -> Layer:
    """z = scale ⊙ (a - μ)/s + shift, with μ and s² = σ² + ε of the n numbers of each position. Ba et al. (2016).

    Raises:
        ValueError, TypeError: if n is no integer of at least 1, or eps not above 0; from `forward`, for inputs of
            another size.
    """
    return _LayerNorm(*_arguments(n, eps, dtype))


def rms_norm(n: int, eps: float = 1e-6, *, dtype: DTypeLike = float) -> Layer:
    """z = scale ⊙ a/r, with r² = mean a² + ε of the n numbers of each position. Zhang and Sennrich (2019).

    Raises:
        ValueError, TypeError: as `layer_norm`.
    """
    return _RMSNorm(*_arguments(n, eps, dtype))


def group_norm(n: int, groups: int, eps: float = 1e-6, *, space: int = 2, dtype: DTypeLike = float) -> Layer:
    """As `layer_norm`, over space and the n/groups channels of each group. Wu and He (2018).

    Args:
        n: channels, the last axis.
        groups: of neighbouring channels, equally many in each.
        eps: what is added to the variance.
        space: how many axes before the last are space; those before them are the batch.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: as `layer_norm`, and if the groups do not divide the channels.
    """
    n, dtype, eps = _arguments(n, eps, dtype)
    groups, space = positive_integer("groups", groups), positive_integer("space", space)
    if n % groups:
        raise ValueError(f"{groups} groups cannot share {n} channels evenly")
    return _GroupNorm(n, dtype, eps, groups, space)


def instance_norm(n: int, eps: float = 1e-6, *, space: int = 2, dtype: DTypeLike = float) -> Layer:
    """As `group_norm`, each channel a group of its own. Ulyanov et al. (2016).

    Raises:
        ValueError, TypeError: as `group_norm`.
    """
    return group_norm(n, n, eps, space=space, dtype=dtype)


def batch_norm(n: int, eps: float = 1e-5, *, dtype: DTypeLike = float) -> Layer:
    """z = scale ⊙ (a - μ)/s + shift, with μ and s² = σ² + ε of each channel over the batch. Ioffe and Szegedy (2015).

    It couples the examples of a batch; `population_statistics` makes of it what an example alone is given to.

    Raises:
        ValueError, TypeError: as `layer_norm`; from `forward`, for fewer than two numbers a channel.
    """
    return _BatchNorm(*_arguments(n, eps, dtype))
