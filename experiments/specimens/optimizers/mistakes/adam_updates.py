"""Adam: the update, its dtypes, and what surrounds the rule."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.mistakes.adam_corrections import eps_before_the_correction
from experiments.specimens.optimizers.subjects import ADAM, OptimizerPair, adam, averages
from experiments.specimens.specimen import Catalogue, words
from jaxnet.verify import from_step

catalogue = Catalogue()
planted = catalogue.planted


# Adam: the update -----------------------------------------------------------------------------------------------------


@planted("convention", "the sign is wrong", of=ADAM)
def sign_wrong(g, m, v, t, alpha, b1, b2, eps):
    """The update climbs."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return -update, m, v


@planted("convention", "the learning rate is applied twice", of=ADAM)
def learning_rate_applied_twice(g, m, v, t, alpha, b1, b2, eps):
    """α²."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return alpha * update, m, v


@planted("convention", "the learning rate is not applied", of=ADAM)
def learning_rate_forgotten(g, m, v, t, b1, b2, eps):
    """The direction alone."""
    return adam(g, m, v, t, 1.0, b1, b2, eps)


@planted("convention", "new parameters", of=ADAM)
def new_parameters_returned(g, m, v, t, alpha, b1, b2, eps, theta):
    """θ + u in place of u."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return theta + update, m, v


@planted("value", "weight decay λ is 0.01", of=ADAM)
def weight_decay_that_nobody_asked_for(g, m, v, t, alpha, b1, b2, eps, theta):
    """AdamW with PyTorch's λ."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update - alpha * 0.01 * theta, m, v


@planted("convention", "step before", of=ADAM._replace(slots={**ADAM.slots, "u": "update"}))
def update_of_the_step_before(g, m, v, u, t, alpha, b1, b2, eps):
    """The new update is kept for the next step."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return u, m, v, update


@planted("convention", "step before", of=ADAM._replace(slots={**ADAM.slots, "d": "direction"}))
def direction_of_the_step_before(g, m, v, d, t, alpha, b1, b2, eps):
    """The new direction is kept for the next step's learning rate."""
    direction, m, v = adam(g, m, v, t, 1.0, b1, b2, eps)
    return alpha * d, m, v, direction


@planted("convention", "two things differ", of=ADAM.with_defaults(eps=1e-7))
def as_in_keras(g, m, v, t, alpha, b1, b2, eps):
    """ε is 1e-7, and added before bias correction."""
    return eps_before_the_correction(g, m, v, t, alpha, b1, b2, eps)


@planted("zero", of=ADAM)
def update_of_zero(g, m, v, b1, b2):
    """The moments move, the parameters do not."""
    return jnp.zeros_like(g), *averages(g, m, v, b1, b2)


@planted("scale", "0.5 times", of=ADAM)
def half_of_the_update(g, m, v, t, alpha, b1, b2, eps):
    """A factor 1/2."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update / 2, m, v


@planted("unknown", of=ADAM)
def gradients_clipped(g, m, v, t, alpha, b1, b2, eps):
    """Every element of the gradient is held between -1/2 and 1/2."""
    return adam(jnp.clip(g, -0.5, 0.5), m, v, t, alpha, b1, b2, eps)


@planted("non_finite", of=ADAM)
def scaled_against_overflow(g, m, v, t, alpha, b1, b2, eps):
    """The gradient is divided by its largest element and multiplied again: 0/0 where all are zero."""
    largest = jnp.max(jnp.abs(g))
    return adam(g / largest * largest, m, v, t, alpha, b1, b2, eps)


# Adam: dtypes ---------------------------------------------------------------------------------------------------------


@planted("precision", of=ADAM._replace(kept_in=jnp.bfloat16))
def moments_kept_in_bfloat16(g, m, v, t, alpha, b1, b2, eps):
    """Every step rounds them."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@planted("precision", of=ADAM._replace(counted_in=jnp.bfloat16))
def counter_in_bfloat16(g, m, v, t, alpha, b1, b2, eps):
    """256 + 1 = 256."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@planted("precision", of=ADAM)
def update_rounded_to_bfloat16(g, m, v, t, alpha, b1, b2, eps):
    """The update alone."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update.astype(jnp.bfloat16).astype(g.dtype), m, v


# Adam: what surrounds the rule ----------------------------------------------------------------------------------------


