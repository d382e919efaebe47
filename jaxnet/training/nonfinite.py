"""Where in a run the first number arose that is not finite, found by repeating the epochs in which one did.

A run looks at its costs and parameters only now and then, which costs next to nothing. An epoch depends on the state it
starts from alone: the same compiled program finds the first bad one again, and observed steps the first bad step in it.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from optax import GradientTransformation

from jaxnet.examples import Examples
from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.readings.observe import Diagnostics, first_nonfinite, observed_step
from jaxnet.step import TrainState

OnNonfinite = Literal["raise", "stop", "ignore"]


def check_on_nonfinite(value: str) -> None:
    """Raises ValueError for another word than those of `OnNonfinite`."""
    if value not in get_args(OnNonfinite):
        raise ValueError(f'on_nonfinite must be "raise", "stop" or "ignore", got {value!r}')


def own_watch(on_nonfinite: OnNonfinite, *, observed: bool = False) -> AbstractContextManager[Any]:
    """Switches `jax_debug_nans` off where a run looks by itself: an error out of a step would lose the state.

    Diagnostics hold NaN where a quantity does not apply to a layer.
    """
    return nullcontext() if on_nonfinite == "ignore" and not observed else jax.debug_nans(False)


class Failure(NamedTuple):
    """The end of a run by a number that is not finite.

    Attributes:
        what: the step, the layer and the quantity.
        state: the last good one: before that step.
        cost: J of the good steps that were repeated.
        diagnostics: of those among them that were to be observed, or None.
    """

    what: str
    state: TrainState
    cost: np.ndarray
    diagnostics: Diagnostics | None


@jax.jit
def all_finite(tree: Any) -> Array:
    """Whether every floating-point number of a tree is finite."""
    leaves = [leaf for leaf in map(jnp.asarray, jax.tree.leaves(tree)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves], bool).all()


_observed_step = jax.jit(observed_step, static_argnums=(0, 1))


def first_failure(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    batches: Iterable[Examples],
    state: TrainState,
    observe_every: int | None = None,
) -> Failure:
    """Takes observed steps, one for each batch, to the first in which a number is not finite.

    Args:
        network, loss, optimizer: what is trained.
        batches: of the steps among which one fails.
        state: before the first of them.
        observe_every: which of the good steps' diagnostics to return, as in `fit`.
    """
    start, costs, rows = state, [], []
    for batch in batches:
        after, cost, diagnostics = _observed_step(network, loss, optimizer, state, *batch)
        what = first_nonfinite(network, diagnostics)
        if what is None and not all_finite(after.params):
            what = f"step {int(state.step)}: a parameter is not finite after the update"
        if what is not None:
            observed = jax.tree.map(lambda *row: np.stack(row), *rows) if rows else None
            return Failure(what, state, np.asarray(costs, cost.dtype), observed)
        if observe_every is not None and int(state.step) % observe_every == 0:
            rows.append(diagnostics)
        costs.append(np.asarray(cost))
        state = after
    # Steps compiled one by one may round otherwise than those of a whole epoch.
    what = f"after step {int(start.step)}: a number is not finite, but not when the steps are repeated one by one"
    return Failure(what, start, np.zeros(0), None)
