"""The examples and the optimizer that a training run is given: checked, and in the form that `jit` takes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from optax import GradientTransformation

from jaxnet.arguments import check_finite
from jaxnet.layers import Layer, abstract_passes
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


class Examples(NamedTuple):
    """Inputs, targets and, if they do not count alike, a weight for each example; all as long as there are examples."""

    x: Any
    y: Any
    weight: Any = None

    def at(self, chosen: Any) -> "Examples":
        """Some of them; all for None."""
        return self if chosen is None else jax.tree.map(lambda leaf: leaf[chosen], self)


def count(x: Any) -> int:
    """The number of examples: the length of every leaf."""
    return len(jax.tree.leaves(x)[0])


def check_batch(what: str, x: Any) -> None:
    """Raises `ValueError` unless every leaf has an axis of examples, and there are any."""
    for leaf in jax.tree.leaves(x):
        alone = leaf.ndim < 2 and jnp.issubdtype(leaf.dtype, jnp.floating)
        if leaf.ndim == 0 or alone or len(leaf) == 0:
            raise ValueError(f"{what} need a batch of shape (m, n_in) with m at least 1, got {leaf.shape}")


def checked_weight(weight: Any, y: Array, dtype: Any) -> Array:
    """A weight for each target.

    Raises:
        ValueError: for another number of them, a negative one or one that is not finite, or if all are 0.
        TypeError: if they are not real numbers.
    """
    weight = weight if isinstance(weight, Array) else np.asarray(weight)
    _check_real("sample_weight", weight)
    if weight.shape != y.shape[:1]:
        raise ValueError(f"sample_weight needs one number an example, shape {y.shape[:1]}, got {weight.shape}")
    check_finite("sample_weight", weight)
    if (weight < 0).any() or not (weight > 0).any():
        raise ValueError("sample_weight must not be negative, nor 0 for all examples")
    return jnp.asarray(weight, dtype)


def checked_examples(network: Layer, loss: Loss, params: Any, x: Any, y: Any, *, name: str = "") -> tuple[Any, Array]:
    """The data on the device, floats in the dtype of the parameters; raises the errors that `fit` and `sweep` document.

    Integers stay integers: an embedding reads them, and a dense layer brings them to its own dtype. Messages begin with
    the name.
    """
    dtype = dtype_of(params)
    y = y if isinstance(y, Array) else np.asarray(y)
    leaves = jax.tree_util.tree_leaves_with_path(x)
    if not leaves:
        raise ValueError(f"{name}x must hold at least one example, got no array")
    checked = [_checked_input(f"{name}x{jax.tree_util.keystr(path)}", leaf, y, dtype) for path, leaf in leaves]
    _check_real(f"{name}y", y)
    check_finite(f"{name}y", y)
    x = jax.tree.unflatten(jax.tree.structure(x), checked)
    outputs = abstract_passes(network, params, x, jax.random.key(0) if network.needs_key else None)
    return x, loss.targets(outputs, y)


def _checked_input(name: str, x: Any, y: Any, dtype: Any) -> Array:
    """A leaf of the inputs, as long as the targets."""
    x = x if isinstance(x, Array) else np.asarray(x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"{name} must hold at least one example, got shape {x.shape}")
    if x.ndim == 1 and jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(f"{name} must have shape (m, n_in), got {x.shape}; one example is a batch of one, x[None]")
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(f"{name} and y need the same number of examples, got shapes {x.shape} and {y.shape}")
    _check_real(name, x)
    with np.errstate(over="ignore"):  # what overflows the dtype of the parameters is reported below
        x = jnp.asarray(x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else None)
    check_finite(name, x)
    return x


def _check_real(name: str, value: Any) -> None:
    if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool)):
        raise TypeError(f"{name} must hold real numbers, got {value.dtype}")
