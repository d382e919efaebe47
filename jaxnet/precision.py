"""Mixed precision: products in bfloat16 or float16, parameters, their gradients and the update in their own dtype.

Matrix units multiply narrow numbers several times faster and move half the bytes; most CPUs do not. A product is summed
in float32 at least. bfloat16 has the exponents of float32, so that no gradient vanishes that did not before; float16
has not, and no loss scaling is done here.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxnet.layers import Dense, Layer, map_layers


@functools.cache
def in_precision(network: Layer, dtype: DTypeLike) -> Layer:
    """The network that computes in `dtype`: inputs and parameters are rounded to it, outputs have the inputs' dtype.

    Of integers, the outputs have the parameters' dtype.

    The rounding counts as the identity in the backward pass, as automatic differentiation has it: ∂L/∂W is that of the
    rounded W, in the dtype of W.

    Raises:
        TypeError: if dtype is no floating-point dtype.
    """
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"in_precision needs a floating-point dtype, got {dtype}")
    return _between_casts(map_layers(_narrowed(dtype), network), dtype)


def _between_casts(network: Layer, dtype: Any) -> Layer:
    """The network with its inputs cast to the dtype, and its outputs back."""

    def forward(params: Any, inputs: Array) -> tuple[Array, Any]:
        arrays = [inputs] if jnp.issubdtype(inputs.dtype, jnp.floating) else jax.tree.leaves(params)
        if not arrays:  # integers that meet no parameters stay exact: `jaxnet.diagnostics` counts layers so
            return network.forward(params, inputs)
        outputs, cache = network.forward(params, inputs.astype(dtype))
        return outputs.astype(jnp.result_type(*arrays)), cache

    def backward(params: Any, cache: Any, delta: Array) -> tuple[Array, Any]:
        grad_inputs, gradient = network.backward(params, cache, delta.astype(dtype))
        return grad_inputs.astype(delta.dtype), gradient

    rebuild = network.rebuild

    def again(parts: tuple[Layer, ...]) -> Layer:
        assert rebuild is not None
        return _between_casts(rebuild(parts), dtype)

    return network._replace(
        forward=forward,
        backward=backward,
        name=f"{network.name} in {dtype}",
        rebuild=None if rebuild is None else again,
    )


@functools.cache
def _narrowed(dtype: Any) -> Callable[[Layer], Layer]:
    """The transform of a leaf into one that computes in the dtype; its gradient has the dtypes of the parameters."""

    def narrow(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    @functools.cache
    def transform(leaf: Layer) -> Layer:
        def forward(params: Any, inputs: Array) -> tuple[Array, Any]:
            return leaf.forward(narrow(params), inputs)

        def backward(params: Any, cache: Any, delta: Array) -> tuple[Array, Any]:
            grad_inputs, gradient = leaf.backward(narrow(params), cache, delta)
            if isinstance(params, Dense):
                gradient = _wide_gradient(params, cache, delta)
            return grad_inputs, jax.tree.map(lambda g, leaf: g.astype(leaf.dtype), gradient, params)

        return leaf._replace(forward=forward, backward=backward)

    return transform


def _wide_gradient(params: Dense, a: Array, delta: Array) -> Dense:
    """δ aᵀ and δ summed over the examples, never rounded to the narrow dtype of δ and a."""
    batch = tuple(range(delta.ndim - 1))
    weight = jnp.tensordot(delta, a, axes=(batch, batch), preferred_element_type=params.weight.dtype)
    return Dense(weight, delta.sum(batch, dtype=params.bias.dtype))
