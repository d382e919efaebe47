"""Layers in other libraries: functions whose derivative, to `jax.grad`, is the backward that was written by hand."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet.layers import Layer


@functools.cache
def as_custom_vjp(layer: Layer) -> Callable[[Any, Array], Array]:
    """The function (params, inputs) -> a = f(params, inputs) that `jax.grad` differentiates by `layer.backward`.

    (∂L/∂params, ∂L/∂inputs) from the cache and δ = ∂L/∂a, each in the shape and dtype of what it is taken by; by an
    integer it is JAX's `float0`. A pure function under the layer's name, the same one for the same layer, for `jit`,
    `vmap`, `scan` and the modules of Flax and Equinox. Second derivatives differentiate the hand-written backward.

    Raises:
        ValueError: if the layer draws random numbers; from the function, whatever `layer.forward` refuses; from a
            gradient, if `layer.backward` returns another tree than that of the parameters, or other shapes.
        TypeError: from forward mode (`jax.jvp`, `jax.jacfwd`), which JAX refuses; over `jax.grad`, as in
            `jax.hessian`, it works.
    """
    if layer.needs_key:
        raise ValueError(f"{layer.name} draws random numbers, and the function has no place for a key")

    def function(params: Any, inputs: Array) -> Array:
        return layer.forward(params, inputs)[0]

    def forward(params: Any, inputs: Array) -> tuple[Array, Any]:
        """f, keeping what the backward pass needs; of the inputs themselves that is only their dtype."""
        outputs, cache = layer.forward(params, inputs)
        return outputs, (params, cache, jnp.empty(0, jnp.result_type(inputs)))

    def backward(saved: Any, delta: Array) -> tuple[Any, Any]:
        params, cache, like_inputs = saved
        grad_inputs, grad_params = layer.backward(params, cache, delta)
        return jax.tree.map(_cotangent, (params, like_inputs), (grad_params, grad_inputs))

    function.__name__ = function.__qualname__ = layer.name
    function.__doc__ = f"The outputs of {layer.name}, differentiated by its hand-written backward."
    apply = jax.custom_vjp(function)
    apply.defvjp(forward, backward)
    return apply


def _cotangent(primal: Any, gradient: Any) -> Any:
    """The gradient in the dtype of what it is taken by, which JAX does not see to; None for integers and keys."""
    dtype = jnp.result_type(primal)
    return gradient.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else None
