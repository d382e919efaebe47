"""Every loss at any outputs: its definition in exact differences, finite, example by example; bad targets refused."""

import functools
import math
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from jaxnet import (
    binary_cross_entropy,
    relu,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.losses import squared_error_through, textbook_cross_entropy
from tests.fuzz.values import DOCUMENTED, arrays, untouched

LOSSES = [
    binary_cross_entropy,
    softmax_cross_entropy,
    squared_error,
    squared_error_through(relu),
    squared_error_through(tanh),
    textbook_cross_entropy,
]
SHAPES = [(3, 1), (3, 4)]


@functools.cache
def compiled(loss):
    """L and ∂L/∂z, of the batch and of each example alone."""

    def both(z, y):
        return loss.value(z, y), loss.gradient(z, y)

    return jax.jit(lambda z, y: (both(z, y), jax.vmap(both)(z, y)))


@functools.cache
def differentiated(loss):
    return jax.jit(jax.grad(lambda z, y: loss.value(z, y).sum()))


def assert_near(actual, expected, terms, dtype, share=1.0):
    """Within 8 units of the terms that were added, or of the smallest normal number; what overflows may be infinite.

    What is given may be a share of what was computed, so that the expected number does not overflow.
    """
    info = jnp.finfo(dtype)
    actual, expected, terms = (np.asarray(part, np.float64) for part in (actual, expected, terms))
    slack = 8 * (float(info.eps) * terms + float(info.tiny))
    too_large = expected / 2 + slack / 2 >= share * float(info.max) / 2
    wrong = ~(abs(np.where(np.isfinite(actual), actual, np.nan) - expected) <= slack)
    assert not (wrong & ~(too_large & (actual == np.inf))).any(), (actual, expected)


def outputs(dtypes=("float64", "float32")):
    return st.tuples(st.sampled_from(dtypes), st.sampled_from(SHAPES)).flatmap(lambda drawn: arrays(*drawn))


LARGEST = np.finfo(float).max


def softplus(z):
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


@given(outputs(), st.sampled_from([0.0, 1.0, 0.25, 2.0**-20]))
def test_binary_cross_entropy_is_its_definition(z, label):
    y = np.full_like(z, label)
    with untouched(z, y):
        (value, gradient), alone = compiled(binary_cross_entropy)(z, y)
    rows = z.astype(np.float64).tolist()
    with np.errstate(over="ignore"):
        losses = [math.fsum(label * softplus(-t) / 2 + (1 - label) * softplus(t) / 2 for t in row) for row in rows]
        assert_near(value / 2, losses, losses, z.dtype, share=0.5)
    chances = [[math.exp(-softplus(-t)) for t in row] for row in rows]
    others = [[math.exp(-softplus(t)) for t in row] for row in rows]
    terms = (1 - label) * np.array(chances) + label * np.array(others)
    assert_near(gradient, (1 - label) * np.array(chances) - label * np.array(others), terms, z.dtype)
    assert_near(alone[1], gradient, terms, z.dtype)


@given(outputs(), st.integers(0, 2**16))
def test_softmax_cross_entropy_is_its_definition(z, seed):
    """In differences s = z_k - max z that are exact, as the sum of two floats: e^s = e^hi (1 + lo)."""
    z = np.concatenate([z, -z], axis=1)
    y = np.random.default_rng(seed).integers(z.shape[1], size=len(z))
    with untouched(z, y):
        (value, gradient), alone = compiled(softmax_cross_entropy)(z, y)
    for row, label, loss, slopes, by_itself in zip(z.tolist(), y, value, gradient, alone[1], strict=True):
        exact = [max(Fraction(t) - Fraction(max(row)), -Fraction(np.finfo(float).max)) for t in row]
        high = [float(s) for s in exact]
        high = [float(s) for s in exact]
        e = [math.exp(h) * (1 + float(s - Fraction(h))) for s, h in zip(exact, high, strict=True)]
        top = row.index(max(row))
        others = math.log1p(math.fsum(e[:top] + e[top + 1 :]))
        expected = [share / math.fsum(e) for share in e]
        expected[label] = -math.fsum(e[:label] + e[label + 1 :]) / math.fsum(e)
        assert_near(loss, others - high[label], others - high[label], z.dtype)
        assert_near(slopes, expected, np.abs(expected), z.dtype)
        assert_near(by_itself, expected, np.abs(expected), z.dtype)


@given(st.sampled_from([loss for loss in LOSSES if loss.name.startswith("squared")]), outputs(), st.data())
def test_squared_errors_are_their_definition(loss, z, data):
    y = data.draw(arrays(z.dtype, z.shape))
    with untouched(z, y):
        (value, gradient), _ = compiled(loss)(z, y)
    wide = z.astype(np.float64)
    prediction = {"squared_error_through(relu)": np.maximum(wide, 0), "squared_error_through(tanh)": np.tanh(wide)}
    a = prediction.get(loss.name, wide)
    slope = {"squared_error_through(relu)": wide > 0, "squared_error_through(tanh)": 1 - np.square(np.tanh(wide))}
    with np.errstate(over="ignore"):
        off, terms = a - y.astype(np.float64), abs(a) + abs(y.astype(np.float64))
        squares, most = np.square(off).sum(-1) / 2, np.square(terms).sum(-1) / 2
        fits = most < float(jnp.finfo(z.dtype).max) / 16
        assert_near(value[fits], squares[fits], most[fits], z.dtype)
        fits = (terms < float(jnp.finfo(z.dtype).max) / 16) & ~((wide > 0) & (wide < float(jnp.finfo(z.dtype).tiny)))
        assert_near(gradient[fits], (off * slope.get(loss.name, 1.0))[fits], terms[fits], z.dtype)


@given(st.sampled_from(LOSSES[:5]), arrays("float64", (3, 2), 1e100), st.integers(0, 2**16))
def test_gradients_are_those_of_autodiff(loss, z, seed):
    generator = np.random.default_rng(seed)
    y = generator.integers(2, size=3) if loss is softmax_cross_entropy else generator.choice([0, 1, 0.25], (3, 2))
    _, gradient = compiled(loss)(z, y)[0]
    assert_near(gradient, differentiated(loss)(z, y), 1 + abs(z), z.dtype)


@given(outputs(("float64", "float32", "bfloat16", "float16")))
def test_cross_entropies_are_finite_at_every_finite_output(z):
    z = np.concatenate([z, z / 2, -z], axis=1)
    for loss, y in [(binary_cross_entropy, np.ones_like(z)), (softmax_cross_entropy, np.zeros(len(z), int))]:
        (value, gradient), _ = compiled(loss)(z, y)
        assert (value.dtype, gradient.dtype) == (z.dtype, z.dtype)
        assert not np.isnan(np.asarray(value, np.float64)).any()
        assert (np.asarray(value, np.float64) >= 0).all()
        assert (abs(np.asarray(gradient, np.float64)) <= 1 + jnp.finfo(z.dtype).eps).all()


SIZES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@pytest.mark.usefixtures("unchecked")
@given(
    st.sampled_from(LOSSES),
    SIZES,
    hnp.arrays(st.sampled_from(["float32", "int8", "int64", "uint8", "bool", "complex64"]), SIZES, elements=None),
)
def test_targets_fit_or_are_refused_by_a_documented_error(loss, shape, y):
    z = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        y = loss.targets(z, y)
        value, gradient = jax.eval_shape(lambda z, y: (loss.value(z, y), loss.gradient(z, y)), z, y)
    except DOCUMENTED:
        return
    assert (value.shape, gradient.shape) == (shape[:-1], shape)
