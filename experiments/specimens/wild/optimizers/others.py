"""Rprop, Sophia, ASGD, and averages of weights."""

import jax.numpy as jnp

from experiments.specimens.optimizers.subjects import Family
from experiments.specimens.optimizers.wholes import (
    ASGD,
    MOVING_AVERAGE,
    RPROP,
    RUNNING_MEAN,
    SOPHIA,
    asgd,
    by_hand,
    moving_average,
    rprop,
    running_mean,
    sophia,
)
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


@found("google-deepmind/optax#1725", "convention", of=RPROP, mended=rprop)
def step_of_the_step_before(g, last, size, t, alpha):
    """What is returned is the step kept from before, where the sign has not turned; the first one is zero."""
    _, kept, new = rprop(g, last, size, t, alpha)
    return jnp.where(g * last < 0, 0.0, -size * jnp.sign(last)), kept, new


@found("libfann/fann#85", "convention", of=RPROP, mended=rprop)
def moved_where_the_sign_turned(g, last, size, t, alpha):
    """Where the sign turned the slope is set to zero, and a slope of zero moves the weight as a rising one does."""
    _, kept, size = rprop(g, last, size, t, alpha)
    return size * jnp.where(kept > 0, -1.0, 1.0), kept, size


@found("kyegomez/Sophia#19", "convention", of=SOPHIA, mended=sophia)
def curvature_clipped_in_place_of_the_step(g, m, h, alpha, b1, b2):
    """The bound is put on the divisor, not on the quotient: steps of any size are let through."""
    m, h = b1 * m + (1 - b1) * g, b2 * h + (1 - b2) * g**2
    return -alpha * m / jnp.clip(0.04 * h, 1e-12, 1), m, h


@found("pytorch/pytorch#125440", "convention", of=ASGD, mended=asgd)
def power_of_the_count_alone(g, mean, t, theta, alpha):
    """η = α/(1 + λα(t - 1)^(3/4)) where the power is of the whole."""
    eta = alpha / (1 + 1e-4 * alpha * (t - 1) ** 0.75)
    update = -eta * (1e-4 * theta + g)
    return update, mean + (theta + update - mean) / t


@found("marin-community/levanter#883", "scale", "99 times", of=MOVING_AVERAGE, mended=moving_average)
def weights_of_the_moving_average_exchanged(g, theta):
    """θ := 0.01θ + 0.99w."""
    return (0.99 * (g - theta),)


@found("ostris/ai-toolkit#1034", "convention", "the sign is wrong", of=MOVING_AVERAGE, mended=moving_average)
def pushed_away_from_the_weights(g, theta):
    """θ := θ + 0.01(θ - w), which grows without bound."""
    return (0.01 * (theta - g),)


def warmed_up_average(g, d, t, theta):
    """θ := δθ + (1 - δ)w with δ = min(0.9999, (1 + t)/(10 + t)); 0.9999 is the state's."""
    decay = jnp.minimum(d, (1 + t) / (10 + t))
    return (1 - decay) * (g - theta), d


WARMED_UP_AVERAGE = by_hand(
    Family("warmed-up average of weights", None, {"d": "decay"}, {}, {"d": 0.9999}), warmed_up_average
)


@found("huggingface/diffusers#1864", "convention", of=WARMED_UP_AVERAGE, mended=warmed_up_average)
def decay_overwritten_by_that_of_the_step(g, d, t, theta):
    """The largest decay is overwritten by 1 - δ of the step, which bounds the next one's."""
    decay = 1 - jnp.minimum(d, (1 + t) / (10 + t))
    return decay * (g - theta), decay


@found("pbaylies/stylegan-encoder#13", "convention", of=RUNNING_MEAN, mended=running_mean)
def new_weights_multiplied_by_the_count(g, t, theta):
    """θ := (θ + tw)/(t + 1): the count multiplies the new weights, not the mean of those before."""
    return ((theta + t * g) / (t + 1) - theta,)
