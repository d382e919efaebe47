"""Embeddings: a vector for each token, and one for each position."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Integer

from jaxnet.arguments import positive_integer
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.dense import narrow, products_of_positions, sum_of_products
from jaxnet.layers.layer import Layer


class Embedding(NamedTuple):
    """The parameters of an embedding."""

    weight: Float[Array, "n_tokens n"]


class Positions(NamedTuple):
    """The parameters of an embedding of positions."""

    weight: Float[Array, "length n"]


@dataclass(frozen=True)
class _Embedding(Layer):
    """z = W[token]."""

    n_tokens: int
    n: int
    initializer: Initializer = lecun_normal
    dtype: Any = float

    factory = "embedding"
    sums_widely = True

    def init(self, key: Array) -> Embedding:
        """W by its initializer."""
        return Embedding(self.initializer(key, (self.n_tokens, self.n), self.dtype))

    def forward(
        self, params: Embedding, tokens: Integer[Array, "*batch"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch n"], Integer[Array, "*batch"]]:
        """The row of each token; NaN for a number that is no token."""
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"{self.name} needs tokens, which are integers, got {tokens.dtype}")
        known = (tokens >= 0) & (tokens < self.n_tokens)
        return jnp.where(known[..., None], params.weight[jnp.where(known, tokens, 0)], jnp.nan), tokens

    def backward(
        self, params: Embedding, tokens: Integer[Array, "*batch"], delta: Float[Array, "*batch n"]
    ) -> tuple[None, Embedding]:
        """∂L/∂W_k = Σ δ of all positions whose token is k, each of which is row k; integers have no gradient."""
        zero = jnp.zeros_like(params.weight)
        return None, Embedding(zero.at[tokens].add(delta.astype(zero.dtype)))

    def squared_norms(
        self, params: Embedding, tokens: Integer[Array, "m ..."], delta: Float[Array, "m ... n"]
    ) -> Array:
        """‖Σ_t δ_t e(token_t)ᵀ‖² = Σ_ts ⟨δ_t, δ_s⟩ 1[token_t = token_s] over the positions of each example."""
        del params
        tokens, delta = tokens.reshape(len(tokens), -1), delta.reshape(len(delta), -1, delta.shape[-1])
        same = (tokens[:, :, None] == tokens[:, None, :]).astype(delta.dtype)
        return (jnp.einsum("mti,msi->mts", delta, delta) * same).sum((1, 2))

    def without_init(self) -> Layer:
        """The sizes alone."""
        return replace(self, initializer=zeros, dtype=float)


@dataclass(frozen=True)
class _Unembedding(_Embedding):
    """z = W a, on the parameters of an embedding."""

    factory = "unembedding"

    def forward(
        self, params: Embedding, a: Float[Array, "*batch n"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch n_tokens"], Array]:
        """How well each token's vector fits; the cache is a."""
        if a.shape[-1:] != (self.n,):
            raise ValueError(f"{self.name} needs inputs of shape (..., {self.n}), got {a.shape}")
        return a @ params.weight.T, a

    def backward(
        self, params: Embedding, a: Float[Array, "*batch n"], delta: Float[Array, "*batch n_tokens"]
    ) -> tuple[Array, Embedding]:
        """∂L/∂a = Wᵀ δ and ∂L/∂W = δ aᵀ, summed over the batch, as of a dense layer without a bias."""
        return delta @ narrow(params.weight, delta), Embedding(sum_of_products(delta, a, params.weight))

    def squared_norms(
        self, params: Embedding, a: Float[Array, "m ... n"], delta: Float[Array, "m ... n_tokens"]
    ) -> Array:
        """‖Σ_t δ_t a_tᵀ‖² = Σ_ts ⟨δ_t, δ_s⟩⟨a_t, a_s⟩ over the positions of each example."""
        del params
        return (products_of_positions(delta) * products_of_positions(a)).sum((1, 2))


@dataclass(frozen=True)
class _Positions(Layer):
    """z_t = a_t + W_t."""

    length: int
    n: int
    initializer: Initializer = lecun_normal
    dtype: Any = float

    factory = "positions"
    sums_widely = True

    def init(self, key: Array) -> Positions:
        """W by its initializer."""
        return Positions(self.initializer(key, (self.length, self.n), self.dtype))

    def forward(
        self, params: Positions, a: Float[Array, "*batch t n"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch t n"], tuple[()]]:
        """z_t = a_t + W_t for the first positions; nothing needs to be kept."""
        if a.ndim < 2 or a.shape[-1] != self.n or a.shape[-2] > self.length:
            raise ValueError(f"{self.name} needs inputs of shape (..., {self.length} or less, {self.n}), got {a.shape}")
        return a + jnp.broadcast_to(params.weight[: a.shape[-2]].astype(a.dtype), a.shape), ()

    def backward(
        self, params: Positions, cache: tuple[()], delta: Float[Array, "*batch t n"]
    ) -> tuple[Array, Positions]:
        """∂L/∂a = δ; ∂L/∂W_t = Σ δ_t over the batch, and 0 for positions that no input has."""
        zero = jnp.zeros_like(params.weight)
        summed = delta.sum(tuple(range(delta.ndim - 2)), dtype=zero.dtype)
        return delta, Positions(zero.at[: delta.shape[-2]].set(summed))

    def squared_norms(self, params: Positions, cache: tuple[()], delta: Float[Array, "m ... t n"]) -> Array:
        """‖δ‖² of each example, whose further axes of the batch add up."""
        del params, cache
        return jnp.square(delta.sum(tuple(range(1, delta.ndim - 2)))).sum((-2, -1))

    def without_init(self) -> Layer:
        """The sizes alone."""
        return replace(self, initializer=zeros, dtype=float)


def embedding(n_tokens: int, n: int, initializer: Initializer = lecun_normal, *, dtype: DTypeLike = float) -> Layer:
    """A vector of n numbers for each of the tokens 0 to n_tokens - 1, z = W[token]; of variance 1/n at first.

    Raises:
        ValueError, TypeError: if a size is no integer of at least 1; `TypeError` from `forward` for tokens that are no
            integers.
    """
    sizes = positive_integer("n_tokens", n_tokens), positive_integer("n", n)
    return _Embedding(*sizes, initializer, dtype if dtype is float else jnp.dtype(dtype))


def unembedding(n_tokens: int, n: int, initializer: Initializer = lecun_normal, *, dtype: DTypeLike = float) -> Layer:
    """The logits of all tokens, z = W a, with the parameters of `embedding(n_tokens, n)`: for `tied`.

    Raises:
        ValueError, TypeError: as `embedding`; `ValueError` from `forward` for inputs of another size.
    """
    sizes = positive_integer("n_tokens", n_tokens), positive_integer("n", n)
    return _Unembedding(*sizes, initializer, dtype if dtype is float else jnp.dtype(dtype))


def positions(length: int, n: int, initializer: Initializer = lecun_normal, *, dtype: DTypeLike = float) -> Layer:
    """Adds a vector of its own to each of at most `length` positions, z_t = a_t + W_t. Gehring et al. (2017).

    Raises:
        ValueError, TypeError: if a size is no integer of at least 1; `ValueError` from `forward` for longer inputs.
    """
    sizes = positive_integer("length", length), positive_integer("n", n)
    return _Positions(*sizes, initializer, dtype if dtype is float else jnp.dtype(dtype))
