"""Tied weights: two layers around a network that have the same parameters, once (Press and Wolf, 2017)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet.layers.layer import Composite, Layer, check_layer, pull, run


class Ends(NamedTuple):
    """What belongs to the first of two layers and to the last; None of one that is not asked for."""

    first: Any
    last: Any


@dataclass(frozen=True)
class _Pair(Layer):
    """(a, z) = (f(x; θ), g(h; θ)): two layers side by side on the same parameters."""

    first: Layer
    last: Layer

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.first.name} and {self.last.name}"

    @cached_property
    def needs_key(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether one does."""
        return self.first.needs_key or self.last.needs_key

    @cached_property
    def couples_examples(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether one does."""
        return self.first.couples_examples or self.last.couples_examples

    @cached_property
    def sums_widely(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether both do."""
        return self.first.sums_widely and self.last.sums_widely

    def init(self, key: Array) -> Any:
        """The first's."""
        return self.first.init(key)

    def forward(self, params: Any, inputs: Ends, *, key: Array | None = None) -> tuple[Ends, Ends]:
        """Each layer's of its input; without h, the first's alone."""
        keys = (None, None) if key is None else jax.random.split(key)
        a, of_first = run(self.first, params, inputs.first, keys[0])
        z, of_last = (None, None) if inputs.last is None else run(self.last, params, inputs.last, keys[1])
        return Ends(a, z), Ends(of_first, of_last)

    def backward(self, params: Any, cache: Ends, grad_outputs: Ends) -> tuple[Ends, Any]:
        """∂L/∂θ = ∂L/∂θ through a + ∂L/∂θ through z, as L depends on θ both ways; without δ by a, the last's alone."""
        grad_h, gradient = pull(self.last, params, cache.last, grad_outputs.last)
        if grad_outputs.first is None:
            return Ends(None, grad_h), gradient
        grad_x, of_first = pull(self.first, params, cache.first, grad_outputs.first)
        return Ends(grad_x, grad_h), jax.tree.map(jnp.add, of_first, gradient)

    def at_inference(self) -> Layer:
        """Of both."""
        return _Pair(self.first.at_inference(), self.last.at_inference())

    def without_init(self) -> Layer:
        """Of both."""
        return _Pair(self.first.without_init(), self.last.without_init())


@dataclass(frozen=True)
class _Tied(Composite):
    """z = g(f(x; θ) → inside → h; θ). Parameters, caches and gradients are pairs: (inside's, θ's).

    The pair is a leaf like any other, so that whatever reads the gradient of θ reads it once, of both ways together.
    """

    inside: Layer
    pair: Layer

    factory = "tied"

    @property
    def parts(self) -> tuple[Layer, ...]:
        """What is inside, and the two around it."""
        return (self.inside, self.pair)

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        """The same of other parts."""
        return _Tied(*parts)

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return f"tied({self.inside.name}, {self.pair.name})"

    def __repr__(self) -> str:
        """The call that makes it."""
        ends = self.pair
        return f"tied({self.inside}, {ends.first}, {ends.last})" if isinstance(ends, _Pair) else super().__repr__()

    def init(self, key: Array) -> tuple[Any, Any]:
        """Those of what is inside, and those that both ends have."""
        keys = jax.random.split(key)
        return self.inside.init(keys[0]), self.pair.init(keys[1])

    def forward(self, params: tuple[Any, Any], x: Any, *, key: Array | None = None) -> tuple[Any, tuple[Any, Any]]:
        """a = f(x), h = inside(a), z = g(h). The pair is asked for a, then for both; compiled, a is computed once."""
        of_inside, shared = params
        keys = (None, None) if key is None else jax.random.split(key)
        (a, _), _ = run(self.pair, shared, Ends(x, None), keys[1])
        h, cache = run(self.inside, of_inside, a, keys[0])
        (_, z), of_pair = run(self.pair, shared, Ends(x, h), keys[1])
        return z, (cache, of_pair)

    def backward(self, params: tuple[Any, Any], cache: tuple[Any, Any], delta: Any) -> tuple[Any, tuple[Any, Any]]:
        """∂L/∂h through g, ∂L/∂a through what is inside, then ∂L/∂x, and ∂L/∂θ of both ways at once."""
        (of_inside, shared), (cache, of_pair) = params, cache
        (_, grad_h), _ = pull(self.pair, shared, of_pair, Ends(None, delta))
        grad_a, gradient = pull(self.inside, of_inside, cache, grad_h)
        (grad_x, _), of_shared = pull(self.pair, shared, of_pair, Ends(grad_a, delta))
        return grad_x, (gradient, of_shared)


def tied(inside: Layer, first: Layer, last: Layer) -> Layer:
    """z = last(inside(first(x))), where the first layer and the last have the same parameters: embedding and output.

    The parameters are (those of `inside`, those of `first`), and so are the gradients, of which the second has both
    ways in which the loss depends on them. An autoencoder whose decoder is the transpose of its encoder:

        tied(elementwise(tanh), dense(6, 4), dense_transpose(6, 4))

    Raises:
        TypeError: if one is no Layer.
        ValueError: if the parameters of `first` and `last` differ in structure, shape or dtype.
    """
    for layer in (inside, first, last):
        check_layer(layer)
    own, other = (jax.eval_shape(layer.init, jax.random.key(0)) for layer in (first, last))
    if (own, jax.tree.structure(own)) != (other, jax.tree.structure(other)):
        raise ValueError(
            f"tied layers have the same parameters: those of {first.name} are {own}, those of {last.name} {other}"
        )
    return _Tied(inside, _Pair(first, last))
