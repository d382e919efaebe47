"""Initial weights have the documented distribution, and keep the variance that they promise to keep."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.initializers import (
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    lecun_normal,
    lecun_uniform,
    scaled_identity,
    zeros,
)
from tests.compare import WIDEST

# variance as a function of (n_in, n_out)
NORMAL = {
    lecun_normal: lambda n_in, n_out: 1 / n_in,
    he_normal: lambda n_in, n_out: 2 / n_in,
    glorot_normal: lambda n_in, n_out: 2 / (n_in + n_out),
}
UNIFORM = {
    lecun_uniform: NORMAL[lecun_normal],
    he_uniform: NORMAL[he_normal],
    glorot_uniform: NORMAL[glorot_normal],
}
SCHEMES = NORMAL | UNIFORM
N_OUT, N_IN = SHAPE = (500, 1200)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)
every_dtype = pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])


@functools.cache
def weights(scheme, dtype):
    """600,000 of them, in units of their documented standard deviation."""
    return np.asarray(scheme(jax.random.key(0), SHAPE, dtype), float) / math.sqrt(SCHEMES[scheme](N_IN, N_OUT))


def assert_mean(samples, expected):
    """Within 5 standard errors, which a right distribution exceeds once in 1.7 million keys."""
    error = samples.std() / math.sqrt(samples.size)
    mean = samples.mean()
    assert abs(mean - expected) <= 5 * error, f"{mean:.5g} is not {expected:.5g} ± 5 · {error:.2g}"


@every_dtype
@every_scheme
def test_weights_have_mean_zero_and_the_documented_variance(scheme, dtype):
    assert_mean(weights(scheme, dtype), 0)
    assert_mean(weights(scheme, dtype) ** 2, 1)


@every_dtype
@every_scheme
def test_weights_have_the_fourth_moment_of_their_distribution(scheme, dtype):
    """3σ⁴ for the normal and 9/5 σ⁴ for the uniform distribution."""
    assert_mean(weights(scheme, dtype) ** 4, 3 if scheme in NORMAL else 9 / 5)


@every_dtype
@pytest.mark.parametrize("scheme", UNIFORM, ids=lambda scheme: scheme.__name__)
def test_uniform_weights_fill_their_bounds(scheme, dtype):
    """The largest of N uniform numbers falls short of the bound by more than 20/N of it once in e^20 keys."""
    bound, rounding = math.sqrt(3), float(jnp.finfo(dtype).eps)
    for side in [weights(scheme, dtype).max(), -weights(scheme, dtype).min()]:
        assert (1 - 40 / (N_IN * N_OUT)) * bound * (1 - rounding) <= side <= bound * (1 + rounding)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("initializer", [*SCHEMES, zeros, constant(2.0), scaled_identity(2.0)])
def test_weights_have_the_shape_and_dtype_asked_for(initializer, dtype, key):
    weight = jax.eval_shape(lambda: initializer(key, (3, 5), dtype))
    assert (weight.shape, weight.dtype) == ((3, 5), jnp.dtype(dtype))


@pytest.mark.parametrize("initializer", [lecun_normal, lecun_uniform, zeros, constant(2.0), scaled_identity(2.0)])
def test_default_dtype_follows_the_default_of_jax(initializer, key):
    assert jax.eval_shape(lambda: initializer(key, (3, 5))).dtype == WIDEST
    with jax.enable_x64(False):
        assert jax.eval_shape(lambda: initializer(key, (3, 5))).dtype == jnp.float32


@every_scheme
def test_weights_depend_on_the_key_alone(scheme):
    same, again, other = (np.asarray(scheme(jax.random.key(seed), (3, 5))) for seed in [1, 1, 2])
    assert (same == again).all()
    assert (same != other).all()


@pytest.mark.parametrize("scheme", [lecun_normal, lecun_uniform], ids=lambda scheme: scheme.__name__)
def test_lecun_weights_keep_the_mean_square(scheme, key):
    """Var(z) = n_in · Var(w) · E[a²] = E[a²] through one layer, also where the inputs do not have mean 0."""
    a = np.random.default_rng(0).exponential(size=300)
    z = np.asarray(scheme(key, (5000, 300))) @ a
    assert_mean(z, 0)
    assert_mean(z**2 / np.square(a).mean(), 1)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("scheme", [he_normal, he_uniform], ids=lambda scheme: scheme.__name__)
def test_he_weights_keep_the_variance_through_relu_layers(scheme, key):
    """Through 20 layers of width n = 512, within 6% a layer; LeCun's weights would halve it at each.

    mean z² is multiplied a layer by (2/n) Σ relu(g)², g standard normal: a factor of mean 1 and variance 5/n. Over 20
    layers and 4 networks its logarithm averages -(5/n)/2 with a standard error of √(5/n/80) = 0.011.
    """
    width, depth, networks = 512, 20, 4

    def layer(z, key):
        return scheme(key, (width, width), "float32") @ jnp.maximum(z, 0), None

    def growth(key):
        z = jax.random.normal(key, (width,), "float32")
        deep, _ = jax.lax.scan(layer, z, jax.random.split(key, depth))
        return jnp.log(jnp.square(deep).mean() / jnp.square(z).mean()) / depth

    logarithm = jax.jit(jax.vmap(growth))(jax.random.split(key, networks)).mean()
    spread = 5 / width
    assert abs(logarithm + spread / 2) <= 5 * math.sqrt(spread / (depth * networks))


@pytest.mark.float64
def test_zeros_constant_and_scaled_identity_are_exact(key):
    np.testing.assert_array_equal(zeros(key, (2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(constant(1.5)(key, (2, 3), "float64"), np.full((2, 3), 1.5))
    np.testing.assert_array_equal(constant(1.5)(key, (4,), "float64"), np.full(4, 1.5))  # a bias
    for shape in [(3, 3), (2, 3), (3, 2)]:
        np.testing.assert_array_equal(scaled_identity(1.5)(key, shape, "float64"), 1.5 * np.eye(*shape))


@pytest.mark.parametrize("shape", [(), (3,), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("initializer", [*SCHEMES, scaled_identity(2.0)])
def test_weights_of_another_rank_are_refused(initializer, shape, key):
    with pytest.raises(ValueError, match=r"a weight has shape \(n_out, n_in\), got \(.*\)") as error:
        initializer(key, shape)
    assert str(error.value).endswith(f"got {shape}")


def test_factories_build_the_same_initializer_once():
    assert constant(0.5) == constant(0.5) is not constant(0.25)
    assert scaled_identity(0.5) == scaled_identity(0.5) is not scaled_identity(0.25)
