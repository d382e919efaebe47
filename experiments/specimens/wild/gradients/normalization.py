"""Normalization by mean, variance or mean square."""

import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

EPS = 1e-6


def rms_norm(x, gain):
    """x / √(mean of x² over the features + ε), times the gain."""
    return x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * gain


def rms_norm_rule(ct, x, gain):
    """(g - h mean(g h)) / r for each row, with h = x / r and g = ct ⊙ gain."""
    r = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS)
    h, g = x / r, ct * gain
    return (g - h * (g * h).mean(axis=-1, keepdims=True)) / r, (ct * h).sum(axis=0)


RMS_NORM = Function("RMS norm", rms_norm, lambda g, scale: (normal(g, 5, 4, scale=scale), normal(g, 4)))


@found("example/rule#0", "axis", of=RMS_NORM, mended=rms_norm_rule)
def row_term_taken_along_the_columns(ct, x, gain):
    """The mean of g h is taken over the examples, where it belongs to the features of each."""
    r = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS)
    h, g = x / r, ct * gain
    return (g - h * (g * h).mean(axis=0, keepdims=True)) / r, (ct * h).sum(axis=0)
