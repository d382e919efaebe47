"""What rounding does to a program: a copy of it in which every result is moved by a unit in its last place."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.lifting import lifted_equation, widen
from jaxnet.verify.engine.precision import is_float, spacing
from jaxnet.verify.engine.program import LOOPS, equations, inner, interpret, plain, shaped

# Operations whose results are exact, whatever comes in: to move these would break comparisons such as x == max(x).
EXACT = {
    "abs", "and", "argmax", "argmin", "broadcast_in_dim", "ceil", "clamp", "concatenate", "copy", "copy_p", "cummax",
    "cummin", "dynamic_slice", "dynamic_update_slice", "eq", "expand_dims", "floor", "gather", "ge", "gt", "iota",
    "is_finite", "le", "lt", "max", "min", "ne", "neg", "nextafter", "not", "or", "pad", "pvary", "real",
    "reduce_max", "reduce_min", "reduce_precision", "reduce_window_max", "reduce_window_min", "reshape", "rev", "round",
    "scatter", "scatter-max", "scatter-min", "scatter_max", "scatter_min", "select_and_gather_add",
    "select_and_scatter", "select_n", "sign", "slice", "sort", "split", "squeeze", "stop_gradient", "top_k",
    "transpose",
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
    all would cancel, too. With a seed of 0 all go the same way, that of the unit's sign. A 0 moves by `at_zero`; where
    that is not 0, each element goes another part of the way, lest those that are equal stay so: the later the farther
    with a seed of 0.
    """
    count = int(np.prod(value.shape))
    ramp = 2**30 // (count + 1)
    order = jnp.arange(1, count + 1, dtype=jnp.uint32).reshape(value.shape)
    # Between -1 and 1: the fractional parts of multiples of the seed.
    way = (order * jnp.where(seed == 0, ramp, seed).astype(jnp.uint32)).astype(jnp.int32).astype(value.dtype) / 2**31
    least = jnp.maximum(jnp.abs(unit), spacing(value.dtype)) * jnp.sign(unit)
    way = jnp.where(at_zero == 0, jnp.where(seed == 0, 1, jnp.sign(way)), jnp.where(seed == 0, 0.5 + way, way))
    step = jnp.where(value == 0, at_zero * jnp.sign(unit), jnp.abs(value) * least)
    return value + (way * step).astype(value.dtype)


class Slots:
    """A place among the nudges for every equation of a program that rounds."""

    def __init__(self, program: ClosedJaxpr, lift: bool = False) -> None:
        """The slots of a program, which is kept alive: equations are known by identity.

        Args:
            program: in which results are moved.
            lift: whether it is run in float64 although it computes in narrower dtypes.
        """
        self.program, self.lift = program, lift
        if lift:
            self.program = program.replace(consts=[widen(constant) for constant in program.consts])
        found = {id(equation): equation for equation in equations(program) if rounds(equation)}
        self.numbers = {identity: number for number, identity in enumerate(found)}
        floats = [[v for v in map(shaped, e.outvars) if is_float(v)] for e in found.values()]
        self.spacings = np.asarray([max(spacing(v.dtype) for v in outputs) for outputs in floats], float)

    def run(self, arguments: Sequence[Any], seeds: Any, units: Any, at_zero: Any) -> list[Any]:
        """The outputs of the program, every rounded result nudged by the seed and the unit of its slot."""

        def visit(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
            outputs = lifted_equation(equation, inputs, run) if self.lift else run(*inputs)
            number = self.numbers.get(id(equation))
            if number is None:
                return outputs
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


def with_one_more_round(program: ClosedJaxpr, arguments: Sequence[Any]) -> tuple[list[Any], Any]:
    """The outputs of a program whose loops that iterate go one round further, and how much this changes their results.

    The change is relative, at most; 0 without such loops.
    """
    changes: list[Any] = [jnp.zeros(())]

    def visit(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        outputs = run(*inputs)
        if not iterates(equation):
            return outputs
        params = equation.params
        if equation.primitive.name == "while":
            first = params["cond_nconsts"]
            constants, body = inputs[first : first + params["body_nconsts"]], params["body_jaxpr"]
        else:
            constants, body = inputs[: params["num_consts"]], params["jaxpr"]
        carried = len(inputs) - len(constants) - params.get("cond_nconsts", 0)
        again = plain(body, [*constants, *outputs[:carried]])[:carried]
        for before, after in zip(outputs, again, strict=False):
            if is_float(before):
                size = jnp.maximum(jnp.max(jnp.abs(before), initial=0), 1e-300)
                changes.append(jnp.max(jnp.abs(after - before), initial=0) / size)
        return [*again, *outputs[carried:]]

    outputs = interpret(program, arguments, visit)
    return outputs, jnp.max(jnp.stack(changes))
