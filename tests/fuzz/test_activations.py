"""Every activation and its derivative, at any numbers: finite, in range, and that of autodiff."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from jaxnet import (
    gelu,
    relu,
    sigmoid,
    tanh,
)
from jaxnet.activations import (
    elu,
    gelu_tanh,
    identity,
    leaky_relu,
    silu,
    softplus,
)
from tests.fuzz.rounding import format_of, slope_rounding
from tests.fuzz.values import arrays, untouched

ACTIVATIONS = [elu, gelu, gelu_tanh, identity, leaky_relu, relu, sigmoid, silu, softplus, tanh]
DTYPES = ["float64", "float32", "bfloat16", "float16"]


def evaluated(z):
    """(g(z), g'(z)) of every activation, by name."""
    values = {g.name: g.value(z) for g in ACTIVATIONS}
    return {g.name: (values[g.name], g.derivative(values[g.name] if g.reads == "output" else z)) for g in ACTIVATIONS}


compiled = jax.jit(evaluated)


@jax.jit
def differentiated(z):
    return {g.name: jax.vmap(jax.grad(g.value))(z) for g in ACTIVATIONS}


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, (4,))))
def test_values_and_derivatives_are_finite_and_bounded_at_every_finite_number(z):
    with untouched(z):
        results = compiled(z)
    for name, (value, slope) in results.items():
        assert (value.dtype, slope.dtype) == (z.dtype, z.dtype), name
        a, g, wide = (np.asarray(part, np.float64) for part in (value, slope, z))
        assert np.isfinite(a).all(), (name, a)
        assert (g >= -0.2).all(), (name, g)
        assert (g <= 1.2).all(), (name, g)
        assert (abs(a) / 2 <= abs(wide) / 2 * (1 + 2 * float(jnp.finfo(z.dtype).eps)) + 1).all(), (name, a)


@given(arrays("float64", (4,)))
def test_derivatives_are_those_of_autodiff(z):
    """To units of 1, as accurate as the textbook forms that autodiff arrives at are; autodiff of z³ may overflow."""
    expected = differentiated(z)
    results = compiled(z)
    for g in ACTIVATIONS:
        slope, reference = np.asarray(results[g.name][1]), np.asarray(expected[g.name])
        wrong = abs(slope - reference) > 2 * slope_rounding(g, z, format_of(z.dtype))
        assert not (wrong & np.isfinite(reference)).any(), (g.name, slope, reference)
