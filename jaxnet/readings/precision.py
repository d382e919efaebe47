"""Mixed precision: products in bfloat16 or float16, parameters, their gradients and the update in their own dtype.

Matrix units multiply narrow numbers several times faster and move half the bytes; most CPUs do not. A product is summed
in float32 at least. bfloat16 has the exponents of float32, so that no gradient vanishes that did not before; float16
has not, and no loss scaling is done here.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxnet.layers import Composite, Layer, Reading, map_layers, run


def in_precision(network: Layer, dtype: DTypeLike) -> Layer:
    """The network that computes in `dtype`: inputs and parameters are rounded to it, outputs have the inputs' dtype.

    Integers stay integers, and the outputs of a network that takes them have the parameters' dtype.

    The rounding counts as the identity in the backward pass, as automatic differentiation has it: ∂L/∂W is that of the
    rounded W, in the dtype of W.

    Raises:
        TypeError: if dtype is no floating-point dtype.
    """
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"in_precision needs a floating-point dtype, got {dtype}")
    return _InPrecision(map_layers(partial(_Narrowed, dtype=dtype), network), dtype)


def _cast(tree: Any, dtype: Any) -> Any:
    """The floats of a tree in a dtype; integers and keys as they are."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


@dataclass(frozen=True)
class _InPrecision(Composite):
    """The network with its inputs cast to the dtype, and its outputs back."""

    network: Layer
    dtype: Any

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The network, whose parameters these are."""
        return (self.network,)

    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        """Another network between casts."""
        (network,) = parts
        return _InPrecision(network, self.dtype)

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.network.name} in {self.dtype}"

    def init(self, key: Array) -> Any:
        """The network's."""
        return self.network.init(key)

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """The network's between casts."""
        arrays = [leaf for leaf in jax.tree.leaves(inputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        wide = jnp.result_type(*(arrays or jax.tree.leaves(params) or [self.dtype]))
        outputs, cache = run(self.network, params, _cast(inputs, self.dtype), key)
        return _cast(outputs, wide), cache

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """The network's between casts."""
        grad_inputs, gradient = self.network.backward(params, cache, _cast(grad_outputs, self.dtype))
        return _cast(grad_inputs, jnp.result_type(*jax.tree.leaves(grad_outputs))), gradient


@dataclass(frozen=True)
class _Narrowed(Reading):
    """The leaf that computes in the dtype; its gradient has the dtypes of the parameters."""

    dtype: Any

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """The leaf's, with rounded parameters."""
        return run(self.layer, _cast(params, self.dtype), inputs, key)

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """The leaf's, with rounded parameters unless it says that it sums in the dtype of those that it gets."""
        own = params if self.layer.sums_widely else _cast(params, self.dtype)
        grad_inputs, gradient = self.layer.backward(own, cache, grad_outputs)
        return _cast(grad_inputs, self.dtype), _like(gradient, params)

    def squared_norms(self, params: Any, cache: Any, grad_outputs: Any) -> Array:
        """The leaf's, with rounded parameters."""
        return self.layer.squared_norms(_cast(params, self.dtype), cache, grad_outputs)


def _like(gradient: Any, params: Any) -> Any:
    return jax.tree.map(lambda leaf, g: g if g is None else g.astype(leaf.dtype), params, gradient)
