"""Contributions to one element that overwrite one another."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from jaxnet.verify.engine.precision import Floats, compiled, in_float64
from jaxnet.verify.engine.program import compute
from jaxnet.verify.mistakes.slips.local import Local, Slip, Slips

GATHERING = {
    "gather", "dynamic_slice", "conv_general_dilated", "broadcast_in_dim", "reduce_window_max", "reduce_window_min",
    "reduce_window_sum", "reduce_window", "concatenate", "select_and_gather_add", "dot_general", "slice", "pad",
}  # fmt: skip
LARGEST_JACOBIAN = 2**16


def _of_accumulations(here: Local) -> Iterator[Slip]:
    if here.operation.primitive not in GATHERING or here.operation.repeats > 1:
        return
    name = here.operation.name
    text = f"contributions overwrite one another where they must be added: one element of {name}'s operand has several"
    yield Slip("accumulation", f"{text} results, and gets the last one's", lambda o: _overwritten(o, -1))
    yield Slip("accumulation", f"{text} results, and gets the first one's", lambda o: _overwritten(o, 0))


def _overwritten(here: Local, which: int) -> Floats:
    """For each element of the operand the contribution of one result alone, the first or the last of several."""
    jacobian = _jacobian(here)
    if jacobian is None:
        return np.full_like(here.right, np.nan)
    reached = jacobian * here.arriving.reshape(-1, 1) != 0
    order = np.argmax(reached, axis=0) if which == 0 else len(reached) - 1 - np.argmax(reached[::-1], axis=0)
    columns = np.arange(reached.shape[1])
    chosen = jacobian[order, columns] * here.arriving.ravel()[order]
    return np.where(reached.any(axis=0), chosen, 0).reshape(here.z.shape)


def _jacobian(here: Local) -> Floats | None:
    """∂results/∂operand of one equation, (results, elements); None if it is too large."""
    if here.z.size * here.a.size > LARGEST_JACOBIAN:
        return None
    with in_float64():
        jacobian = _jacobian_of(here.operation.equation, here.operation.operand)(here.z, here.others)
    return np.asarray(jacobian).reshape(here.a.size, here.z.size)


@functools.lru_cache(maxsize=64)
def _jacobian_of(equation: JaxprEqn, operand: int) -> Callable[[Floats, list[Floats]], Any]:
    def result(z: Any, others: list[Any]) -> Any:
        return compute(equation, [z if i == operand else value for i, value in enumerate(others)])[0]

    return compiled(jax.jacrev(result))


SLIPS = Slips(("accumulation",), _of_accumulations)
