"""Dropout: a layer that forgets some of its inputs in training (S13's relatives; Srivastava et al., 2014)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxnet.activations import identity
from jaxnet.layers.elementwise import elementwise
from jaxnet.layers.layer import Layer


@dataclass(frozen=True)
class _Dropout(Layer):
    """z = d ⊙ a/(1 - rate), where each d is 0 with probability `rate` and else 1, so that E[z] = a."""

    rate: float

    factory = "dropout"
    needs_key = True

    def init(self, key: Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    def _kept(self, mask: Array, a: Array) -> Array:
        return jnp.where(mask, a / (1 - self.rate), jnp.zeros_like(a))

    def forward(
        self, params: tuple[()], a: Float[Array, "..."], *, key: Array | None = None
    ) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
        """The cache is d alone."""
        assert key is not None
        mask = jax.random.bernoulli(key, 1 - self.rate, a.shape)
        return self._kept(mask, a), mask

    def backward(self, params: tuple[()], mask: Bool[Array, "..."], delta: Array) -> tuple[Array, tuple[()]]:
        """∂L/∂a = d ⊙ δ/(1 - rate): z is a times a number that does not depend on a."""
        return self._kept(mask, delta), ()

    def at_inference(self) -> Layer:
        """The identity, which is what the layer is on average."""
        return elementwise(identity)


def dropout(rate: float) -> Layer:
    """Sets each input to 0 with this probability in training, and divides the others by 1 - rate; none afterwards.

    Raises:
        ValueError: if the rate is not at least 0 and below 1.
        TypeError: if it is no number.
    """
    if not 0 <= float(rate) < 1:
        raise ValueError(f"a dropout rate is a probability from 0 to below 1, got {rate!r}")
    return _Dropout(float(rate))
