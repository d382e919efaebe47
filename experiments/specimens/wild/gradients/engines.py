# ruff: noqa: N803 (matrices are capital letters, as in the lecture)
"""What an engine for automatic differentiation does between the operations: adding up, broadcasting, its order."""

import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


def times_exponential(x):
    """x eˣ, which uses x twice."""
    return x * jnp.exp(x)


def times_exponential_rule(ct, x):
    """eˣ + x eˣ."""
    return (ct * (1 + x) * jnp.exp(x),)


TIMES_EXPONENTIAL = Function("engine", times_exponential, lambda g, scale: (normal(g, 5),))


@found("karpathy/nn-zero-to-hero#52", "accumulation", of=TIMES_EXPONENTIAL, mended=times_exponential_rule)
def exponential_overwrites_the_gradient(ct, x):
    """The backward pass of the exponential assigns the gradient instead of adding to what the product left there."""
    return (ct * x * jnp.exp(x),)


def shared_product(x, a):
    """x (x a) + x x + x (x a), where x a is computed once."""
    xa = x * a
    return x * xa + x * x + x * xa


def shared_product_rule(ct, x, a):
    """4 x a + 2 x; the derivative with respect to a is not wanted."""
    return ct * (4 * x * a + 2 * x), None


SHARED_PRODUCT = Function(
    "engine",
    shared_product,
    lambda g, scale: (uniform(g, 0.5, 1.5, 5), uniform(g, 0.5, 1.5, 5)),
    {"argnums": (0,)},
)


@found("sebgao/cTensor#5", "extra_term", of=SHARED_PRODUCT, mended=shared_product_rule)
def shared_product_sent_back_twice(ct, x, a):
    """A node on two paths is sent back each time it is reached, the second time with all that it has gathered."""
    gathered = x + 2 * x  # the node's gradient at the first visit, and at the second
    return ct * (2 * x * a + 2 * x + a * gathered), None


def product_and_double(A, B):
    """A B and 2 A."""
    return A @ B, 2 * A


def product_and_double_rule(ct, A, B):
    """A receives from both."""
    d_product, d_double = ct
    return d_product @ B.T + 2 * d_double, A.T @ d_product


PRODUCT_AND_DOUBLE = Function("engine", product_and_double, lambda g, scale: (normal(g, 2, 4), normal(g, 4, 3)))


@found("NVIDIA/warp#168", "accumulation", of=PRODUCT_AND_DOUBLE, mended=product_and_double_rule)
def product_overwrites_the_gradient_of_its_factor(ct, A, B):
    """The adjoint of the matrix product overwrites what the factor had received from its other use."""
    d_product, _ = ct
    return d_product @ B.T, A.T @ d_product


def added(x, b):
    """x + b for every row."""
    return x + b


def added_rule(ct, x, b):
    """b is shared by the rows."""
    return ct, ct.sum(axis=0)


def masked(h, mask):
    """h times a number for each position, shared by the features."""
    return h * mask


def masked_rule(ct, h, mask):
    """The sum over the features keeps their axis."""
    return ct * mask, (ct * h).sum(axis=-1, keepdims=True)


ADDED = Function("engine", added, lambda g, scale: (normal(g, 5, 4), normal(g, 4, scale=scale)))
MASKED = Function("engine", masked, lambda g, scale: (normal(g, 2, 4, 3), normal(g, 2, 4, 1, scale=scale)))


@found("apache/tvm#2465", "missing_reduction", of=ADDED, mended=added_rule)
def cotangent_broadcast_where_it_must_be_summed(ct, x, b):
    """The gradient of a broadcast summand is broadcast to the shape of the sum instead of being collapsed."""
    return ct, jnp.broadcast_to(ct, x.shape)


@found("tenstorrent/tt-metal#40008", "missing_reduction", of=MASKED, mended=masked_rule)
def broadcast_factor_not_reduced(ct, h, mask):
    """The gradient of a broadcast factor keeps the axis along which the factor has a single element."""
    return ct * mask, ct * h
