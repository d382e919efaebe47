"""How far rounding may take a gradient: a running error analysis, layer by layer, in place of a tolerance.

Beside every quantity stands a bound of its error: what its inputs' errors grow to, and what rounding adds. A sum of n
products is off by at most (n + 2) units of Σ|products|, however much of it cancels. Bounds that overflow claim nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet import binary_cross_entropy, relu, softmax_cross_entropy
from jaxnet.activations import (
    Activation,
    gelu_tanh,
    identity,
    leaky_relu,
)
from jaxnet.layers import Dense
from jaxnet.losses import Loss

UNITS = 8  # of rounding, in one activation or derivative
STEEPEST = 1.2  # no activation has a larger |g'| or |g''|
PIECEWISE_LINEAR = (identity, relu, leaky_relu)


class Format(NamedTuple):
    """The numbers of a dtype: its unit of rounding, its smallest normal number and its largest."""

    unit: float
    tiny: float
    largest: float


def format_of(dtype: Any) -> Format:
    info = jnp.finfo(dtype)
    return Format(float(info.eps), float(info.tiny), float(info.max))


class Bounded(NamedTuple):
    """A quantity, and a bound of its error."""

    value: Array
    error: Array


def _rounding(magnitude: Array, terms: float, form: Format, nonzero: Array | None = None) -> Array:
    """What rounding adds to a sum of so many terms: nothing to zeros, and no bound to what may overflow.

    A product of numbers that are not 0 may be read as 0 here too, so that the factors tell where it is `nonzero`.
    """
    nonzero = magnitude > 0 if nonzero is None else nonzero
    error = terms * (form.unit * magnitude + jnp.where(nonzero, form.tiny, 0))
    return jnp.where(magnitude < form.largest / 16, error, jnp.inf)


def _product(a: Bounded, b: Bounded, form: Format) -> Bounded:
    """The matrix product a b."""
    largest_a, largest_b = (abs(x.value) + x.error for x in (a, b))
    nonzero = (largest_a > 0).astype(a.value.dtype) @ (largest_b > 0).astype(b.value.dtype) > 0
    added = _rounding(largest_a @ largest_b, a.value.shape[-1] + 2, form, nonzero)
    return Bounded(a.value @ b.value, a.error @ largest_b + abs(a.value) @ b.error + added)


def _times(a: Bounded, b: Bounded, form: Format) -> Bounded:
    largest_a, largest_b = (abs(x.value) + x.error for x in (a, b))
    added = _rounding(largest_a * largest_b, 2, form, (largest_a > 0) & (largest_b > 0))
    return Bounded(a.value * b.value, a.error * largest_b + abs(a.value) * b.error + added)


def _plus(a: Bounded, b: Bounded, form: Format) -> Bounded:
    added = _rounding(abs(a.value) + a.error + abs(b.value) + b.error, 1, form)
    return Bounded(a.value + b.value, a.error + b.error + added)


def _given(value: Array, form: Format) -> Bounded:
    """An input: exact, but that a subnormal number may be read as 0."""
    return Bounded(value, jnp.where(abs(value) < form.tiny, abs(value), 0))


def _divided(a: Bounded, m: int, form: Format) -> Bounded:
    """A factor that the compiler may divide by m in place of the other, after which it may be read as 0."""
    return Bounded(a.value, a.error + jnp.where(abs(a.value) < m * form.tiny, abs(a.value), 0))


def slope_rounding(activation: Activation, z: Array, form: Format) -> Array:
    """What rounding adds to g'(z); autodiff of `gelu_tanh` multiplies σ(u)(1 - σ(u)), a unit of 1 off, by z du/dz."""
    factor = 1 + jnp.clip(abs(z), 0, 25) ** 3 if activation == gelu_tanh else jnp.ones_like(z)
    return UNITS * form.unit * factor


def _activated(activation: Activation, z: Bounded, form: Format) -> tuple[Bounded, Bounded]:
    """a = g(z) and g'(z), whose textbook forms, 1 - a² for instance, are accurate to units of 1 only."""
    a = activation.value(z.value)
    slope = activation.derivative(a if activation.reads == "output" else z.value)
    added = _rounding(abs(a) + abs(z.value * slope), UNITS, form)
    if activation in PIECEWISE_LINEAR:
        uncertain = jnp.where((abs(z.value) <= z.error) & (z.error > 0), STEEPEST, 0.0)
        slope_error = jnp.zeros_like(a) if activation == identity else uncertain
    else:
        slope_error = STEEPEST * z.error + slope_rounding(activation, z.value, form)
    return Bounded(a, STEEPEST * z.error + added), Bounded(slope, slope_error)


def _loss_gradient(loss: Loss, output: Activation, z: Bounded, y: Array, form: Format) -> Bounded:
    """∂L/∂z: ŷ - y where the loss contains the activation of ŷ, (g(z) - y) g'(z) where it is a squared error."""
    if loss in (binary_cross_entropy, softmax_cross_entropy):
        error = jnp.broadcast_to(z.error.max(-1, keepdims=True), z.error.shape) + UNITS * form.unit
        return Bounded(loss.gradient(z.value, y), error)
    prediction, slope = _activated(output, z, form)
    return _times(_plus(prediction, _given(-y.reshape(z.value.shape), form), form), slope, form)


def gradient_errors(
    hidden: Activation, loss: Loss, output: Activation, params: Sequence[Any], x: Array, y: Array, form: Format
) -> Sequence[Any]:
    """A bound for each number of the gradient that `cost_and_gradient` returns for an `mlp` and a batch x (m, n)."""
    denses = [layer for layer in params if isinstance(layer, Dense)]
    a, inputs, slopes = _given(x, form), [], []
    z = a
    for i, (weight, bias) in enumerate(denses):
        inputs.append(a)
        z = _product(a, _given(weight.T, form), form)
        z = _plus(z, _given(jnp.broadcast_to(bias, z.value.shape), form), form)
        if i < len(denses) - 1:
            a, slope = _activated(hidden, z, form)
            slopes.append(slope)
    m = jnp.full_like(z.value, 1 / len(x))
    delta = _times(_loss_gradient(loss, output, z, y, form), _given(m, form), form)
    bounds: list[Any] = []
    for i, (weight, _) in reversed(list(enumerate(denses))):
        transposed = Bounded(delta.value.T, delta.error.T)
        ones = _given(jnp.ones((len(x), 1)), form)
        given = _divided(inputs[i], len(x), form)
        bounds.append(Dense(_product(transposed, given, form).error, _product(transposed, ones, form).error[:, 0]))
        if i:
            bounds.append(())
            delta = _product(delta, _divided(_given(weight, form), len(x), form), form)
            delta = _times(delta, slopes[i - 1], form)
    return jax.tree.map(lambda bound: jnp.where(jnp.isnan(bound), jnp.inf, bound), tuple(reversed(bounds)))