def around(kind: str, says: str = "") -> Callable[[Any], Any]:
    """A decorator for what is done wrong to a right Adam's (updates, state) after each step, with the state before."""

    def register(spoil: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Any:
        def make(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> GradientTransformation:
            right = ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)

            def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
                return spoil(*right.update(gradients, state, params), state)

            return GradientTransformation(right.init, update)  # pyright: ignore[reportArgumentType]

        catalogue.enter(f"adam: {words(spoil)}", kind, OptimizerPair(make, optax.adam), says)
        return spoil

    return register


@around("convention", "never advances")
def counter_that_never_advances(updates, state, before):
    """A schedule stays at its first step too."""
    return updates, state._replace(count=before.count)


@around("zero", "['bias']")
def bias_left_out(updates, state, before):
    """The bias gets no update."""
    return updates | {"bias": jnp.zeros_like(updates["bias"])}, state


@around("scale", "['bias']")
def bias_updated_twice(updates, state, before):
    """The bias goes twice as far."""
    return updates | {"bias": 2 * updates["bias"]}, state


@around("shape")
def update_with_an_axis_in_front(updates, state, before):
    """(1, 2, 3) in place of (2, 3)."""
    return jax.tree.map(lambda u: u[None], updates), state


@around("shape")
def weight_update_transposed(updates, state, before):
    """(3, 2) in place of (2, 3)."""
    return updates | {"weight": updates["weight"].T}, state


@around("structure")
def updates_as_a_list(updates, state, before):
    """The leaves without their tree."""
    return jax.tree.leaves(updates), state


@around("dtype")
def counter_that_becomes_a_float(updates, state, before):
    """An integer before the step, a float after it."""
    return updates, state._replace(count=state.count.astype(jnp.float32))


@around("dtype")
def updates_of_integers(updates, state, before):
    """The updates are rounded to integers."""
    return jax.tree.map(lambda u: jnp.round(u).astype(jnp.int32), updates), state


@around("shape")
def counter_that_becomes_an_array(updates, state, before):
    """A number before the step, an array of one after it."""
    return updates, state._replace(count=state.count[None])


def counter_in_python(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Any:
    """The factory counts the steps, not the state."""
    right = ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)
    steps = [0]

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        state = state._replace(count=jnp.asarray(steps[0], jnp.int32))
        steps[0] += 1
        return right.update(gradients, state, params)

    return GradientTransformation(right.init, update)  # pyright: ignore[reportArgumentType]


def schedule_read_after_the_count(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Any:
    """α of the next step."""
    early = (lambda count: learning_rate(count + 1)) if callable(learning_rate) else learning_rate
    return ADAM.optimizer(adam, early, b1=b1, b2=b2, eps=eps)


def state_that_grows(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Any:
    """The last update is kept in a place that the first state has not."""
    right = ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, moments = right.update(gradients, state["moments"], params)
        return updates, {"moments": moments, "last": updates}

    return GradientTransformation(lambda params: {"moments": right.init(params)}, update)  # pyright: ignore[reportArgumentType]


catalogue.enter("adam: state that grows", "structure", OptimizerPair(state_that_grows, optax.adam))
catalogue.enter("adam: counter in python", "impure", OptimizerPair(counter_in_python, optax.adam))
catalogue.enter(
    "adam: schedule read after the count",
    "convention",
    OptimizerPair(schedule_read_after_the_count, optax.adam),
    "one step early",
)


def start(params: Any) -> Any:
    """t, m and v in NumPy."""
    return 0, jax.tree.map(np.zeros_like, params), jax.tree.map(np.zeros_like, params)


def numpy_with_eps_inside(params, gradients, state):
    """A right step, but for √(v̂ + ε)."""
    t, m, v = state
    t += 1
    m = {name: 0.9 * m[name] + 0.1 * np.asarray(g) for name, g in gradients.items()}
    v = {name: 0.999 * v[name] + 0.001 * np.asarray(g) ** 2 for name, g in gradients.items()}
    after = {
        name: theta - 0.01 * m[name] / (1 - 0.9**t) / np.sqrt(v[name] / (1 - 0.999**t) + 1e-8)
        for name, theta in params.items()
    }
    return after, (t, m, v)


catalogue.enter(
    f"adam: {words(numpy_with_eps_inside)}",
    "convention",
    OptimizerPair(from_step(start, numpy_with_eps_inside), optax.adam(0.01)),
    "ε is inside the square root",
)
