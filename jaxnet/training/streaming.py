"""Training on data larger than memory: batches come one by one, and the next is read while a step is computed."""

import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from optax import GradientTransformation

from jaxnet.arguments import positive_integer, positive_integer_or_none
from jaxnet.examples import Examples, checked_examples, checked_weight, dtype_of
from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.readings.update import fastest_step
from jaxnet.step import TrainState
from jaxnet.training.history import History, Measured, TrainingError
from jaxnet.training.nonfinite import OnNonfinite, all_finite, first_failure
from jaxnet.training.parallel import on_mesh, place_batch
from jaxnet.training.run import OnEpoch, Run, beginning
from jaxnet.training.validation import Metric, better, checked_metrics, checked_validation, evaluate, unbeaten

# Steps that are dispatched before the host waits for the first of them.
IN_FLIGHT = 4


class _Step(NamedTuple):
    """A dispatched step: the states before and after it, its batch, J, and whether J and the parameters are finite."""

    before: TrainState
    batch: Examples
    after: TrainState
    cost: Array
    good: Array


@partial(jax.jit, static_argnums=(0, 1, 2))
def _take(
    network: Layer, loss: Loss, mesh: Mesh | None, optimizer: Any, state: TrainState, batch: Examples
) -> tuple[TrainState, Array, Array]:
    step = on_mesh(partial(fastest_step(network, optimizer), network, loss, optimizer), mesh)
    state, cost = step(state, *batch)
    return state, cost, jnp.isfinite(cost) & all_finite(state.params)


def fit_batches(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    batches: Iterable[tuple[Any, ...]],
    *,
    key: Array | None = None,
    state: TrainState | None = None,
    ahead: int = 2,
    steps_per_epoch: int | None = None,
    validation: tuple[Any, ArrayLike] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    on_epoch: OnEpoch | None = None,
    mesh: Mesh | None = None,
    on_nonfinite: OnNonfinite = "raise",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
) -> tuple[TrainState, History]:
    """Trains a network by one step for each batch of an iterable, until it ends.

    The batches may come from a generator over memory-mapped files; they are never in memory together. Another thread
    reads the next ones while a step is computed. Batches of one shape share a compiled step. The same batches in the
    same order train as `fit` does, but for rounding.

    Args:
        network, loss, optimizer: as for `fit`.
        batches: of (x, y), each as `fit` takes them, or of (x, y, weights): the cost is (1/b) Σ w(i) L(i) with the
            weights as they are. To resume, they must begin anew and in the same order: those that were trained on are
            read and left out.
        key: decides the initial parameters.
        state: where to go on from, with the key that it holds, instead of a fresh start from a `key`.
        ahead: batches to read in advance.
        steps_per_epoch: after so many steps an epoch ends, for `validation` and `on_epoch`; needed by these alone.
        validation, metrics, on_epoch: as for `fit`.
        mesh: devices of which each takes an equal share of every batch.
        on_nonfinite, checkpoint, keep: as for `fit`.
        checkpoint_every: steps from one checkpoint to the next; None: about a minute. There is one more at the end, or
            after Ctrl-C.

    Returns:
        The final state and the cost of every step since the beginning of the run.

    Raises:
        ValueError: if there are no batches or no parameters, for numbers below 1, both a key and a state,
            validation data or a callback without the steps an epoch, an unknown on_nonfinite, or another run's
            checkpoint.
        CheckpointError: as `fit`.
        TrainingError: for a batch that `fit` would refuse or that cannot be read, a number that is not finite, an
            `on_epoch` that raises, or a checkpoint that cannot be saved. It holds the last good state and the history.
        TypeError: for a network, loss, optimizer, metric, callback or key that is none.
    """
    ahead = positive_integer("ahead", ahead)
    optimizer, begun = beginning(network, loss, optimizer, key, state, mesh)
    network = network.without_init()
    stream = _Stream(network, loss, optimizer, mesh, deque())
    epoch = _Epoch(network, loss, begun, validation, metrics, on_epoch, steps_per_epoch)
    unreadable = None
    # Simulated devices share few threads, and steps in flight may starve each other.
    in_flight = 0 if mesh is not None and mesh.devices.flat[0].platform == "cpu" else IN_FLIGHT
    with Run(
        network=network,
        state=begun,
        unit=1,
        total=None,
        on_nonfinite=on_nonfinite,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        keep=keep,
    ) as run:
        newest = run.state
        with closing(_read_ahead(batches, run.done, ahead)) as following:
            while run.goes_on():
                try:
                    if (batch := next(following, None)) is None:
                        break
                    batch = stream.checked(newest.params, batch)
                except Exception as error:
                    unreadable = error
                    break
                newest = stream.dispatch(newest, batch)
                stream.settle(run, epoch, in_flight)
        number = run.done + len(stream.flying)
        stream.settle(run, epoch, 0)
    if run.nonfinite is None and not run.stopped and unreadable is not None:
        message = f"batch {number}: {unreadable}; the error's `state` is that of the batches before it"
        raise TrainingError(message, run.state, run.history()) from unreadable
    if not run.done and run.nonfinite is None and not run.interrupted():
        raise ValueError("there must be at least one batch")
    return run.result()


