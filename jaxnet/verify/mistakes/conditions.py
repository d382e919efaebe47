"""Masks and conditions that the gradient takes no account of: it is right for the function in which they hold, or fail,
everywhere.
"""

from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxnet.verify.engine.program import Run, equations, shaped
from jaxnet.verify.mistakes.altered import Alter, Altered
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict

MOST = 32  # masks that are looked at


def _masks(program: ClosedJaxpr) -> dict[Any, str]:
    """The arrays of truth values in a program, and what makes them."""
    made = {variable: f"the mask that `{e.primitive.name}` makes" for e in equations(program) for variable in e.outvars}
    read = [v for e in equations(program) for v in e.invars if not isinstance(v, Literal)]
    arrays = [v for v in dict.fromkeys(read) if shaped(v).dtype == bool and shaped(v).shape]
    return {variable: made.get(variable, "a mask that is given") for variable in arrays[:MOST]}


def _decided(program: ClosedJaxpr) -> tuple[list[str], Alter]:
    """The masks by name, and how one of them is made true or false everywhere: `how` is its number, and which."""
    masks = _masks(program)
    numbers = {variable: number for number, variable in enumerate(masks)}

    def alter(equation: JaxprEqn, inputs: list[Any], run: Run, how: Any) -> list[Any]:
        number, value = how
        replaced = [
            jnp.where(number == numbers[v], value, x) if not isinstance(v, Literal) and v in numbers else x
            for v, x in zip(equation.invars, inputs, strict=True)
        ]
        return run(*replaced)

    return list(masks.values()), alter


def mask_unread(evidence: Evidence) -> Verdict | None:
    """The gradient is that of the function in which one mask is true everywhere, or false."""
    altered = Altered(evidence, _decided)
    for number, name in enumerate(altered.subjects):
        for value in (True, False):
            if evidence.holds(lambda c, how=(number, value): altered.gradient(c, how)):
                return "mask", f"it is the gradient of the function in which {name} is {str(value).lower()} everywhere"
    return None


HYPOTHESES = (Hypothesis(Level.FORWARD, mask_unread, ("mask",)),)
