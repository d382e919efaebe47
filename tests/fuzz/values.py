"""What the fuzzers draw: arrays of ordinary and of extreme numbers, and a guard that nothing they pass is changed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

DOCUMENTED = (TypeError, ValueError)  # the only errors that bad arguments may end in


def numbers(dtype: Any, largest: float) -> st.SearchStrategy[float]:
    """Zeros, subnormals, the largest and all between, of either sign, that are numbers of the dtype."""
    info = jnp.finfo(dtype)
    edges = [0.0, float(info.smallest_subnormal), float(info.tiny), float(info.eps), 1.0, min(largest, float(info.max))]
    signed = st.sampled_from([sign * edge for edge in edges for sign in (1, -1)])
    scaled = st.builds(math.ldexp, st.floats(-1, 1), st.integers(-40, int(math.log2(largest))))
    return st.one_of(signed, scaled).map(lambda number: float(np.asarray(number, dtype)))


def arrays(dtype: Any, shape: tuple[int, ...], largest: float | None = None) -> st.SearchStrategy[np.ndarray]:
    """Arrays of numbers between -4 and 4, of some that are larger or tiny, or of some as large as can be."""
    top = float(jnp.finfo(dtype).max) if largest is None else largest
    ordinary = st.floats(-4, 4, width=16)
    return (
        st.sampled_from([ordinary, ordinary | numbers(dtype, min(1e3, top)), ordinary | numbers(dtype, top)])
        .flatmap(lambda elements: hnp.arrays(np.float64, shape, elements=elements, fill=st.just(0.5)))
        .map(lambda values: values.astype(dtype))
    )


@contextmanager
def untouched(*trees: Any) -> Iterator[None]:
    """Fails unless every array is what it was, bit by bit."""
    before = [np.array(leaf).tobytes() for leaf in jax.tree.leaves(trees)]
    yield
    assert [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trees)] == before, "an argument was changed"
