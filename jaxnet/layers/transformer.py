"""Transformers: blocks of attention and a hidden layer, each added to its inputs, and a language model of them."""

from jax.typing import DTypeLike

from jaxnet.activations import Activation, gelu_tanh
from jaxnet.layers.attention import attention
from jaxnet.layers.combine import repeat, residual, serial
from jaxnet.layers.dense import dense
from jaxnet.layers.elementwise import elementwise
from jaxnet.layers.embedding import embedding, positions, unembedding
from jaxnet.layers.layer import Layer
from jaxnet.layers.norms import layer_norm
from jaxnet.layers.tied import tied as tie


def transformer_block(
    n: int,
    heads: int,
    *,
    n_hidden: int | None = None,
    activation: Activation = gelu_tanh,
    causal: bool = True,
    kv_heads: int | None = None,
    rotary: bool = False,
    block: int | None = None,
    eps: float = 1e-5,
    dtype: DTypeLike = float,
) -> Layer:
    """a + attention(norm(a)), and what that is plus a hidden layer of its norm. Xiong et al. (2020), as GPT-2 has it.

    Args:
        n: numbers of a position.
        heads, causal, kv_heads, rotary, block: as for `attention`.
        n_hidden: neurons of the hidden layer; 4 n unless given.
        activation: of the hidden layer.
        eps: of the norms.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: as `attention` and `dense`.
    """
    n_hidden = 4 * n if n_hidden is None else n_hidden
    attend = attention(n, heads, kv_heads=kv_heads, causal=causal, rotary=rotary, block=block, dtype=dtype)
    hidden = dense(n, n_hidden, dtype=dtype), elementwise(activation), dense(n_hidden, n, dtype=dtype)
    norm = layer_norm(n, eps, dtype=dtype)
    return serial(residual(norm, attend), residual(norm, *hidden))


def gpt(
    n_tokens: int,
    length: int,
    n: int,
    heads: int,
    depth: int,
    *,
    tied: bool = True,
    block: int | None = None,
    dtype: DTypeLike = float,
) -> Layer:
    """A language model, tokens (length,) → the logits of the next ones (length, n_tokens). Radford et al. (2019).

    Args:
        n_tokens: how many tokens there are.
        length: of the longest text.
        n: numbers of a position.
        heads: of attention.
        depth: how many blocks.
        tied: whether the vectors of the tokens are those that the logits are made by.
        block: as for `attention`.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: as `transformer_block`, `embedding` and `repeat`.
    """
    blocks = repeat(transformer_block(n, heads, block=block, dtype=dtype), depth)
    inside = serial(positions(length, n, dtype=dtype), blocks, layer_norm(n, 1e-5, dtype=dtype))
    first, last = embedding(n_tokens, n, dtype=dtype), unembedding(n_tokens, n, dtype=dtype)
    return tie(inside, first, last) if tied else serial(first, inside, last)
