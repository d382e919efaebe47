"""A program in float64 although it casts to narrower dtypes: its mathematics, without the rounding of its casts."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.precision import DOUBLE, is_float
from jaxnet.verify.engine.program import compute, interpret, narrowings, shaped

# Rules that stand beside a function in a program; what is computed is the function.
WITH_RULES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


# Equations that hold a program of their own for what they do with two numbers.
SCATTERS: dict[str, Callable[..., Any]] = {
    "scatter": jax.lax.scatter,
    "scatter_add": jax.lax.scatter_add,
    "scatter_mul": jax.lax.scatter_mul,
    "scatter_min": jax.lax.scatter_min,
    "scatter_max": jax.lax.scatter_max,
}


def is_narrow(program: ClosedJaxpr) -> bool:
    """Whether the program computes in, or holds arrays of, dtypes narrower than float64."""
    return max(narrowings(program), default=0.0) > DOUBLE


def lifted(program: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    """The outputs of the program, every float of which is computed and held in float64."""
    consts = [widen(constant) for constant in program.consts]
    return interpret(program.replace(consts=consts), arguments, lifted_equation, into_loops=True)


def widen(value: Any) -> Any:
    """A float in float64, anything else as it is."""
    return jnp.asarray(value, jnp.float64) if is_float(value) else value


def lifted_equation(equation: JaxprEqn, inputs: list[Any], run: Any) -> list[Any]:
    """What an equation computes in float64."""
    name = equation.primitive.name
    inputs = [widen(value) for value in inputs]
    if name in WITH_RULES:
        return lifted(equation.params["call_jaxpr"], inputs)
    if name.replace("-", "_") in SCATTERS:
        known = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
        options = {option: equation.params[option] for option in known}
        return [SCATTERS[name.replace("-", "_")](*inputs, **options)]
    if name == "reduce_precision":
        return [inputs[0]]
    if name == "convert_element_type" and is_float(shaped(equation.outvars[0])):
        return [jnp.asarray(inputs[0], jnp.float64)]
    if name == "bitcast_convert_type":  # bits are those of the dtype
        narrow = jnp.asarray(inputs[0], shaped(equation.invars[0]).dtype)
        return [widen(value) for value in compute(equation, [narrow])]
    wider = {key: _widened(value) for key, value in equation.params.items()}
    if any(wider[key] is not equation.params[key] for key in wider):
        equation = equation.replace(params=wider)
        return [widen(value) for value in compute(equation, inputs)]
    return [widen(value) for value in run(*inputs)]


def _widened(value: Any) -> Any:
    """A parameter that is a narrow float's dtype, as float64's."""
    if isinstance(value, jax.ShapeDtypeStruct) or not isinstance(value, np.dtype | type):
        return value
    try:
        narrow = jnp.issubdtype(value, jnp.floating) and np.dtype(value) != np.float64
    except TypeError:
        return value
    return np.dtype(np.float64) if narrow else value
