"""Epochs of training as one compiled program: shuffle, forward, cost, backward and update."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import UInt32
from optax import GradientTransformation

from jaxnet.examples import chosen, count
from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.preprocessing import random_order, split_order
from jaxnet.readings.observe import observed_step
from jaxnet.readings.update import fastest_step
from jaxnet.scan import alternating_scan
from jaxnet.step import TrainState, train_step


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
    x, y = jax.tree.map(jnp.asarray, (x, y))
    m, first = count(x), state.step
    steps = 1 if batch_size is None else -(-m // batch_size)

    def batch(examples: Array | None) -> tuple[Any, Array]:
        return (x, y) if examples is None else chosen(x, y, examples)

    train = fastest_step(network, optimizer)

    def step(carry: Any, examples: Array | None) -> tuple[Any, Array]:
        state, record = carry
        state, cost = train(network, loss, optimizer, state, *batch(examples))
        return (state, record), cost

    if observe_every is None:
        scan, record = partial(jax.lax.scan, step), None
    else:
        every: int = observe_every
        observe = partial(observed_step, network, loss, optimizer)

        def due(carry: Any) -> Array:
            return carry[0].step % every == 0

        def observed(carry: Any, examples: Array | None) -> tuple[Any, Array]:
            state, record = carry
            row = state.step // every + (-first) // every
            state, cost, diagnostics = observe(state, *batch(examples))
            return (state, jax.tree.map(lambda rows, entry: rows.at[row].set(entry), record, diagnostics)), cost

        _, _, shapes = jax.eval_shape(observe, state, x, y)
        rows = -(-capacity * steps // every)
        record = jax.tree.map(lambda entry: jnp.full((rows, *entry.shape), -1, entry.dtype), shapes)
        scan = partial(alternating_scan, due, step, observed)

    if batch_size is None:

        def run_epoch(epoch: Array, carry: Any) -> tuple[Any, Array]:
            return scan(carry, None, length=1)

    else:
        # Random bits are drawn for all epochs together, which costs a CPU hardly more than for one.
        first_steps = first + steps * jnp.arange(capacity, dtype=first.dtype)
        bits = jax.vmap(partial(_epoch_bits, state.key, m=m))(first_steps)

        def run_epoch(epoch: Array, carry: Any) -> tuple[Any, Array]:
            full, rest = split_order(random_order(bits[epoch]), batch_size)
            costs = []
            for batches in (full, rest[None]):
                if batches.size:
                    carry, cost = scan(carry, batches, length=len(batches))
                    costs.append(cost)
            return carry, jnp.concatenate(costs)

    def body(epoch: Array, loop: tuple[Any, Array]) -> tuple[Any, Array]:
        carry, costs = loop
        carry, epoch_costs = run_epoch(epoch, carry)
        return carry, costs.at[epoch].set(epoch_costs)

    dtype = jax.eval_shape(partial(train_step, network, loss, optimizer), state, x, y)[1].dtype
    (state, record), costs = jax.lax.fori_loop(0, epochs, body, ((state, record), jnp.zeros((capacity, steps), dtype)))
    return state, costs if record is None else (costs, record)


def _epoch_bits(key: Array, first_step: Array, m: int) -> UInt32[Array, " m"]:
    """The random bits that decide the order of the epoch whose first step has this number."""
    return jax.random.bits(jax.random.fold_in(key, first_step), (m,), jnp.uint32)


@partial(jax.jit, static_argnums=(2, 3))
def _epoch_order(key: Array, first_step: Array, m: int, batch_size: int) -> tuple[Array, Array]:
    return split_order(random_order(_epoch_bits(key, first_step, m)), batch_size)


def epoch_batches(state: TrainState, x: Any, y: Array, batch_size: int | None) -> Iterator[tuple[Any, Array]]:
    """The batches of the epoch that starts at a state, in the order in which `train_epochs` takes them."""
    if batch_size is None:
        yield x, y
        return
    full, rest = _epoch_order(state.key, state.step, count(x), batch_size)
    for examples in (*full, *([rest] if rest.size else [])):
        yield chosen(x, y, examples)
