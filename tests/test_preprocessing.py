"""Standardization equals exact arithmetic on any scale; mini-batches deal every example once, in a uniform order."""

import functools
import itertools
import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import fit_standardization, standardize
from jaxnet.preprocessing import flatten_images, minibatches, random_order
from tests.compare import assert_close

# Standardization -----------------------------------------------------------------------------------------------------


def exactly_standardized(train, x):
    """(x - μ)/σ with μ and σ² of the training set as fractions; σ = 1 where it would be 0."""
    columns = []
    for learned, applied in zip(np.asarray(train, float).T.tolist(), np.asarray(x, float).T.tolist(), strict=True):
        mean = sum(map(Fraction, learned)) / len(learned)
        variance = sum((Fraction(value) - mean) ** 2 for value in learned) / len(learned)
        columns.append([float(Fraction(value) - mean) / math.sqrt(variance or 1) for value in applied])
    return np.array(columns).T


def learn_and_apply(train, x):
    return standardize(fit_standardization(train), x)


compiled = jax.jit(learn_and_apply)


def features(spread, offset, dtype):
    """A training and a test set of 3 features, 100 and 50 examples."""
    draw = np.random.default_rng(0).normal(size=(150, 3))
    draw = (np.asarray(offset) + spread * draw).astype(dtype)
    return draw[:100], draw[100:]


