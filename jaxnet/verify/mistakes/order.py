"""Gradients whose elements are all there, in another order along their axes."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict

MOST_AXES = 4


def reordered(evidence: Evidence) -> Verdict | None:
    """The gradient with its axes exchanged, read backwards, or shifted by one place."""
    leaf = evidence.leaf
    for kind, text, order in _orders(evidence.shape) if len(evidence.shape) <= MOST_AXES else ():
        if evidence.holds(lambda c, order=order: order(c.truth.gradient[leaf])):
            return kind, text
    return None


def _orders(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[Floats], Floats]]]:
    """Other orders of an array that keep its shape; those of several axes after those of one."""
    every = tuple(range(len(shape)))
    for axes in itertools.permutations(every):
        if axes != every and tuple(shape[axis] for axis in axes) == shape:
            what = "the transpose of the right gradient: swap the factors of the matrix product"
            what = what if len(shape) == 2 else f"the right gradient with its axes in the order {axes}"
            yield "transpose", f"it is {what}", partial(np.transpose, axes=axes)
    long = [axis for axis in every if shape[axis] > 1]
    for axes in itertools.chain.from_iterable(itertools.combinations(long, n + 1) for n in range(len(long))):
        where = " and ".join(f"axis {axis}" for axis in axes)
        yield "order", f"it is the right gradient in reverse order along {where}", partial(np.flip, axis=axes)
    for axis, by in itertools.product(long, (1, -1)):
        text = f"it is the right gradient one place too {'late' if by > 0 else 'early'} along axis {axis}"
        yield "order", f"{text}, around its end", partial(np.roll, shift=by, axis=axis)
        yield "order", f"{text}, and 0 at the end that this leaves", partial(_shifted, by=by, axis=axis)


def _shifted(right: Floats, by: int, axis: int) -> Floats:
    moved = np.roll(right, by, axis)
    np.moveaxis(moved, axis, 0)[0 if by > 0 else -1] = 0
    return moved


HYPOTHESES = (Hypothesis(Level.ORDER, reordered, ("order", "transpose")),)
