"""`fit`: training on examples in memory, an epoch being one compiled scan."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike
from optax import GradientTransformation

from jaxnet.arguments import positive_integer, positive_integer_or_none
from jaxnet.examples import Examples, checked_examples, checked_weight, count, dtype_of
from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.readings.precision import in_precision
from jaxnet.step import TrainState
from jaxnet.training.epochs import Task, epoch_batches, run_epochs
from jaxnet.training.history import Best, History, Measured
from jaxnet.training.nonfinite import Failure, OnNonfinite, all_finite, first_failure
from jaxnet.training.parallel import check_all_divide, place_examples
from jaxnet.training.run import OnEpoch, Run, beginning, capacity_of_calls, copied, copied_over
from jaxnet.training.validation import Metric, checked_metrics, checked_validation, unbeaten

# A compiled call runs about so long before the host hears of it, or longer, so that only a share of the time goes into
# looking for numbers that are not finite; at most so many epochs, and no more than draw random bits for so many
# examples.
CHUNK_SECONDS = 0.2
LOOKING_SHARE = 0.02
CHUNK_EPOCHS = 64
CHUNK_EXAMPLES = 1 << 20

_run_epochs = jax.jit(run_epochs, static_argnums=0, donate_argnums=2)


def fit(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    x: Any,
    y: ArrayLike,
    *,
    key: Array | None = None,
    batch_size: int | None,
    epochs: int,
    state: TrainState | None = None,
    sample_weight: ArrayLike | None = None,
    validation: tuple[Any, ArrayLike] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = False,
    observe_every: int | None = None,
    compute_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
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
        state: where to go on from, with the key that it holds, instead of a fresh start from a `key`.
        sample_weight: how much each example counts, (m,), relative to their mean: the cost is (1/b) Σ w(i) L(i) over
            the b examples of a batch, where the w of all examples have the mean 1.
        validation: (x, y) on which the cost is measured after each epoch, the network as it is at inference; the
            parameters with the lowest are kept in the history.
        metrics: what else to measure there: by name, functions (predictions, y) -> a number for each example, such as
            `is_correct`, of which the mean is taken. Another function is another program to compile.
        on_epoch: called after each epoch with a copy of the state and the history so far; True ends the run. A run that
            resumes calls it first with what it found.
        progress: show a progress bar (needs Rich, which the extra `experiments` installs).
        observe_every: measure what happens in each layer in the steps 0, n, 2n, ... of the state's count; None: never,
            and the compiled program holds nothing of it.
        compute_dtype: of the products, bfloat16 for instance; parameters and updates keep theirs (see `in_precision`).
        mesh: devices, as `data_mesh()` has them. All examples lie on each, and each computes an equal share of every
            batch; of the last batch of an epoch too, or all of it where they do not divide it.
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
            checkpoint_every or keep below 1, weights that are negative or all 0, metrics without validation data, both
            a key and a state, a batch that the devices cannot share evenly, an unknown on_nonfinite, or a checkpoint of
            another network, optimizer or number of steps an epoch.
        TypeError: for class labels, a batch size, epochs or observe_every that are not integers, data that are not real
            numbers, or a network, loss, optimizer, metric, callback or key that is none.
        CheckpointError: if the folder of checkpoints cannot be written, or all that are in it are damaged.
        TrainingError: for a number that is not finite, an `on_epoch` that raises, or a checkpoint that cannot be saved
            during the run. It holds the last good state and the history.
    """
    epochs = positive_integer("epochs", epochs)
    batch_size = positive_integer_or_none("batch_size", batch_size)
    observe_every = positive_integer_or_none("observe_every", observe_every)
    optimizer, begun = beginning(network, loss, optimizer, key, state, mesh)
    network = (network if compute_dtype is None else in_precision(network, compute_dtype)).without_init()
    examples, judged = checked_data(network, loss, begun.params, (x, y, sample_weight), validation, mesh, batch_size)
    capacity = capacity_of_calls(min(CHUNK_EPOCHS, CHUNK_EXAMPLES // count(examples.x)), on_epoch)
    task = Task(network, loss, batch_size, capacity, observe_every, checked_metrics(metrics, validation), mesh)
    trainer = _Trainer(task, optimizer, examples, judged)
    before = None
    with Run(
        network=network,
        state=begun,
        unit=task.steps(count(examples.x)),
        total=epochs,
        on_nonfinite=on_nonfinite,
        progress=progress,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        keep=keep,
        observed=observe_every is not None,
    ) as run:
        while chunk := run.next_chunk():
            started = time.perf_counter()
            if run.watching:
                before = jax.block_until_ready(copied(run.state) if before is None else copied_over(before, run.state))
            copying = time.perf_counter() - started
            trained, measured = trainer(run.state, chunk, run.best)
            took = time.perf_counter() - started - copying
            if before is not None and not _is_good(trained, measured):
                trainer.find_failure(run, before, chunk)
                break
            looking = time.perf_counter() - started - took
            run.advance(trained, measured)
            run.pace(chunk, took, max(CHUNK_SECONDS, looking / LOOKING_SHARE), capacity)
            run.epoch_ended()
    return run.result()


def checked_data(
    network: Layer,
    loss: Loss,
    params: Any,
    data: tuple[Any, Any, Any],
    validation: tuple[Any, Any] | None,
    mesh: Mesh | None,
    batch_size: int | None,
) -> tuple[Examples, Examples | None]:
    """The examples, their weights of mean 1, and the validation data, on the devices where they are used.

    Raises what `fit` documents.
    """
    *pair, weight = data
    examples = Examples(*checked_examples(network, loss, params, *pair))
    if weight is not None:
        weight = checked_weight(weight, examples.y, dtype_of(params))
        examples = examples._replace(weight=weight / weight.mean())
    judged = None if validation is None else checked_validation(network, loss, params, validation)
    if mesh is None:
        return examples, judged
    if batch_size is None or batch_size > count(examples.x):
        check_all_divide(examples.x, examples.y, mesh.size)
    elif batch_size % mesh.size:
        raise ValueError(f"{mesh.size} devices cannot share batches of {batch_size} evenly: take a multiple")
    return place_examples((examples, judged), mesh)


@dataclass
class _Trainer:
    """Advances a state by whole epochs."""

    task: Task
    optimizer: GradientTransformation
    examples: Examples
    validation: Examples | None

    def __call__(self, state: TrainState, epochs: int, best: Best | None) -> tuple[TrainState, Measured]:
        """The state after them, which takes the given one's buffers, and what they measured, on the host."""
        if self.validation is not None and best is None:
            best = unbeaten(state, dtype_of(state.params))
        state, measured = _run_epochs(self.task, self.optimizer, state, self.examples, epochs, self.validation, best)
        record, judged = jax.device_get((measured.diagnostics, measured.validation))
        if record is not None:
            record = jax.tree.map(lambda rows, seen=record.step >= 0: rows[seen], record)
        judged = jax.tree.map(lambda rows: rows[:epochs], judged)
        return state, Measured(np.asarray(measured.cost)[:epochs].ravel(), record, judged, measured.best)

    def find_failure(self, run: Run, before: TrainState, epochs: int) -> None:
        """Repeats epochs of which one is bad: the good ones as they were, the bad one step by step."""
        task, state = self.task, before
        for _ in range(epochs):
            before = copied(state)
            state, measured = self(state, 1, run.best)
            if not _is_good(state, measured):
                state = before
                break
            run.advance(state, measured)
        batches = epoch_batches(state, self.examples, task.batch_size)
        failure: Failure = first_failure(task.network, task.loss, self.optimizer, batches, state, task.observe_every)
        run.fail(failure.what, failure.state, Measured(failure.cost, failure.diagnostics))


def _is_good(state: TrainState, measured: Measured) -> bool:
    return bool(np.isfinite(measured.cost).all() and all_finite(state.params))
