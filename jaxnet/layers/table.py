"""Every layer in small, as the tests cross it with all that a layer must do: a new one enters here, and is proved."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxnet.activations import sigmoid, silu, tanh
from jaxnet.layers.attention import attention
from jaxnet.layers.combine import concatenate, repeat, residual, serial
from jaxnet.layers.convolution import conv
from jaxnet.layers.dense import dense, dense_transpose
from jaxnet.layers.dropout import dropout
from jaxnet.layers.elementwise import elementwise
from jaxnet.layers.embedding import embedding, positions, unembedding
from jaxnet.layers.gated import gated
from jaxnet.layers.layer import Layer
from jaxnet.layers.norms import affine, batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from jaxnet.layers.pool import average_pool, global_average_pool, max_pool
from jaxnet.layers.recurrence import gru_cell, lstm_cell, recurrent, rnn_cell
from jaxnet.layers.shape import flatten, reshape, transpose
from jaxnet.layers.tied import tied
from jaxnet.layers.transformer import transformer_block


class Sample(NamedTuple):
    """A layer in small.

    Attributes:
        make: from the dtype of its parameters to the layer.
        inputs: the shape of one example.
        below: for inputs that are whole numbers from 0 to below this.
    """

    make: Callable[[Any], Layer]
    inputs: tuple[int, ...]
    below: int | None = None


def _hidden(dtype: Any) -> Layer:
    return serial(dense(4, 4, dtype=dtype), elementwise(tanh))


ALL = {
    "dense": Sample(lambda dtype: dense(4, 3, dtype=dtype), (4,)),
    "dense_transpose": Sample(lambda dtype: dense_transpose(3, 4, dtype=dtype), (4,)),
    "elementwise": Sample(lambda dtype: elementwise(sigmoid), (4,)),
    "affine": Sample(lambda dtype: affine(4, dtype=dtype), (4,)),
    "layer_norm": Sample(lambda dtype: layer_norm(5, dtype=dtype), (3, 5)),
    "rms_norm": Sample(lambda dtype: rms_norm(5, dtype=dtype), (3, 5)),
    "group_norm": Sample(lambda dtype: group_norm(6, 2, dtype=dtype), (2, 3, 6)),
    "instance_norm": Sample(lambda dtype: instance_norm(2, space=1, dtype=dtype), (5, 2)),
    "batch_norm": Sample(lambda dtype: batch_norm(3, dtype=dtype), (2, 2, 3)),
    "dropout": Sample(lambda dtype: dropout(0.3), (7,)),
    "embedding": Sample(lambda dtype: embedding(5, 3, dtype=dtype), (7,), below=5),
    "positions": Sample(lambda dtype: positions(7, 3, dtype=dtype), (5, 3)),
    "gated": Sample(lambda dtype: gated(4, 3, silu, dtype=dtype), (4,)),
    "conv": Sample(lambda dtype: conv(2, 4, (3, 2), strides=(2, 1), dilation=(1, 2), groups=2, dtype=dtype), (5, 7, 2)),
    "max_pool": Sample(lambda dtype: max_pool((3, 2), 2, "SAME"), (5, 4, 3)),
    "average_pool": Sample(lambda dtype: average_pool(3, 2, "SAME"), (8, 2)),
    "global_average_pool": Sample(lambda dtype: global_average_pool(2), (2, 3, 4)),
    "rnn": Sample(lambda dtype: recurrent(rnn_cell(3, 4, dtype=dtype)), (5, 3)),
    "gru": Sample(lambda dtype: recurrent(gru_cell(3, 2, dtype=dtype), reverse=True), (5, 3)),
    "lstm": Sample(lambda dtype: recurrent(lstm_cell(3, 2, dtype=dtype)), (5, 3)),
    "attention": Sample(lambda dtype: attention(4, 2, rotary=True, dtype=dtype), (5, 4)),
    "attention in blocks": Sample(
        lambda dtype: attention(8, 4, kv_heads=2, causal=True, rotary=True, block=3, dtype=dtype), (7, 8)
    ),
    "unembedding": Sample(lambda dtype: unembedding(5, 3, dtype=dtype), (2, 3)),
    "transformer block": Sample(lambda dtype: transformer_block(4, 2, rotary=True, dtype=dtype), (5, 4)),
    "flatten": Sample(lambda dtype: flatten(3), (2, 3, 2)),
    "reshape": Sample(lambda dtype: reshape((2, 6), (4, 3)), (2, 6)),
    "transpose": Sample(lambda dtype: transpose((2, 0, 1)), (2, 3, 4)),
    "serial": Sample(lambda dtype: serial(_hidden(dtype), dense(4, 3, dtype=dtype), elementwise(sigmoid)), (4,)),
    "repeat": Sample(lambda dtype: repeat(_hidden(dtype), 5), (4,)),
    "residual": Sample(lambda dtype: serial(residual(_hidden(dtype)), dense(4, 4, dtype=dtype)), (4,)),
    "concatenate": Sample(lambda dtype: concatenate(_hidden(dtype), elementwise(tanh), dense(4, 2, dtype=dtype)), (4,)),
    "tied": Sample(
        lambda dtype: tied(elementwise(tanh), dense(4, 3, dtype=dtype), dense_transpose(4, 3, dtype=dtype)), (4,)
    ),
}
