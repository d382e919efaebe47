"""A program in float64 although it casts to narrower dtypes: its mathematics, without the rounding of its casts."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxnet.verify.engine.numbers import is_of_float32, meant, widen
from jaxnet.verify.engine.precision import DOUBLE, is_float
from jaxnet.verify.engine.program import compute, interpret, literals, narrowings, shaped

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


REDUCTIONS = ("reduce", "reduce_window")


def is_narrow(program: ClosedJaxpr) -> bool:
    """Whether the program computes in, or holds numbers of, dtypes narrower than float64."""
    constants = [float(constant) for constant in program.consts if is_float(constant) and np.ndim(constant) == 0]
    held = any(map(is_of_float32, (*literals(program), *constants)))
    return held or max(narrowings(program), default=0.0) > DOUBLE


def lifted(program: ClosedJaxpr, arguments: Sequence[Any], side: int = 0) -> list[Any]:
    """The outputs of the program, every float of which is computed and held in float64.

    Args:
        program: what is run.
        arguments: of it.
        side: to which numbers that stand in it are moved, each up or down by half a unit of its dtype; 0 for none.
    """
    consts = [meant(constant, side) for constant in program.consts]
    visit = functools.partial(lifted_equation, side=side)
    return interpret(program.replace(consts=consts), arguments, visit, into_loops=True)


def lifted_equation(equation: JaxprEqn, inputs: list[Any], run: Any, side: int = 0) -> list[Any]:
    """What an equation computes in float64."""
    name = equation.primitive.name
    given = zip(equation.invars, inputs, strict=True)
    inputs = [
        meant(variable.val, side, shaped(variable).dtype) if isinstance(variable, Literal) else widen(value)
        for variable, value in given
    ]
    if name in WITH_RULES:
        return lifted(equation.params["call_jaxpr"], inputs, side)
    if name.replace("-", "_") in SCATTERS:
        known = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
        options = {option: equation.params[option] for option in known}
        return [SCATTERS[name.replace("-", "_")](*inputs, **options)]
    if name == "custom_linear_solve":
        return _solved(equation.params, inputs, side)
    if name == "reduce_precision":
        return [inputs[0]]
    if name == "convert_element_type" and is_float(shaped(equation.outvars[0])):
        return [jnp.asarray(inputs[0], jnp.float64)]
    if name == "bitcast_convert_type":  # bits are those of the dtype
        narrow = jnp.asarray(inputs[0], shaped(equation.invars[0]).dtype)
        return [widen(value) for value in compute(equation, [narrow])]
    widening = _combining if name in REDUCTIONS else _widened
    wider = {key: widening(value) for key, value in equation.params.items()}
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


def _combining(value: Any) -> Any:
    """A program of two numbers in float64; anything else as it is."""
    if not hasattr(value, "eqns") and not hasattr(value, "jaxpr"):
        return value
    closed = value if hasattr(value, "consts") else ClosedJaxpr(value, ())
    shapes = [shaped(variable) for variable in closed.jaxpr.invars]
    wide = [jax.ShapeDtypeStruct(s.shape, np.float64 if is_float(s) else s.dtype) for s in shapes]
    found = jax.make_jaxpr(lambda *numbers: lifted(closed, numbers))(*wide)
    return found if closed is value else found.jaxpr


def _solved(params: dict[str, Any], inputs: Sequence[Any], side: int) -> list[Any]:
    """The solution of a linear system, whose matrix and whose solver are programs."""
    programs, rest, functions = params["jaxprs"], list(inputs), {}
    for name, count in params["const_lengths"]._asdict().items():
        constants, rest, program = rest[:count], rest[count:], getattr(programs, name)
        run = functools.partial(
            lambda program, constants, b: lifted(program, [*constants, *b], side), program, constants
        )
        functions[name] = run if program is not None else None
    transposed = functions["transpose_solve"]
    return jax.lax.custom_linear_solve(
        functions["matvec"],
        rest,
        lambda _, b: functions["solve"](b),
        transposed and (lambda _, b: transposed(b)),
        symmetric=programs.vecmat is programs.matvec,
    )
