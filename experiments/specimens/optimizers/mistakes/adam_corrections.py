"""Adam: where ε is, and what is corrected for bias."""

import jax.numpy as jnp

from experiments.specimens.optimizers.subjects import ADAM, adam, averages, corrected
from experiments.specimens.specimen import Catalogue

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


# Adam: bias correction ------------------------------------------------------------------------------------------------


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
