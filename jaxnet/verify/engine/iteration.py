"""Approximate forward passes: solvers and iterations to a fixed point, and what one more round of them changes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.precision import is_float
from jaxnet.verify.engine.program import LOOPS, Visitor, interpret, of_scan, plain, shaped

CONVERGED = 1e-3


def iterates(equation: JaxprEqn) -> bool:
    """Whether the equation is a loop that repeats one map on its carry: a solver, an iteration to a fixed point."""
    if equation.primitive.name == "while":
        return any(is_float(shaped(v)) for v in equation.outvars)
    return equation.primitive.name == "scan" and len(equation.invars) == sum(of_scan(equation.params))


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
            constants, body = inputs[: of_scan(params)[0]], params["jaxpr"]
        carried = len(inputs) - len(constants) - params.get("cond_nconsts", 0)
        again = plain(body, [*constants, *outputs[:carried]])[:carried]
        for before, after in zip(outputs, again, strict=False):
            if is_float(before):
                size = jnp.maximum(jnp.max(jnp.abs(before), initial=0), 1e-300)
                changes.append(jnp.max(jnp.abs(after - before), initial=0) / size)
        return [*again, *outputs[carried:]]

    outputs = interpret(program, arguments, visit)
    return outputs, jnp.max(jnp.stack(changes))


def with_bounded_loops(program: ClosedJaxpr, arguments: Sequence[Any], most: Any) -> tuple[list[Any], Any]:
    """The outputs of a program whose `while` loops stop after so many rounds, NaN where one would have gone on.

    With them the rounds of the loop that went on longest, among those that are in no other loop.
    """
    counts: list[Any] = [jnp.zeros((), jnp.int32)]
    depth = 0

    def visit(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        nonlocal depth
        if equation.primitive.name not in LOOPS:
            return run(*inputs)
        depth += 1
        count = None
        if equation.primitive.name == "while":
            outputs, count = _bounded(equation.params, inputs, visit, most)
        else:
            outputs = run(*inputs)
        depth -= 1
        if count is not None and depth == 0:  # what is counted inside another loop cannot be kept
            counts.append(count)
        return outputs

    outputs = interpret(program, arguments, visit, into_loops=True)
    return outputs, jnp.max(jnp.stack(counts))


def _bounded(params: dict[str, Any], inputs: Sequence[Any], visit: Visitor, most: Any) -> tuple[list[Any], Any]:
    """The outputs of a `while` loop that stops after so many rounds, and how many there were."""
    in_condition, in_body = params["cond_nconsts"], params["body_nconsts"]
    of_condition, of_body = inputs[:in_condition], inputs[in_condition : in_condition + in_body]

    def wants_more(carry: list[Any]) -> Any:
        return interpret(params["cond_jaxpr"], [*of_condition, *carry], visit, into_loops=True)[0]

    def step(state: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        count, carry = state
        return count + 1, interpret(params["body_jaxpr"], [*of_body, *carry], visit, into_loops=True)

    def goes_on(state: tuple[Any, list[Any]]) -> Any:
        return (state[0] < most) & wants_more(state[1])

    start = jnp.zeros((), jnp.int32), list(inputs[in_condition + in_body :])
    count, carry = jax.lax.while_loop(goes_on, step, start)
    unfinished = wants_more(carry)
    return [jnp.where(unfinished, jnp.nan, x).astype(x.dtype) if is_float(x) else x for x in carry], count
