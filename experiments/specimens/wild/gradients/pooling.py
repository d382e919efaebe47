"""Pooling by maximum and by average."""

import jax.numpy as jnp
import numpy as np

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

SIZE, STRIDE = 3, 2


def windows(length):
    """The positions of the overlapping windows, one window a row."""
    return np.arange(0, length - SIZE + 1, STRIDE)[:, None] + np.arange(SIZE)[None, :]


def max_pool(x):
    """The maximum of each window of 3, every 2 positions."""
    return x[:, windows(x.shape[1])].max(axis=-1)


def max_pool_rule(ct, x):
    """Each window's cotangent goes to its winner, and a winner of two windows receives both."""
    dx, rows = jnp.zeros_like(x), jnp.arange(len(x))
    for t, window in enumerate(windows(x.shape[1])):
        dx = dx.at[rows, window[0] + x[:, window].argmax(axis=1)].add(ct[:, t])
    return (dx,)


# Positions 2 and 6 lie in two windows each, and they are the greatest of both.
MAX_POOL = Function("pooling", max_pool, lambda g, _: (normal(g, 4, 9).at[:, 2::4].add(5.0),))
# The last position of each window wins, but not the next window, whose first it is.
RISING = Function("pooling", max_pool, lambda g, _: (normal(g, 4, 9) + 4 * jnp.arange(9, dtype=jnp.float32),))


@found("ghosert/cmd-editor#2058", "accumulation", of=MAX_POOL, mended=max_pool_rule)
def winner_of_two_windows_keeps_the_last_cotangent(ct, x):
    """Where windows overlap, a later window overwrites what an earlier one gave to the same winner."""
    dx, rows = jnp.zeros_like(x), jnp.arange(len(x))
    for t, window in enumerate(windows(x.shape[1])):
        dx = dx.at[rows, window[0] + x[:, window].argmax(axis=1)].set(ct[:, t])
    return (dx,)


@found("ahrefs/ocannl#512", "mask", of=RISING, mended=max_pool_rule)
def one_gate_for_all_windows_over_a_position(ct, x):
    """Whether a position won is stored once for each position, so that the last window over it decides for all."""
    won, received = jnp.zeros(x.shape, bool), jnp.zeros_like(x)
    for t, window in enumerate(windows(x.shape[1])):
        won = won.at[:, window].set(x[:, window] == x[:, window].max(axis=1, keepdims=True))
        received = received.at[:, window].add(ct[:, t, None])
    return (jnp.where(won, received, 0),)


def average_pool(x):
    """The mean of each block of 3; the last block has what is left, and is divided by what it has."""
    return jnp.stack([x[:, i : i + SIZE].mean(axis=1) for i in range(0, x.shape[1], SIZE)], axis=1)


def average_pool_rule(ct, x):
    """Each member of a block receives the cotangent over the number of members."""
    members = np.diff(np.append(np.arange(0, x.shape[1], SIZE), x.shape[1]))
    return (jnp.repeat(ct / jnp.asarray(members, ct.dtype), members, axis=1, total_repeat_length=x.shape[1]),)


AVERAGE_POOL = Function("pooling", average_pool, lambda g, _: (normal(g, 4, 8),))


@found("tracel-ai/burn#5604", "value", of=AVERAGE_POOL, mended=average_pool_rule)
def clipped_window_divided_by_the_full_size(ct, x):
    """The backward pass divides every window by the kernel's size, the forward pass divides the last by its own."""
    return (jnp.repeat(ct / SIZE, SIZE, axis=1)[:, : x.shape[1]],)
