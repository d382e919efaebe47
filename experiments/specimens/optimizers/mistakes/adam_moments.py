"""Adam: the decay rates and the moments."""

import jax.numpy as jnp

from experiments.specimens.optimizers.subjects import ADAM, adam, averages, corrected
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
planted = catalogue.planted


# Adam: the decay rates ------------------------------------------------------------------------------------------------


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


# Adam: the moments ----------------------------------------------------------------------------------------------------


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
