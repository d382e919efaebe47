"""Training on data larger than memory: batches come one by one, and the next is read while a step is computed."""

import os
from array import array
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from optax import GradientTransformation

from jaxnet.arguments import check_key, positive_integer, positive_integer_or_none
from jaxnet.checkpoint import Checkpoints
from jaxnet.examples import as_pytree, checked_examples, dtype_of
from jaxnet.history import History, TrainingError
from jaxnet.layers import Layer, check_layer
from jaxnet.losses import Loss, check_loss
from jaxnet.nonfinite import OnNonfinite, all_finite, check_on_nonfinite, first_failure, own_watch
from jaxnet.readings.update import fastest_step
from jaxnet.step import TrainState, init_state
from jaxnet.terminal import interruption

# Steps that are dispatched before the host waits for the first of them.
IN_FLIGHT = 4


class _Step(NamedTuple):
    """A dispatched step: the state before it, its batch, J, and whether J and the new parameters are finite."""

    before: TrainState
    batch: tuple[Any, Array]
    cost: Array
    good: Array


_init_state = jax.jit(init_state, static_argnums=0)


@partial(jax.jit, static_argnums=(0, 1))
def _take(
    network: Layer, loss: Loss, optimizer: Any, state: TrainState, x: Any, y: Array
) -> tuple[TrainState, Array, Array]:
    state, cost = fastest_step(network, optimizer)(network, loss, optimizer, state, x, y)
    return state, cost, jnp.isfinite(cost) & all_finite(state.params)


def fit_batches(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    batches: Iterable[tuple[Any, Any]],
    *,
    key: Array,
    state: TrainState | None = None,
    ahead: int = 2,
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
        batches: of (x, y), each as `fit` takes them. To resume, they must begin anew and in the same order: those that
            were trained on are read and left out.
        key: decides the initial parameters.
        state: where to go on from, instead of a fresh start from the key.
        ahead: batches to read in advance.
        on_nonfinite, checkpoint, keep: as for `fit`.
        checkpoint_every: steps from one checkpoint to the next; None: about a minute. There is one more at the end, or
            after Ctrl-C.

    Returns:
        The final state and the cost of every step since the beginning of the run.

    Raises:
        ValueError: if there are no batches or no parameters, for numbers below 1, an unknown on_nonfinite, or another
            run's checkpoint.
        CheckpointError: as `fit`.
        TrainingError: for a batch that `fit` would refuse or that cannot be read, a number that is not finite, or a
            checkpoint that cannot be saved. It holds the last good state and the history.
        TypeError: for a network, loss, optimizer or key that is none.
    """
    ahead = positive_integer("ahead", ahead)
    checkpoint_every = positive_integer_or_none("checkpoint_every", checkpoint_every)
    check_on_nonfinite(on_nonfinite)
    check_layer(network)
    check_loss(loss)
    optimizer = as_pytree(optimizer)
    if state is None:
        check_key(key)
    trained: TrainState = _init_state(network, optimizer, key) if state is None else state
    network = network.without_init()
    dtype = dtype_of(trained.params)
    costs, flying = array("d"), deque[_Step]()
    bad, unreadable = None, None

    def settle(in_flight: int) -> _Step | None:
        """Waits until so few steps are in flight; returns the first bad one."""
        while len(flying) > in_flight:
            step = flying.popleft()
            if on_nonfinite != "ignore" and not step.good:
                return step
            costs.append(float(step.cost))
        return None

    with (
        own_watch(on_nonfinite),
        nullcontext() if checkpoint is None else Checkpoints(checkpoint, network, keep=keep) as saved,
        interruption() as interrupted,
    ):
        if saved is not None and (resumed := saved.restore(trained)) is not None:
            trained, cost = resumed
            costs.extend(cost.tolist())
        with closing(_read_ahead(batches, len(costs), ahead)) as following:
            while bad is None and not interrupted():
                try:
                    if (batch := next(following, None)) is None:
                        break
                    x, y = checked_examples(network, loss, trained.params, *batch)
                except Exception as error:
                    unreadable = error
                    break
                after, cost, good = _take(network, loss, optimizer, trained, x, y)
                flying.append(_Step(trained, (x, y), cost, good))
                trained = after
                due = saved is not None and saved.is_due(len(costs) + len(flying), checkpoint_every)
                bad = settle(0 if due else IN_FLIGHT)
                if due and bad is None and saved is not None:
                    saved.save(trained, History(np.asarray(costs, dtype)))
        number = len(costs) + len(flying)
        bad = bad or settle(0)
        trained = trained if bad is None else bad.before
        failure = None if bad is None else first_failure(network, loss, optimizer, [bad.batch], trained).what
        history = History(np.asarray(costs, dtype), interrupted(), nonfinite=failure)
        if saved is not None:
            if costs and bad is None:
                saved.save(trained, history)
            saved.wait(trained, history)
    if failure is not None and on_nonfinite == "raise":
        raise TrainingError(f"{failure}; the error's `state` is the last good one", trained, history)
    if failure is None and unreadable is not None:
        message = f"batch {number}: {unreadable}; the error's `state` is that of the batches before it"
        raise TrainingError(message, trained, history) from unreadable
    if not len(costs) and failure is None and not interrupted():
        raise ValueError("there must be at least one batch")
    return trained, history


def _read_ahead(batches: Iterable[Any], skipped: int, ahead: int) -> Generator[Any, None, None]:
    """The batches after those skipped, so many of them being read by another thread in advance."""
    remaining = islice(batches, skipped, None)
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        waiting = deque(reader.submit(next, remaining, None) for _ in range(ahead))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, remaining, None))
            yield batch
