# ruff: noqa: N803, N806 (matrices are capital letters)
"""Right rules in half precision that accumulate in float32, of mixed dtypes, and of arguments of extreme size."""

import math

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import at_least_float32, labels, normal, uniform, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right

AREA = "precision"
FLAX = "google/flax flax/linen/normalization.py"


# Half precision with float32 inside ----------------------------------------------------------------------------------

EPS = 1e-5


def layer_norm(x, gain):
    """Layer normalization, computed in float32 at least and returned in the input's dtype."""
    wide = at_least_float32(x)
    centered = wide - wide.mean(axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt((centered**2).mean(axis=-1, keepdims=True) + EPS)
    return (centered * rstd * at_least_float32(gain)).astype(x.dtype)


LAYER_NORM = Function(AREA, layer_norm, lambda g, scale: (normal(g, 6, 4), weights(g, scale, 4)))


@right(of=LAYER_NORM.cast(jnp.bfloat16, AREA), source=FLAX)
def layer_norm_of_bfloat16_in_float32(ct, x, gain):
    """Everything is widened first, the sums too, and narrowed once at the end."""
    wide, wide_ct = at_least_float32(x), at_least_float32(ct)
    centered = wide - wide.mean(axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt((centered**2).mean(axis=-1, keepdims=True) + EPS)
    x_hat, g = centered * rstd, wide_ct * at_least_float32(gain)
    dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * rstd
    return dx.astype(x.dtype), (wide_ct * x_hat).sum(axis=0).astype(gain.dtype)


def rms_norm(x, weight):
    """Normalization by the root of the mean square; the weights have their own dtype, and the output that of x."""
    wide = at_least_float32(x)
    return (wide * jax.lax.rsqrt((wide**2).mean(axis=-1, keepdims=True) + EPS) * weight).astype(x.dtype)


@right(
    of=Function(AREA, rms_norm, lambda g, scale: (normal(g, 6, 4).astype(jnp.bfloat16), weights(g, scale, 4))),
    source="jax-ml/jax jax/experimental/pallas/ops/gpu/rms_norm.py",
)
def rms_norm_of_bfloat16_with_float32_weights(ct, x, weight):
    """The weights' gradient stays in float32, that of x goes back to bfloat16."""
    wide, wide_ct = at_least_float32(x), at_least_float32(ct)
    rstd = jax.lax.rsqrt((wide**2).mean(axis=-1, keepdims=True) + EPS)
    x_hat, g = wide * rstd, wide_ct * weight
    dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * rstd
    return dx.astype(x.dtype), (wide_ct * x_hat).sum(axis=0).astype(weight.dtype)


def dense(x, W, b):
    """x Wᵀ + b in the dtype of x, with parameters of another."""
    return x @ W.T.astype(x.dtype) + b.astype(x.dtype)


@right(
    of=Function(
        AREA, dense, lambda g, scale: (normal(g, 6, 4).astype(jnp.float16), weights(g, scale, 3, 4), normal(g, 3))
    ),
    source="google/flax flax/linen/linear.py",
)
def dense_in_float16_with_float32_parameters(ct, x, W, b):
    """Parameters' gradients are products of half precision that are summed in the parameters' dtype."""
    dW = jnp.matmul(ct.T, x, preferred_element_type=at_least_float32(x).dtype)
    return ct @ W.astype(x.dtype), dW.astype(W.dtype), at_least_float32(ct).sum(axis=0).astype(b.dtype)


def cross_entropy(logits, y):
    """Cross-entropy of each row, in float32 at least whatever the logits are."""
    return -jnp.take_along_axis(jax.nn.log_softmax(at_least_float32(logits)), y[:, None], axis=-1)[:, 0]


CROSS_ENTROPY = Function(AREA, cross_entropy, lambda g, scale: (normal(g, 5, 4, scale=scale), labels(g, 4, 5)))


@right(of=CROSS_ENTROPY.cast(jnp.bfloat16, AREA), source="google-research/t5x t5x/losses.py")
def cross_entropy_in_float32_of_bfloat16_logits(ct, logits, y):
    """The losses' cotangent is in float32, the logits' in their own dtype."""
    p = jax.nn.softmax(at_least_float32(logits))
    return (ct[:, None] * (p - jax.nn.one_hot(y, logits.shape[-1], dtype=p.dtype))).astype(logits.dtype), None


def pooled(x):
    """Means of windows of four, summed in float32 and returned in the input's dtype."""
    return at_least_float32(x).reshape(len(x), -1, 4).mean(axis=-1).astype(x.dtype)


@right(
    of=Function(AREA, pooled, lambda g, scale: (normal(g, 3, 8, scale=scale),)).cast(jnp.float16, AREA),
    source="google-deepmind/dm-haiku haiku/_src/pool.py",
)
def mean_pooling_in_float16(ct, x):
    """A quarter of the cotangent, repeated; exact in any dtype."""
    return (jnp.repeat(ct / 4, 4, axis=1),)


def embedding(table, tokens):
    """Rows of a table."""
    return table[tokens]


@right(
    of=Function(AREA, embedding, lambda g, scale: (weights(g, scale, 4, 3), labels(g, 2, 40))).cast(jnp.bfloat16, AREA),
    source="pytorch/pytorch tools/autograd/derivatives.yaml",
)
def embedding_of_frequent_words_summed_in_float32(ct, table, tokens):
    """Twenty cotangents fall on each of two rows, whose sum in bfloat16 would lose the last of them."""
    wide = jnp.zeros_like(at_least_float32(table)).at[tokens].add(at_least_float32(ct))
    return wide.astype(table.dtype), None


# Extreme sizes -------------------------------------------------------------------------------------------------------


@right(
    of=Function(AREA, lambda x: jax.nn.logsumexp(x, axis=-1), lambda g, scale: (100 + normal(g, 5, 4, scale=scale),)),
    source="tensorflow/probability tensorflow_probability/python/math/generic.py",
)
def logsumexp_of_numbers_whose_exponentials_overflow(ct, x):
    """The differences to the maximum are exact; those to the output would have lost two digits."""
    e = jnp.exp(x - x.max(axis=-1, keepdims=True))
    return (ct[:, None] * e / e.sum(axis=-1, keepdims=True),)


@right(
    of=Function(AREA, lambda x: jnp.var(x, axis=-1), lambda g, scale: (1e3 + normal(g, 5, 4, scale=scale),)),
    source="HIPS/autograd autograd/numpy/numpy_vjps.py",
)
def variance_of_numbers_far_from_zero(ct, x):
    """2(x - mean)/n, from differences to the first element, as the mean is a thousand deviations away."""
    shifted = x - x[:, :1]
    return (2 * ct[:, None] * (shifted - shifted.mean(axis=-1, keepdims=True)) / x.shape[-1],)


def fast_moments(x):
    """Mean and variance of each feature, the latter as the mean of the squares less the square of the mean."""
    mean = x.mean(axis=0)
    return mean, jnp.maximum((x**2).mean(axis=0) - mean**2, 0)


@right(of=Function(AREA, fast_moments, lambda g, scale: (normal(g, 5, 3, scale=scale),)), source=FLAX)
def variance_by_squares_with_a_centered_rule(ct, x):
    """The function subtracts squares, the rule does not; both outputs have cotangents."""
    return ((ct[0] + 2 * ct[1] * (x - x.mean(axis=0))) / len(x),)


@right(
    of=Function(
        AREA,
        lambda x: jax.nn.gelu(x, approximate=False),
        lambda g, scale: (jnp.concatenate([uniform(g, -9.0, -4.0, 5, 2), uniform(g, 4.0, 9.0, 5, 1)], axis=1),),
    ),
    source="jax-ml/jax jax/_src/nn/functions.py",
)
def gelu_in_its_tails(ct, x):
    """Φ(x) + x φ(x), with the complementary error function, whose tails keep their digits."""
    density = jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return (ct * (0.5 * jax.lax.erfc(-x / math.sqrt(2)) + x * density),)


def log_odds_loss(z, y):
    """log(1 + e^z) - z y, for log odds of up to a hundred."""
    return jax.nn.softplus(z) - z * y


@right(
    of=Function(AREA, log_odds_loss, lambda g, scale: (uniform(g, -100.0, 100.0, 5, 3), labels(g, 2, 5, 3))),
    source="google-deepmind/optax optax/losses/_classification.py",
)
def loss_of_certain_predictions_without_subtraction(ct, z, y):
    """σ(z) for the label 0, and -σ(-z) for the label 1, however small they are."""
    return ct * jnp.where(y == 1, -jax.nn.sigmoid(-z), jax.nn.sigmoid(z)), None


def scaled_columns(x, exponents):
    """The logarithm of the row's sum of x 2^exponents."""
    return jnp.log((x * 2.0**exponents).sum(axis=-1))


@right(
    of=Function(
        AREA,
        scaled_columns,
        lambda g, scale: (uniform(g, 0.5, 2.0, 5, 4), jnp.asarray([-60, -2, 0, 3], jnp.float32)),
    ),
    source="HIPS/autograd autograd/numpy/numpy_vjps.py",
)
def powers_of_two_of_very_different_size(ct, x, exponents):
    """The derivative of 2^n is 2^n log 2, for shares from 1e-19 to 1."""
    power = 2.0**exponents
    share = ct[:, None] / (x * power).sum(axis=-1, keepdims=True)
    return share * power, math.log(2) * (share * x * power).sum(axis=0)
