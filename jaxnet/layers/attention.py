"""Attention: each position takes a mean of the values of others, weighted by how its query fits their keys.

Arrays of heads are (m, t, k, g, d): examples, positions, heads of keys and values, queries for each of these, and the
numbers of a head. Vaswani et al. (2017); fewer heads of keys than of queries, Ainslie et al. (2023).
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jaxnet.arguments import positive_integer, positive_integer_or_none
from jaxnet.initializers import Initializer, lecun_normal
from jaxnet.layers.dense import Dense, dense
from jaxnet.layers.layer import Layer

ROTARY_BASE = 10_000.0


class Attention(NamedTuple):
    """The parameters of an attention layer, those of four dense ones."""

    query: Dense
    key: Dense
    value: Dense
    output: Dense


class Kept(NamedTuple):
    """What the backward pass reads.

    Attributes:
        a: the inputs.
        query, key, value: of every head, rotated if that is wanted.
        mixed: O, the means of the values.
        weights: of each block of queries P, or, where P is computed again, the logarithm of the sum that it is divided
            by.
        mask: which positions may see which, if that is given.
    """

    a: Array
    query: Array
    key: Array
    value: Array
    mixed: Array
    weights: tuple[Array, ...]
    mask: Array | None


@dataclass(frozen=True)
class _Attention(Layer):
    """z = W_o O + b_o with O = P V and P = softmax(Q Kᵀ/√d) in every head."""

    n: int
    heads: int
    kv_heads: int
    causal: bool
    rotary: bool
    block: int | None
    to_query: Layer
    to_key: Layer

    factory = "attention"
    sums_widely = True

    def __repr__(self) -> str:
        """The call that makes it."""
        parts = [f"kv_heads={self.kv_heads}"] if self.kv_heads != self.heads else []
        parts += [f"{name}=True" for name in ("causal", "rotary") if getattr(self, name)]
        parts += [f"block={self.block}"] if self.block else []
        return f"attention({', '.join(map(str, (self.n, self.heads, *parts)))})"

    @property
    def size(self) -> int:
        """d, the numbers of a head."""
        return self.n // self.heads

    def init(self, key: Array) -> Attention:
        """Each dense layer's."""
        keys = jax.random.split(key, 4)
        layers = (self.to_query, self.to_key, self.to_key, self.to_query)
        return Attention(*(layer.init(k) for layer, k in zip(layers, keys, strict=True)))

    def forward(
        self, params: Attention, inputs: Any, *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch t n"], Kept]:
        """Of a, or of (a, mask). A position that may see none gets the mean 0."""
        a, mask = inputs if isinstance(inputs, tuple) else (inputs, None)
        if a.ndim < 2 or a.shape[-1] != self.n:
            raise ValueError(f"{self.name} needs inputs of shape (..., length, {self.n}), got {a.shape}")
        if mask is not None:
            mask = self._as_heads_see(mask, a.shape)
        query = self._turned(self._split(self.to_query.forward(params.query, a)[0], self.heads))
        key_, value = (self._split(self.to_key.forward(p, a)[0], self.kv_heads) for p in (params.key, params.value))
        key_ = self._turned(key_)
        mixed, weights = [], []
        for start, stop, end in self._blocks(a.shape[-2]):
            p, log_sum = _softmax(self._scores(query, key_, mask, start, stop, end))
            mixed.append(jnp.einsum("mkgts,mskd->mtkgd", p.astype(value.dtype), value[:, :end, :, 0]))
            weights.append(p.astype(value.dtype) if self.block is None else log_sum)
        mixed = jnp.concatenate(mixed, 1)
        z, _ = self.to_query.forward(params.output, self._joined(mixed, a.shape))
        return z, Kept(a, query, key_, value, mixed, tuple(weights), mask)

    def backward(self, params: Attention, cache: Kept, delta: Float[Array, "*batch t n"]) -> tuple[Any, Attention]:
        """The gradient of a is the sum of what the three dense layers of queries, keys and values send back."""
        found = [layer.backward(*rest) for layer, *rest in self._parts(params, cache, delta)]
        grad_a = found[0][0] + found[1][0] + found[2][0]
        gradient = Attention(*(gradient for _, gradient in found))
        return grad_a if cache.mask is None else (grad_a, None), gradient

    def _parts(self, params: Attention, cache: Kept, delta: Array) -> list[tuple[Layer, Dense, Array, Array]]:
        """The four dense layers with their inputs and the gradients by their outputs.

        With dO = ∂L/∂O from the last of them, and for each head and query t:

        ∂L/∂V = Pᵀ dO        ∂L/∂P = dO Vᵀ
        ∂L/∂S = P ⊙ (∂L/∂P - D), D_t = Σ_s P_ts ∂L/∂P_ts = dO_t · O_t        the softmax of a row, whose Σ is 1
        ∂L/∂Q = ∂L/∂S K/√d        ∂L/∂K = ∂L/∂Sᵀ Q/√d
        """
        a, query, key, value, mixed, weights, _ = cache
        joined = self._joined(mixed, a.shape)
        grad_joined, _ = self.to_query.backward(params.output, joined, delta)
        grad_mixed = self._split(grad_joined, self.heads)
        within = (grad_mixed * mixed).sum(-1)  # D
        grad_query, grad_key, grad_value = [], jnp.zeros_like(key), jnp.zeros_like(value)
        for (start, stop, end), kept in zip(self._blocks(a.shape[-2]), weights, strict=True):
            d_o = grad_mixed[:, start:stop]
            p = kept if self.block is None else self._again(cache, kept, start, stop, end)
            grad_value = grad_value.at[:, :end, :, 0].add(jnp.einsum("mkgts,mtkgd->mskd", p, d_o))
            grad_p = jnp.einsum("mtkgd,mskd->mkgts", d_o, value[:, :end, :, 0])
            grad_s = p * (grad_p - jnp.moveaxis(within[:, start:stop], 1, -1)[..., None]) / self.size**0.5
            grad_query.append(jnp.einsum("mkgts,mskd->mtkgd", grad_s, key[:, :end, :, 0]))
            grad_key = grad_key.at[:, :end, :, 0].add(jnp.einsum("mkgts,mtkgd->mskd", grad_s, query[:, start:stop]))
        by_head = self._turned(jnp.concatenate(grad_query, 1), -1), self._turned(grad_key, -1), grad_value
        layers = (self.to_query, self.to_key, self.to_key)
        return [
            *((layer, p, a, self._joined(g, a.shape)) for layer, p, g in zip(layers, params, by_head, strict=False)),
            (self.to_query, params.output, joined, delta),
        ]

    def squared_norms(self, params: Attention, cache: Kept, delta: Float[Array, "m ... t n"]) -> Array:
        """Those of the four dense layers together."""
        norms = [layer.squared_norms(*rest) for layer, *rest in self._parts(params, cache, delta)]
        return sum(norms[1:], norms[0])

    # Heads and blocks -------------------------------------------------------------------------------------------------

    def _split(self, a: Array, heads: int) -> Array:
        """(*batch, t, n) as heads."""
        return a.reshape(prod(a.shape[:-2]), a.shape[-2], self.kv_heads, heads // self.kv_heads, self.size)

    def _joined(self, a: Array, like: tuple[int, ...]) -> Array:
        """Heads as (*batch, t, n)."""
        return a.reshape(*like[:-1], -1)

    def _blocks(self, length: int) -> list[tuple[int, int, int]]:
        """Queries from the first to below the second, which see keys to below the third."""
        size = self.block or length
        spans = [(start, min(start + size, length)) for start in range(0, length, size)]
        return [(start, stop, stop if self.causal else length) for start, stop in spans]

    def _as_heads_see(self, mask: Any, shape: tuple[int, ...]) -> Bool[Array, "m 1 1 t t"]:
        """A mask of each example, whose queries are rows."""
        wanted = (*shape[:-1], shape[-2])
        if not jnp.issubdtype(jnp.result_type(mask), bool) or jnp.broadcast_shapes(jnp.shape(mask), wanted) != wanted:
            raise ValueError(
                f"{self.name} needs a mask of booleans, (queries, keys), that fits {wanted}, got {mask!r:.80}"
            )
        return jnp.broadcast_to(mask, wanted).reshape(-1, 1, 1, shape[-2], shape[-2])

    def _scores(self, query: Array, key: Array, mask: Array | None, start: int, stop: int, end: int) -> Array:
        """S = Q Kᵀ/√d of a block, -∞ where it may not be seen; in float32 at least, as exponentials follow."""
        wide = jnp.float32 if jnp.finfo(query.dtype).bits < 32 else query.dtype
        s = jnp.einsum("mtkgd,mskd->mkgts", query[:, start:stop], key[:, :end, :, 0], preferred_element_type=wide)
        s = s / self.size**0.5
        if self.causal:
            seen = np.arange(start, stop)[:, None] >= np.arange(end)
            s = jnp.where(jnp.broadcast_to(seen, s.shape), s, -jnp.inf)
        if mask is not None:
            s = jnp.where(jnp.broadcast_to(mask[..., start:stop, :end], s.shape), s, -jnp.inf)
        return s

    def _again(self, cache: Kept, log_sum: Array, start: int, stop: int, end: int) -> Array:
        """P of a block, from the logarithm of the sum that it is divided by."""
        s = self._scores(cache.query, cache.key, cache.mask, start, stop, end)
        empty = jnp.broadcast_to(jnp.isneginf(log_sum), s.shape)
        return jnp.where(empty, 0.0, jnp.exp(s - jnp.where(empty, 0.0, log_sum))).astype(cache.value.dtype)

    def _turned(self, heads: Array, way: int = 1) -> Array:
        """Each pair of numbers, one of either half of a head, turned by the position times an angle of its own.

        Turned the other way, it is the adjoint. Su et al. (2021).
        """
        if not self.rotary:
            return heads
        angles = np.arange(heads.shape[1])[:, None] * ROTARY_BASE ** -np.arange(0, 1, 2 / self.size)
        cos, sin = (
            jnp.broadcast_to(
                jnp.asarray(f(way * angles), heads.dtype)[:, None, None], (*heads.shape[:-1], self.size // 2)
            )
            for f in (np.cos, np.sin)
        )
        first, second = jnp.split(heads, 2, -1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def without_init(self) -> Layer:
        """Of the dense layers."""
        return replace(self, to_query=self.to_query.without_init(), to_key=self.to_key.without_init())


def _softmax(s: Array) -> tuple[Array, Array]:
    """The softmax of each row and log Σ exp s; zeros and -∞ where all are -∞."""
    largest = s.max(-1, keepdims=True)
    largest = jnp.where(jnp.isneginf(largest), 0.0, largest)
    e = jnp.exp(s - largest)
    total = e.sum(-1, keepdims=True)
    return e / jnp.where(total == 0, 1.0, total), largest + jnp.log(total)


def attention(
    n: int,
    heads: int,
    initializer: Initializer = lecun_normal,
    *,
    kv_heads: int | None = None,
    causal: bool = False,
    rotary: bool = False,
    block: int | None = None,
    dtype: DTypeLike = float,
) -> Layer:
    """Self-attention with several heads, (length, n) → (length, n): softmax(Q Kᵀ/√d) V in each, d = n/heads.

    Inputs are a, or (a, mask) with a mask of booleans, (length, length) or one an example: row t says what position t
    may see.

    Args:
        n: numbers of a position.
        heads: of queries.
        initializer: of the four weights.
        kv_heads: of keys and values, each of which serves equally many heads of queries; as many unless given.
        causal: whether a position sees those up to itself alone.
        rotary: whether queries and keys are turned by their positions.
        block: so many queries at a time; P is never stored but computed again in the backward pass, so that what is
            kept grows like the length, and where it is causal half of the products are never made.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: if a number is no integer of at least 1, the heads do not divide n, or one another, or d
            is odd where it is rotary; `ValueError` from `forward` for inputs or a mask of another shape.
    """
    n, heads = positive_integer("n", n), positive_integer("heads", heads)
    kv_heads = heads if kv_heads is None else positive_integer("kv_heads", kv_heads)
    if n % heads or heads % kv_heads:
        raise ValueError(f"{heads} heads cannot share {n} numbers, or {kv_heads} heads of keys, evenly")
    if rotary and n // heads % 2:
        raise ValueError(f"rotary positions turn pairs of numbers: {n}/{heads} must be even")
    to_query, to_key = (dense(n, n // heads * count, initializer, dtype=dtype) for count in (heads, kv_heads))
    block = positive_integer_or_none("block", block)
    return _Attention(n, heads, kv_heads, bool(causal), bool(rotary), block, to_query, to_key)
