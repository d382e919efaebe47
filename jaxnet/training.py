"""Training: `fit`, the edge where checks, compilation, the terminal, the disk and bad numbers meet the pure functions.

It checks the data, runs compiled chunks of epochs, keeps the host informed between them, and hands back what was
trained whatever happens.
"""

import os
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from optax import GradientTransformation

from jaxnet.arguments import check_key, positive_integer, positive_integer_or_none
from jaxnet.checkpoint import Checkpoints
from jaxnet.epochs import epoch_batches, train_epochs
from jaxnet.examples import as_pytree, checked_examples, count
from jaxnet.history import History, TrainingError
from jaxnet.layers import Layer, check_layer
from jaxnet.losses import Loss, check_loss
from jaxnet.nonfinite import Failure, OnNonfinite, all_finite, check_on_nonfinite, first_failure, own_watch
from jaxnet.readings.observe import Diagnostics
from jaxnet.readings.precision import in_precision
from jaxnet.step import TrainState, init_state
from jaxnet.terminal import interruption, progress_bar

# A compiled call runs about so long before the host hears of it, or longer, so that only a share of the time goes into
# looking for numbers that are not finite; at most so many epochs, and no more than draw random bits for so many
# examples.
CHUNK_SECONDS = 0.2
LOOKING_SHARE = 0.02
CHUNK_EPOCHS = 64
CHUNK_EXAMPLES = 1 << 20

_init_state = jax.jit(init_state, static_argnums=0)
_train_epochs = jax.jit(
    train_epochs, static_argnums=(0, 1), static_argnames=("batch_size", "capacity", "observe_every"), donate_argnums=3
)


