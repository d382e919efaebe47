"""Training: forward, cost, backward and update as one compiled program an epoch.

Everything here is a pure function of explicit arguments but `fit`, the edge: it checks the data, compiles, keeps the
host informed between chunks of epochs, and hands back what was trained when it is interrupted.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Float, Num
from optax import GradientTransformation, apply_updates

from jaxnet.arguments import check_finite, positive_integer
from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient
from jaxnet.preprocessing import random_order, split_order
from jaxnet.terminal import interruption, progress_bar


class TrainState(NamedTuple):
    """Everything that a training run carries from step to step.

    Attributes:
        params: the network's parameters.
        opt_state: the optimizer's state.
        key: the random key from which later epochs draw their order.
        step: finished steps.
    """

    params: Any
    opt_state: Any
    key: Array
    step: Array


class History(NamedTuple):
    """What a training run measured.

    Attributes:
        cost: J of every step's mini-batch, before that step's update.
        interrupted: whether Ctrl-C ended the run before all epochs were done.
    """

    cost: Float[Array | np.ndarray, " steps"]
    interrupted: bool = False


def init_state(network: Layer, optimizer: GradientTransformation, key: Array) -> TrainState:
    """Fresh parameters, a fresh optimizer state, and a key for the epochs to come."""
    params_key, epochs_key = jax.random.split(key)
    params = network.init(params_key)
    return TrainState(params, optimizer.init(params), epochs_key, jnp.zeros([], jnp.int32))


def train_step(
    network: Layer, loss: Loss, optimizer: GradientTransformation, state: TrainState, x: Array, y: Array
) -> tuple[TrainState, Array]:
    """One step on one batch: forward, cost J, backward, update. Returns the new state and J before the update."""
    cost, gradient = cost_and_gradient(network, loss)(state.params, x, y)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.key, state.step + 1), cost


def train_epochs(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    state: TrainState,
    x: Array,
    y: Array,
    epochs: ArrayLike,
    *,
    batch_size: int | None,
    capacity: int,
) -> tuple[TrainState, Float[Array, "capacity steps"]]:
    """`epochs` passes over the examples, one step for each mini-batch X{1}, ..., X{T}; returns J of every step.

    The costs have room for `capacity` epochs, so that `epochs` may be traced. An epoch's order depends on the state's
    key and step alone: ten epochs are the same in one call or in several.

    Args:
        network, loss, optimizer: what to train; the optimizer is a pytree and may be traced.
        state: where to begin.
        x, y: the examples.
        epochs: how many passes, at most `capacity`.
        batch_size: examples a step; None is batch gradient descent on all m, 1 is stochastic gradient descent.
        capacity: rows of the costs; those from `epochs` on are 0.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    m = len(x)

    if batch_size is None:
        steps = 1

        def run_epoch(epoch: Array, state: TrainState) -> tuple[TrainState, Array]:
            state, cost = train_step(network, loss, optimizer, state, x, y)
            return state, cost[None]

    else:
        steps = -(-m // batch_size)
        # Random bits are drawn for all epochs together, which costs a CPU hardly more than for one.
        first_steps = state.step + steps * jnp.arange(capacity, dtype=state.step.dtype)
        keys = jax.vmap(partial(jax.random.fold_in, state.key))(first_steps)
        bits = jax.vmap(partial(jax.random.bits, shape=(m,), dtype=jnp.uint32))(keys)

        def step(state: TrainState, examples: Array) -> tuple[TrainState, Array]:
            return train_step(network, loss, optimizer, state, x[examples], y[examples])

        def run_epoch(epoch: Array, state: TrainState) -> tuple[TrainState, Array]:
            full, rest = split_order(random_order(bits[epoch]), batch_size)
            state, costs = jax.lax.scan(step, state, full)
            if len(rest):
                state, cost = step(state, rest)
                costs = jnp.append(costs, cost)
            return state, costs

    def body(epoch: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, costs = carry
        state, epoch_costs = run_epoch(epoch, state)
        return state, costs.at[epoch].set(epoch_costs)

    dtype = jax.eval_shape(cost_and_gradient(network, loss), state.params, x, y)[0].dtype
    return jax.lax.fori_loop(0, epochs, body, (state, jnp.zeros((capacity, steps), dtype)))


# A compiled call runs about so long before the host hears of it, at most so many epochs, and of those no more than draw
# random bits for so many examples.
CHUNK_SECONDS = 0.2
CHUNK_EPOCHS = 64
CHUNK_EXAMPLES = 1 << 20

_init_state = jax.jit(init_state, static_argnums=0)
_train_epochs = jax.jit(
    train_epochs, static_argnums=(0, 1), static_argnames=("batch_size", "capacity"), donate_argnums=3
)


def fit(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    x: Num[Array | np.ndarray, "..."],
    y: ArrayLike,
    *,
    key: Array,
    batch_size: int | None,
    epochs: int,
    state: TrainState | None = None,
    progress: bool = False,
) -> tuple[TrainState, History]:
    """Trains a network on the examples (x, y).

    An epoch is one compiled scan. Another learning rate, other data of the same shape or the same network built again
    run the program that is already compiled.

    Args:
        network: from `mlp`, `serial` and their like.
        loss: of one example; the cost is its mean over the mini-batch.
        optimizer: from `jaxnet.optimizers` or Optax.
        x: the inputs (m, n_in), cast to the dtype of the parameters.
        y: the targets (m, n_out), or (m,) for one output or class labels.
        key: decides the initial parameters and the order of the examples.
        batch_size: examples a step; the last batch of an epoch may be smaller. None: all m, in their own order.
        epochs: passes over the examples.
        state: where to go on from, instead of a fresh start from the key.
        progress: show a progress bar (needs Rich, which the extra `experiments` installs).

    Returns:
        The final state and the cost of every step. After Ctrl-C, what was trained until then; a second one raises
        `KeyboardInterrupt`.

    Raises:
        ValueError: for an empty data set, x and y of different length, values that are not finite, inputs or targets
            that do not fit the network or the loss, or a batch size or epochs below 1.
        TypeError: for class labels, a batch size or epochs that are not integers, data that are not real numbers, or an
            optimizer that is none.
    """
    epochs = positive_integer("epochs", epochs)
    batch_size = None if batch_size is None else positive_integer("batch_size", batch_size)
    optimizer = _as_pytree(optimizer)
    # The buffers of a state are donated to each step, so a caller's own is copied first.
    trained: TrainState = _init_state(network, optimizer, key) if state is None else jax.tree.map(jnp.copy, state)
    x, y = _check_data(network, loss, trained.params, x, y)

    costs: list[np.ndarray] = []
    done, chunk, capacity = 0, 1, max(1, min(CHUNK_EPOCHS, CHUNK_EXAMPLES // len(x)))
    with interruption() as interrupted, progress_bar(progress, epochs) as show:
        while done < epochs and not interrupted():
            chunk = min(chunk, epochs - done)
            started = time.perf_counter()
            trained, chunk_costs = _train_epochs(
                network, loss, optimizer, trained, x, y, chunk, batch_size=batch_size, capacity=capacity
            )
            costs.append(np.asarray(chunk_costs)[:chunk].ravel())
            done += chunk
            show(done, costs[-1][-1])
            pace = chunk / (time.perf_counter() - started)
            chunk = max(1, min(int(pace * CHUNK_SECONDS), capacity))
    return trained, History(jnp.asarray(np.concatenate(costs)) if costs else jnp.zeros(0), interrupted=done < epochs)


def _as_pytree(optimizer: GradientTransformation) -> GradientTransformation:
    """The optimizer as an argument of `jit`: functions that are no pytrees, such as Optax's closures, become static."""
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise TypeError(f"optimizer must come from jaxnet.optimizers or Optax, got {optimizer!r}")
    transformation = GradientTransformation(optimizer.init, optimizer.update)
    return jax.tree.map(lambda leaf: Partial(leaf) if callable(leaf) else leaf, transformation)


def _check_data(network: Layer, loss: Loss, params: Any, x: Any, y: Any) -> tuple[Array, Array]:
    """The data on the device, in the dtype of the parameters; raises the errors that `fit` documents."""
    x, y = (value if isinstance(value, Array) else np.asarray(value) for value in (x, y))
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"fit needs at least one example, got x of shape {x.shape}")
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(f"x and y need the same number of examples, got shapes {x.shape} and {y.shape}")
    for name, value in (("x", x), ("y", y)):
        if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool)):
            raise TypeError(f"{name} must hold real numbers, got {value.dtype}")
    dtype = jnp.result_type(*jax.tree.leaves(params))
    with np.errstate(over="ignore"):  # what overflows the dtype of the parameters is reported below
        x = jnp.asarray(x, dtype)
    check_finite("x", x)
    check_finite("y", y)
    outputs, _ = jax.eval_shape(network.forward, params, x)
    return x, loss.targets(outputs, y)