class _Epoch:
    """When an epoch of a stream ends, and what is measured then."""

    def __init__(
        self,
        network: Layer,
        loss: Loss,
        begun: TrainState,
        validation: tuple[Any, ArrayLike] | None,
        metrics: Mapping[str, Metric] | None,
        on_epoch: OnEpoch | None,
        steps: int | None,
    ) -> None:
        self.steps = positive_integer_or_none("steps_per_epoch", steps)
        if steps is None and (validation is not None or on_epoch is not None):
            raise ValueError("validation and on_epoch follow epochs, which batches do not tell: give steps_per_epoch")
        names = checked_metrics(metrics, validation)
        self._judge = None
        if validation is not None:
            data = checked_validation(network, loss, begun.params, validation)
            self._judge = partial(_judged, network, loss, names, data)
            self._start = unbeaten(begun, dtype_of(begun.params))

    def measured(self, run: Run, after: TrainState, cost: Array) -> tuple[bool, Measured]:
        """Whether an epoch ends with a step, and what is measured in the step and at that end."""
        piece = Measured(np.asarray(cost)[None])
        ends = self.steps is not None and (run.done + 1) % self.steps == 0
        if ends and self._judge is not None:
            found, best = self._judge(after, self._start if run.best is None else run.best)
            piece = piece._replace(validation=jax.tree.map(lambda one: np.asarray(one)[None], found), best=best)
        return ends, piece


@partial(jax.jit, static_argnums=(0, 1, 2))
def _judged(network: Layer, loss: Loss, metrics: Any, data: Examples, state: TrainState, best: Any) -> Any:
    found = evaluate(network, loss, state.params, data.x, data.y, metrics=metrics)
    return found, better(best, found["cost"], state)


@dataclass
class _Stream:
    """Steps that are computed, while the host reads on."""

    network: Layer
    loss: Loss
    optimizer: GradientTransformation
    mesh: Mesh | None
    flying: deque[_Step]

    def checked(self, params: Any, batch: tuple[Any, ...]) -> Examples:
        """A batch on the devices; raises the errors of `fit`."""
        x, y, *weight = batch
        x, y = checked_examples(self.network, self.loss, params, x, y)
        examples = Examples(x, y, *(checked_weight(w, y, dtype_of(params)) for w in weight))
        if self.mesh is None:
            return examples
        (x, weight), y = place_batch((examples.x, examples.weight), examples.y, self.mesh)
        return Examples(x, y, weight)

    def dispatch(self, state: TrainState, batch: Examples) -> TrainState:
        """Begins a step; its state is a promise until it is computed."""
        after, cost, good = _take(self.network, self.loss, self.mesh, self.optimizer, state, batch)
        self.flying.append(_Step(state, batch, after, cost, good))
        return after

    def settle(self, run: Run, epoch: _Epoch, in_flight: int) -> None:
        """Waits until so few steps are in flight, and keeps what came of the others; a bad one ends the run."""
        while len(self.flying) > in_flight and run.nonfinite is None and not run.stopped:
            step = self.flying.popleft()
            if run.watching and not step.good:
                failure = first_failure(self.network, self.loss, self.optimizer, [step.batch], step.before)
                run.fail(failure.what, step.before, Measured(np.zeros(0)))
                return
            ends, measured = epoch.measured(run, step.after, step.cost)
            run.advance(step.after, measured)
            if ends:
                run.epoch_ended()


def _read_ahead(batches: Iterable[Any], skipped: int, ahead: int) -> Generator[Any, None, None]:
    """The batches after those skipped, so many of them being read by another thread in advance."""
    remaining = islice(batches, skipped, None)
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        waiting = deque(reader.submit(next, remaining, None) for _ in range(ahead))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, remaining, None))
            yield batch