def fit(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    x: Any,
    y: ArrayLike,
    *,
    key: Array,
    batch_size: int | None,
    epochs: int,
    state: TrainState | None = None,
    progress: bool = False,
    observe_every: int | None = None,
    compute_dtype: DTypeLike | None = None,
    on_nonfinite: OnNonfinite = "raise",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
) -> tuple[TrainState, History]:
    """Trains a network on the examples (x, y).

    An epoch is one compiled scan. Another learning rate, other data of the same shape or the same network built again
    run the program that is already compiled.

    Args:
        network: from `mlp`, `serial` and their like.
        loss: of one example; the cost is its mean over the mini-batch.
        optimizer: from `jaxnet.optimizers` or Optax.
        x: the inputs (m, ...), an array or a tree of arrays; floats are cast to the dtype of the parameters, integers
            stay integers.
        y: the targets (m, n_out), or (m,) for one output or class labels.
        key: decides the initial parameters and the order of the examples.
        batch_size: examples a step; the last batch of an epoch may be smaller. None: all m, in their own order.
        epochs: passes over the examples.
        state: where to go on from, instead of a fresh start from the key.
        progress: show a progress bar (needs Rich, which the extra `experiments` installs).
        observe_every: measure what happens in each layer in the steps 0, n, 2n, ... of the state's count; None: never,
            and the compiled program holds nothing of it.
        compute_dtype: of the products, bfloat16 for instance; parameters and updates keep theirs (see `in_precision`).
        on_nonfinite: when a cost or a parameter is not finite, raise `TrainingError`, stop, or go on. The first two
            name the step, the layer and the quantity in which it began, and hand back the state before that step; until
            then they keep a copy of the state.
        checkpoint: a folder in which the run is saved, beside the training. A run that finds its checkpoints there goes
            on from the newest that is whole, and ends bit for bit as if it had never stopped.
        checkpoint_every: epochs from one checkpoint to the next; None: about a minute. There is one more at the end, or
            after Ctrl-C.
        keep: how many of the newest checkpoints to keep.

    Returns:
        The final state, the cost of every step since the beginning of the run, and the diagnostics of the steps
        observed since it was last resumed. After Ctrl-C, what was trained until then; a second one raises
        `KeyboardInterrupt`.

    Raises:
        ValueError: for an empty data set, a network without parameters, x and y of different length, values that are
            not finite, inputs or targets that do not fit the network or the loss, a batch size, epochs, observe_every,
            checkpoint_every or keep below 1, an unknown on_nonfinite, or a checkpoint of another network, optimizer or
            number of steps an epoch.
        TypeError: for class labels, a batch size, epochs or observe_every that are not integers, data that are not real
            numbers, or a network, loss, optimizer or key that is none.
        CheckpointError: if the folder of checkpoints cannot be written, or all that are in it are damaged.
        TrainingError: for a number that is not finite, or a checkpoint that cannot be saved during the run. It holds
            the last good state and the history.
    """
    epochs = positive_integer("epochs", epochs)
    batch_size = positive_integer_or_none("batch_size", batch_size)
    observe_every = positive_integer_or_none("observe_every", observe_every)
    checkpoint_every = positive_integer_or_none("checkpoint_every", checkpoint_every)
    check_on_nonfinite(on_nonfinite)
    check_layer(network)
    check_loss(loss)
    optimizer = as_pytree(optimizer)
    if state is None:
        check_key(key)
    network = network if compute_dtype is None else in_precision(network, compute_dtype)
    # The buffers of a state are donated to each step, so a caller's own is copied first.
    trained: TrainState = _init_state(network, optimizer, key) if state is None else _copy(state)
    network = network.without_init()
    x, y = checked_examples(network, loss, trained.params, x, y)
    epoch_steps = 1 if batch_size is None else -(-count(x) // batch_size)
    capacity = max(1, min(CHUNK_EPOCHS, CHUNK_EXAMPLES // count(x)))

    def train(state: TrainState, epochs: int) -> tuple[TrainState, tuple[np.ndarray, Diagnostics | None]]:
        state, measured = _train_epochs(
            network,
            loss,
            optimizer,
            state,
            x,
            y,
            epochs,
            batch_size=batch_size,
            capacity=capacity,
            observe_every=observe_every,
        )
        return state, _on_host(measured, epochs)

    def failing(state: TrainState, epochs: int, chunks: list[Any]) -> Failure:
        """Repeats epochs of which one is bad: the good ones as they were, the bad one step by step."""
        for _ in range(epochs):
            before = _copy(state)
            state, measured = train(state, 1)
            if not _is_good(state, measured):
                state = before
                break
            chunks.append(measured)
        batches = epoch_batches(state, x, y, batch_size)
        return first_failure(network, loss, optimizer, batches, state, observe_every)

    chunks: list[Any] = []
    done, chunk, failure, before = 0, 1, None, None
    with (
        own_watch(on_nonfinite, observe_every),
        nullcontext() if checkpoint is None else Checkpoints(checkpoint, network, keep=keep) as saved,
        interruption() as interrupted,
        progress_bar(progress, epochs) as show,
    ):
        if saved is not None and (resumed := saved.restore(trained)) is not None:
            trained, cost = resumed
            chunks, done = [(cost, None)], _finished(cost, epoch_steps)
        while done < epochs and not interrupted():
            chunk = min(chunk, epochs - done)
            if saved is not None and checkpoint_every is not None:
                chunk = min(chunk, checkpoint_every - done % checkpoint_every)
            started = time.perf_counter()
            if on_nonfinite != "ignore":
                before = jax.block_until_ready(_copy(trained) if before is None else _copy_over(before, trained))
            copied = time.perf_counter()
            trained, measured = train(trained, chunk)
            ran = time.perf_counter()
            if before is not None and not _is_good(trained, measured):
                failure = failing(before, chunk, chunks)
                trained = failure.state
                chunks.append((failure.cost, failure.diagnostics))
                break
            chunks.append(measured)
            done += chunk
            show(done, float(measured[0][-1]))
            looked = copied - started + time.perf_counter() - ran
            seconds = max(CHUNK_SECONDS, looked / LOOKING_SHARE)
            chunk = max(1, min(int(chunk * seconds / (ran - copied)), capacity))
            if saved is not None and saved.is_due(done, checkpoint_every):
                saved.save(trained, _joined(chunks))
        history = _joined(chunks)._replace(
            interrupted=done < epochs and failure is None, nonfinite=None if failure is None else failure.what
        )
        if saved is not None:
            if failure is None:
                saved.save(trained, history)
            saved.wait(trained, history)
    if failure is not None and on_nonfinite == "raise":
        raise TrainingError(f"{failure.what}; the error's `state` is the last good one", trained, history)
    return trained, history


@jax.jit
def _copy(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


@partial(jax.jit, donate_argnums=0, keep_unused=True)
def _copy_over(old: TrainState, state: TrainState) -> TrainState:
    """A copy in the memory of one that is not needed any more: fresh memory takes longer than the copying."""
    return _copy(state)


def _is_good(state: TrainState, measured: tuple[np.ndarray, Any]) -> bool:
    return bool(np.isfinite(measured[0]).all() and all_finite(state.params))


def _finished(cost: np.ndarray, epoch_steps: int) -> int:
    """The epochs that so many steps are."""
    done, rest = divmod(len(cost), epoch_steps)
    if rest:
        raise ValueError(
            f"the checkpoint was saved after {len(cost)} steps, which are no whole epochs of {epoch_steps} steps: "
            "resume with the same number of examples and batch size"
        )
    return done


def _on_host(measured: Any, epochs: int) -> tuple[np.ndarray, Diagnostics | None]:
    """The costs of so many epochs, and what was observed in them."""
    costs, record = measured if isinstance(measured, tuple) else (measured, None)
    if record is not None:
        record = jax.device_get(record)  # as arrays of NumPy, which compiles nothing for another number of rows
        record = jax.tree.map(lambda rows, seen=record.step >= 0: rows[seen], record)
    return np.asarray(costs)[:epochs].flatten(), record  # a copy: a view would keep the rows that are not used


def _joined(chunks: list[tuple[np.ndarray, Diagnostics | None]]) -> History:
    costs = [cost for cost, _ in chunks if cost.size]  # an empty one may be of another dtype
    records = [record for _, record in chunks if record is not None]
    diagnostics = jax.tree.map(lambda *rows: np.concatenate(rows), *records) if records else None
    return History(np.concatenate(costs) if costs else np.zeros(0), diagnostics=diagnostics)