@pytest.mark.parametrize("run", [learn_and_apply, compiled], ids=["numpy", "jax"])
@pytest.mark.float64
def test_training_set_gets_mean_zero_and_standard_deviation_one(run):
    train, _ = features([1.0, 5.0, 0.01], [3.0, -7.0, 0.5], "float64")
    standardized = np.asarray(run(train, train))
    np.testing.assert_allclose(standardized.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose(standardized.std(0), 1, rtol=1e-14)
    assert_close(standardized, (train - train.mean(0)) / train.std(0), 1e-13)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_test_set_is_standardized_with_the_statistics_of_the_training_set(convert):
    stats = fit_standardization(convert(np.array([[1.0, 10.0], [3.0, 30.0]])))
    np.testing.assert_array_equal(stats.mean, [2, 20])
    np.testing.assert_array_equal(stats.scale, [1, 10])
    np.testing.assert_array_equal(standardize(stats, convert(np.array([[4.0, 0.0], [2.0, 25.0]]))), [[2, -2], [0, 0.5]])


@pytest.mark.parametrize(
    ("spread", "offset"),
    [(1, 0), (1, 1e6), (1, -1e6), (1e-6, 1), (1e30, 0), (1e30, 1e36), (1e-30, 0), (1e-30, 1e-24)],
    ids=str,
)
@pytest.mark.parametrize("kind", ["jax float32", "jax float64", "numpy float64"])
@pytest.mark.float64
def test_standardization_equals_exact_arithmetic(kind, spread, offset):
    """Within 8 units of rounding, also where the mean is a million times the spread and squares would overflow."""
    library, dtype = kind.split()
    train, test = features(spread, offset, dtype)
    run = learn_and_apply if library == "numpy" else compiled
    for x in [train, test]:
        expected = exactly_standardized(train, x).astype(dtype)
        assert_close(run(train, x), expected, 8 * float(jnp.finfo(dtype).eps))


def test_standardization_does_not_depend_on_which_example_is_first():
    """Moments are taken around the first: where it is far from all others, √m spreads, they are rounded by √m more."""
    train, test = features(1, 0, "float32")
    train[0] = [1e4, -1e6, 1e20]
    for x in [train, test]:
        rounding = float(jnp.finfo("float32").eps) * math.sqrt(len(train))
        np.testing.assert_allclose(compiled(train, x), exactly_standardized(train, x), rtol=0, atol=2 * rounding)


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(
    rows=st.integers(2, 3).flatmap(
        lambda m: st.lists(st.tuples(st.integers(-9, 9), st.integers(-1000, 1000)), min_size=m, max_size=m)
    ),
    exponent=st.integers(-60, 60),
    offset=st.integers(-(2**20), 2**20),
)
def test_standardization_equals_exact_arithmetic_on_small_sets(rows, exponent, offset):
    x = np.ldexp(np.array(rows, "float32") + np.float32(offset), exponent)
    np.testing.assert_allclose(compiled(x, x), exactly_standardized(x, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("examples", [1, 7])
def test_constant_features_become_zero(examples, dtype):
    x = np.tile(np.array([0.1, 0.0, -1e30, 1e-30], dtype), (examples, 1))
    for result in [learn_and_apply(x, x), compiled(x, x)]:
        np.testing.assert_array_equal(result, np.zeros_like(x))
    np.testing.assert_array_equal(fit_standardization(x).scale, 1)


def test_numpy_data_stays_numpy_in_float64():
    """Whatever the default of JAX, as pictures of integers do too."""
    counts = np.array([[0, 10], [255, 30], [1, 20]], "uint8")
    expected = exactly_standardized(counts, counts)
    with jax.enable_x64(False):
        for x in [counts, counts.astype("int64"), counts.astype("float64")]:
            standardized = learn_and_apply(x, x)
            assert isinstance(standardized, np.ndarray)
            assert_close(standardized, expected, 1e-15)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_integers_on_the_device_become_the_default_float(dtype):
    x = jnp.asarray(np.array([[0, 10], [255, 30], [1, 20]], dtype))
    assert_close(compiled(x, x), exactly_standardized(x, x), 1e-15)


def test_standardization_works_under_jit_and_vmap():
    train, test = features(1, [3.0, -7.0, 1e6], "float32")
    trains, tests = np.stack([train, 2 * train]), np.stack([test, test + 1])
    alone = [np.asarray(compiled(a, b)) for a, b in zip(trains, tests, strict=True)]
    assert_close(jax.jit(jax.vmap(learn_and_apply))(trains, tests), np.stack(alone), 1e-6)


@pytest.mark.usefixtures("nans_allowed")
def test_standardization_refuses_data_it_cannot_learn_from():
    with pytest.raises(ValueError, match=r"without examples, got shape \(0, 3\)"):
        fit_standardization(np.zeros((0, 3)))
    for shape in [(3,), (2, 4, 4)]:
        with pytest.raises(ValueError, match=r"features have shape \(m, n\), got .*flatten_images"):
            fit_standardization(np.zeros(shape))
    x = np.zeros((3, 2))
    for convert, bad in itertools.product([np.asarray, jnp.asarray], [np.nan, np.inf, -np.inf]):
        x[1, 0] = bad
        with pytest.raises(ValueError, match=rf"x must be finite, got {bad} at index \(1, 0\)"):
            fit_standardization(convert(x))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.float64
def test_standardization_refuses_a_range_that_overflows(convert):
    x = convert(np.array([[0.0, 1.7e308], [1.0, -1.7e308]]))
    with pytest.raises(ValueError, match=r"the range of x must be finite, got inf at index \(1,\)"):
        fit_standardization(x)


def test_a_deviation_that_underflows_divides_nothing_by_zero():
    """Of 0 and the smallest number the deviation is half of that, which rounds to 0."""
    x = np.array([[0.0], [5e-324]])
    assert fit_standardization(x).scale > 0
    np.testing.assert_array_equal(learn_and_apply(x, x), [[0], [1]])


def test_standardize_refuses_data_of_another_shape():
    stats = fit_standardization(np.eye(2))
    with pytest.raises(ValueError, match=r"training set had 2 features, x has shape \(5, 3\)"):
        standardize(stats, np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"features have shape \(m, n\), got \(2,\)"):
        standardize(stats, np.zeros(2))


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_pictures_are_read_row_by_row(convert):
    grey = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]])
    flat = flatten_images(convert(grey))
    assert isinstance(flat, type(convert(grey)))
    np.testing.assert_array_equal(flat, [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
    color = np.array([[[["r1", "g1"], ["r2", "g2"]], [["r3", "g3"], ["r4", "g4"]]]])
    codes = convert(np.vectorize(lambda name: 10 * int(name[1]) + "rg".index(name[0]))(color))
    np.testing.assert_array_equal(flatten_images(codes), [[10, 11, 20, 21, 30, 31, 40, 41]])


def test_no_pictures_are_no_vectors():
    assert flatten_images(np.zeros((0, 4, 5, 3))).shape == (0, 60)


@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (2, 4, 4, 3, 1)], ids=str)
def test_pictures_of_another_rank_are_refused(shape):
    with pytest.raises(ValueError, match=r"images have shape \(m, height, width\) or .*, got \(.*\)") as error:
        flatten_images(np.zeros(shape))
    assert str(error.value).endswith(f"got {shape}")


