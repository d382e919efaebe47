"""Planted mistakes in optimizers, as people get them wrong by hand or bring them from another library.

Each is a right rule with one thing changed; its docstring says which.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import (
    ADAGRAD,
    ADAM,
    ADAMAX,
    ADAMW,
    AMSGRAD,
    DESCENT,
    HEAVY_BALL,
    LION,
    MOMENTUM,
    NADAM,
    NESTEROV,
    RMSPROP,
    RMSPROP_WITH_MOMENTUM,
    OptimizerPair,
    adam,
    averages,
    corrected,
)
from experiments.specimens.specimen import Catalogue, Specimen, words
from jaxnet import optimizers
from jaxnet.verify import from_step

catalogue = Catalogue()
planted = catalogue.planted

# Adam: where ε is -----------------------------------------------------------------------------------------------------


@planted("convention", "ε is inside the square root", of=ADAM)
def eps_inside_the_root(g, m, v, t, alpha, b1, b2, eps):
    """√(v̂ + ε)."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / jnp.sqrt(v_hat + eps), m, v


@planted("convention", "before bias correction", of=ADAM)
def eps_before_the_correction(g, m, v, t, alpha, b1, b2, eps):
    """α√(1 - β₂ᵗ)/(1 - β₁ᵗ) · m/(√v + ε), TensorFlow's form."""
    m, v = averages(g, m, v, b1, b2)
    return -alpha * jnp.sqrt(1 - b2**t) / (1 - b1**t) * m / (jnp.sqrt(v) + eps), m, v


@planted("convention", "ε² is inside", of=ADAM)
def eps_squared_inside_the_root(g, m, v, t, alpha, b1, b2, eps):
    """√(v̂ + ε²)."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / jnp.sqrt(v_hat + eps**2), m, v


@planted("missing_term", "ε is missing", of=ADAM)
def eps_missing(g, m, v, t, alpha, b1, b2):
    """0/0 where every gradient was zero."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / jnp.sqrt(v_hat), m, v


# Adam: bias correction -----------------------------------------------------------------------------------------------


@planted("convention", "bias correction is absent", of=ADAM)
def no_bias_correction(g, m, v, alpha, b1, b2, eps):
    """m/(√v + ε)."""
    m, v = averages(g, m, v, b1, b2)
    return -alpha * m / (jnp.sqrt(v) + eps), m, v


@planted("convention", "v has no bias correction", of=ADAM)
def only_m_corrected(g, m, v, t, alpha, b1, b2, eps):
    """m̂/(√v + ε)."""
    m, v = averages(g, m, v, b1, b2)
    return -alpha * m / (1 - b1**t) / (jnp.sqrt(v) + eps), m, v


@planted("convention", "m has no bias correction", of=ADAM)
def only_v_corrected(g, m, v, t, alpha, b1, b2, eps):
    """m/(√v̂ + ε)."""
    m, v = averages(g, m, v, b1, b2)
    return -alpha * m / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v


@planted("convention", "counts from 0", of=ADAM)
def correction_counts_from_0(g, m, v, t, alpha, b1, b2, eps):
    """t is read before it is advanced: a division by zero in the first step."""
    return adam(g, m, v, t - 1, alpha, b1, b2, eps)


@planted("convention", "counts from 2", of=ADAM)
def correction_counts_from_2(g, m, v, t, alpha, b1, b2, eps):
    """t is advanced twice before it is read first."""
    return adam(g, m, v, t + 1, alpha, b1, b2, eps)


@planted("convention", "never advances", of=ADAM)
def correction_of_the_first_step_for_ever(g, m, v, alpha, b1, b2, eps):
    """1 - β in place of 1 - βᵗ."""
    return adam(g, m, v, 1, alpha, b1, b2, eps)


