"""The examples and the optimizer that a training run is given: checked, and in the form that `jit` takes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from optax import GradientTransformation

from jaxnet.arguments import check_finite
from jaxnet.layers import Layer
from jaxnet.losses import Loss


def as_pytree(optimizer: GradientTransformation) -> GradientTransformation:
    """The optimizer as an argument of `jit`: functions that are no pytrees, such as Optax's closures, become static."""
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise TypeError(f"optimizer must come from jaxnet.optimizers or Optax, got {optimizer!r:.80}")
    transformation = GradientTransformation(optimizer.init, optimizer.update)
    return jax.tree.map(lambda leaf: Partial(leaf) if callable(leaf) else leaf, transformation)


def dtype_of(params: Any) -> Any:
    """The dtype of the parameters, which the examples are brought to."""
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise ValueError("the network has no parameters, so that there is nothing to train")
    return jnp.result_type(*leaves)


def checked_examples(network: Layer, loss: Loss, params: Any, x: Any, y: Any) -> tuple[Array, Array]:
    """The data on the device, in the dtype of the parameters; raises the errors that `fit` and `sweep` document."""
    x, y = (value if isinstance(value, Array) else np.asarray(value) for value in (x, y))
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x must hold at least one example, got shape {x.shape}")
    if x.ndim == 1:
        raise ValueError(f"x must have shape (m, n_in), got {x.shape}; one example is a batch of one, x[None]")
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(f"x and y need the same number of examples, got shapes {x.shape} and {y.shape}")
    for name, value in (("x", x), ("y", y)):
        if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool)):
            raise TypeError(f"{name} must hold real numbers, got {value.dtype}")
    dtype = dtype_of(params)
    with np.errstate(over="ignore"):  # what overflows the dtype of the parameters is reported below
        x = jnp.asarray(x, dtype)
    check_finite("x", x)
    check_finite("y", y)
    outputs, _ = _forward(network).eval_shape(params, x)
    return x, loss.targets(outputs, y)


@functools.cache
def _forward(network: Layer) -> Any:
    """The forward pass, traced once for each shape of inputs."""
    return jax.jit(network.forward)
