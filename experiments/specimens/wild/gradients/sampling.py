"""Resizing and sampling between positions, linearly or by the nearest."""

import jax.numpy as jnp
import numpy as np

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

# Linear resizing -----------------------------------------------------------------------------------------------------


def interpolation(new, old, aligned, dtype):
    """The matrix (new, old) of linear interpolation, with the corners or the half pixels aligned."""
    steps = np.arange(new)
    position = steps * (old - 1) / (new - 1) if aligned else (steps + 0.5) * old / new - 0.5
    position = np.clip(position, 0, old - 1)
    return jnp.asarray(np.maximum(0, 1 - np.abs(position[:, None] - np.arange(old)[None, :])), dtype)


def doubled(x):
    """An image of twice the height and width, half pixels aligned."""
    height, width = x.shape
    return interpolation(2 * height, height, False, x.dtype) @ x @ interpolation(2 * width, width, False, x.dtype).T


def doubled_rule(ct, x):
    """Both interpolations transposed."""
    height, width = x.shape
    return (interpolation(2 * height, height, False, x.dtype).T @ ct @ interpolation(2 * width, width, False, x.dtype),)


DOUBLED = Function("sampling", doubled, lambda g, scale: (normal(g, 5, 3, scale=scale),))


@found("intel/torch-xpu-ops#4322", "axis", of=DOUBLED, mended=doubled_rule)
def column_shifted_by_the_height(ct, x):
    """The column in the output is computed with the height of the input where its width belongs, which for a square
    image is the same.
    """
    height, width = x.shape
    columns = jnp.clip(jnp.arange(2 * width) + width - height, 0, 2 * width - 1)
    return doubled_rule(ct[:, columns], x)


@found("ooples/AiDotNet.Tensors#80", "value", of=DOUBLED, mended=doubled_rule)
def corners_aligned_in_the_backward_pass_alone(ct, x):
    """The forward pass aligns half pixels, the backward pass maps the coordinates as if the corners were aligned."""
    height, width = x.shape
    return (interpolation(2 * height, height, True, x.dtype).T @ ct @ interpolation(2 * width, width, True, x.dtype),)


LENGTH = 10


def stretched(x):
    """Each row stretched to a length of 10, with the corners aligned."""
    return x @ interpolation(LENGTH, x.shape[1], True, x.dtype).T


def stretched_rule(ct, x):
    """The interpolation transposed."""
    return (ct @ interpolation(LENGTH, x.shape[1], True, x.dtype),)


STRETCHED = Function("sampling", stretched, lambda g, scale: (normal(g, 3, 2, scale=scale),))


@found("flagos-ai/FlagGems#5218", "partial", of=STRETCHED, mended=stretched_rule)
def far_outputs_outside_the_window(ct, x):
    """Each input sums over a window of outputs, whose size is computed from the ratio of the lengths; with the corners
    aligned the stretch is greater, and what lies outside is dropped.
    """
    old = x.shape[1]
    center = np.arange(old) * (LENGTH - 1) / (old - 1)
    inside = np.abs(np.arange(LENGTH)[:, None] - center[None, :]) <= LENGTH // old + 2
    return (ct @ jnp.where(inside, interpolation(LENGTH, old, True, x.dtype), 0),)


# Nearest neighbours --------------------------------------------------------------------------------------------------

FACTOR = 4


def reduced(x):
    """Every fourth element of each row, from the first."""
    return x[:, ::FACTOR]


def reduced_rule(ct, x):
    """The cotangents return to these."""
    return (jnp.zeros_like(x).at[:, ::FACTOR].set(ct),)


def squared_and_repeated(x):
    """x², and each element twice."""
    return x**2, jnp.repeat(x, 2, axis=1)


def squared_and_repeated_rule(ct, x):
    """Both uses of x add up."""
    d_square, d_repeated = ct
    return (2 * x * d_square + d_repeated.reshape(*x.shape, 2).sum(axis=-1),)


REDUCED = Function("sampling", reduced, lambda g, scale: (normal(g, 3, 8, scale=scale),))
SQUARED_AND_REPEATED = Function("sampling", squared_and_repeated, lambda g, scale: (normal(g, 3, 4),))


@found("pytorch/pytorch#38985", "unknown", of=REDUCED, mended=reduced_rule)
def cotangent_returned_to_the_other_end_of_the_block(ct, x):
    """The forward pass reads the first element of each block and the backward pass writes to the last."""
    return (jnp.zeros_like(x).at[:, FACTOR - 1 :: FACTOR].set(ct),)


@found("huggingface/candle#3507", "accumulation", of=SQUARED_AND_REPEATED, mended=squared_and_repeated_rule)
def repetition_overwrites_the_gradient(ct, x):
    """The backward pass of the repetition stores its gradient instead of adding it to that of the other use."""
    _, d_repeated = ct
    return (d_repeated.reshape(*x.shape, 2).sum(axis=-1),)


# Sampling at given positions -----------------------------------------------------------------------------------------


def position(grid, size, aligned):
    """The position of a coordinate between -1 and 1: -1 and 1 are the centers of the outer pixels, or their edges."""
    return (grid + 1) * (size - 1) / 2 if aligned else ((grid + 1) * size - 1) / 2


def sampled(image, grid):
    """Linear interpolation of each channel, where -1 and 1 are the edges of the image."""
    u = position(grid, image.shape[1], aligned=False)
    left = jnp.floor(u).astype(jnp.int32)
    share = u - left.astype(u.dtype)
    return image[:, left] * (1 - share) + image[:, left + 1] * share


def sampled_back(ct, image, grid, aligned):
    """The cotangents shared between neighbours, and the slope between them for the coordinates."""
    size = image.shape[1]
    u = position(grid, size, aligned)
    left = jnp.floor(u).astype(jnp.int32)
    share = u - left.astype(u.dtype)
    d_image = jnp.zeros_like(image).at[:, left].add(ct * (1 - share)).at[:, left + 1].add(ct * share)
    slope = (ct * (image[:, left + 1] - image[:, left])).sum(axis=0)
    return d_image, slope * (size - 1 if aligned else size) / 2


def sampled_rule(ct, image, grid):
    """As in the forward pass."""
    return sampled_back(ct, image, grid, aligned=False)


def between_pixels(generator, scale):
    """Two channels of 5 pixels, and 7 coordinates none of which is near a pixel's center."""
    u = jnp.asarray([2, 0, 1, 3, 1, 2, 0], jnp.float32) + uniform(generator, 0.2, 0.8, 7)
    return normal(generator, 2, 5, scale=scale), (2 * u + 1) / 5 - 1


SAMPLED = Function("sampling", sampled, between_pixels)


@found("ooples/AiDotNet.Tensors#582", "value", of=SAMPLED, mended=sampled_rule)
def edges_taken_for_centers_in_the_backward_pass(ct, image, grid):
    """The backward pass converts the coordinates by (size - 1)/2, as if -1 and 1 were the centers of the outer pixels,
    where the forward pass takes them for the edges.
    """
    return sampled_back(ct, image, grid, aligned=True)
