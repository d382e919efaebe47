"""Approximate forward passes: solvers and iterations to a fixed point, and what one more round of them changes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.precision import is_float
from jaxnet.verify.engine.program import interpret, of_scan, plain, shaped

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
