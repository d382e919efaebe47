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
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, Num
from optax import GradientTransformation

from jaxnet.arguments import check_finite, positive_integer
from jaxnet.diagnostics import Diagnostics, observed_step
from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient
from jaxnet.precision import in_precision
from jaxnet.preprocessing import random_order, split_order
from jaxnet.scan import alternating_scan
from jaxnet.step import TrainState, init_state
from jaxnet.terminal import interruption, progress_bar
from jaxnet.updating import fastest_step


class History(NamedTuple):
    """What a training run measured.

    Attributes:
        cost: J of every step's mini-batch, before that step's update.
        interrupted: whether Ctrl-C ended the run before all epochs were done.
        diagnostics: of the observed steps, on a leading axis; None if none was to be.
    """

    cost: Float[Array | np.ndarray, " steps"]
    interrupted: bool = False
    diagnostics: Diagnostics | None = None


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
    x, y = jnp.asarray(x), jnp.asarray(y)
    m, first = len(x), state.step
    steps = 1 if batch_size is None else -(-m // batch_size)

    def batch(examples: Array | None) -> tuple[Array, Array]:
        return (x, y) if examples is None else (x[examples], y[examples])

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
        keys = jax.vmap(partial(jax.random.fold_in, state.key))(first_steps)
        bits = jax.vmap(partial(jax.random.bits, shape=(m,), dtype=jnp.uint32))(keys)

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

    dtype = jax.eval_shape(cost_and_gradient(network, loss), state.params, x, y)[0].dtype
    (state, record), costs = jax.lax.fori_loop(0, epochs, body, ((state, record), jnp.zeros((capacity, steps), dtype)))
    return state, costs if record is None else (costs, record)


# A compiled call runs about so long before the host hears of it, at most so many epochs, and of those no more than draw
# random bits for so many examples.
CHUNK_SECONDS = 0.2
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
    x: Num[Array | np.ndarray, "..."],
    y: ArrayLike,
    *,
    key: Array,
    batch_size: int | None,
    epochs: int,
    state: TrainState | None = None,
    progress: bool = False,
    observe_every: int | None = None,
    compute_dtype: DTypeLike | None = None,
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
        observe_every: measure what happens in each layer in the steps 0, n, 2n, ... of the state's count; None: never,
            and the compiled program holds nothing of it.
        compute_dtype: of the products, bfloat16 for instance; parameters and updates keep theirs (see `in_precision`).

    Returns:
        The final state, the cost of every step, and the diagnostics of those observed. After Ctrl-C, what was trained
        until then; a second one raises `KeyboardInterrupt`.

    Raises:
        ValueError: for an empty data set, x and y of different length, values that are not finite, inputs or targets
            that do not fit the network or the loss, or a batch size, epochs or observe_every below 1.
        TypeError: for class labels, a batch size, epochs or observe_every that are not integers, data that are not real
            numbers, or an optimizer that is none.
    """
    epochs = positive_integer("epochs", epochs)
    batch_size = None if batch_size is None else positive_integer("batch_size", batch_size)
    observe_every = None if observe_every is None else positive_integer("observe_every", observe_every)
    optimizer = _as_pytree(optimizer)
    network = network if compute_dtype is None else in_precision(network, compute_dtype)
    # The buffers of a state are donated to each step, so a caller's own is copied first.
    trained: TrainState = _init_state(network, optimizer, key) if state is None else jax.tree.map(jnp.copy, state)
    x, y = _check_data(network, loss, trained.params, x, y)

    chunks: list[Any] = []
    done, chunk, capacity = 0, 1, max(1, min(CHUNK_EPOCHS, CHUNK_EXAMPLES // len(x)))
    with interruption() as interrupted, progress_bar(progress, epochs) as show:
        while done < epochs and not interrupted():
            chunk = min(chunk, epochs - done)
            started = time.perf_counter()
            trained, measured = _train_epochs(
                network,
                loss,
                optimizer,
                trained,
                x,
                y,
                chunk,
                batch_size=batch_size,
                capacity=capacity,
                observe_every=observe_every,
            )
            chunks.append(_on_host(measured, chunk))
            done += chunk
            show(done, chunks[-1][0][-1])
            pace = chunk / (time.perf_counter() - started)
            chunk = max(1, min(int(pace * CHUNK_SECONDS), capacity))
    cost, diagnostics = (
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *chunks) if chunks else (jnp.zeros(0), None)
    )
    return trained, History(cost, interrupted=done < epochs, diagnostics=diagnostics)


def _on_host(measured: Any, epochs: int) -> tuple[np.ndarray, Diagnostics | None]:
    """The costs of so many epochs, and what was observed in them."""
    costs, record = measured if isinstance(measured, tuple) else (measured, None)
    if record is not None:
        record = jax.tree.map(lambda rows, seen=record.step >= 0: np.asarray(rows[seen]), record)
    return np.asarray(costs)[:epochs].ravel(), record


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
    if x.ndim == 1:
        raise ValueError(f"fit needs x of shape (m, n_in), got {x.shape}; one example is a batch of one, x[None]")
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
