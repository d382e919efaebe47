"""Optimizers that Optax lacks, by hand, and subjects whose specimens are whole optimizers, not rules of one array."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import ADAM_NUMBERS, MOMENTS, PARAMETERS, Family, OptimizerPair


class Whole(NamedTuple):
    """An optimizer to be written whole.

    Attributes:
        area: its name.
        reference: learning_rate -> optimizer, or a finished optimizer; the candidate must be of the same sort.
        params: to run it on.
    """

    area: str
    reference: Any
    params: Any = PARAMETERS

    def case(self, rule: Any) -> OptimizerPair:
        """The optimizer beside the reference, to be judged."""
        return OptimizerPair(rule, self.reference, self.params)


def by_hand(family: Family, rule: Any) -> Family:
    """A family whose reference is this rule."""
    return family._replace(reference=family.factory(rule))


def transformation(init: Any, update: Any) -> GradientTransformation:
    """Two functions as an optimizer."""
    return GradientTransformation(init, update)


def chained(*parts: Any) -> Any:
    """A factory: transformations of Optax, then the learning rate."""

    def make(learning_rate: Any) -> GradientTransformation:
        return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))

    return make


# PyTorch's SGD with dampening -----------------------------------------------------------------------------------------


def dampened(g, v, t, alpha, momentum, dampening):
    """v := g in the first step, then βv + (1 - τ)g; θ := θ - αv."""
    v = jnp.where(t == 1, g, momentum * v + (1 - dampening) * g)
    return -alpha * v, v


DAMPENED = by_hand(
    Family("dampened momentum", None, {"v": "momentum_buffer"}, {"momentum": 0.9, "dampening": 0.5}), dampened
)

# NAdam with Dozat's schedule of β₁, as PyTorch and Keras have it ------------------------------------------------------


def scheduled_rates(t: Any, b1: Any) -> tuple[Any, Any]:
    """μₜ and μₜ₊₁, with μₜ = β₁(1 - 0.96^(t/250)/2)."""
    return b1 * (1 - 0.5 * 0.96 ** (t / 250)), b1 * (1 - 0.5 * 0.96 ** ((t + 1) / 250))


def scheduled_nadam(g, m, v, p, t, alpha, b1, b2, eps):
    """μₜ₊₁ m/(1 - Πₜ₊₁) + (1 - μₜ) g/(1 - Πₜ), with Π the product of all μ so far."""
    now, ahead = scheduled_rates(t, b1)
    m, v, p = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2, p * now
    step = ahead * m / (1 - p * ahead) + (1 - now) * g / (1 - p)
    return -alpha * step / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v, p


SCHEDULED_NADAM = by_hand(
    Family("nadam with a schedule of β₁", None, {**MOMENTS, "p": "mu_product"}, ADAM_NUMBERS, {"p": 1.0}),
    scheduled_nadam,
)

# Rprop, after Riedmiller and Braun, without weight-backtracking -------------------------------------------------------


def rprop(g, last, size, t, alpha):
    """The step size grows by 1.2 where the sign stays and halves where it turns; there the step is left out."""
    size = jnp.where(t == 1, alpha, size)
    turned = g * last
    size = jnp.clip(size * jnp.where(turned > 0, 1.2, jnp.where(turned < 0, 0.5, 1.0)), 1e-6, 50.0)
    g = jnp.where(turned < 0, 0.0, g)
    return -size * jnp.sign(g), g, size


RPROP = by_hand(Family("rprop", None, {"last": "prev", "size": "step_size"}, {}), rprop)

# ASGD: descent whose rate falls, beside an average of the parameters --------------------------------------------------


def asgd(g, mean, t, theta, alpha):
    """η = α/(1 + λα(t - 1))^(3/4); θ := (1 - λη)θ - ηg; the average is of all θ."""
    eta = alpha / (1 + 1e-4 * alpha * (t - 1)) ** 0.75
    update = -eta * (1e-4 * theta + g)
    return update, mean + (theta + update - mean) / t


ASGD = by_hand(Family("asgd", None, {"mean": "ax"}, {}), asgd)

# Sophia's step, with the mean of g² for the diagonal of the Hessian ---------------------------------------------------


def sophia(g, m, h, alpha, b1, b2):
    """-α clip(m/max(ρh, ε), ±1)."""
    m, h = b1 * m + (1 - b1) * g, b2 * h + (1 - b2) * g**2
    return -alpha * jnp.clip(m / jnp.maximum(0.04 * h, 1e-12), -1, 1), m, h


SOPHIA = by_hand(Family("sophia", None, {"m": "exp_avg", "h": "hessian"}, {"b1": 0.965, "b2": 0.99}), sophia)

# ADOPT: the gradient is divided by the root of v from before the step -------------------------------------------------


def adopt(g, m, v, t, alpha, b1, b2, eps):
    """v := g² in the first step, which moves nothing; then m is the average of g/max(√v, ε), and v follows."""
    scaled = g / jnp.maximum(jnp.sqrt(v), eps)
    m = jnp.where(t == 1, m, b1 * m + (1 - b1) * scaled)
    v = jnp.where(t == 1, g**2, b2 * v + (1 - b2) * g**2)
    return jnp.where(t == 1, 0.0, -alpha * m), m, v


ADOPT = by_hand(Family("adopt", None, MOMENTS, {"b1": 0.9, "b2": 0.9999, "eps": 1e-6}), adopt)

# Averages of weights: the gradients' place is taken by the weights that are averaged ----------------------------------


def moving_average(g, theta):
    """θ := 0.99θ + 0.01w, where w stands in the place of g."""
    return (0.01 * (g - theta),)


MOVING_AVERAGE = by_hand(Family("moving average of weights", None, {}, {}), moving_average)


def running_mean(g, t, theta):
    """θ := θ + (w - θ)/(t + 1): the mean of θ₀ and every w since."""
    return ((g - theta) / (t + 1),)


RUNNING_MEAN = by_hand(Family("running mean of weights", None, {}, {}), running_mean)
