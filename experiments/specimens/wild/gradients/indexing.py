"""Rows of a table, elements by index, slices, segments and sorting."""

import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import labels, normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

# Reading by index ----------------------------------------------------------------------------------------------------


def rows_of_a_table(table, indices):
    """One row of the table for each index."""
    return table[indices]


def rows_of_a_table_rule(ct, table, indices):
    """A row read several times receives the sum of its cotangents."""
    return jnp.zeros_like(table).at[indices].add(ct), None


# Seven indices into five rows: at least two are the same.
ROWS = Function("indexing", rows_of_a_table, lambda g, scale: (normal(g, 5, 3, scale=scale), labels(g, 5, 7)))


@found("PaddlePaddle/Paddle#17662", "accumulation", of=ROWS, mended=rows_of_a_table_rule)
def repeated_row_keeps_one_cotangent(ct, table, indices):
    """The cotangents of a row that was read several times overwrite each other."""
    return jnp.zeros_like(table).at[indices].set(ct), None


@found("ooples/AiDotNet.Tensors#894", "transpose", of=ROWS, mended=rows_of_a_table_rule)
def cotangent_gathered_instead_of_scattered(ct, table, indices):
    """Row r receives the cotangent at index[r]: the backward pass of a scatter where that of a gather is wanted."""
    own = jnp.arange(len(table)) % len(indices)
    return ct[indices[own]], None


def elements_along_rows(x, indices):
    """y[i, j] = x[i, indices[i, j]]."""
    return jnp.take_along_axis(x, indices, axis=1)


def elements_along_rows_rule(ct, x, indices):
    """An element read several times receives the sum."""
    rows = jnp.arange(len(x))[:, None]
    return jnp.zeros_like(x).at[rows, indices].add(ct), None


ELEMENTS = Function("indexing", elements_along_rows, lambda g, scale: (normal(g, 3, 4), labels(g, 4, 3, 6)))


@found("pytorch/pytorch#1631", "accumulation", of=ELEMENTS, mended=elements_along_rows_rule)
def repeated_element_keeps_one_cotangent(ct, x, indices):
    """The backward pass of the gather writes where it must add, so that repeated indices lose all but one."""
    rows = jnp.arange(len(x))[:, None]
    return jnp.zeros_like(x).at[rows, indices].set(ct), None


# Slices --------------------------------------------------------------------------------------------------------------


def rows_replaced(x, y):
    """x with its rows 1 and 2 replaced by those of y."""
    return x.at[1:3].set(y)


def rows_replaced_rule(ct, x, y):
    """The rows that were kept and those that came from y."""
    return ct.at[1:3].set(0), ct[1:3]


REPLACED = Function("indexing", rows_replaced, lambda g, scale: (normal(g, 5, 3), normal(g, 2, 3)))


@found("pytorch/pytorch#180771", "zero", of=REPLACED, mended=rows_replaced_rule)
def array_written_into_receives_nothing(ct, x, y):
    """The cotangent of the array is set to zero everywhere, where only the replaced rows lose theirs."""
    return jnp.zeros_like(x), ct[1:3]


def one_row_by_stride(x):
    """The rows from 1 to 4 with a stride of 3, which is one row."""
    return x[1:4:3]


def one_row_by_stride_rule(ct, x):
    """The cotangent goes to that row."""
    return (jnp.zeros_like(x).at[1:4:3].set(ct),)


ONE_ROW = Function("indexing", one_row_by_stride, lambda g, scale: (normal(g, 5, 3),))


@found("ml-explore/mlx#4444", "extra_term", of=ONE_ROW, mended=one_row_by_stride_rule)
def cotangent_of_one_row_spread_over_the_whole_span(ct, x):
    """A slice that selects one row is stored with a stride of 1, and its cotangent fills all rows up to the end."""
    return (jnp.zeros_like(x).at[1:4].set(ct),)


def two_channels(x):
    """The first channel doubled, and the square of the second."""
    return 2 * x[:, 0], x[:, 1] ** 2


