"""Data before the network sees it: standardization, flattened pictures, mini-batches.

Large inputs give large z, which saturates; features of different spread stretch the contours of the cost. Subtracting
the mean and dividing by the standard deviation, both from the training set alone, mends both.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer, Num, UInt32

from jaxnet.arguments import check_finite, positive_integer


class Standardization(NamedTuple):
    """What standardization learned from the training set, one entry a feature.

    Attributes:
        mean: μ, rounded to the dtype of the data.
        scale: σ, the standard deviation (divided by m, not m - 1); 1 for a constant feature.
        residual: what rounding took from μ. Where μ is 1e6 times σ, half a unit in its last place is 0.03 σ.
    """

    mean: Float[Array | np.ndarray, " n"]
    scale: Float[Array | np.ndarray, " n"]
    residual: Float[Array | np.ndarray, " n"]


def _as_features(x: Num[Array | np.ndarray, "..."]) -> Any:
    """x as floats, checked; NumPy data stays NumPy and is computed in float64, whatever JAX's default is."""
    x = x if isinstance(x, Array) else np.asarray(x, np.float64)
    if x.ndim != 2:
        raise ValueError(f"features have shape (m, n), got {x.shape}; flatten pictures with flatten_images")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def fit_standardization(x: Num[Array | np.ndarray, "..."]) -> Standardization:
    """μ and σ of each feature of the training set x (m, n), to be used unchanged on any other.

    μ = (1/m) Σ x(i) and σ² = (1/m) Σ (x(i) - μ)². Both are computed from x - x(1), which is exact for data far from 0
    and exactly 0 for a constant feature.

    Raises:
        ValueError: if x is not (m, n), is empty, or (when concrete) holds a value that is not finite or spans a range
            that is near the largest number.
    """
    x = _as_features(x)
    xp = jnp if isinstance(x, Array) else np
    if x.shape[0] == 0:
        raise ValueError(f"cannot standardize without examples, got shape {x.shape}")
    check_finite("x", x)
    with np.errstate(over="ignore"):
        shifted = x - x[:1]
        largest = xp.abs(shifted).max(axis=0)
        check_finite("8 times the range of x", 8 * largest)  # compilers multiply by 1/σ, which must not underflow
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))  # so that no sum of squares overflows or underflows
    relative = shifted / unit[None]
    relative_mean = relative.mean(axis=0)
    scale = unit * xp.sqrt(xp.square(relative - relative_mean[None]).mean(axis=0))
    shifted_mean = unit * relative_mean
    mean = x[0] + shifted_mean
    return Standardization(mean, xp.where(scale > 0, scale, unit), shifted_mean - (mean - x[0]))


def standardize(stats: Standardization, x: Num[Array | np.ndarray, "..."]) -> Any:
    """(x - μ)/σ, feature by feature.

    Raises:
        ValueError: if x is not (m, n) with the n features of the training set.
    """
    x = _as_features(x)
    if x.shape[1:] != stats.mean.shape:
        raise ValueError(f"the training set had {len(stats.mean)} features, x has shape {x.shape}")
    return (x - stats.mean[None] - stats.residual[None]) / stats.scale[None]


def flatten_images(images: Num[Array | np.ndarray, "..."]) -> Any:
    """Pictures (m, height, width[, channels]) as vectors (m, n), each read row by row.

    Raises:
        ValueError: if images has another number of axes; a single picture is a batch of one, `image[None]`.
    """
    if images.ndim not in (3, 4):
        raise ValueError(f"images have shape (m, height, width) or (m, height, width, channels), got {images.shape}")
    return images.reshape(len(images), math.prod(images.shape[1:]))


def random_order(bits: UInt32[Array, " m"]) -> Integer[Array, " m"]:
    """The order of the examples 0, ..., m - 1 that sorts their random bits; each example stands in it exactly once.

    Up to 2^16 examples, index and bits share one word, which a CPU sorts 5 times faster than pairs. Bits that are equal
    (above the index) leave two examples in their old order, which biases the order of a pair by less than 1e-5.
    """
    (m,) = bits.shape
    indices = jnp.arange(m, dtype=jnp.uint32)
    index_bits = (m - 1).bit_length()
    if index_bits > 16:
        return jax.lax.sort((bits, indices), num_keys=1)[1]
    mask = jnp.uint32((1 << index_bits) - 1)
    return jnp.sort((bits & ~mask) | indices) & mask


def split_order(
    order: Integer[Array, " m"], batch_size: int
) -> tuple[Integer[Array, "full {batch_size}"], Integer[Array, " rest"]]:
    """The order cut into full batches of examples, one a row, and the rest."""
    whole = len(order) - len(order) % batch_size
    return order[:whole].reshape(-1, batch_size), order[whole:]


def minibatches(key: Array, data: Any, batch_size: int) -> tuple[Any, Any]:
    """One epoch of mini-batches: every example exactly once, in an order drawn from the key.

    Args:
        key: the random key that decides the order.
        data: a tree of arrays with the examples on their leading axis, such as (x, y).
        batch_size: examples a batch, at least 1.

    Returns:
        (full, rest): the full batches stacked as (m // batch_size, batch_size, ...), ready for `lax.scan`, and the last
        partial batch as (m % batch_size, ...), which may be empty.

    Raises:
        ValueError: if batch_size < 1, there are no examples, or the arrays differ in their number.
    """
    batch_size = positive_integer("batch_size", batch_size)
    lengths = sorted({len(leaf) for leaf in jax.tree.leaves(data)})
    if len(lengths) != 1 or lengths == [0]:
        raise ValueError(f"all arrays need the same number of examples, at least 1, got {lengths}")
    full, rest = split_order(random_order(jax.random.bits(key, (lengths[0],), jnp.uint32)), batch_size)
    return jax.tree.map(lambda leaf: leaf[full], data), jax.tree.map(lambda leaf: leaf[rest], data)
