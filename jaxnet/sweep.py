"""Sweeps: many networks at once, over hyperparameters and seeds, by the program that trains one.

The networks stand on a grid, optimizers × keys, and are trained tile by tile: a tile's networks are one `vmap`, and as
many tiles run side by side as there are cores. Networks of one key see the same batches whatever their optimizer, so in
a tile each batch is drawn and gathered once for all of them, and their first layers are one matrix product.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from optax import GradientTransformation

from jaxnet.arguments import positive_integer, positive_integer_or_none
from jaxnet.epochs import train_epochs
from jaxnet.examples import as_pytree, checked_examples, count
from jaxnet.history import History
from jaxnet.layers import Layer, check_layer
from jaxnet.losses import Loss, check_loss
from jaxnet.step import TrainState, init_state
from jaxnet.terminal import interruption, progress_bar
from jaxnet.tiles import bytes_touched, chosen_chunk, cores, joined, tiles_of
from jaxnet.training import CHUNK_EXAMPLES

# A call on one tile runs about so long, before the host hears of it and may be interrupted, at most so many epochs.
CALL_SECONDS = 0.1
CALL_EPOCHS = 16

# Where a tile's states (n_optimizers, n_keys, ...) have the two axes: the order of the examples follows from the key.
OF_OPTIMIZERS = TrainState(0, 0, None, None)  # pyright: ignore[reportArgumentType]
OF_KEYS = TrainState(1, 1, 0, None)  # pyright: ignore[reportArgumentType]


def _each(function: Callable[..., Any], in_axes: Any, out_axes: Any, size: int) -> Callable[..., Any]:
    """`vmap` over axes of a known size; those of size 1 are taken away, as a batch of one product is slow on CPUs."""
    if size > 1:
        return jax.vmap(function, in_axes, out_axes)

    def on_axes(change: Callable[[Any, int], Any], axes: Any, tree: Any) -> Any:
        def at(axis: int | None, branch: Any) -> Any:
            return branch if axis is None else jax.tree.map(lambda leaf: change(leaf, axis), branch)

        return jax.tree.map(at, axes, tree, is_leaf=lambda axis: axis is None)

    return lambda *arguments: on_axes(jnp.expand_dims, out_axes, function(*on_axes(jnp.squeeze, in_axes, arguments)))


@partial(jax.jit, static_argnums=0)
def _init_tile(network: Layer, optimizers: GradientTransformation, indices: Array, keys: Array) -> TrainState:
    """The fresh states of all optimizers with all keys; the indices count the optimizers, which may have no leaves."""

    def one(optimizer: GradientTransformation, index: Array, key: Array) -> TrainState:
        return init_state(network, optimizer, key)

    of_one_key = jax.vmap(one, in_axes=(0, 0, None), out_axes=OF_OPTIMIZERS)
    return jax.vmap(of_one_key, in_axes=(None, None, 0), out_axes=OF_KEYS)(optimizers, indices, keys)


@partial(jax.jit, static_argnums=(0, 1), static_argnames=("batch_size", "capacity"))
def _train_tile(
    network: Layer,
    loss: Loss,
    optimizers: GradientTransformation,
    states: TrainState,
    x: Any,
    y: Array,
    epochs: Array,
    *,
    batch_size: int | None,
    capacity: int,
) -> tuple[TrainState, Array]:
    """`train_epochs` for every network of a tile; the costs are (n_optimizers, n_keys, capacity, steps)."""

    def one(optimizer: GradientTransformation, state: TrainState) -> tuple[TrainState, Array]:
        return train_epochs(network, loss, optimizer, state, x, y, epochs, batch_size=batch_size, capacity=capacity)

    n_optimizers, n_keys = jax.tree.leaves(states.params)[0].shape[:2]
    of_one_key = _each(one, (0, OF_OPTIMIZERS), (OF_OPTIMIZERS, 0), n_optimizers)
    return _each(of_one_key, (None, OF_KEYS), (OF_KEYS, 1), n_keys)(optimizers, states)


def sweep(
    network: Layer,
    loss: Loss,
    optimizers: GradientTransformation,
    x: Any,
    y: ArrayLike,
    *,
    keys: Array,
    batch_size: int | None,
    epochs: int,
    chunk: int | None = None,
    progress: bool = False,
) -> tuple[TrainState, History]:
    """Trains a network with each of several optimizers and each of several keys: J[i, j] of optimizer i and key j.

    Each network is trained as `fit` trains it with its optimizer and key, equal but for rounding. The best of them,
    diverged ones left out:

        rates = jnp.geomspace(1e-4, 1e-1, 16)
        state, history = sweep(network, loss, jax.vmap(adam)(rates), x, y, keys=jax.random.split(key, 8), ...)
        final = history.cost[..., -steps_an_epoch:].mean(-1)
        i, j = jnp.unravel_index(jnp.nanargmin(final), final.shape)
        rate, params = rates[i], jax.tree.map(lambda leaf: leaf[i, j], state.params)

    Args:
        network, loss, x, y, batch_size, epochs: as in `fit`.
        optimizers: one optimizer whose hyperparameters are stacked on a leading axis, as `jax.vmap(adam)(rates)` makes
            it; a hyperparameter that is a scalar is shared by all. All scalars, or Optax's functions: one optimizer.
        keys: as many keys as there are to be networks of each optimizer, such as `jax.random.split(key, 8)`.
        chunk: how many networks are trained at once on one core or accelerator; chosen if None, so that what a step
            touches stays in a core's cache, or in part of an accelerator's memory.
        progress: show a progress bar (needs Rich), with the lowest cost of the networks trained last.

    Returns:
        The final states, every leaf with the leading axes (n_optimizers, n_keys), and the costs (n_optimizers, n_keys,
        steps). After Ctrl-C, what was trained until then, all networks equally long; a second one raises
        `KeyboardInterrupt`.

    Raises:
        ValueError: for hyperparameters stacked with different lengths, no optimizer, no key, one key instead of a
            stack, a chunk below 1, and what `fit` refuses.
        TypeError: for a chunk that is not an integer, and what `fit` refuses.
    """
    epochs = positive_integer("epochs", epochs)
    batch_size = positive_integer_or_none("batch_size", batch_size)
    check_layer(network)
    check_loss(loss)
    optimizers, n_optimizers = _stacked(as_pytree(optimizers))
    _check_keys(keys)
    shape = (n_optimizers, len(keys))
    x, y = checked_examples(network, loss, jax.eval_shape(network.init, keys[0]), x, y)
    workers = cores(x)
    if chunk is None:
        chunk = chosen_chunk(bytes_touched(network, optimizers, keys, x, batch_size), shape, workers, x)
    tiles = tiles_of(shape, positive_integer("chunk", chunk))
    of_tile = [jax.tree.map(lambda leaf, tile=tile: leaf[tile.optimizers], optimizers) for tile in tiles]
    indices = jnp.arange(n_optimizers)
    states = [
        _init_tile(network, own, indices[tile.optimizers], keys[tile.keys])
        for own, tile in zip(of_tile, tiles, strict=True)
    ]
    network = network.without_init()
    capacity = max(1, min(CALL_EPOCHS, CHUNK_EXAMPLES // (count(x) * len(states[0].key))))
    # Compiled here, since other threads do not see this one's settings of JAX. A second sweep finds it compiled.
    lowered = _train_tile.lower(
        network, loss, of_tile[0], states[0], x, y, jnp.asarray(1), batch_size=batch_size, capacity=capacity
    )
    train = lowered.compile()

    costs = np.zeros((*shape, epochs, -(-count(x) // (batch_size or count(x)))), lowered.out_info[1].dtype)
    done, rounds = 0, 1
    pool = ThreadPoolExecutor(workers)
    with interruption() as interrupted, progress_bar(progress, epochs) as show:
        try:
            while done < epochs and not interrupted():
                rounds = min(rounds, epochs - done)
                run = partial(_finished, train, x, y, jnp.asarray(rounds))
                started, trained = perf_counter(), []
                for tile, (state, cost) in zip(tiles, pool.map(run, of_tile, states), strict=True):
                    trained.append(state)
                    costs[tile][:, :, done : done + rounds] = cost[:, :, :rounds]
                    lowest = float(np.fmin.reduce(cost[:, :, rounds - 1, -1].ravel()))
                    show(done + rounds * len(trained) / len(tiles), lowest)
                    if interrupted():
                        break
                if len(trained) < len(tiles):
                    break  # all are handed back equally long trained: as they were before this round of tiles
                states, done = trained, done + rounds
                calls = -(-len(tiles) // workers)
                rounds = max(1, min(int(rounds * calls * CALL_SECONDS / (perf_counter() - started)), capacity))
        finally:
            pool.shutdown(cancel_futures=True)
    cost = jnp.asarray(costs[:, :, :done].reshape(*shape, -1))
    return joined(states, tiles, shape), History(cost, interrupted=done < epochs)


def _stacked(optimizers: GradientTransformation) -> tuple[GradientTransformation, int]:
    """Every hyperparameter stacked, and the number of optimizers."""
    lengths = {len(leaf) for leaf in jax.tree.leaves(optimizers) if jnp.ndim(leaf)}
    if len(lengths) > 1 or lengths == {0}:
        raise ValueError(f"all hyperparameters need the same number of optimizers, at least 1, got {sorted(lengths)}")
    (number,) = lengths or {1}
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if jnp.ndim(leaf) else jnp.full(number, leaf), optimizers
    ), number


def _check_keys(keys: Array) -> None:
    """Raises unless the keys are a stack; keys of the old kind are pairs of integers."""
    expected = "keys must be a stack of keys, such as jax.random.split(key, 8)"
    if not isinstance(keys, Array):
        raise TypeError(f"{expected}, got {keys!r}")
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if keys.ndim != (1 if typed else 2) or len(keys) == 0:
        raise ValueError(f"{expected}, got shape {keys.shape}")


def _finished(train: Any, x: Any, y: Array, epochs: Array, optimizers: Any, states: TrainState) -> Any:
    """One call on one tile, waited for: calls of one thread would queue up behind each other."""
    states, costs = jax.block_until_ready(train(optimizers, states, x, y, epochs))
    return states, np.asarray(costs)
