"""Runs a traced program equation by equation, so that a visitor can change what each computes.

Two things rest on it: measuring what rounding explains (every result is moved by one unit in its last place) and
simulating mistakes (one factor of the chain rule is replaced).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

# Calls that only group equations.
GROUPS = {"jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat", "remat2", "checkpoint"}


def shaped(variable: Any) -> Any:
    """The shape and dtype of a variable of a traced program."""
    return variable.aval


Run = Callable[..., list[Any]]
Visitor = Callable[[JaxprEqn, list[Any], Run], list[Any]]


def inner(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The program inside a call, if the equation is one."""
    if equation.primitive.name not in GROUPS:
        return None
    program = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    # Newer versions of JAX have every program hold its constants.
    return program if program is None or hasattr(program, "consts") else ClosedJaxpr(program, ())


def compute(equation: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    """What the equation computes by itself."""
    params = equation.primitive.get_bind_params(equation.params)
    outputs = equation.primitive.bind(*inputs, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def interpret(program: ClosedJaxpr, arguments: Sequence[Any], visit: Visitor, *, into_loops: bool = False) -> list[Any]:
    """The outputs of the program, where `visit(equation, inputs, run)` gives the outputs of each equation.

    `run(*inputs)` computes the equation as it is: a call by interpreting what is inside, with the same visitor. So are
    scans and branches if asked for; what a visitor sees there must not be kept for use outside.
    """
    jaxpr = program.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:

        def run(*inputs: Any, equation: JaxprEqn = equation) -> list[Any]:
            inside = inner(equation)
            if inside is not None:
                return interpret(inside, inputs, visit, into_loops=into_loops)
            if into_loops and equation.primitive.name in LOOPS:
                return LOOPS[equation.primitive.name](equation.params, inputs, visit)
            return compute(equation, inputs)

        outputs = visit(equation, [read(variable) for variable in equation.invars], run)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _scan(params: dict[str, Any], inputs: Sequence[Any], visit: Visitor) -> list[Any]:
    """A scan whose body is interpreted."""
    body, constants, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    fixed, start, stacked = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = interpret(body, [*fixed, *carry, *slices], visit, into_loops=True)
        return outputs[:carried], outputs[carried:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, outputs = jax.lax.scan(step, list(start), list(stacked), **options)
    return [*carry, *outputs]


def _cond(params: dict[str, Any], inputs: Sequence[Any], visit: Visitor) -> list[Any]:
    """A choice between branches that are interpreted."""
    index, *operands = inputs

    def interpreted(branch: ClosedJaxpr) -> Callable[..., list[Any]]:
        return lambda *values: interpret(branch, values, visit, into_loops=True)

    return jax.lax.switch(index, [interpreted(branch) for branch in params["branches"]], *operands)


LOOPS: dict[str, Callable[[dict[str, Any], Sequence[Any], Visitor], list[Any]]] = {"scan": _scan, "cond": _cond}
