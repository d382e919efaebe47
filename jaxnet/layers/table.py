"""Every layer in small, as the tests cross it with all that a layer must do: a new one enters here, and is proved."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxnet.activations import sigmoid, tanh
from jaxnet.layers.combine import concatenate, repeat, residual, serial
from jaxnet.layers.dense import dense, dense_transpose
from jaxnet.layers.elementwise import elementwise
from jaxnet.layers.layer import Layer
from jaxnet.layers.tied import tied


class Sample(NamedTuple):
    """A layer in small.

    Attributes:
        make: from the dtype of its parameters to the layer.
        inputs: the shape of one example.
    """

    make: Callable[[Any], Layer]
    inputs: tuple[int, ...]


def _hidden(dtype: Any) -> Layer:
    return serial(dense(4, 4, dtype=dtype), elementwise(tanh))


ALL = {
    "dense": Sample(lambda dtype: dense(4, 3, dtype=dtype), (4,)),
    "dense_transpose": Sample(lambda dtype: dense_transpose(3, 4, dtype=dtype), (4,)),
    "elementwise": Sample(lambda dtype: elementwise(sigmoid), (4,)),
    "serial": Sample(lambda dtype: serial(_hidden(dtype), dense(4, 3, dtype=dtype), elementwise(sigmoid)), (4,)),
    "repeat": Sample(lambda dtype: repeat(_hidden(dtype), 5), (4,)),
    "residual": Sample(lambda dtype: serial(residual(_hidden(dtype)), dense(4, 4, dtype=dtype)), (4,)),
    "concatenate": Sample(lambda dtype: concatenate(_hidden(dtype), elementwise(tanh), dense(4, 2, dtype=dtype)), (4,)),
    "tied": Sample(
        lambda dtype: tied(elementwise(tanh), dense(4, 3, dtype=dtype), dense_transpose(4, 3, dtype=dtype)), (4,)
    ),
}