def two_channels_rule(ct, x):
    """Each cotangent returns to the channel that it came from."""
    first, second = ct
    return (jnp.stack([2 * first, 2 * x[:, 1] * second], axis=1),)


CHANNELS = Function("indexing", two_channels, lambda g, scale: (normal(g, 5, 2),))


@found("ooples/AiDotNet.Tensors#935", "axis", of=CHANNELS, mended=two_channels_rule)
def both_slices_return_to_the_last_channel(ct, x):
    """The slices share one mutable start, and after the loop the backward pass of the first slice writes to the second
    channel.
    """
    first, second = ct
    return (jnp.zeros_like(x).at[:, 1].add(2 * first).at[:, 1].add(2 * x[:, 1] * second),)


# Segments ------------------------------------------------------------------------------------------------------------

SEGMENTS = 3


def members(segments):
    """For each segment, which elements belong to it; segments that do not exist are dropped."""
    return segments[None, :] == jnp.arange(SEGMENTS)[:, None]


def segment_products(x, segments):
    """The product of the elements of each segment."""
    return jnp.prod(jnp.where(members(segments), x, 1), axis=1)


def segment_products_rule(ct, x, segments):
    """Each element receives the product of the others of its segment."""
    same = (segments[:, None] == segments[None, :]) & ~jnp.eye(len(x), dtype=bool)
    return ct[segments] * jnp.prod(jnp.where(same, x, 1), axis=1), None


def segment_sums(x, segments):
    """The sum of the rows of each segment, without the rows whose segment does not exist."""
    return jnp.where(members(segments)[:, :, None], x, 0).sum(axis=1)


def segment_sums_rule(ct, x, segments):
    """Each row receives its segment's cotangent, or nothing."""
    return jnp.where((segments < SEGMENTS)[:, None], ct[jnp.minimum(segments, SEGMENTS - 1)], 0), None


SEGMENT_PRODUCTS = Function(
    "indexing", segment_products, lambda g, scale: (uniform(g, 0.5, 2.0, 7), labels(g, SEGMENTS, 7))
)
SEGMENT_SUMS = Function(
    "indexing",
    segment_sums,
    lambda g, scale: (normal(g, 7, 2), jnp.asarray([0, 3, 1, 4, 2, 1, 3], jnp.int32)),
)


@found("jax-ml/jax#9296", "missing_factor", of=SEGMENT_PRODUCTS, mended=segment_products_rule)
def other_members_of_the_product_left_out(ct, x, segments):
    """The derivative of a product scattered into ones is taken as if each segment had a single member."""
    return ct[segments], None


@found("jax-ml/jax#8634", "mask", of=SEGMENT_SUMS, mended=segment_sums_rule)
def dropped_rows_receive_the_last_segment(ct, x, segments):
    """Rows outside all segments are dropped from the sum, but the gather of the backward pass clips their index and
    gives them the last segment's cotangent.
    """
    return ct[jnp.minimum(segments, SEGMENTS - 1)], None


# Sorting -------------------------------------------------------------------------------------------------------------


def sorted_rows(x):
    """Each row in ascending order."""
    return jnp.sort(x, axis=1)


def sorted_rows_rule(ct, x):
    """The cotangent at a rank returns to the element that has it: the inverse permutation."""
    ranks = jnp.argsort(jnp.argsort(x, axis=1), axis=1)
    return (jnp.take_along_axis(ct, ranks, axis=1),)


SORTED = Function("indexing", sorted_rows, lambda g, scale: (normal(g, 4, 6),))


@found("elixir-nx/nx#1643", "transpose", of=SORTED, mended=sorted_rows_rule)
def cotangents_sorted_instead_of_returned(ct, x):
    """The cotangents are permuted as the values were, to the target positions, and not back to the original ones."""
    return (jnp.take_along_axis(ct, jnp.argsort(x, axis=1), axis=1),)