# Mini-batches --------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(1, 2))
def dealt(key, m, batch_size):
    """Mini-batches of examples that know their number: x = (i, -i), y = i."""
    i = jnp.arange(m)
    return minibatches(key, {"x": jnp.stack([i, -i], -1).astype("float32"), "y": i}, batch_size)


def order(key, m, batch_size=1):
    full, rest = dealt(key, m, batch_size)
    return np.concatenate([np.ravel(full["y"]), rest["y"]])


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    m=st.sampled_from([1, 5, 8]), batch_size=st.sampled_from([1, 3, 5, 100]), seed=st.integers(0, 2**32 - 1)
)
def test_minibatches_deal_every_example_exactly_once(m, batch_size, seed):
    full, rest = jax.tree.map(np.asarray, dealt(jax.random.key(seed), m, batch_size))
    count, left = divmod(m, batch_size)
    assert (full["x"].shape, full["y"].shape) == ((count, batch_size, 2), (count, batch_size))
    assert (rest["x"].shape, rest["y"].shape) == ((left, 2), (left,))
    assert (full["x"].dtype, rest["y"].dtype) == (jnp.float32, jnp.zeros((), int).dtype)
    x, y = (np.concatenate([full[name].reshape(-1, *rest[name].shape[1:]), rest[name]]) for name in "xy")
    assert sorted(y) == list(range(m))
    np.testing.assert_array_equal(x, np.stack([y, -y], -1))


def test_minibatches_depend_on_the_key_alone(key):
    other = jax.random.fold_in(key, 1)
    np.testing.assert_array_equal(order(key, 50), order(key, 50))
    np.testing.assert_array_equal(order(key, 50), order(key, 50, batch_size=9))
    assert (order(key, 50) != order(other, 50)).any()
    eager = minibatches(key, np.arange(50), 1)[0]
    np.testing.assert_array_equal(order(key, 50), eager[:, 0])


@pytest.mark.parametrize("m", [3, 4])
def test_every_order_is_equally_likely(m):
    """Each of the m! orders, within 5 standard errors of its frequency over 24,000 keys."""
    keys = jax.random.split(jax.random.key(0), 24_000)
    orders = jax.jit(jax.vmap(lambda key: minibatches(key, jnp.arange(m), m)[0][0]))(keys)
    found, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert sorted(map(tuple, found)) == list(itertools.permutations(range(m)))
    share = 1 / math.factorial(m)
    assert abs(counts - share * len(keys)).max() <= 5 * math.sqrt(len(keys) * share * (1 - share))


def test_every_example_is_equally_likely_at_every_position():
    m, keys = 100, jax.random.split(jax.random.key(0), 20_000)
    orders = np.asarray(jax.jit(jax.vmap(lambda key: minibatches(key, jnp.arange(m), m)[0][0]))(keys))
    counts = np.zeros((m, m))
    np.add.at(counts, (np.arange(m), orders), 1)
    assert abs(counts - len(keys) / m).max() <= 6 * math.sqrt(len(keys) / m * (1 - 1 / m))


compiled_random_order = jax.jit(random_order)


@pytest.mark.parametrize("m", [1, 2, 255, 256, 257, 2**16, 2**16 + 1, 100_000])
def test_random_order_sorts_the_bits_and_holds_every_example_once(m):
    index_bits = (m - 1).bit_length() if m <= 2**16 else 0  # which are not compared
    bits = np.random.default_rng(0).integers(2**32, size=m, dtype="uint32")
    for source in [bits, np.full_like(bits, 7)]:  # all equal is the worst case
        order = np.asarray(compiled_random_order(jnp.asarray(source)))
        np.testing.assert_array_equal(np.sort(order), np.arange(m))
        sorted_bits = source[order] >> index_bits
        assert (sorted_bits[1:] >= sorted_bits[:-1]).all()


def test_minibatches_refuse_what_they_cannot_deal(key):
    for batch_size in [0, -1]:
        with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
            minibatches(key, jnp.ones(3), batch_size)
    with pytest.raises(ValueError, match=r"same number of examples, at least 1, got \[3, 4\]"):
        minibatches(key, (jnp.ones((3, 2)), jnp.ones(4)), 2)
    with pytest.raises(ValueError, match=r"at least 1, got \[0\]"):
        minibatches(key, (jnp.ones((0, 2)), jnp.ones(0)), 2)
    with pytest.raises(ValueError, match=r"at least 1, got \[\]"):
        minibatches(key, (), 2)
