"""The linear part of a layer of neurons."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from jaxnet.arguments import positive_integer
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.layer import Layer


class Dense(NamedTuple):
    """The parameters of a dense layer."""

    weight: Float[Array, "n_out n_in"]
    bias: Float[Array, " n_out"]


@dataclass(frozen=True)
class _Dense(Layer):
    """z = W a + b."""

    n_in: int
    n_out: int
    initializer: Initializer = lecun_normal
    bias_initializer: Initializer = zeros
    dtype: Any = float

    factory = "dense"
    sums_widely = True

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return f"dense {self.n_in}→{self.n_out}"

    def init(self, key: Array) -> Dense:
        """W by its initializer, b by its own."""
        weight_key, bias_key = jax.random.split(key)
        weight = self.initializer(weight_key, (self.n_out, self.n_in), self.dtype)
        return Dense(weight, self.bias_initializer(bias_key, (self.n_out,), self.dtype))

    def _check(self, params: Dense) -> None:
        if (params.weight.shape, params.bias.shape) != ((self.n_out, self.n_in), (self.n_out,)):
            raise ValueError(
                f"{self.name} needs a weight of shape {(self.n_out, self.n_in)} and a bias of shape {(self.n_out,)}, "
                f"got {params.weight.shape} and {params.bias.shape}"
            )

    def forward(
        self, params: Dense, a: Shaped[Array, "*batch n_in"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch n_out"], Array]:
        """z = W a + b. The backward pass needs a, and has W already; integers are brought to W's dtype."""
        if a.shape[-1:] != (self.n_in,):
            raise ValueError(f"{self.name} needs inputs of shape (..., {self.n_in}), got {a.shape}")
        self._check(params)
        a = a if jnp.issubdtype(a.dtype, jnp.inexact) else a.astype(params.weight.dtype)
        z = a @ params.weight.T
        return z + jnp.broadcast_to(params.bias, z.shape), a

    def backward(
        self, params: Dense, a: Float[Array, "*batch n_in"], delta: Float[Array, "*batch n_out"]
    ) -> tuple[Array, Dense]:
        """From z_i = Σ_j W_ij a_j + b_i and δ = ∂L/∂z, by the chain rule.

        ∂L/∂a = Wᵀ δ     (n_in,)          ∂z_i/∂a_j = W_ij, summed over i
        ∂L/∂W = δ aᵀ     (n_out, n_in)    ∂z_i/∂W_ij = a_j
        ∂L/∂b = δ        (n_out,)         ∂z_i/∂b_i = 1

        For a batch the last two are summed over its axes, which makes δ aᵀ one matrix product.
        """
        weight, bias = params
        grad_bias = delta.sum(tuple(range(delta.ndim - 1)), dtype=bias.dtype)
        return delta @ narrow(weight, delta), Dense(sum_of_products(delta, a, weight), grad_bias)

    def squared_norms(self, params: Dense, a: Float[Array, "m ... n_in"], delta: Float[Array, "m ... n_out"]) -> Array:
        """‖δ aᵀ‖² = Σ_ij δ_i² a_j² = ‖δ‖²‖a‖², with the bias ‖δ‖²(‖a‖² + 1).

        Of several positions t, ‖Σ_t δ_t a_tᵀ‖² = Σ_ts ⟨δ_t, δ_s⟩⟨a_t, a_s⟩: no gradient of an example is formed.
        """
        del params
        of_delta, of_a = products_of_positions(delta), products_of_positions(a)
        return (of_delta * (of_a + 1)).sum((1, 2))

    def without_init(self) -> Layer:
        """The shapes alone."""
        return replace(self, initializer=zeros, bias_initializer=zeros, dtype=float)


@dataclass(frozen=True)
class _DenseTranspose(_Dense):
    """a = Wᵀ z, the adjoint of `_Dense` on the same parameters."""

    factory = "dense_transpose"

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return f"dense_transpose {self.n_out}→{self.n_in}"

    def forward(
        self, params: Dense, a: Float[Array, "*batch n_out"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch n_in"], Array]:
        """Wᵀ a, a being the input here as in every layer."""
        if a.shape[-1:] != (self.n_out,):
            raise ValueError(f"{self.name} needs inputs of shape (..., {self.n_out}), got {a.shape}")
        self._check(params)
        return a @ params.weight, a

    def backward(
        self, params: Dense, a: Float[Array, "*batch n_out"], delta: Float[Array, "*batch n_in"]
    ) -> tuple[Array, Dense]:
        """From z_j = Σ_i W_ij a_i and δ = ∂L/∂z: ∂L/∂a = W δ, ∂L/∂W = a δᵀ, and ∂L/∂b = 0, as no z depends on b."""
        weight, bias = params
        grad_weight = sum_of_products(a, delta, weight)
        return delta @ narrow(weight, delta).T, Dense(grad_weight, jnp.zeros_like(bias))

    def squared_norms(self, params: Dense, a: Float[Array, "m ... n_out"], delta: Float[Array, "m ... n_in"]) -> Array:
        """‖a δᵀ‖², by positions as those of a dense layer."""
        del params
        return (products_of_positions(delta) * products_of_positions(a)).sum((1, 2))


def sum_of_products(left: Array, right: Array, like: Array) -> Array:
    """Σ left rightᵀ over the batch's axes as one matrix product, summed in the dtype of `like` if it is the wider."""
    batch = tuple(range(left.ndim - 1))
    wide = like.dtype if jnp.finfo(like.dtype).bits > jnp.finfo(left.dtype).bits else None
    return jnp.tensordot(left, right, axes=(batch, batch), preferred_element_type=wide).astype(like.dtype)


def narrow(weight: Array, like: Array) -> Array:
    """A weight to be multiplied with a δ that may have fewer bits."""
    return weight.astype(like.dtype) if jnp.finfo(weight.dtype).bits > jnp.finfo(like.dtype).bits else weight


def products_of_positions(vectors: Float[Array, "m ... n"]) -> Float[Array, "m t t"]:
    """⟨v_t, v_s⟩ of an example's positions t and s, (m, t, t)."""
    if vectors.ndim == 2:
        return jnp.square(vectors).sum(-1)[:, None, None]
    vectors = vectors.reshape(len(vectors), -1, vectors.shape[-1])
    return jnp.einsum("mti,msi->mts", vectors, vectors)


def dense(
    n_in: int,
    n_out: int,
    initializer: Initializer = lecun_normal,
    *,
    bias_initializer: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Layer:
    """The linear part of a layer of neurons, z = W a + b.

    Raises:
        ValueError: if a size is below 1; from `forward`, if the inputs or the parameters have other sizes.
        TypeError: if a size is not an integer.
    """
    sizes = positive_integer("n_in", n_in), positive_integer("n_out", n_out)
    return _Dense(*sizes, initializer, bias_initializer, dtype if dtype is float else jnp.dtype(dtype))


def dense_transpose(
    n_in: int,
    n_out: int,
    initializer: Initializer = lecun_normal,
    *,
    bias_initializer: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Layer:
    """Wᵀ a with the parameters of `dense(n_in, n_out)`, from n_out numbers back to n_in; the bias has no part in it.

    The adjoint of a dense layer's linear map, for `tied`.

    Raises:
        ValueError, TypeError: as `dense`.
    """
    sizes = positive_integer("n_in", n_in), positive_integer("n_out", n_out)
    return _DenseTranspose(*sizes, initializer, bias_initializer, dtype if dtype is float else jnp.dtype(dtype))
