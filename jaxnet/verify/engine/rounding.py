"""What rounding does to a program: a copy of it in which every result is moved by a unit in its last place."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.precision import is_float, spacing
from jaxnet.verify.engine.program import LOOPS, equations, inner, interpret, plain, shaped

# Operations whose results are exact, whatever comes in: to move these would break comparisons such as x == max(x).
EXACT = {
    "abs", "and", "argmax", "argmin", "broadcast_in_dim", "ceil", "clamp", "concatenate", "copy", "copy_p",
    "dynamic_slice", "dynamic_update_slice", "eq", "expand_dims", "floor", "gather", "ge", "gt", "iota", "is_finite",
    "le", "lt", "max", "min", "ne", "neg", "not", "or", "pad", "pvary", "real", "reduce_max", "reduce_min",
    "reduce_precision", "reshape", "rev", "round", "scatter", "select_and_scatter", "select_n", "sign", "slice",
    "sort", "split", "squeeze", "stop_gradient", "transpose",
}  # fmt: skip


def rounds(equation: JaxprEqn) -> bool:
    """Whether the equation's results are rounded floats."""
    if inner(equation) is not None or equation.primitive.name in LOOPS:
        return False
    if equation.primitive.name == "convert_element_type":
        (before,), (after,) = equation.invars, equation.outvars
        before, after = shaped(before), shaped(after)
        return is_float(before) and is_float(after) and spacing(before.dtype) < spacing(after.dtype)
    return equation.primitive.name not in EXACT and any(is_float(shaped(variable)) for variable in equation.outvars)


def nudged(value: Any, seed: Any, unit: Any, at_zero: Any = 0.0) -> Any:
    """The value, each element moved up or down by a relative unit, at least one of its own last place.

    Which way is decided by the seed for each element: where terms of a sum cancel, a step of the same relative size for
    all would cancel, too. With a seed of 0 all go the same way, that of the unit's sign. A 0 moves by `at_zero`.
    """
    count = max(int(np.prod(value.shape)), 1)
    ways = (jnp.arange(count, dtype=jnp.uint32) + 1) * jnp.asarray(seed, jnp.uint32)
    ways = (ways ^ (ways >> 15)) * jnp.uint32(2654435769)
    signs = jnp.where(ways >> 31, -1.0, 1.0).astype(value.dtype).reshape(value.shape) * jnp.sign(unit).astype(
        value.dtype
    )
    least = jnp.maximum(jnp.abs(jnp.asarray(unit, value.dtype)), spacing(value.dtype))
    step = jnp.where(value == 0, jnp.asarray(at_zero, value.dtype), jnp.abs(value) * least)
    moved = value + signs * step
    return jnp.where(jnp.isfinite(moved), moved, value)


class Slots:
    """A place among the nudges for every equation of a program that rounds, and for every loop that iterates."""

    def __init__(self, program: ClosedJaxpr) -> None:
        """The slots of a program, which is kept alive: equations are known by identity."""
        self.program = program
        found = {id(e): e for e in equations(program) if rounds(e) or iterates(e)}
        self.numbers = {identity: number for number, identity in enumerate(found)}
        self.iterating = np.asarray([iterates(equation) for equation in found.values()], bool)

    def run(self, arguments: Sequence[Any], seeds: Any, units: Any, at_zero: Any) -> list[Any]:
        """The outputs of the program, every rounded result nudged by the seed and the unit of its slot.

        The unit of a loop that iterates says how many times the change of one more round is added.
        """

        def visit(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
            outputs = run(*inputs)
            number = self.numbers.get(id(equation))
            if number is None:
                return outputs
            if iterates(equation):
                return _moved_by_residual(equation, inputs, outputs, units[number])
            step = seeds[number], units[number], at_zero
            return [nudged(output, *step) if is_float(output) else output for output in outputs]

        return interpret(self.program, arguments, visit, into_loops=True)


# Approximate forward passes ------------------------------------------------------------------------------------------

CONVERGED = 1e-3


def iterates(equation: JaxprEqn) -> bool:
    """Whether the equation is a loop that repeats one map on its carry: a solver, an iteration to a fixed point."""
    if equation.primitive.name == "while":
        return any(is_float(shaped(v)) for v in equation.outvars)
    params = equation.params
    return equation.primitive.name == "scan" and len(equation.invars) == params["num_consts"] + params["num_carry"]


def _moved_by_residual(equation: JaxprEqn, inputs: list[Any], outputs: list[Any], times: Any) -> list[Any]:
    """The results of a loop moved by what one more round would change, if that is little: then it approximates."""
    params = equation.params
    if equation.primitive.name == "while":
        first = params["cond_nconsts"]
        constants, body = inputs[first : first + params["body_nconsts"]], params["body_jaxpr"]
        carried = len(outputs)
    else:
        constants, body, carried = inputs[: params["num_consts"]], params["jaxpr"], params["num_carry"]
    again = plain(body, [*constants, *outputs[:carried]])[:carried]
    changes = [
        jnp.where(jnp.isfinite(b - a), b - a, 0) if is_float(a) else 0 for a, b in zip(outputs, again, strict=False)
    ]
    return [
        value + (times * jnp.where(_converged(value, change), change, 0)).astype(value.dtype)
        if is_float(value)
        else value
        for value, change in zip(outputs[:carried], changes, strict=True)
    ] + list(outputs[carried:])


def _converged(value: Any, change: Any) -> Any:
    return jnp.max(jnp.abs(change), initial=0) <= CONVERGED * jnp.max(jnp.abs(value), initial=0)
