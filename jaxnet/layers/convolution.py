"""Convolution: the same small dense layer at every place of a sequence, a picture or a volume."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxnet.arguments import positive_integer
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.layer import Layer
from jaxnet.layers.windows import Padding, Windows, as_padding, one_for_each

SPACE = "DHW"  # the letters by which `lax` knows up to three axes of space


class Conv(NamedTuple):
    """The parameters of a convolution."""

    weight: Float[Array, "*window n_in_of_group n_out"]
    bias: Float[Array, " n_out"]


@dataclass(frozen=True)
class _Conv(Layer):
    """z_p = Σ_k W_k a_(s p + d k - low) + b at each place p, k running over the window; beyond the edge, a is 0."""

    n_in: int
    n_out: int
    windows: Windows
    groups: int = 1
    initializer: Initializer = lecun_normal
    bias_initializer: Initializer = zeros
    dtype: Any = float

    factory = "conv"
    sums_widely = True

    def __repr__(self) -> str:
        """The call that makes it, the numbers of its windows in one."""
        grouped = f", groups={self.groups}" if self.groups > 1 else ""
        return f"conv({self.n_in}, {self.n_out}, {self.windows}{grouped})"

    def init(self, key: Array) -> Conv:
        """W by its initializer, as that of a dense layer from a window's inputs to the outputs; b by its own."""
        window, n_in = self.windows.window, self.n_in // self.groups
        weight_key, bias_key = jax.random.split(key)
        weight = self.initializer(weight_key, (self.n_out, prod(window) * n_in), self.dtype)
        weight = jnp.moveaxis(weight.reshape(self.n_out, *window, n_in), 0, -1)
        return Conv(weight, self.bias_initializer(bias_key, (self.n_out,), self.dtype))

    def _by_name(self, batch: str, features: str) -> str:
        """An array's axes: two letters around those of space."""
        return batch + SPACE[3 - len(self.windows.window) :] + features

    def forward(
        self, params: Conv, a: Float[Array, "... n_in"], *, key: Array | None = None
    ) -> tuple[Float[Array, "... n_out"], Array]:
        """The cache is a."""
        batch, space = self.windows.split(self.name, a, self.n_in)
        z = lax.conv_general_dilated(
            a.reshape(-1, *space, self.n_in),
            params.weight,
            self.windows.strides,
            self.windows.pads(space),
            rhs_dilation=self.windows.dilation,
            feature_group_count=self.groups,
            dimension_numbers=(self._by_name("N", "C"), self._by_name("", "IO"), self._by_name("N", "C")),
        )
        z = z + jnp.broadcast_to(params.bias, z.shape)
        return z.reshape(*batch, *z.shape[1:]), a

    def backward(
        self, params: Conv, a: Float[Array, "... n_in"], delta: Float[Array, "... n_out"]
    ) -> tuple[Array, Conv]:
        """From z_p = Σ_k W_k a_(s p + d k - low) + b, by the chain rule:

        ∂L/∂a_q = Σ_k W_kᵀ δ_p over all p with s p + d k - low = q: δ spread out by the stride s, correlated with the
        window turned round, of which inputs and outputs are exchanged
        ∂L/∂W_k = Σ_p δ_p a_(s p + d k - low)ᵀ: a correlated with δ, whose places lie s apart and are tried d apart; the
        examples, which are summed over, take the part of the channels
        ∂L/∂b = Σ_p δ_p
        """
        weight, bias = params
        batch, space = self.windows.split(self.name, a, self.n_in)
        a, delta = a.reshape(-1, *space, self.n_in), delta.reshape(-1, *delta.shape[len(batch) :])
        grad_bias = delta.sum(tuple(range(delta.ndim - 1)), dtype=bias.dtype)
        grad_a = self._by_inputs(weight.astype(delta.dtype), delta, space)
        return grad_a.reshape(*batch, *space, self.n_in), Conv(self._by_weight(a, delta, weight.dtype), grad_bias)

    def _by_inputs(self, weight: Array, delta: Array, space: tuple[int, ...]) -> Array:
        axes = tuple(range(len(space)))
        grouped = jnp.flip(weight, axes).reshape(*weight.shape[:-1], self.groups, -1)
        turned = jnp.moveaxis(grouped, (-3, -1), (-1, -3)).reshape(*weight.shape[: len(space)], -1, self.n_in)
        return lax.conv_general_dilated(
            delta,
            turned,
            (1,) * len(space),
            self.windows.pads_of_adjoint(space, delta.shape[1:-1]),
            lhs_dilation=self.windows.strides,
            rhs_dilation=self.windows.dilation,
            feature_group_count=self.groups,
            dimension_numbers=(self._by_name("N", "C"), self._by_name("", "IO"), self._by_name("N", "C")),
        )

    def _by_weight(self, a: Array, delta: Array, dtype: Any) -> Array:
        wide = dtype if jnp.finfo(dtype).bits > jnp.finfo(delta.dtype).bits else None
        found = lax.conv_general_dilated(
            a,
            delta,
            self.windows.dilation,
            self.windows.pads_of_window(a.shape[1:-1], delta.shape[1:-1]),
            rhs_dilation=self.windows.strides,
            batch_group_count=self.groups,
            dimension_numbers=(self._by_name("C", "N"), self._by_name("I", "O"), self._by_name("", "NC")),
            preferred_element_type=wide,
        )
        return found.astype(dtype)

    def without_init(self) -> Layer:
        """The shapes alone."""
        return replace(self, initializer=zeros, bias_initializer=zeros, dtype=float)


def conv(
    n_in: int,
    n_out: int,
    window: int | tuple[int, ...],
    initializer: Initializer = lecun_normal,
    *,
    strides: int | tuple[int, ...] = 1,
    padding: Padding = "SAME",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    bias_initializer: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Layer:
    """A convolution over one, two or three axes of space, as many as the window has: (*space, n_in) → (*space', n_out).

    It correlates, as everywhere in the field: the window is not turned round. LeCun et al. (1989).

    Args:
        n_in: channels of the inputs, the last axis.
        n_out: channels of the outputs.
        window: its length along each axis of space; an int for one axis.
        initializer: of W, (n_out, inputs of a window).
        strides: from place to place, one for all axes or one each.
        padding: zeros at the edges: "SAME" for ⌈length/stride⌉ places, "VALID" for none, or (low, high) for each axis.
        dilation: from input to input of a window.
        groups: of neighbouring channels; each group of outputs sees one of inputs.
        bias_initializer: of b.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: if a number is no integer of at least 1, the groups do not divide the channels, or the
            padding is none; `ValueError` from `forward` for inputs of another shape, or smaller than the window.
    """
    n_in, n_out = positive_integer("n_in", n_in), positive_integer("n_out", n_out)
    groups = positive_integer("groups", groups)
    if n_in % groups or n_out % groups:
        raise ValueError(f"{groups} groups cannot share {n_in} inputs and {n_out} outputs evenly")
    lengths = (window,) if isinstance(window, int) else tuple(window)
    axes = len(lengths)
    windows = Windows(
        one_for_each("window", lengths, axes),
        one_for_each("strides", strides, axes),
        one_for_each("dilation", dilation, axes),
        as_padding(padding, axes),
    )
    dtype = dtype if dtype is float else jnp.dtype(dtype)
    return _Conv(n_in, n_out, windows, groups, initializer, bias_initializer, dtype)
