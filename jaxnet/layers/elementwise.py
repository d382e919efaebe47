"""The activation part of a layer of neurons."""

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
from jax import Array

from jaxnet.activations import Activation
from jaxnet.arguments import check_instance
from jaxnet.layers.layer import Layer


@dataclass(frozen=True)
class _Elementwise(Layer):
    """a = g(z)."""

    activation: Activation

    factory = "elementwise"

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return self.activation.name

    def init(self, key: Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    def forward(self, params: tuple[()], z: Array, *, key: Array | None = None) -> tuple[Array, Array]:
        """a = g(z); caches whichever of the two g' reads."""
        z = z if jnp.issubdtype(z.dtype, jnp.inexact) else z.astype(float)
        a = self.activation.value(z)
        return a, a if self.activation.reads == "output" else z

    def backward(self, params: tuple[()], cache: Array, grad_a: Array) -> tuple[Array, tuple[()]]:
        """∂L/∂z = ∂L/∂a ⊙ g'(z): a_i depends on z_i alone, so the Jacobian is diagonal."""
        return grad_a * self.activation.derivative(cache), ()

    def slope(self, cache: Array) -> Array:
        """g'(z)."""
        return self.activation.derivative(cache)


def elementwise(activation: Activation) -> Layer:
    """The activation part of a layer of neurons, a = g(z); it has no parameters.

    Raises:
        TypeError: if it is no Activation.
    """
    check_instance(Activation, activation, "jaxnet.tanh")
    return _Elementwise(activation)
