"""Gated hidden layers: GLU and its kin, by activation (Dauphin et al., 2017; Shazeer, 2020)."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxnet.activations import Activation
from jaxnet.arguments import check_instance
from jaxnet.initializers import Initializer, lecun_normal
from jaxnet.layers.dense import Dense, dense
from jaxnet.layers.elementwise import elementwise
from jaxnet.layers.layer import Layer


class Gated(NamedTuple):
    """The parameters of a gated layer, those of three dense ones."""

    gate: Dense
    up: Dense
    down: Dense


@dataclass(frozen=True)
class _Gated(Layer):
    """z = W_down (g(p) ⊙ q) + b_down, with p = W_gate a + b_gate and q = W_up a + b_up."""

    n: int
    n_hidden: int
    activation: Activation
    up: Layer
    down: Layer

    factory = "gated"
    sums_widely = True

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"gated({self.n}, {self.n_hidden}, {self.activation.name})"

    def init(self, key: Array) -> Gated:
        """Each dense layer's."""
        gate, up, down = jax.random.split(key, 3)
        return Gated(self.up.init(gate), self.up.init(up), self.down.init(down))

    def forward(
        self, params: Gated, a: Float[Array, "*batch n"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch n"], tuple[Array, Array, Array]]:
        """The cache is a, p and q; g(p) and the product are computed again, which costs less than to keep them."""
        p, a = self.up.forward(params.gate, a)
        q, _ = self.up.forward(params.up, a)
        z, _ = self.down.forward(params.down, elementwise(self.activation).forward((), p)[0] * q)
        return z, (a, p, q)

    def backward(
        self, params: Gated, cache: tuple[Array, Array, Array], delta: Float[Array, "*batch n"]
    ) -> tuple[Array, Gated]:
        """With u = g(p) ⊙ q, whose gradient δᵤ comes from W_down, of shape (n_hidden,):

        ∂L/∂p = δᵤ ⊙ q ⊙ g'(p)        ∂L/∂q = δᵤ ⊙ g(p)        ∂L/∂a = W_gateᵀ ∂L/∂p + W_upᵀ ∂L/∂q
        """
        grad_p, grad_q, _, down = self._hidden(params, cache, delta)
        by_gate, gate = self.up.backward(params.gate, cache[0], grad_p)
        by_up, up = self.up.backward(params.up, cache[0], grad_q)
        return by_gate + by_up, Gated(gate, up, down)

    def _hidden(
        self, params: Gated, cache: tuple[Array, Array, Array], delta: Array
    ) -> tuple[Array, Array, Array, Dense]:
        """∂L/∂p, ∂L/∂q, u, and the gradient of the last dense layer."""
        _, p, q = cache
        acting = elementwise(self.activation)
        gate, kept = acting.forward((), p)
        grad_u, down = self.down.backward(params.down, gate * q, delta)
        return acting.backward((), kept, grad_u * q)[0], grad_u * gate, gate * q, down

    def squared_norms(self, params: Gated, cache: tuple[Array, Array, Array], delta: Float[Array, "m ... n"]) -> Array:
        """Those of the three dense layers together."""
        grad_p, grad_q, u, _ = self._hidden(params, cache, delta)
        of_gate, of_up = (self.up.squared_norms(params.up, cache[0], by) for by in (grad_p, grad_q))
        return of_gate + of_up + self.down.squared_norms(params.down, u, delta)

    def without_init(self) -> Layer:
        """Of the dense layers."""
        return replace(self, up=self.up.without_init(), down=self.down.without_init())


def gated(
    n: int,
    n_hidden: int,
    activation: Activation,
    initializer: Initializer = lecun_normal,
    *,
    dtype: DTypeLike = float,
) -> Layer:
    """z = W_down (g(W_gate a + b) ⊙ (W_up a + b)) + b: GLU with the sigmoid, SwiGLU with silu, GEGLU with GELU.

    Raises:
        ValueError, TypeError: as `dense`, and `TypeError` if the activation is none.
    """
    check_instance(Activation, activation, "jaxnet.gelu")
    up, down = (dense(*sizes, initializer, dtype=dtype) for sizes in ((n, n_hidden), (n_hidden, n)))
    return _Gated(n, n_hidden, activation, up, down)
