"""Traced programs: running one equation by equation, and asking what its equations are.

Three things rest on it: measuring what rounding explains (every result is moved by one unit in its last place), running
in float64 what casts to narrower dtypes, and simulating mistakes (the derivative of one equation is replaced).
"""

import enum
import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxprs_in_params

from jaxnet.verify.engine.precision import is_float, spacing

# Calls that only group equations.
GROUPS = {"jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat", "remat2", "checkpoint"}

Run = Callable[..., list[Any]]
Visitor = Callable[[JaxprEqn, list[Any], Run], list[Any]]


def shaped(variable: Any) -> Any:
    """The shape and dtype of a variable of a traced program."""
    return variable.aval


def inner(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The program inside a call, if the equation is one."""
    return _closed(equation) if equation.primitive.name in GROUPS else None


def _closed(equation: JaxprEqn) -> ClosedJaxpr | None:
    program = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    return None if program is None else _with_constants(program)


def _with_constants(program: Any) -> ClosedJaxpr:
    """Newer versions of JAX have every program hold its constants."""
    return program if hasattr(program, "consts") else ClosedJaxpr(program, ())


def compute(equation: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    """What the equation computes by itself."""
    params = equation.primitive.get_bind_params(equation.params)
    outputs = equation.primitive.bind(*inputs, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def interpret(program: ClosedJaxpr, arguments: Sequence[Any], visit: Visitor, *, into_loops: bool = False) -> list[Any]:
    """The outputs of the program, where `visit(equation, inputs, run)` gives the outputs of each equation.

    `run(*inputs)` computes the equation as it is: a call by interpreting what is inside, with the same visitor. So are
    loops and branches if asked for; what a visitor sees there must not be kept for use outside.
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


def plain(program: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    """What a program computes."""
    return interpret(program, arguments, lambda equation, inputs, run: run(*inputs))


def of_scan(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants a scan has, and how many arrays it carries."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carried, _ = params["ft_in"].unpack()  # since JAX 0.12
    return len(constants), len(carried)


def _scan(params: dict[str, Any], inputs: Sequence[Any], visit: Visitor) -> list[Any]:
    """A scan whose body is interpreted."""
    body, (constants, carried) = params["jaxpr"], of_scan(params)
    fixed, start, stacked = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = interpret(body, [*fixed, *carry, *slices], visit, into_loops=True)
        return _like(outputs[:carried], carry), outputs[carried:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, outputs = jax.lax.scan(step, list(start), list(stacked), **options)
    return [*carry, *outputs]


def _while(params: dict[str, Any], inputs: Sequence[Any], visit: Visitor) -> list[Any]:
    """A loop whose condition and body are interpreted."""
    in_condition, in_body = params["cond_nconsts"], params["body_nconsts"]
    of_condition, of_body = inputs[:in_condition], inputs[in_condition : in_condition + in_body]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]

    def goes_on(carry: list[Any]) -> Any:
        return interpret(condition, [*of_condition, *carry], visit, into_loops=True)[0]

    def step(carry: list[Any]) -> list[Any]:
        return _like(interpret(body, [*of_body, *carry], visit, into_loops=True), carry)

    return list(jax.lax.while_loop(goes_on, step, list(inputs[in_condition + in_body :])))


def _cond(params: dict[str, Any], inputs: Sequence[Any], visit: Visitor) -> list[Any]:
    """A choice between branches that are interpreted."""
    index, *operands = inputs

    def interpreted(branch: ClosedJaxpr) -> Callable[..., list[Any]]:
        return lambda *values: interpret(branch, values, visit, into_loops=True)

    return jax.lax.switch(index, [interpreted(branch) for branch in params["branches"]], *operands)


def _like(values: Sequence[Any], carry: Sequence[Any]) -> list[Any]:
    """The values in the dtypes of the carry, which a visitor may have widened."""
    return [v.astype(c.dtype) if hasattr(c, "dtype") and is_float(c) else v for v, c in zip(values, carry, strict=True)]


LOOPS: dict[str, Callable[[dict[str, Any], Sequence[Any], Visitor], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


# Questions -----------------------------------------------------------------------------------------------------------


def equations(program: Any) -> Iterator[JaxprEqn]:
    """Every equation of a program, those inside calls, loops and branches too."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation
        for inside in jaxprs_in_params(equation.params):
            yield from equations(inside)


class Dependence(enum.IntEnum):
    """How an equation's results depend on what is given: not at all, by steps alone as a floor does, or smoothly."""

    CONSTANT = enum.auto()
    STEPS = enum.auto()
    VARIES = enum.auto()


def dependence(program: ClosedJaxpr, given: Sequence[bool]) -> dict[int, Dependence]:
    """For the identity of each equation how its results depend on some of the inputs.

    What a loop is given is taken to vary as a whole.
    """
    found: dict[int, Dependence] = {}

    def visit(equation: JaxprEqn, operands: list[Any], run: Run) -> list[Any]:
        if inner(equation) is not None:
            return run(*operands)
        among = [operand for operand in operands if isinstance(operand, Dependence)]
        most = max(among, default=Dependence.CONSTANT)
        if most is Dependence.VARIES and _steps(equation):
            most = Dependence.STEPS
        found[id(equation)] = max(most, found.get(id(equation), most))  # calls may share one program
        for inside in map(_with_constants, jaxprs_in_params(equation.params)):
            interpret(inside, [most] * len(inside.jaxpr.invars), visit)
        return [most] * len(equation.outvars)

    interpret(program, [Dependence.VARIES if chosen else Dependence.CONSTANT for chosen in given], visit)
    return found


def _steps(equation: JaxprEqn) -> bool:
    """Whether an equation's results are the same nearly everywhere beside a point."""
    whole = not any(is_float(shaped(variable)) for variable in equation.outvars)
    return whole or equation.primitive.name in {"floor", "ceil", "round", "sign"}


def draws(program: Any) -> bool:
    """Whether the program draws random numbers: in float64 it would draw others."""
    drawing = ("random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform")
    return any(equation.primitive.name in drawing for equation in equations(program))


def holds_fixed(program: Any) -> bool:
    """Whether the program tells autodiff to take something for constant that is not."""
    return any(equation.primitive.name == "stop_gradient" for equation in equations(program))


def calls_back(program: Any) -> bool:
    """Whether the program calls Python while it runs."""
    return any("callback" in equation.primitive.name for equation in equations(program))


def waits(program: Any) -> bool:
    """Whether the program has a loop that goes on until floats say so."""
    loops = (equation for equation in equations(program) if equation.primitive.name == "while")
    asked = (inside for loop in loops for inside in equations(loop.params["cond_jaxpr"]))
    return any(is_float(shaped(variable)) for equation in asked for variable in equation.invars)


def narrowings(program: Any) -> Iterator[float]:
    """The spacings of the floats narrower than float64 that a program computes or holds, anywhere in it."""
    for constant in getattr(program, "consts", ()):
        if is_float(constant) and np.ndim(constant):
            yield spacing(constant.dtype)
    for equation in equations(program):
        for variable in equation.outvars:
            if is_float(shaped(variable)):
                yield spacing(shaped(variable).dtype)


def literal(variable: Any) -> float | None:
    """The number that stands in an equation, if one does."""
    if isinstance(variable, Literal) and is_float(shaped(variable)) and np.ndim(variable.val) == 0:
        return float(variable.val)
    return None


def literals(program: Any) -> Iterator[float]:
    """The numbers that stand in equations."""
    for equation in equations(program):
        yield from (number for number in map(literal, equation.invars) if number is not None)


def signature(program: Any) -> Hashable:
    """What sets a program apart from others: equal for two traces of the same computation with the same numbers."""
    constants = tuple(_digest(constant) for constant in getattr(program, "consts", ()))
    return constants, _structure(getattr(program, "jaxpr", program))


def _structure(jaxpr: Any) -> Hashable:
    numbers: dict[Any, int] = {}

    def named(variable: Any) -> Hashable:
        if isinstance(variable, Literal):
            return _digest(variable.val)
        return numbers.setdefault(variable, len(numbers)), str(shaped(variable))

    inputs = tuple(map(named, (*jaxpr.constvars, *jaxpr.invars)))
    rows = tuple(
        (
            equation.primitive.name,
            tuple(map(named, equation.invars)),
            tuple(sorted((name, _parameter(value)) for name, value in equation.params.items())),
            tuple(map(named, equation.outvars)),
        )
        for equation in jaxpr.eqns
    )
    return inputs, rows, tuple(map(named, jaxpr.outvars))


def _parameter(value: Any) -> str:
    """A parameter of an equation; functions by their names, as each trace makes new ones."""
    if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
        return hashlib.sha256(repr(signature(value)).encode()).hexdigest()
    if isinstance(value, tuple | list):
        return f"({','.join(map(_parameter, value))})"
    if isinstance(value, np.ndarray | jax.Array):
        return str(_digest(value))
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    return repr(value)


def _digest(constant: Any) -> Hashable:
    if isinstance(constant, jax.Array) and jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    array = np.asarray(constant)
    return array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()
