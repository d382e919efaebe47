"""Epochs of training as one compiled program: shuffle, forward, cost, backward, update, and validation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import UInt32
from optax import GradientTransformation

from jaxnet.examples import Examples, count
from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.preprocessing import random_order, split_order
from jaxnet.readings.observe import observed_step
from jaxnet.readings.update import fastest_step
from jaxnet.step import TrainState, train_step
from jaxnet.training.history import Best, Measured
from jaxnet.training.parallel import on_mesh
from jaxnet.training.scan import alternating_scan
from jaxnet.training.validation import Metric, better, evaluate


@dataclass(frozen=True)
class Task:
    """What is fixed about the epochs of a run, and decides their compiled program.

    Attributes:
        network, loss: what to train.
        batch_size: examples a step; None is batch gradient descent on all m, 1 is stochastic gradient descent.
        capacity: the epochs that there is room for in what is measured.
        observe_every: observe the steps 0, n, 2n, ... of the state's count.
        metrics: (name, function of predictions and targets), for the validation data.
        mesh: devices of which each takes an equal share of every batch.
    """

    network: Layer
    loss: Loss
    batch_size: int | None
    capacity: int
    observe_every: int | None = None
    metrics: tuple[tuple[str, Metric], ...] = ()
    mesh: Mesh | None = None

    def steps(self, m: int) -> int:
        """How many steps an epoch of m examples has; the last batch may be smaller."""
        return 1 if self.batch_size is None else -(-m // self.batch_size)


def train_epochs(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    state: TrainState,
    x: Any,
    y: Array,
    epochs: ArrayLike,
    *,
    batch_size: int | None,
    capacity: int,
    observe_every: int | None = None,
) -> tuple[TrainState, Any]:
    """`epochs` passes over the examples, one step for each mini-batch X{1}, ..., X{T}; returns J of every step.

    The costs, (capacity, steps), have room for `capacity` epochs, so that `epochs` may be traced. An epoch's order
    depends on the state's key and step alone: ten epochs are the same in one call or in several.

    Args:
        network, loss, optimizer: what to train; the optimizer is a pytree and may be traced.
        state: where to begin.
        x, y: the examples.
        epochs: how many passes, at most `capacity`.
        batch_size: examples a step; None is batch gradient descent on all m, 1 is stochastic gradient descent.
        capacity: rows of the costs; those from `epochs` on are 0.
        observe_every: observe the steps 0, n, 2n, ... of the state's count, and return (costs, diagnostics) for the
            costs: one row an observed step, the step being -1 in rows left over.
    """
    task = Task(network, loss, batch_size, capacity, observe_every)
    state, measured = run_epochs(task, optimizer, state, Examples(*jax.tree.map(jnp.asarray, (x, y))), epochs)
    return state, measured.cost if observe_every is None else (measured.cost, measured.diagnostics)


def run_epochs(
    task: Task,
    optimizer: GradientTransformation,
    state: TrainState,
    examples: Examples,
    epochs: ArrayLike,
    validation: Examples | None = None,
    best: Best | None = None,
) -> tuple[TrainState, Measured]:
    """`train_epochs` of a task, judged on the validation data after each epoch; `best` is the best before them.

    Rows of the costs and of the validation that are left over are 0.
    """
    scan, record = _scan(task, optimizer, state, examples)
    batches = _batches(task, state, count(examples.x))
    dtype = jax.eval_shape(partial(train_step, task.network, task.loss, optimizer), state, *examples)[1].dtype
    costs = jnp.zeros((task.capacity, task.steps(count(examples.x))), dtype)
    judge = None
    if validation is not None:
        judge = partial(evaluate, task.network, task.loss, x=validation.x, y=validation.y, metrics=task.metrics)
    judged = judge and jax.tree.map(
        lambda one: jnp.zeros(task.capacity, one.dtype), jax.eval_shape(judge, params=state.params)
    )

    def body(epoch: Array, loop: Any) -> Any:
        carry, costs, judged, best = loop
        pieces = []
        for chosen, length in batches(epoch):
            carry, piece = scan(carry, chosen, length=length)
            pieces.append(piece)
        costs = costs.at[epoch].set(jnp.concatenate(pieces))
        if judge is not None:
            found = judge(params=carry[0].params)
            judged = {name: values.at[epoch].set(found[name]) for name, values in judged.items()}
            best = best and better(best, found["cost"], carry[0])
        return carry, costs, judged, best

    (state, record), costs, judged, best = jax.lax.fori_loop(0, epochs, body, ((state, record), costs, judged, best))
    return state, Measured(costs, record, judged, best)


def _scan(
    task: Task, optimizer: GradientTransformation, state: TrainState, examples: Examples
) -> tuple[Callable[..., Any], Any]:
    """The scan of a step over batches, (carry, chosen, length) -> (carry, costs), and room for what it observes.

    What is carried is the state and that record.
    """
    train = on_mesh(partial(fastest_step(task.network, optimizer), task.network, task.loss, optimizer), task.mesh)

    def step(carry: Any, chosen: Array | None) -> tuple[Any, Array]:
        state, record = carry
        state, cost = train(state, *examples.at(chosen))
        return (state, record), cost

    if task.observe_every is None:
        return partial(jax.lax.scan, step), None
    every, first = task.observe_every, state.step
    observe = on_mesh(partial(observed_step, task.network, task.loss, optimizer), task.mesh)

    def due(carry: Any) -> Array:
        return carry[0].step % every == 0

    def observed(carry: Any, chosen: Array | None) -> tuple[Any, Array]:
        state, record = carry
        row = state.step // every + (-first) // every
        state, cost, diagnostics = observe(state, *examples.at(chosen))
        return (state, jax.tree.map(lambda rows, entry: rows.at[row].set(entry), record, diagnostics)), cost

    _, _, shapes = jax.eval_shape(observe, state, *examples)
    rows = -(-task.capacity * task.steps(count(examples.x)) // every)
    record = jax.tree.map(lambda entry: jnp.full((rows, *entry.shape), -1, entry.dtype), shapes)
    return partial(alternating_scan, due, step, observed), record


def _batches(task: Task, state: TrainState, m: int) -> Callable[[Array], list[tuple[Array | None, int]]]:
    """From an epoch to its batches: the indices of the full ones, of the rest, each with their number."""
    if task.batch_size is None:
        return lambda epoch: [(None, 1)]
    size, steps = task.batch_size, task.steps(m)
    # Random bits are drawn for all epochs together, which costs a CPU hardly more than for one.
    first_steps = state.step + steps * jnp.arange(task.capacity, dtype=state.step.dtype)
    bits = jax.vmap(partial(_epoch_bits, state.key, m=m))(first_steps)

    def of_epoch(epoch: Array) -> list[tuple[Array | None, int]]:
        full, rest = split_order(random_order(bits[epoch]), size)
        return [(batches, len(batches)) for batches in (full, rest[None]) if batches.size]

    return of_epoch


def _epoch_bits(key: Array, first_step: Array, m: int) -> UInt32[Array, " m"]:
    """The random bits that decide the order of the epoch whose first step has this number."""
    return jax.random.bits(jax.random.fold_in(key, first_step), (m,), jnp.uint32)


@partial(jax.jit, static_argnums=(2, 3))
def _epoch_order(key: Array, first_step: Array, m: int, batch_size: int) -> tuple[Array, Array]:
    return split_order(random_order(_epoch_bits(key, first_step, m)), batch_size)


def epoch_batches(state: TrainState, examples: Examples, batch_size: int | None) -> Iterator[Examples]:
    """The batches of the epoch that starts at a state, in the order in which `train_epochs` takes them."""
    if batch_size is None:
        yield examples
        return
    full, rest = _epoch_order(state.key, state.step, count(examples.x), batch_size)
    for chosen in (*full, *([rest] if rest.size else [])):
        yield examples.at(chosen)
