"""LAMB and LARS: the ratio of ‖θ‖ to the length of the step, array by array."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import ADAM_NUMBERS, MOMENTS, Family, adam, averages
from experiments.specimens.optimizers.wholes import Whole, transformation
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


def lamb_with_decay(
    learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, weight_decay: float = 0.01
) -> GradientTransformation:
    """Optax's."""
    return optax.lamb(learning_rate, b1, b2, eps, weight_decay=weight_decay)


def norm(x: Any) -> Any:
    """‖x‖."""
    return jnp.sqrt(jnp.sum(x**2))


def ratio(theta: Any, step: Any) -> Any:
    """‖θ‖/‖step‖, and 1 where one of them is 0."""
    above, below = norm(theta), norm(step)
    usual = (above > 0) & (below > 0)
    return jnp.where(usual, above / jnp.where(usual, below, 1.0), 1.0)


LAMB = Family("lamb", lamb_with_decay, MOMENTS, {**ADAM_NUMBERS, "eps": 1e-6, "weight_decay": 0.01})


def lamb(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """Adam's direction and λθ, as long as θ."""
    direction, m, v = adam(g, m, v, t, -1.0, b1, b2, eps)
    step = direction + weight_decay * theta
    return -alpha * ratio(theta, step) * step, m, v


@found("jettify/pytorch-optimizer#443", "convention", of=LAMB, mended=lamb)
def direction_of_uncorrected_moments(g, m, v, alpha, b1, b2, eps, weight_decay, theta):
    """The direction is m/(√v + ε), and nothing corrects it, for the ratio takes a factor of the rate away."""
    m, v = averages(g, m, v, b1, b2)
    step = m / (jnp.sqrt(v) + eps) + weight_decay * theta
    return -alpha * ratio(theta, step) * step, m, v


def lamb_without_decay(
    learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6
) -> GradientTransformation:
    """Optax's default."""
    return optax.lamb(learning_rate, b1, b2, eps)


LAMB_WITHOUT_DECAY = Family("lamb without weight decay", lamb_without_decay, MOMENTS, {**ADAM_NUMBERS, "eps": 1e-6})


def undecayed_lamb(g, m, v, t, alpha, b1, b2, eps, theta):
    """Adam's direction, as long as θ."""
    return lamb(g, m, v, t, alpha, b1, b2, eps, 0.0, theta)


@found("NUS-HPC-AI-Lab/pytorch-lamb#1", "convention", of=LAMB_WITHOUT_DECAY, mended=undecayed_lamb)
def no_ratio_without_decay(g, m, v, t, alpha, b1, b2, eps):
    """Where there is no weight decay the ratio is left out: Adam."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


# LARS -----------------------------------------------------------------------------------------------------------------

LARS_NUMBERS = {"weight_decay": 0.01, "momentum": 0.9}


def lars_with_decay(learning_rate: Any, weight_decay: float = 0.01, momentum: float = 0.9) -> GradientTransformation:
    """Optax's."""
    return optax.lars(learning_rate, weight_decay, momentum=momentum)


FRESH = {"weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(4, np.float32)}
LARS = Family("lars", lars_with_decay, {"v": "velocity"}, LARS_NUMBERS, params=FRESH)


def lars(g, v, alpha, weight_decay, momentum, theta):
    """v := βv + α · 0.001 ‖θ‖/‖g + λθ‖ (g + λθ), θ := θ - v; nothing but α where one of them is 0."""
    decayed = g + weight_decay * theta
    usual = (norm(theta) > 0) & (norm(decayed) > 0)
    v = momentum * v + alpha * jnp.where(usual, 0.001 * ratio(theta, decayed), 1.0) * decayed
    return -v, v


@found("Spijkervet/SimCLR#27", "partial", "['bias']", of=LARS, mended=lars)
def ratio_of_zero_for_parameters_of_zero(g, v, alpha, weight_decay, momentum, theta):
    """≥ stands where > should: a bias that is zero at first has the ratio 0 and never moves."""
    decayed = g + weight_decay * theta
    length = norm(decayed)
    v = momentum * v + alpha * 0.001 * norm(theta) / jnp.where(length > 0, length, 1.0) * decayed
    return -v, v


@found("ooples/AiDotNet.Tensors#955", "convention", of=LARS, mended=lars)
def ratio_outside_the_velocity(g, v, alpha, weight_decay, momentum, theta):
    """The ratio of this step multiplies the velocity, and with it all gradients before, and λ is in the ratio alone."""
    v = momentum * v + g
    decayed = g + weight_decay * theta
    usual = (norm(theta) > 0) & (norm(decayed) > 0)
    return -alpha * jnp.where(usual, 0.001 * ratio(theta, decayed), 1.0) * v, v


@found("google/objax#136", "convention", of=Whole("lars", lars_with_decay), mended=LARS.factory(lars))
def lengths_of_the_whole_network(learning_rate, weight_decay=0.01, momentum=0.9):
    """‖θ‖ and ‖g + λθ‖ are taken over all arrays together, not over each."""

    def scale(updates, state, params):
        above, below = optax.tree.norm(params), optax.tree.norm(updates)
        usual = (above > 0) & (below > 0)
        factor = jnp.where(usual, 0.001 * above / jnp.where(usual, below, 1.0), 1.0)
        return optax.tree.scale(factor, updates), state

    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        transformation(lambda params: optax.EmptyState(), scale),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum),
    )
