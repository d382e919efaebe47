# ruff: noqa: N803 (matrices are capital letters, as in the lecture)
"""Indices, convolutions, linear algebra, elementary functions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    SOFTMAX_CROSS_ENTROPY,
    m,
    n_in,
    normal,
    uniform,
    weights,
)
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right


# Indices, convolutions, linear algebra --------------------------------------------------------------------------------


def embedding(table, words):
    """The rows of a table."""
    return table[words]


def repeated_words(generator: np.random.Generator, scale: float) -> tuple:
    """A table of seven words and a text in which some occur more than once, others never."""
    return weights(generator, scale, 7, n_in), jnp.asarray([[3, 1, 3], [0, 3, 6]], jnp.int32)


@right(of=Function("indexing", embedding, repeated_words))
def embedding_lookup(ct, table, words):
    """Each row is the sum over the occurrences of its word; an index has no gradient."""
    return jnp.zeros_like(table).at[words].add(ct), None


def picked(z, y):
    """The element y of each row."""
    return jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0]


@right(of=SOFTMAX_CROSS_ENTROPY._replace(area="indexing", function=picked))
def picked_elements(ct, z, y):
    """One cotangent in each row, zero elsewhere."""
    return ct[:, None] * jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype), None


def convolve(x, kernel):
    """The convolution of a signal with a kernel that lies within it."""
    return jnp.convolve(x, kernel, mode="valid")


@right(of=Function("convolution", convolve, lambda g, scale: (normal(g, 9), normal(g, 3, scale=scale))))
def convolution(ct, x, kernel):
    """By x a correlation with the kernel, by the kernel a correlation with x."""
    windows = x[jnp.arange(len(ct))[:, None] + jnp.arange(len(kernel))]
    return jnp.convolve(ct, kernel[::-1]), (ct @ windows)[::-1]


def channels(x, kernel):
    """A convolution layer in one dimension: x is (m, channels, length), the kernel (outputs, channels, width)."""
    return jax.lax.conv(x, kernel, (1,), "VALID")


@right(of=Function("convolution", channels, lambda g, scale: (normal(g, 2, 3, 7), normal(g, 4, 3, 2, scale=scale))))
def convolution_layer(ct, x, kernel):
    """Each offset in the kernel is a dense layer on a shifted x."""
    length, offsets = ct.shape[-1], range(kernel.shape[-1])
    dx = jnp.zeros_like(x)
    for k in offsets:
        dx = dx.at[..., k : k + length].add(jnp.einsum("mot,oc->mct", ct, kernel[..., k]))
    d_kernel = [jnp.einsum("mot,mct->oc", ct, x[..., k : k + length]) for k in offsets]
    return dx, jnp.stack(d_kernel, axis=-1)


def well_conditioned(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """A matrix times the scale, with a dominant diagonal."""
    return (scale * (2 * jnp.eye(n_in, dtype=jnp.float32) + 0.2 * normal(generator, n_in, n_in)),)


@right(of=Function("linear algebra", jnp.linalg.inv, well_conditioned))
def inverse(ct, A):
    """-A⁻ᵀ ct A⁻ᵀ."""
    transposed = jnp.linalg.inv(A).T
    return (-transposed @ ct @ transposed,)


@right(of=Function("linear algebra", jnp.linalg.solve, lambda g, scale: (*well_conditioned(g, scale), normal(g, n_in))))
def solution_of_linear_equations(ct, A, b):
    """A solution with Aᵀ by b, and its outer product with the solution by A."""
    db = jnp.linalg.solve(A.T, ct)
    return -jnp.outer(db, jnp.linalg.solve(A, b)), db


@right(of=Function("linear algebra", lambda A: jnp.linalg.slogdet(A)[1], well_conditioned))
def logarithm_of_the_determinant(ct, A):
    """A⁻ᵀ."""
    return (ct * jnp.linalg.inv(A).T,)


# Elementary functions -------------------------------------------------------------------------------------------------


def positive(generator: np.random.Generator, scale: float) -> tuple[Array]:
    """Numbers above zero."""
    return (uniform(generator, 0.5 * scale, 2.0 * scale, m, n_in),)


@right(of=Function("elementary", jnp.sqrt, positive))
def square_root(ct, x):
    """1/(2√x)."""
    return (ct / (2 * jnp.sqrt(x)),)


@right(of=Function("elementary", jnp.exp, positive))
def exponential(ct, x):
    """Its own derivative."""
    return (ct * jnp.exp(x),)


@right(of=Function("elementary", jnp.log, positive))
def logarithm(ct, x):
    """1/x."""
    return (ct / x,)


@right(of=Function("elementary", lambda x: x**3, positive))
def cube(ct, x):
    """3x²."""
    return (3 * ct * x * x,)


@right(of=Function("elementary", jnp.power, lambda g, scale: (*positive(g, scale), uniform(g, 0.5, 2.0, n_in))))
def power(ct, x, exponent):
    """By the base and, summed over the rows that share it, by the exponent."""
    by_exponent = ct * x**exponent * jnp.log(x)
    return ct * exponent * x ** (exponent - 1), by_exponent.sum(axis=0)


@right(of=Function("elementary", jnp.divide, lambda g, scale: (normal(g, m, n_in), *positive(g, scale))))
def quotient(ct, x, y):
    """1/y and -x/y²."""
    return ct / y, -ct * x / y**2


@right(of=Function("elementary", lambda x: jnp.log1p(jnp.expm1(x) ** 2), positive))
def reformulated_with_expm1(ct, x):
    """2u(u + 1)/(1 + u²) with u = e^x - 1; divided by u² where u is large, so that no square overflows."""
    u = jnp.expm1(x)
    return (ct * 2 * jnp.where(u < 1, u * (u + 1) / (1 + u**2), (1 + 1 / u) / (1 + 1 / u**2)),)


@right(of=Function("elementary", jnp.sin, lambda g, scale: (normal(g, m, n_in, scale=scale),)))
def sine_by_a_shift(ct, x):
    """cos x = 1 - 2 sin²(x/2)."""
    return (ct * (1 - 2 * jnp.sin(x / 2) ** 2),)


@right(of=Function("elementary", jax.lax.erf, lambda g, scale: (normal(g, m, n_in, scale=scale),)))
def error_function(ct, x):
    """2/√π e^(-x²)."""
    return (ct * (2 / math.sqrt(math.pi)) * jnp.exp(-x * x),)
