"""Combinators: layers made of layers. Prove every leaf right, and every network is: composition is the chain rule."""

from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxnet.arguments import positive_integer
from jaxnet.layers.layer import Composite, Layer, check_layer, pull, run


def _keys(key: Array | None, number: int) -> Any:
    return [None] * number if key is None else jax.random.split(key, number)


@dataclass(frozen=True)
class _OfParts(Composite):
    """Several layers; parameters, caches and gradients are tuples in their order."""

    layers: tuple[Layer, ...]

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers."""
        return self.layers

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        """The same of other layers."""
        return type(self)(parts)

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.factory}({', '.join(layer.name for layer in self.layers)})"

    def init(self, key: Array) -> tuple[Any, ...]:
        """Each layer's, from a key of its own."""
        keys = jax.random.split(key, len(self.layers))
        return tuple(layer.init(k) for layer, k in zip(self.layers, keys, strict=True))


@dataclass(frozen=True)
class _Serial(_OfParts):
    """The composition of layers."""

    factory = "serial"

    def forward(self, params: tuple[Any, ...], inputs: Any, *, key: Array | None = None) -> tuple[Any, tuple[Any, ...]]:
        """a[l] = f[l](a[l-1]), keeping every cache."""
        a, caches = inputs, []
        for layer, own, k in zip(self.layers, params, _keys(key, len(self.layers)), strict=True):
            a, cache = run(layer, own, a, k)
            caches.append(cache)
        return a, tuple(caches)

    def backward(self, params: tuple[Any, ...], caches: tuple[Any, ...], delta: Any) -> tuple[Any, tuple[Any, ...]]:
        """The chain rule: the gradient by f[l]'s input is the gradient by f[l-1]'s output."""
        gradients = []
        for layer, own, cache in zip(reversed(self.layers), reversed(params), reversed(caches), strict=True):
            delta, gradient = pull(layer, own, cache, delta)
            gradients.append(gradient)
        return delta, tuple(reversed(gradients))


def serial(*layers: Layer) -> Layer:
    """The composition of layers, first to last; parameters, caches and gradients are tuples in the same order.

    Raises:
        TypeError: if one is no Layer, a list of layers for instance.
    """
    for layer in layers:
        check_layer(layer)
    return _Serial(layers)


@dataclass(frozen=True)
class _Residual(_Serial):
    """a + f(a)."""

    factory = "residual"

    def forward(
        self, params: tuple[Any, ...], a: ArrayLike, *, key: Array | None = None
    ) -> tuple[Array, tuple[Any, ...]]:
        """a + f(a), f being the composition of the layers."""
        a = jnp.asarray(a)
        change, caches = super().forward(params, a, key=key)
        if (change.shape, change.dtype) != (a.shape, a.dtype):
            raise ValueError(
                f"residual adds what it is given: its layers turn {a.dtype}{a.shape} into {change.dtype}{change.shape}"
            )
        return a + change, caches

    def backward(self, params: tuple[Any, ...], caches: tuple[Any, ...], delta: Array) -> tuple[Array, tuple[Any, ...]]:
        """∂L/∂a = δ + f's: the output depends on a twice, and gradients of both ways add up."""
        grad_inputs, gradients = super().backward(params, caches, delta)
        return delta + grad_inputs, gradients


def residual(*layers: Layer) -> Layer:
    """a + f(a), where f is the composition of the layers, which keeps shape and dtype. He et al. (2016).

    Raises:
        ValueError: from `forward`, if the layers change the shape or the dtype.
        TypeError: if one is no Layer.
    """
    for layer in layers:
        check_layer(layer)
    return _Residual(layers)