@planted("convention", "v is corrected with β₁", of=ADAM)
def v_corrected_with_b1(g, m, v, t, alpha, b1, b2, eps):
    """v/(1 - β₁ᵗ)."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b1)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@planted("convention", "kept in the state", of=ADAM)
def corrected_moments_kept(g, m, v, t, alpha, b1, b2, eps):
    """The corrected moments take the place of the moments."""
    m, v = averages(g, m, v, b1, b2)
    m, v = corrected(m, v, t, b1, b2)
    return -alpha * m / (jnp.sqrt(v) + eps), m, v


# Adam: the decay rates -----------------------------------------------------------------------------------------------


@planted("convention", "exchanged", of=ADAM)
def decay_rates_exchanged(g, m, v, t, alpha, b1, b2, eps):
    """β₂ for m, β₁ for v."""
    return adam(g, m, v, t, alpha, b2, b1, eps)


@planted("convention", "β₁ stands where β₂ should", of=ADAM)
def b1_for_both(g, m, v, t, alpha, b1, b2, eps):
    """β₁ also for v."""
    return adam(g, m, v, t, alpha, b1, b1, eps)


@planted("convention", "β₂ stands where β₁ should", of=ADAM)
def b2_for_both(g, m, v, t, alpha, b1, b2, eps):
    """β₂ also for m."""
    return adam(g, m, v, t, alpha, b2, b2, eps)


@planted("convention", "1 - β₁ stands where β₁ should", of=ADAM)
def b1_means_the_weight_of_the_gradient(g, m, v, t, alpha, b1, b2, eps):
    """1 - β₁ in place of β₁."""
    return adam(g, m, v, t, alpha, 1 - b1, b2, eps)


@planted("convention", "1 - β₁ stands where β₁ should", of=ADAM)
def both_rates_mean_the_weight_of_the_gradient(g, m, v, t, alpha, b1, b2, eps):
    """1 - β in place of β, for both."""
    return adam(g, m, v, t, alpha, 1 - b1, 1 - b2, eps)


@planted("convention", "exchanged", of=ADAM)
def weights_of_m_exchanged(g, m, v, t, alpha, b1, b2, eps):
    """(1 - β₁)m + β₁g, with the right correction."""
    m, v = (1 - b1) * m + b1 * g, b2 * v + (1 - b2) * g**2
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@planted("value", "β₂ is 0.99", of=ADAM.with_defaults(b2=0.99))
def b2_of_0_99_by_default(g, m, v, t, alpha, b1, b2, eps):
    """Another default."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@planted("value", "ε is 1e-07", of=ADAM.with_defaults(eps=1e-7))
def eps_of_1e_7_by_default(g, m, v, t, alpha, b1, b2, eps):
    """Keras's default."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@planted("value", "rounded to bfloat16", of=ADAM)
def b2_rounded_to_bfloat16(g, m, v, t, alpha, b1, b2, eps):
    """0.999 is 1 in bfloat16."""
    return adam(g, m, v, t, alpha, b1, jnp.asarray(b2, jnp.bfloat16).astype(g.dtype), eps)


# Adam: the moments ---------------------------------------------------------------------------------------------------


@planted("convention", "square root is missing", of=ADAM)
def root_missing(g, m, v, t, alpha, b1, b2, eps):
    """m̂/(v̂ + ε)."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (v_hat + eps), m, v


@planted("convention", "m is a sum", of=ADAM)
def m_without_its_factor(g, m, v, t, alpha, b1, b2, eps):
    """β₁m + g."""
    m, v = b1 * m + g, b2 * v + (1 - b2) * g**2
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@planted("convention", "without the factor 1 - β", of=ADAM)
def v_without_its_factor(g, m, v, t, alpha, b1, b2, eps):
    """β₂v + g²."""
    m, v = b1 * m + (1 - b1) * g, b2 * v + g**2
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@planted("convention", "v is made of |g|", of=ADAM)
def v_of_absolute_gradients(g, m, v, t, alpha, b1, b2, eps):
    """The square is forgotten."""
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * jnp.abs(g)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@planted("convention", "v is made of m²", of=ADAM)
def v_of_m_squared(g, m, v, t, alpha, b1, b2, eps):
    """m was overwritten before v is formed from it."""
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * m**2
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@planted("convention", "AdaBelief", of=ADAM)
def v_of_deviations_from_m(g, m, v, t, alpha, b1, b2, eps):
    """(g - m)² in place of g²."""
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (g - m) ** 2
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@planted("convention", "there is no momentum", of=ADAM)
def gradient_in_place_of_m(g, m, v, t, alpha, b1, b2, eps):
    """m is formed and not used, nor its correction."""
    m, v = averages(g, m, v, b1, b2)
    return -alpha * g / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v


