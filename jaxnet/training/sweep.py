"""Sweeps: many networks at once, over hyperparameters and seeds, by the program that trains one.

The networks stand on a grid, optimizers × keys, and are trained tile by tile: a tile's networks are one `vmap`, and as
many tiles run side by side as there are cores. Networks of one key see the same batches whatever their optimizer, so in
a tile each batch is drawn and gathered once for all of them, and their first layers are one matrix product.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from optax import GradientTransformation

from jaxnet.arguments import positive_integer, positive_integer_or_none
from jaxnet.examples import Examples, as_pytree, count, dtype_of
from jaxnet.layers import Layer, check_layer
from jaxnet.losses import Loss, check_loss
from jaxnet.step import TrainState, init_state
from jaxnet.training.epochs import Task, run_epochs
from jaxnet.training.fit import CHUNK_EXAMPLES, checked_data
from jaxnet.training.history import Best, History, Measured
from jaxnet.training.run import OnEpoch, Run, capacity_of_calls
from jaxnet.training.tiles import Tile, bytes_touched, chosen_chunk, cores, gathered, joined, tiles_of
from jaxnet.training.validation import Metric, checked_metrics, unbeaten

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


@partial(jax.jit, static_argnums=0)
def _train_tile(
    task: Task,
    optimizers: GradientTransformation,
    states: TrainState,
    examples: Examples,
    epochs: Array,
    validation: Examples | None,
    best: Best | None,
) -> tuple[TrainState, Measured]:
    """`run_epochs` for every network of a tile; what it measures is (n_optimizers, n_keys, ...)."""

    def one(optimizer: GradientTransformation, state: TrainState, best: Best | None) -> tuple[TrainState, Measured]:
        return run_epochs(task, optimizer, state, examples, epochs, validation, best)

    n_optimizers, n_keys = jax.tree.leaves(states.params)[0].shape[:2]
    of_one_key = _each(one, (0, OF_OPTIMIZERS, 0), (OF_OPTIMIZERS, 0), n_optimizers)
    return _each(of_one_key, (None, OF_KEYS, 1), (OF_KEYS, 1), n_keys)(optimizers, states, best)


def sweep(
    network: Layer,
    loss: Loss,
    optimizers: GradientTransformation | Sequence[GradientTransformation],
    x: Any,
    y: ArrayLike,
    *,
    keys: Array | None = None,
    batch_size: int | None,
    epochs: int,
    state: TrainState | None = None,
    sample_weight: ArrayLike | None = None,
    validation: tuple[Any, ArrayLike] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    on_epoch: OnEpoch | None = None,
    observe_every: int | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
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
        network, loss, x, y, batch_size, epochs, sample_weight, validation, metrics: as in `fit`.
        optimizers: one optimizer whose hyperparameters are stacked on a leading axis, as `jax.vmap(adam)(rates)` makes
            it; a hyperparameter that is a scalar is shared by all. All scalars, or Optax's functions: one optimizer.
            Or a list of optimizers that differ in numbers alone. Whatever optimizer has its numbers as arguments of a
            function, Optax's or one's own, is swept by `optimizer_of(optax.adam, learning_rate=rates)`.
        keys: as many keys as there are to be networks of each optimizer, such as `jax.random.split(key, 8)`.
        state: of an earlier sweep of as many optimizers, to go on from with its keys, instead of a fresh start.
        on_epoch: as in `fit`, with the states and the history of all networks, which are put together for it.
        observe_every, checkpoint, checkpoint_every, keep: as in `fit`, for all networks at once.
        mesh: devices that train a tile each at a time, instead of the cores.
        chunk: how many networks are trained at once on one core or accelerator; chosen if None, so that what a step
            touches stays in a core's cache, or in part of an accelerator's memory.
        progress: show a progress bar (needs Rich), with the lowest cost of the networks trained last.

    Returns:
        The final states, every leaf with the leading axes (n_optimizers, n_keys), and the history, all of whose arrays
        have these axes before that of steps or epochs. After Ctrl-C, what was trained until then, all networks equally
        long; a second one raises `KeyboardInterrupt`.

    Raises:
        ValueError: for hyperparameters stacked with different lengths, optimizers in a list that differ in more than
            numbers, no optimizer, no key, one key instead of a stack, a chunk below 1, a state of another grid, and
            what `fit` refuses.
        TypeError: for a chunk that is not an integer, and what `fit` refuses.
        TrainingError: as `fit`, but numbers that are not finite end nothing.
    """
    epochs = positive_integer("epochs", epochs)
    batch_size = positive_integer_or_none("batch_size", batch_size)
    observe_every = positive_integer_or_none("observe_every", observe_every)
    check_layer(network)
    check_loss(loss)
    optimizers, n_optimizers = _stacked(optimizers)
    if keys is not None and state is not None:
        raise ValueError("give keys= for a fresh start, or state=, which goes on with the keys that it holds, not both")
    keys = _checked_keys(keys if state is None else state.key[0])
    shape = (n_optimizers, len(keys))
    params = jax.eval_shape(network.init, keys[0])
    examples, judged = checked_data(network, loss, params, (x, y, sample_weight), validation, None, batch_size)
    devices = None if mesh is None else list(mesh.devices.ravel())
    workers = cores(examples.x) if devices is None else len(devices)
    if chunk is None:
        touched = bytes_touched(network, optimizers, keys, examples.x, batch_size)
        chunk = chosen_chunk(touched, shape, workers, examples.x)
    tiles = tiles_of(shape, positive_integer("chunk", chunk))
    of_key = len(range(*tiles[0].keys.indices(shape[1])))
    capacity = capacity_of_calls(min(CALL_EPOCHS, CHUNK_EXAMPLES // (count(examples.x) * of_key)), on_epoch)
    names = checked_metrics(metrics, validation)
    task = Task(network.without_init(), loss, batch_size, capacity, observe_every, names)
    grid = _Grid(task, optimizers, tiles, shape, examples, judged, devices or [None])
    with _SweepRun(
        network=task.network,
        state=grid.begun(network, keys) if state is None else grid.cut(state),
        unit=task.steps(count(examples.x)),
        total=epochs,
        progress=progress,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        keep=keep,
        observed=observe_every is not None,
        grid=grid,
    ) as run:
        grid.compile(run.state)
        with ThreadPoolExecutor(workers) as pool:
            while rounds := run.next_chunk():
                started = perf_counter()
                advanced = grid.advance(pool, run, rounds)
                if advanced is None:
                    break  # all are handed back equally long trained: as they were before this round of tiles
                run.advance(*advanced)
                run.pace(rounds, perf_counter() - started, -(-len(tiles) // workers) * CALL_SECONDS, capacity)
                run.epoch_ended()
    return run.result()


@dataclass
class _Grid:
    """Networks, optimizers × keys, that are trained tile by tile. What a tile carries is its states and its best."""

    task: Task
    optimizers: GradientTransformation
    tiles: list[Tile]
    shape: tuple[int, int]
    examples: Examples
    validation: Examples | None
    devices: list[Any]

    def __post_init__(self) -> None:
        """Each tile's own optimizers, and the data, on the devices that train them; None is where they are."""
        own = [jax.tree.map(lambda leaf, t=tile: leaf[t.optimizers], self.optimizers) for tile in self.tiles]
        self._own = [self._placed(optimizers, i) for i, optimizers in enumerate(own)]
        data = self.examples, self.validation
        self._data = [self._placed(data, i) for i in range(min(len(self.devices), len(self.tiles)))]

    def _placed(self, tree: Any, tile: int) -> Any:
        device = self.devices[tile % len(self.devices)]
        return tree if device is None else jax.device_put(tree, device)

    def begun(self, network: Layer, keys: Array) -> list[Any]:
        """Fresh networks."""
        indices = jnp.arange(self.shape[0])
        return [
            self._carried(_init_tile(network, own, indices[tile.optimizers], keys[tile.keys]), i)
            for i, (own, tile) in enumerate(zip(self._own, self.tiles, strict=True))
        ]

    def _carried(self, states: TrainState, tile: int) -> tuple[TrainState, Best | None]:
        states = self._placed(states, tile)
        if self.validation is None:
            return states, None
        grid = jax.tree.leaves(states.params)[0].shape[:2]
        return states, unbeaten(states, dtype_of(states.params), grid)

    def cut(self, state: TrainState, best: Best | None = None) -> list[Any]:
        """The tiles of the states of all networks.

        Raises:
            ValueError: if these are of another grid, or of optimizers with other keys.
        """
        shape = np.shape(state.step)
        if shape != self.shape:
            raise ValueError(f"the state must be of {self.shape} networks, optimizers and keys, got {shape}")
        if not (state.key == state.key[:1]).all() or len(np.unique(state.step)) > 1:
            raise ValueError("the state must be one that a sweep returned: the same keys and steps for all optimizers")

        def cut(tree: Any, tile: Tile) -> Any:
            return jax.tree.map(lambda leaf: jnp.copy(leaf[tile.optimizers, tile.keys]), tree)

        carried = []
        for i, tile in enumerate(self.tiles):
            own = cut(state, tile)
            fresh, unseen = self._carried(own._replace(key=own.key[0], step=own.step[0, 0]), i)
            carried.append((fresh, unseen if best is None else self._placed(cut(best, tile), i)))
        return carried

    def compile(self, carried: list[Any]) -> None:
        """Compiles the program of a tile for each device: other threads do not see this one's settings of JAX.

        A second sweep of the same form finds it compiled.
        """
        self._programs = [
            _train_tile.lower(
                self.task, self._own[i], states, data[0], self._placed(jnp.asarray(1), i), data[1], best
            ).compile()
            for i, (data, (states, best)) in enumerate(zip(self._data, carried, strict=False))
        ]

    def advance(self, pool: ThreadPoolExecutor, run: Run, rounds: int) -> tuple[list[Any], Measured] | None:
        """So many epochs for every tile, as many tiles at a time as the pool has workers; None if Ctrl-C came."""
        carried, pieces = [], []
        for states, measured in pool.map(partial(_finished, self, rounds), range(len(self.tiles)), run.state):
            carried.append((states, measured.best))
            pieces.append(measured._replace(best=None))
            lowest = float(np.fmin.reduce(measured.cost[-1].ravel()))
            run.show(run.done + rounds * len(carried) / len(self.tiles), lowest)
            if run.interrupted():
                break
        if len(carried) < len(self.tiles):
            return None
        return carried, jax.tree.map(lambda *parts: self._whole(parts), *pieces)

    def trained(self, rounds: int, tile: int, carried: tuple[TrainState, Best | None]) -> tuple[TrainState, Measured]:
        """So many epochs of one tile; what they measured lies on the host, (steps or epochs, n_optimizers, n_keys)."""
        (examples, validation), place = self._data[tile % len(self._data)], tile % len(self._programs)
        states, best = carried
        epochs = self._placed(jnp.asarray(rounds), tile)
        states, measured = self._programs[place](self._own[tile], states, examples, epochs, validation, best)
        cost, record, judged = jax.device_get((measured.cost, measured.diagnostics, measured.validation))
        cost = cost[:, :, :rounds].reshape(*cost.shape[:2], -1)
        if record is not None:
            seen = record.step[0, 0] >= 0  # the same steps of all
            record = jax.tree.map(lambda rows: np.moveaxis(rows[:, :, seen], 2, 0), record)
        judged = jax.tree.map(lambda rows: np.moveaxis(rows[:, :, :rounds], 2, 0), judged)
        return states, Measured(np.moveaxis(cost, 2, 0), record, judged, measured.best)

    def _whole(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """What all tiles measured, (steps or epochs, n_optimizers, n_keys, ...)."""
        whole = np.empty((len(parts[0]), *self.shape, *parts[0].shape[3:]), parts[0].dtype)
        for tile, part in zip(self.tiles, parts, strict=True):
            whole[:, tile.optimizers, tile.keys] = part
        return whole


def _finished(grid: _Grid, rounds: int, tile: int, carried: Any) -> tuple[TrainState, Measured]:
    """One call on one tile, waited for: calls of one thread would queue up behind each other."""
    return jax.block_until_ready(grid.trained(rounds, tile, carried))


@dataclass(kw_only=True)
class _SweepRun(Run):
    """A run that carries tiles, and whose history has the axes of the grid first."""

    grid: _Grid

    def whole(self) -> TrainState:
        """The states of all networks."""
        return joined([states for states, _ in self.state], self.grid.tiles, self.grid.shape)

    def resume(self, state: TrainState, history: History) -> None:
        """Also the best of each tile."""
        super().resume(state, history._replace(best=None))
        self.state = self.grid.cut(state, history.best)

    def carried(self, state: TrainState) -> Any:
        """Its tiles."""
        return self.grid.cut(state)

    def recorded(self, **ending: Any) -> History:
        """With the best of all networks."""
        history, bests = super().recorded(**ending), [best for _, best in self.state]
        if any(best is None for best in bests):
            return history
        return history._replace(best=gathered(bests, self.grid.tiles, self.grid.shape))

    def shown(self, history: History) -> History:
        """The axes of the grid before that of the steps."""
        arrays = history.cost, history.diagnostics, history.validation
        cost, record, judged = jax.tree.map(lambda values: np.moveaxis(values, 0, 2), arrays)
        if not cost.size:
            cost = np.zeros((*self.grid.shape, 0))
        return history._replace(cost=cost, diagnostics=record, validation=judged)


def _stacked(given: Any) -> tuple[GradientTransformation, int]:
    """Every hyperparameter stacked, and the number of optimizers."""
    optimizers = _of_list(given) if isinstance(given, list) else as_pytree(given)
    lengths = {len(leaf) for leaf in jax.tree.leaves(optimizers) if jnp.ndim(leaf)}
    if len(lengths) > 1 or lengths == {0}:
        raise ValueError(f"all hyperparameters need the same number of optimizers, at least 1, got {sorted(lengths)}")
    (number,) = lengths or {1}
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if jnp.ndim(leaf) else jnp.full(number, leaf), optimizers
    ), number


def _of_list(given: list[Any]) -> GradientTransformation:
    """One optimizer with the numbers of all."""
    optimizers = list(map(as_pytree, given))
    if not optimizers:
        raise ValueError("a sweep needs at least one optimizer")
    structures = {jax.tree.structure(optimizer) for optimizer in optimizers}
    if len(structures) > 1 or (len(optimizers) > 1 and not jax.tree.leaves(optimizers)):
        raise ValueError(
            "optimizers in a list are trained by one program, and may differ in numbers alone: sweep those of each "
            "kind by themselves; where the numbers are hidden in functions, as in Optax's, write "
            "optimizer_of(optax.adam, learning_rate=rates)"
        )
    return jax.tree.map(lambda *leaves: jnp.stack(list(map(jnp.asarray, leaves))), *optimizers)


def _checked_keys(keys: Any) -> Array:
    """The keys, which must be a stack; keys of the old kind are pairs of integers."""
    expected = "keys must be a stack of keys, such as jax.random.split(key, 8)"
    if not isinstance(keys, Array):
        raise TypeError(f"{expected}, got {keys!r}")
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if keys.ndim != (1 if typed else 2) or len(keys) == 0:
        raise ValueError(f"{expected}, got shape {keys.shape}")
    return keys
