"""One step of training: what it carries from step to step, and how a gradient moves it on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from optax import GradientTransformation, apply_updates

from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient


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

    def __repr__(self) -> str:
        """The finished steps, and what is trained."""
        leaves = [leaf for leaf in jax.tree.leaves(self.params) if hasattr(leaf, "dtype")]
        dtypes = "/".join(dict.fromkeys(str(leaf.dtype) for leaf in leaves))
        known = isinstance(self.step, Array) and not isinstance(self.step, Tracer) and self.step.ndim == 0
        where = f"step {int(self.step)}, " if known else ""
        return f"TrainState({where}{sum(leaf.size for leaf in leaves):,} parameters in {dtypes or 'no array'})"


def init_state(network: Layer, optimizer: GradientTransformation, key: Array) -> TrainState:
    """Fresh parameters, a fresh optimizer state, and a key for the epochs to come."""
    params_key, epochs_key = jax.random.split(key)
    params = network.init(params_key)
    return TrainState(params, optimizer.init(params), epochs_key, jnp.zeros([], jnp.int32))


def descend(optimizer: GradientTransformation, state: TrainState, gradient: Any) -> tuple[TrainState, Any]:
    """The next state by the optimizer's rule, and the updates that were added to the parameters."""
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    return TrainState(apply_updates(state.params, updates), opt_state, state.key, state.step + 1), updates


def step_key(network: Layer, state: TrainState) -> Array | None:
    """The key of the next step for a network that draws random numbers, another for each step; else None."""
    return jax.random.fold_in(state.key, state.step) if network.needs_key else None


def train_step(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    state: TrainState,
    x: Any,
    y: ArrayLike,
    sample_weight: Array | None = None,
) -> tuple[TrainState, Array]:
    """One step on one batch: forward, cost J, backward, update. Returns the new state and J before the update."""
    key = step_key(network, state)
    cost, gradient = cost_and_gradient(network, loss)(state.params, x, y, key=key, sample_weight=sample_weight)
    state, _ = descend(optimizer, state, gradient)
    return state, cost
