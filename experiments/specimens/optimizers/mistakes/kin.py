"""Adam's kin: AdamW, NAdam, AMSGrad, Adamax, Lion."""

import jax.numpy as jnp

from experiments.specimens.optimizers.subjects import ADAMAX, ADAMW, AMSGRAD, LION, NADAM, adam, averages, corrected
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
planted = catalogue.planted


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