@planted("convention", "m is stale", of=ADAM)
def stale_m(g, m, v, t, alpha, b1, b2, eps):
    """The update reads m from before the step."""
    m_hat, _ = corrected(m, v, t, b1, b2)
    m, v = averages(g, m, v, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v


@planted("convention", "v is stale", of=ADAM)
def stale_v(g, m, v, t, alpha, b1, b2, eps):
    """The update reads v from before the step."""
    _, v_hat = corrected(m, v, t, b1, b2)
    m, v = averages(g, m, v, b1, b2)
    return -alpha * m / (1 - b1**t) / (jnp.sqrt(v_hat) + eps), m, v


@planted("convention", "both moments are stale", of=ADAM)
def stale_moments(g, m, v, t, alpha, b1, b2, eps):
    """The update reads both moments from before the step."""
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), *averages(g, m, v, b1, b2)


# Adam: the update ----------------------------------------------------------------------------------------------------


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


# Adam: dtypes --------------------------------------------------------------------------------------------------------


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


# Adam: what surrounds the rule ---------------------------------------------------------------------------------------


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

# Adam's kin ----------------------------------------------------------------------------------------------------------


@planted("convention", "coupled", of=ADAMW)
def weight_decay_in_the_gradient(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """L2 regularization, which the moments average."""
    return adam(g + weight_decay * theta, m, v, t, alpha, b1, b2, eps)


@planted("convention", "not multiplied by the learning rate", of=ADAMW)
def weight_decay_without_the_learning_rate(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """λθ in place of αλθ."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update - weight_decay * theta, m, v


@planted("missing_term", "weight decay is missing", of=ADAMW)
def weight_decay_missing(g, m, v, t, alpha, b1, b2, eps):
    """Plain Adam."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@planted("convention", "weight decay has the wrong sign", of=ADAMW)
def weight_decay_that_grows(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """+αλθ."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update + alpha * weight_decay * theta, m, v


@planted("value", "weight decay λ is 0.01", of=ADAMW.with_defaults(weight_decay=0.01))
def weight_decay_of_0_01_by_default(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """PyTorch's default."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update - alpha * weight_decay * theta, m, v


@planted("convention", "no Nesterov step ahead", of=NADAM)
def no_step_ahead(g, m, v, t, alpha, b1, b2, eps):
    """Plain Adam."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@planted("convention", "in the same step's weights", of=NADAM)
def step_ahead_with_one_correction(g, m, v, t, alpha, b1, b2, eps):
    """(β₁m + (1 - β₁)g)/(1 - β₁ᵗ)."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(b1 * m + (1 - b1) * g, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@planted("convention", "before its correction", of=AMSGRAD)
def maximum_before_the_correction(g, m, v, v_max, t, alpha, b1, b2, eps):
    """PyTorch's form."""
    m, v = averages(g, m, v, b1, b2)
    v_max = jnp.maximum(v_max, v)
    m_hat, v_hat = corrected(m, v_max, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v, v_max


@planted("convention", "no maximum", of=AMSGRAD)
def maximum_not_used(g, m, v, v_max, t, alpha, b1, b2, eps):
    """The maximum is kept, and v̂ is used."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update, m, v, jnp.maximum(v_max, v / (1 - b2**t))


@planted("missing_term", "ε is missing", of=ADAMAX)
def adamax_without_eps(g, m, v, t, alpha, b1, b2):
    """The paper's form: 0/0 where every gradient was zero."""
    m, v = b1 * m + (1 - b1) * g, jnp.maximum(b2 * v, jnp.abs(g))
    return -alpha * m / (1 - b1**t) / v, m, v


@planted("convention", "v is an average", of=ADAMAX)
def average_in_place_of_the_maximum(g, m, v, t, alpha, b1, b2, eps):
    """Adam's v, without its correction."""
    m, v = averages(g, m, v, b1, b2)
    return -alpha * m / (1 - b1**t) / (jnp.sqrt(v) + eps), m, v


@planted("convention", "m has no bias correction", of=ADAMAX)
def adamax_without_correction(g, m, v, alpha, b1, b2, eps):
    """m/u."""
    m, v = b1 * m + (1 - b1) * g, jnp.maximum(b2 * v, jnp.abs(g) + eps)
    return -alpha * m / v, m, v


@planted("convention", "exchanged", of=LION)
def lion_with_its_rates_exchanged(g, m, alpha, b1, b2, weight_decay, theta):
    """β₂ for the step, β₁ for the average."""
    direction = jnp.sign(b2 * m + (1 - b2) * g) + weight_decay * theta
    return -alpha * direction, b1 * m + (1 - b1) * g


@planted("convention", "the sign of the direction is not taken", of=LION)
def lion_without_its_sign(g, m, alpha, b1, b2, weight_decay, theta):
    """The average itself."""
    direction = b1 * m + (1 - b1) * g + weight_decay * theta
    return -alpha * direction, b2 * m + (1 - b2) * g


@planted("convention", "from after the step", of=LION)
def lion_that_reads_the_new_moment(g, m, alpha, b1, b2, weight_decay, theta):
    """m is overwritten before the direction is formed."""
    m = b2 * m + (1 - b2) * g
    return -alpha * (jnp.sign(b1 * m + (1 - b1) * g) + weight_decay * theta), m


@planted("missing_term", "weight decay is missing", of=LION)
def lion_without_weight_decay(g, m, alpha, b1, b2):
    """The sign alone."""
    return -alpha * jnp.sign(b1 * m + (1 - b1) * g), b2 * m + (1 - b2) * g


# RMSProp and AdaGrad -------------------------------------------------------------------------------------------------


@planted("convention", "ε is outside the square root", of=RMSPROP)
def eps_outside_the_root(g, s, alpha, decay, eps):
    """PyTorch's form."""
    s = decay * s + (1 - decay) * g**2
    return -alpha * g / (jnp.sqrt(s) + eps), s


@planted("convention", "square root is missing", of=RMSPROP)
def root_of_s_missing(g, s, alpha, decay, eps):
    """g/(s + ε)."""
    s = decay * s + (1 - decay) * g**2
    return -alpha * g / (s + eps), s


@planted("value", "v before the first step is 1", of=RMSPROP._replace(starts={"s": 1.0}))
def s_starts_at_1(g, s, alpha, decay, eps):
    """TensorFlow's old form."""
    s = decay * s + (1 - decay) * g**2
    return -alpha * g / jnp.sqrt(s + eps), s


@planted("convention", "sum of all g²", of=RMSPROP)
def sum_in_place_of_the_average(g, s, alpha, eps):
    """AdaGrad's s."""
    s = s + g**2
    return -alpha * g / jnp.sqrt(s + eps), s


@planted("convention", "(centred)", of=RMSPROP._replace(slots={"s": "nu", "m": "mu"}))
def deviation_in_place_of_the_root_mean_square(g, s, m, alpha, decay, eps):
    """√(s - m² + ε)."""
    s, m = decay * s + (1 - decay) * g**2, decay * m + (1 - decay) * g
    return -alpha * g / jnp.sqrt(s - m**2 + eps), s, m


@planted("convention", "v is stale", of=RMSPROP)
def stale_s(g, s, alpha, decay, eps):
    """The update reads s from before the step."""
    return -alpha * g / jnp.sqrt(s + eps), decay * s + (1 - decay) * g**2


@planted("convention", "exchanged", of=RMSPROP)
def decay_means_the_weight_of_the_square(g, s, alpha, decay, eps):
    """1 - ρ in place of ρ."""
    s = (1 - decay) * s + decay * g**2
    return -alpha * g / jnp.sqrt(s + eps), s


@planted("value", "β₂ is 0.99", of=RMSPROP.with_defaults(decay=0.99))
def decay_of_0_99_by_default(g, s, alpha, decay, eps):
    """PyTorch's default."""
    s = decay * s + (1 - decay) * g**2
    return -alpha * g / jnp.sqrt(s + eps), s


@planted("convention", "outside the momentum", of=RMSPROP_WITH_MOMENTUM)
def learning_rate_outside_the_velocity(g, s, u, alpha, decay, eps, momentum):
    """PyTorch's form."""
    s = decay * s + (1 - decay) * g**2
    u = momentum * u - g / jnp.sqrt(s + eps)
    return alpha * u, s, u


@planted("convention", "as Nesterov's", of=RMSPROP_WITH_MOMENTUM)
def velocity_that_looks_ahead(g, s, u, alpha, decay, eps, momentum):
    """The velocity is formed once more."""
    s = decay * s + (1 - decay) * g**2
    step = -alpha * g / jnp.sqrt(s + eps)
    u = momentum * u + step
    return momentum * u + step, s, u


@planted("convention", "v is an average", of=ADAGRAD)
def average_in_place_of_the_sum(g, s, alpha, eps):
    """RMSProp's s, at ρ = 0.9."""
    s = 0.9 * s + 0.1 * g**2
    return -alpha * g / jnp.sqrt(s + eps), s


@planted("value", "v before the first step is 0", of=ADAGRAD._replace(starts={}))
def sum_starts_at_0(g, s, alpha, eps):
    """PyTorch's start."""
    s = s + g**2
    return -alpha * g / jnp.sqrt(s + eps), s


@planted("convention", "ε is outside the square root", of=ADAGRAD)
def eps_outside_the_root_of_the_sum(g, s, alpha, eps):
    """PyTorch's form."""
    s = s + g**2
    return -alpha * g / (jnp.sqrt(s) + eps), s


@planted("convention", "square root is missing", of=ADAGRAD)
def root_of_the_sum_missing(g, s, alpha, eps):
    """g/(s + ε)."""
    s = s + g**2
    return -alpha * g / (s + eps), s


# Descent and momentum ------------------------------------------------------------------------------------------------


@planted("convention", "the sign is wrong", of=DESCENT)
def ascent(g, alpha):
    """θ + αg."""
    return (alpha * g,)


@planted("convention", "the learning rate is applied twice", of=DESCENT)
def descent_with_the_rate_squared(g, alpha):
    """α²."""
    return (-alpha * alpha * g,)


@planted("convention", "m is a sum", of=MOMENTUM)
def sum_in_place_of_an_average(g, v, alpha, momentum):
    """The heavy ball."""
    v = momentum * v + g
    return -alpha * v, v


@planted("convention", "exchanged", of=MOMENTUM)
def weights_of_the_average_exchanged(g, v, alpha, momentum):
    """(1 - β)v + βg."""
    v = (1 - momentum) * v + momentum * g
    return -alpha * v, v


@planted("convention", "m is an average", of=HEAVY_BALL)
def average_in_place_of_a_sum(g, v, alpha, momentum):
    """The lecture's form."""
    v = momentum * v + (1 - momentum) * g
    return -alpha * v, v


@planted("convention", "inside the momentum", of=HEAVY_BALL)
def learning_rate_inside_the_velocity(g, v, alpha, momentum):
    """Keras's form."""
    v = momentum * v - alpha * g
    return v, v


@planted("convention", "there is no momentum", of=HEAVY_BALL)
def velocity_forgotten(g, v, alpha, momentum):
    """The velocity is kept and not used."""
    return -alpha * g, momentum * v + g


@planted("convention", "m is stale", of=HEAVY_BALL)
def stale_velocity(g, v, alpha, momentum):
    """The update reads the velocity from before the step."""
    return -alpha * v, momentum * v + g


@planted("convention", "no Nesterov step ahead", of=NESTEROV)
def heavy_ball_in_place_of_nesterov(g, v, alpha, momentum):
    """The velocity as it is."""
    v = momentum * v + g
    return -alpha * v, v


@planted("convention", "βm alone", of=NESTEROV)
def step_ahead_without_the_gradient(g, v, alpha, momentum):
    """βv in place of βv + g."""
    v = momentum * v + g
    return -alpha * momentum * v, v


catalogue.enter(
    "momentum: a velocity of another size under the same name",
    "convention",
    OptimizerPair(optimizers.heavy_ball(0.01, 0.9), optimizers.momentum(0.1, 0.9)),
    "another form of the same rule",
)

OPTIMIZER_MISTAKES: tuple[Specimen, ...] = tuple(catalogue.specimens)
