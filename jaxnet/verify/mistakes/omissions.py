"""Operations that the gradient knows nothing of: it is right for the function without them."""

from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxnet.verify.engine.precision import is_float
from jaxnet.verify.engine.program import Run, equations, shaped
from jaxnet.verify.mistakes.altered import Alter, Altered
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict

MOST = 256  # operations that are left out, one at a time
# What moves numbers about, or hands them on.
MOVING = {"copy", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "custom_jvp_call"}


def _operands(equation: JaxprEqn) -> list[int]:
    """The operands that could stand in the place of an equation's only result."""
    if len(equation.outvars) != 1 or equation.primitive.name in MOVING or not is_float(shaped(equation.outvars[0])):
        return []
    result = shaped(equation.outvars[0])
    return [
        i
        for i, v in enumerate(equation.invars)
        if not isinstance(v, Literal) and (shaped(v).shape, shaped(v).dtype) == (result.shape, result.dtype)
    ]


def _left_out(program: ClosedJaxpr) -> tuple[list[tuple[JaxprEqn, int]], Alter]:
    """The operations that can be left out, each for one of its operands, and how one of them is."""
    places = [(equation, i) for equation in equations(program) for i in _operands(equation)][:MOST]
    numbers = {(id(equation), i): number for number, (equation, i) in enumerate(places)}

    def alter(equation: JaxprEqn, inputs: list[Any], run: Run, left_out: Any) -> list[Any]:
        outputs = run(*inputs)
        for i in _operands(equation):
            outputs = [jnp.where(left_out == numbers.get((id(equation), i), -1), inputs[i], outputs[0])]
        return outputs

    return places, alter


def omitted(evidence: Evidence) -> Verdict | None:
    """The gradient is that of the function without one of its operations, in the forward pass too."""
    altered = Altered(evidence, _left_out)
    for number, (equation, i) in enumerate(altered.subjects):
        if evidence.holds(lambda c, number=number: altered.gradient(c, number)):
            name = equation.params.get("name", equation.primitive.name)
            return (
                "omission",
                f"it is the gradient of the function without its `{name}`, with operand {i + 1} in its place",
            )
    return None


HYPOTHESES = (Hypothesis(Level.FORWARD, omitted, ("omission",)),)
