"""RMSProp and AdaGrad."""

import jax.numpy as jnp

from experiments.specimens.optimizers.subjects import ADAGRAD, RMSPROP, RMSPROP_WITH_MOMENTUM
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
planted = catalogue.planted


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
