"""Runs a function of the user's with its own copies of the NumPy arrays that it closes over.

While a traced program lives that closes over a NumPy array, JAX knows this array in one dtype: that of the program. A
session without float64 has such programs in float32, the verifier needs them in float64, and later in float32 again.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun


def with_own_constants(function: Callable[..., Any], *leaves: Any) -> Any:
    """function(*leaves), where it is being traced as a program of its own, whose constants are copied."""
    flat = jax.tree.leaves(leaves)
    if not any(isinstance(leaf, Tracer) for leaf in flat):
        return function(*leaves)
    try:
        # A new function each time: JAX keeps what it traced as long as the function lives.
        program, outputs = jax.make_jaxpr(lambda *leaves: function(*leaves), return_shape=True)(*leaves)
    except Exception:  # what is no function of arrays tells by itself what is wrong
        return function(*leaves)
    constants = [np.array(constant) if isinstance(constant, np.ndarray) else constant for constant in program.consts]
    found = jaxpr_as_fun(program.replace(consts=constants))(*flat)
    return jax.tree.unflatten(jax.tree.structure(outputs), found)


def anew(run: Callable[[], Any], *, mixed: bool) -> Any:
    """run(), once more if it raises where NumPy arrays are met in two precisions.

    A program of the user's own, such as a function that they have compiled, may hold an array of theirs in the other
    dtype: JAX is then made to forget it.
    """
    try:
        return run()
    except Exception:
        if not mixed:
            raise
    jax.clear_caches()
    return run()
