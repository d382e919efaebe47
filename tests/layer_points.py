"""Layers in small at points where nothing saturates, and what autodiff makes of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet import dense, elementwise, repeat, serial, tanh
from jaxnet.activations import ALL as ACTIVATIONS
from jaxnet.layers import ALL as LAYERS
from jaxnet.layers import Layer, Sample, run
from tests.compare import random_like


def _nested(dtype):
    hidden = serial(dense(4, 4, dtype=dtype), elementwise(tanh))
    return serial(repeat(serial(elementwise(tanh), repeat(hidden, 2)), 3), serial(), dense(4, 1, dtype=dtype))


SAMPLES = {
    **LAYERS,
    "nested": Sample(_nested, (4,)),
    **{a.name: Sample(lambda dtype, a=a: elementwise(a), (4,)) for a in ACTIVATIONS},
}


class Point(NamedTuple):
    """A layer, its parameters (biases too), its inputs, the outputs and the cache there, and a random cotangent."""

    layer: Layer
    params: Any
    inputs: Any
    outputs: Any
    cache: Any
    cotangent: Any


def at_a_point(sample: Sample, dtype: Any, batch: tuple[int, ...], seed: int = 0) -> Point:
    layer, shape = sample.make(dtype), (*batch, *sample.inputs)
    shapes = jax.eval_shape(layer.init, jax.random.key(0)), jax.ShapeDtypeStruct(shape, dtype)
    params, inputs = random_like(shapes, seed)
    params = jax.tree.map(lambda leaf: leaf / 2, params)  # about 1/√n_in, so that tanh does not saturate
    if sample.below is not None:
        inputs = jnp.arange(inputs.size).reshape(shape) ** 2 % sample.below
    outputs, cache = forward(layer, params, inputs)
    return Point(layer, params, inputs, outputs, cache, random_like(outputs, seed + 1))


def forward(layer: Layer, params: Any, inputs: Any) -> tuple[Any, Any]:
    """With always the same key, where the layer draws."""
    return run(layer, params, inputs, jax.random.key(3) if layer.needs_key else None)


def is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def by_autodiff(point: Point) -> tuple[Any, Any]:
    """The gradients by the inputs, None by integers, and by the parameters."""
    layer, params, inputs = point[:3]
    if not is_float(inputs):
        return None, jax.vjp(lambda params: forward(layer, params, inputs)[0], params)[1](point.cotangent)[0]
    return jax.vjp(lambda params, inputs: forward(layer, params, inputs)[0], params, inputs)[1](point.cotangent)[::-1]
