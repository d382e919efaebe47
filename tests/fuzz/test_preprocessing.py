"""Standardization of any numbers and mini-batches of any data: exact arithmetic, or a documented error."""

import math
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from jaxnet import fit_standardization, standardize
from jaxnet.preprocessing import flatten_images, minibatches
from tests.fuzz.values import DOCUMENTED, arrays, untouched

pytestmark = pytest.mark.usefixtures("unchecked")


def learn_and_apply(train):
    return standardize(fit_standardization(train), train)


compiled = jax.jit(learn_and_apply)
SHAPES = [(1, 2), (2, 1), (5, 2)]


def exactly_standardized(column):
    """(x - μ)/σ as fractions, to the nearest float; 0 for a constant feature."""
    exact = [Fraction(number) for number in column]
    mean = sum(exact) / len(exact)
    squares = [(number - mean) ** 2 for number in exact]
    variance = sum(squares) / len(squares)
    return [
        math.copysign(math.sqrt(q / variance if variance else 0), n - mean) for q, n in zip(squares, exact, strict=True)
    ]


@given(st.sampled_from(SHAPES).flatmap(lambda shape: arrays("float64", shape)))
def test_standardization_is_exact_arithmetic_on_any_scale(x):
    """Moments are taken around the first example: it is measured by the largest, and by what a spread can resolve."""
    if (np.ptp(x / 2, axis=0) > np.finfo(float).max / 32).any():
        return  # such a range is refused, and tested elsewhere
    with untouched(x):
        results = learn_and_apply(x), np.asarray(compiled(x))
    for result in results:
        assert np.isfinite(result).all()
        for column, learned in zip(x.T.tolist(), result.T, strict=True):
            if 0 < max(column) - min(column) < 1e-290:
                continue  # of a few subnormal units no deviation can be told
            np.testing.assert_allclose(learned, exactly_standardized(column), rtol=0, atol=1e-14)


@given(
    hnp.arrays(
        st.sampled_from(["float64", "float32", "int64", "uint8", "bool"]),
        st.lists(st.integers(0, 3), max_size=4).map(tuple),
    )
)
def test_features_are_finite_and_in_rows_or_refused_by_a_documented_error(x):
    with untouched(x):
        try:
            stats = fit_standardization(x)
        except DOCUMENTED:
            assert x.ndim != 2 or len(x) == 0 or not np.isfinite(x).all() or np.ptp(x / 2, axis=0).max() > 1e307
        else:
            assert (np.asarray(stats.scale) > 0).all()
        try:
            flat = flatten_images(x)
        except DOCUMENTED:
            assert x.ndim not in (3, 4)
        else:
            assert flat.shape == (len(x), math.prod(x.shape[1:]))


dealt = jax.jit(minibatches, static_argnums=2)


@given(
    st.sampled_from([1, 2, 5, 17]),
    st.sampled_from([1, 2, 5, 100]),
    st.sampled_from(["float32", "float64", "int8"]),
    st.integers(0, 2**63 - 1),
)
def test_minibatches_deal_every_example_once_compiled_as_eager(m, batch_size, dtype, seed):
    data = {"x": np.arange(2 * m).reshape(m, 2).astype(dtype), "y": np.arange(m)}
    with untouched(data):
        full, rest = jax.tree.map(np.asarray, dealt(jax.random.key(seed), data, batch_size))
    assert (full["x"].shape, rest["x"].shape) == ((m // batch_size, batch_size, 2), (m % batch_size, 2))
    x, y = (np.concatenate([full[name].reshape(-1, *rest[name].shape[1:]), rest[name]]) for name in "xy")
    assert sorted(y) == list(range(m))
    np.testing.assert_array_equal(x, data["x"][y])
    if seed % 8 == 0:
        eager = minibatches(jax.random.key(seed), data, batch_size)
        jax.tree.map(np.testing.assert_array_equal, eager, (full, rest))


LENGTHS = st.lists(st.integers(0, 2), max_size=3)
SIZE = st.one_of(st.integers(-2, 5), st.floats(), st.booleans(), st.none(), st.text(max_size=2))


@given(LENGTHS, SIZE)
def test_minibatches_are_dealt_or_refused_by_a_documented_error(lengths, batch_size):
    data = [jnp.zeros((length, 2)) for length in lengths]
    try:
        full, rest = jax.eval_shape(lambda key: minibatches(key, data, batch_size), jax.random.key(0))
    except DOCUMENTED:
        return
    assert len(full) == len(rest) == len(lengths)