@dataclass(frozen=True)
class _Concatenate(_OfParts):
    """[f(a), g(a), ...]."""

    factory = "concatenate"

    def forward(
        self, params: tuple[Any, ...], inputs: Any, *, key: Array | None = None
    ) -> tuple[Array, tuple[tuple[Any, ...], Any]]:
        """The outputs of all side by side on the last axis; the cache keeps where they meet."""
        keys = _keys(key, len(self.layers))
        passes = [run(layer, own, inputs, k) for layer, own, k in zip(self.layers, params, keys, strict=True)]
        outputs, caches = zip(*passes, strict=True)
        return jnp.concatenate(outputs, axis=-1), (caches, tuple(jnp.zeros((0, a.shape[-1])) for a in outputs))

    def backward(self, params: tuple[Any, ...], cache: Any, delta: Array) -> tuple[Any, tuple[Any, ...]]:
        """Each layer's part of δ, and at the inputs, which all of them read, the sum of what they send back."""
        caches, widths = cache
        ends = [sum(width.shape[-1] for width in widths[: i + 1]) for i in range(len(widths) - 1)]
        parts = jnp.split(delta, ends, axis=-1)
        found = [
            pull(layer, own, saved, part)
            for layer, own, saved, part in zip(self.layers, params, caches, parts, strict=True)
        ]
        sent, gradients = zip(*found, strict=True)
        return reduce(lambda a, b: jax.tree.map(jnp.add, a, b), sent), gradients


def concatenate(*layers: Layer) -> Layer:
    """[f(a), g(a), ...] on the last axis; parameters and gradients are tuples in the same order.

    Raises:
        ValueError: if there are no layers.
        TypeError: if one is no Layer.
    """
    if not layers:
        raise ValueError("concatenate needs at least one layer")
    for layer in layers:
        check_layer(layer)
    return _Concatenate(layers)


@dataclass(frozen=True)
class Repeat(Composite):
    """Copies of a layer in series."""

    layer: Layer
    times: int

    factory = "repeat"

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.times} × {self.layer.name}"

    @property
    def stacked(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As often as it is repeated."""
        return self.times

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layer."""
        return (self.layer,)

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        """As many copies of another."""
        (layer,) = parts
        return type(self)(layer, self.times)

    def init(self, key: Array) -> Any:
        """Parameters of each, stacked on a leading axis."""
        return jax.vmap(self.layer.init)(jax.random.split(key, self.times))

    def forward(self, params: Any, a: ArrayLike, *, key: Array | None = None) -> tuple[Array, Any]:
        """a[l] = f(a[l-1]; params[l]) for every l, with the caches stacked."""
        keys = None if key is None else jax.random.split(key, self.times)

        def step(a: Array, of_layer: Any) -> tuple[Array, Any]:
            own, k = of_layer
            outputs, cache = run(self.layer, own, a, k)
            if (outputs.shape, outputs.dtype) != (a.shape, a.dtype):
                raise ValueError(
                    f"repeat needs a layer whose outputs have the shape and dtype of its inputs; {self.layer.name} "
                    f"turns {a.dtype}{a.shape} into {outputs.dtype}{outputs.shape}"
                )
            return outputs, cache

        return jax.lax.scan(step, jnp.asarray(a), (params, keys), length=self.times)

    def backward(self, params: Any, caches: Any, delta: Array) -> tuple[Array, Any]:
        """The same scan in reverse, δ being what is carried."""

        def step(delta: Array, saved: tuple[Any, Any]) -> tuple[Array, Any]:
            return pull(self.layer, *saved, delta)

        return jax.lax.scan(step, delta, (params, caches), length=self.times, reverse=True)


def repeat(layer: Layer, times: int) -> Layer:
    """`times` copies of a layer in series, each with parameters of its own, stacked on a leading axis.

    Both passes are one `lax.scan`, so that compile time does not grow with depth.

    Raises:
        ValueError: if times < 1; from `forward`, if the layer's outputs differ from its inputs in shape or dtype.
        TypeError: if it is no Layer, or times is not an integer.
    """
    check_layer(layer)
    return Repeat(layer, positive_integer("times", times))
