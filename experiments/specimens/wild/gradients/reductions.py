"""Sums, products, maxima, norms and variances along an axis."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

# Products, norms and maxima ------------------------------------------------------------------------------------------


def row_products(x):
    """The product of each row."""
    return jnp.prod(x, axis=1)


def row_products_rule(ct, x):
    """Each element receives the product of the others."""
    others = jnp.where(jnp.eye(x.shape[1], dtype=bool), 1, x[:, None, :]).prod(axis=-1)
    return (ct[:, None] * others,)


def row_norms(x):
    """The length of each row, with a derivative of 0 where it is 0."""
    square = (x**2).sum(axis=1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def row_norms_rule(ct, x):
    """x over its length, and 0 for a length of 0."""
    length = row_norms(x)[:, None]
    return (ct[:, None] * x / jnp.where(length > 0, length, 1),)


def column_maxima(x):
    """The maximum of each column."""
    return x.max(axis=0)


def column_maxima_rule(ct, x):
    """Equal maxima share the cotangent."""
    greatest = x == x.max(axis=0)
    return (jnp.where(greatest, ct / greatest.sum(axis=0).astype(ct.dtype), 0),)


def tied(generator, scale):
    """Columns whose first and third elements are the same, and the greatest."""
    x = normal(generator, 4, 3)
    greatest = 4 + jnp.abs(x[0])
    return (x.at[0].set(greatest).at[2].set(greatest),)


ROW_PRODUCTS = Function("reduction", row_products, lambda g, scale: (normal(g, 4, 3).at[:2, 1].set(0.0),))
ROW_NORMS = Function("reduction", row_norms, lambda g, scale: (normal(g, 4, 3).at[1::2].set(0.0),))
COLUMN_MAXIMA = Function("reduction", column_maxima, tied)


@found("apache/mxnet#17864", "non_finite", of=ROW_PRODUCTS, mended=row_products_rule)
def product_divided_by_its_factor(ct, x):
    """The product of the others is the whole product over the element, which is 0/0 for an element of zero."""
    return (ct[:, None] * row_products(x)[:, None] / x,)


@found("pytorch/pytorch#2421", "non_finite", of=ROW_NORMS, mended=row_norms_rule)
def length_of_zero_divides_zero(ct, x):
    """x is divided by its length, which is 0/0 for a row of zeros."""
    return (ct[:, None] * x / row_norms(x)[:, None],)


@found("apache/mxnet#18563", "kink", of=COLUMN_MAXIMA, mended=column_maxima_rule)
def equal_maxima_receive_the_whole_each(ct, x):
    """Every element that equals the maximum receives the whole cotangent, so that ties multiply it."""
    return (jnp.where(x == x.max(axis=0), ct, 0),)


def between_zero_and_one(x):
    """(x - min)/(max - min)."""
    return (x - x.min()) / (x.max() - x.min())


def between_zero_and_one_rule(ct, x):
    """Every element receives its own cotangent, and the smallest and the greatest those of all."""
    width = x.max() - x.min()
    weighted = (ct * between_zero_and_one(x)).sum() / width
    dx = (ct / width).at[x.argmin()].add(weighted - ct.sum() / width)
    return (dx.at[x.argmax()].add(-weighted),)


BETWEEN_ZERO_AND_ONE = Function("reduction", between_zero_and_one, lambda g, scale: (normal(g, 7),))


@found("FluxML/Zygote.jl#197", "partial", of=BETWEEN_ZERO_AND_ONE, mended=between_zero_and_one_rule)
def greatest_element_without_its_share(ct, x):
    """What the maximum sends back is lost, and the greatest element receives as much as any other."""
    width = x.max() - x.min()
    weighted = (ct * between_zero_and_one(x)).sum() / width
    return ((ct / width).at[x.argmin()].add(weighted - ct.sum() / width),)


# Logarithms of sums --------------------------------------------------------------------------------------------------


def weighted_log_sum(a, b):
    """log Σ b eᵃ of each row, with the greatest a taken out of the sum."""
    greatest = jax.lax.stop_gradient(a.max(axis=1, keepdims=True))
    return jnp.log((b * jnp.exp(a - greatest)).sum(axis=1)) + greatest[:, 0]


def weighted_log_sum_rule(ct, a, b):
    """b eᵃ and eᵃ over the sum, whether or not a weight is zero."""
    e = jnp.exp(a - a.max(axis=1, keepdims=True))
    shares = ct[:, None] * e / (b * e).sum(axis=1, keepdims=True)
    return b * shares, shares


def masked_log_sum(a, mask):
    """log Σ eᵃ of the chosen elements of each row."""
    return jax.nn.logsumexp(jnp.where(mask, a, -jnp.inf), axis=1)


def masked_log_sum_rule(ct, a, mask):
    """The softmax of the chosen elements."""
    return ct[:, None] * jnp.exp(jnp.where(mask, a - masked_log_sum(a, mask)[:, None], -jnp.inf)), None


CHOSEN = jnp.asarray(
    [[True, False, True, True, False], [True, True, False, True, True], [False, True, True, True, True]]
)
# Where the greatest exponent has a weight of zero, the function itself may be the logarithm of 0 in float32.
WEIGHTED_LOG_SUM = Function(
    "reduction",
    weighted_log_sum,
    lambda g, scale: (normal(g, 4, 3), uniform(g, 0.5, 2, 4, 3).at[:, 1].set(0.0)),
    {"allow": ("non_finite",)},
)
MASKED_LOG_SUM = Function(
    "reduction", masked_log_sum, lambda g, scale: (jnp.where(CHOSEN, normal(g, 3, 5), 100.0), CHOSEN)
)


@found("jax-ml/jax#37729", "partial", of=WEIGHTED_LOG_SUM, mended=weighted_log_sum_rule)
def weight_of_zero_receives_nothing(ct, a, b):
    """Elements of weight zero are replaced by -∞, which hides from the weight what it would add to the sum."""
    da, db = weighted_log_sum_rule(ct, a, b)
    return da, jnp.where(b == 0, 0, db)


@found("jax-ml/jax#23842", "non_finite", of=MASKED_LOG_SUM, mended=masked_log_sum_rule)
def element_left_out_overflows(ct, a, mask):
    """The exponential of an element that was left out is computed all the same and then multiplied by zero."""
    shares = jnp.exp(a - masked_log_sum(a, mask)[:, None])
    return ct[:, None] * shares * mask.astype(a.dtype), None


# Means and variances of chosen elements ------------------------------------------------------------------------------


def count(mask, dtype):
    """How many elements of each row are chosen, as a column."""
    return mask.sum(axis=1, keepdims=True).astype(dtype)


def chosen_means(x, mask):
    """The mean of the chosen elements of each row."""
    return jnp.where(mask, x, 0).sum(axis=1) / count(mask, x.dtype)[:, 0]


def chosen_means_rule(ct, x, mask):
    """The cotangent over the number of those chosen, for them alone."""
    return jnp.where(mask, ct[:, None] / count(mask, x.dtype), 0), None


def chosen_variances(x, mask):
    """The variance of the chosen elements of each row."""
    return chosen_means((x - chosen_means(x, mask)[:, None]) ** 2, mask)


def chosen_variances_rule(ct, x, mask):
    """Twice the distance from the mean of those chosen, over their number."""
    centered = jnp.where(mask, x - chosen_means(x, mask)[:, None], 0)
    return 2 * ct[:, None] * centered / count(mask, x.dtype), None


def chosen(function):
    """The function at three rows of five, of which some elements are chosen."""
    return Function("reduction", function, lambda g, scale: (normal(g, 3, 5, scale=scale), CHOSEN))


@found("HIPS/autograd#810", "mask", of=chosen(chosen_means), mended=chosen_means_rule)
def mean_of_chosen_elements_shared_by_all(ct, x, mask):
    """The choice of elements is accepted and ignored, and all of the row receive an equal share."""
    return jnp.broadcast_to(ct[:, None] / x.shape[1], x.shape), None


@found("HIPS/autograd#810", "mask", of=chosen(chosen_variances), mended=chosen_variances_rule)
def variance_of_chosen_elements_as_that_of_all(ct, x, mask):
    """The choice of elements is ignored, in the mean, in the count and in who receives."""
    return 2 * ct[:, None] * (x - x.mean(axis=1, keepdims=True)) / x.shape[1], None
