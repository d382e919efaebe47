"""How a grid of networks is cut into tiles that are trained at once, and put together again."""

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from optax import GradientTransformation

from jaxnet.examples import count
from jaxnet.layers import Layer, run
from jaxnet.step import TrainState, init_state

# What the networks of a tile touch in a step should stay in a core's own cache. Networks of different keys share no
# product, so that only small ones gain by being together. Above so many, nothing is left to gain.
CACHE_BYTES = 1 << 20
CACHE_BYTES_OF_KEYS = 1 << 18
CPU_CHUNK = 64
# The share of an accelerator's memory that they may take.
MEMORY_SHARE = 8


class Tile(NamedTuple):
    """Rows and columns of the grid, optimizers × keys."""

    optimizers: slice
    keys: slice


def bytes_touched(
    network: Layer, optimizers: GradientTransformation, keys: Array, x: Any, batch_size: int | None
) -> int:
    """About what one network reads and writes in a step."""
    optimizer = jax.tree.map(lambda leaf: leaf[0], optimizers)
    state = jax.eval_shape(partial(init_state, network, optimizer), keys[0])
    key = keys[0] if network.needs_key else None
    size = min(batch_size or count(x), count(x))
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), x)
    # The gradient is as large as the parameters, and δ as large as the activations.
    return (
        _bytes((state.params, state.opt_state))
        + _bytes(state.params)
        + 2 * _bytes(jax.eval_shape(partial(run, network), state.params, batch, key))
    )


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def cores(x: Any) -> int:
    """How many programs run side by side where x is: one for each core that this process may use, or 1 elsewhere."""
    if _platform(x) != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_chunk(touched: int, shape: tuple[int, int], workers: int, x: Any) -> int:
    """How many networks to train at once, of which each touches so many bytes in a step; no worker is left idle."""
    if _platform(x) == "cpu":
        limit = min(CPU_CHUNK, (CACHE_BYTES if shape[0] > 1 else CACHE_BYTES_OF_KEYS) // touched)
    else:
        memory = _device(x).memory_stats() or {}
        limit = memory.get("bytes_limit", 1 << 34) // MEMORY_SHARE // touched
    return max(1, min(limit, -(-math.prod(shape) // workers)))


def _platform(x: Any) -> str:
    return _device(x).platform


def _device(x: Any) -> Any:
    return next(iter(jax.tree.leaves(x)[0].devices()))


def tiles_of(shape: tuple[int, int], chunk: int) -> list[Tile]:
    """Tiles of equal size, of `chunk` networks at most, that cover the grid; optimizers of one key come together first.

    Where the size does not divide the grid tiles overlap, and a few networks are trained twice, to the same end:
    another size would be another program to compile.
    """
    optimizers = _cuts(shape[0], chunk)
    keys = _cuts(shape[1], max(1, chunk // shape[0]))
    return [Tile(rows, columns) for columns in keys for rows in optimizers]


def _cuts(length: int, size: int) -> list[slice]:
    count = -(-length // size)
    size = -(-length // count)
    starts = (min(i * size, length - size) for i in range(count))
    return [slice(start, start + size) for start in starts]


def joined(states: Sequence[TrainState], tiles: Sequence[Tile], shape: tuple[int, int]) -> TrainState:
    """The states whose leaves are (n_optimizers, n_keys, ...), from those of the tiles."""
    return gathered(list(map(_with_both_axes, states)), tiles, shape)


def gathered(trees: Sequence[Any], tiles: Sequence[Tile], shape: tuple[int, int]) -> Any:
    """The tree whose leaves are (n_optimizers, n_keys, ...), from those of the tiles."""

    def join(*pieces: Array) -> Array:
        first = pieces[0]
        if jnp.issubdtype(first.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(join(*map(jax.random.key_data, pieces)), impl=jax.random.key_impl(first))
        whole = np.empty((*shape, *first.shape[2:]), first.dtype)
        for tile, piece in zip(tiles, pieces, strict=True):
            whole[tile] = piece
        return jnp.asarray(whole)

    return jax.tree.map(join, *trees)


def _with_both_axes(states: TrainState) -> TrainState:
    """A tile's states with the two axes on every leaf."""
    shape = jax.tree.leaves(states.params)[0].shape[:2]
    key = jnp.broadcast_to(states.key, (shape[0], *states.key.shape))
    return states._replace(key=key, step=jnp.full(shape, states.step))
