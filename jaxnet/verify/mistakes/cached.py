"""Cached values that are taken for one another: the backward pass reads an operand where a result belongs, say."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxnet.verify.engine.autodiff import Shapes, described
from jaxnet.verify.engine.case import Function, memoized
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves, compiled, in_float64, is_float, widened
from jaxnet.verify.engine.program import compute, of_scan, plain, shaped
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict

MOST = 128  # exchanges that are tried
Values = dict[Any, Any]  # of a program's variables
HANDING_ON = {"reshape", "squeeze", "expand_dims", "copy", "convert_element_type", "stop_gradient"}


class Exchange(NamedTuple):
    """A value that the backward pass reads in the place of another.

    Attributes:
        right: the variable that it should read.
        read: what it reads, of the values of all variables.
        text: the mistake in words.
    """

    right: Any
    read: Callable[[Values], Any]
    text: str


class Passes(NamedTuple):
    """A function's outputs and its gradient in one program, taken apart.

    Attributes:
        forward: the equations that the outputs are made by.
        backward: the others.
        exchanges: what the backward pass may confuse.
    """

    forward: list[JaxprEqn]
    backward: list[JaxprEqn]
    exchanges: list[Exchange]


def _taken_apart(jaxpr: Any, outputs: int, leaves: list[Any], paths: tuple[str, ...]) -> Passes:
    needed = {v for v in jaxpr.outvars[:outputs] if not isinstance(v, Literal)}
    forward: list[JaxprEqn] = []
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            forward.append(equation)
            needed |= {v for v in equation.invars if not isinstance(v, Literal)}
    forward.reverse()
    made = set(map(id, forward))
    # What is decided is decided anew in a backward pass that keeps the numbers and not the decision.
    deciding = [e for e in forward if all(shaped(v).dtype == bool for v in e.outvars)]
    backward = [*deciding, *(e for e in jaxpr.eqns if id(e) not in made)]
    read = {v for e in backward for v in e.invars if not isinstance(v, Literal)}
    found = [x for x in (*_of_loops(forward), *_of_equations(forward), *_of_leaves(leaves, paths)) if x.right in read]
    return Passes(forward, backward, found[:MOST])


def _of_equations(forward: list[JaxprEqn]) -> Iterator[Exchange]:
    for equation in forward:
        result, name = equation.outvars[0], equation.params.get("name", equation.primitive.name)
        if len(equation.outvars) > 1 or name in HANDING_ON or not is_float(shaped(result)):
            continue
        for i, operand in enumerate(equation.invars, start=1):
            if not isinstance(operand, Literal) and _alike(operand, result):
                which = f"operand {i}" if len(equation.invars) > 1 else "the operand"
                yield Exchange(result, itemgetter(operand), f"{which} of `{name}` where its result belongs")
                yield Exchange(operand, itemgetter(result), f"the result of `{name}` where {which} belongs")


def _of_loops(forward: list[JaxprEqn]) -> Iterator[Exchange]:
    """The states of a loop, which its backward pass reads from what was kept of all steps."""
    for equation in forward:
        if equation.primitive.name != "scan":
            continue
        (constants, carried), body = of_scan(equation.params), equation.params["jaxpr"].jaxpr
        first, last = equation.invars[constants : constants + carried], equation.outvars[:carried]
        before, after = body.invars[constants : constants + carried], body.outvars[:carried]
        kept = list(zip(equation.outvars[carried:], body.outvars[carried:], strict=True))
        late = -1 if equation.params["reverse"] else 1
        for (stack, inside), (i, start) in itertools.product(kept, enumerate(first)):
            if inside is before[i]:
                end = partial(_shifted, stack=stack, filled_by=last[i], way=late)
                yield Exchange(stack, end, "a loop's state after each step where the one before it belongs")
            elif inside is after[i]:
                begin = partial(_shifted, stack=stack, filled_by=start, way=-late)
                yield Exchange(stack, begin, "a loop's state before each step where the one after it belongs")


def _shifted(values: Values, *, stack: Any, filled_by: Any, way: int) -> Any:
    """What was kept of all steps, that of the step after (1) or before (-1) in the place of each."""
    rows, row = values[stack], _value(filled_by, values)[None]
    return jnp.concatenate([rows[1:], row] if way > 0 else [row, rows[:-1]])


def _value(variable: Any, values: Values) -> Any:
    return variable.val if isinstance(variable, Literal) else values[variable]


def _of_leaves(leaves: list[Any], paths: tuple[str, ...]) -> Iterator[Exchange]:
    for (a, first), (b, second) in itertools.permutations(zip(leaves, paths, strict=True), 2):
        if _alike(a, b):
            yield Exchange(a, itemgetter(b), f"{second} where {first} belongs")


def _alike(a: Any, b: Any) -> bool:
    return (shaped(a).shape, shaped(a).dtype) == (shaped(b).shape, shaped(b).dtype)


@memoized
def _program(
    function: Function, shapes: Shapes, paths: tuple[str, ...]
) -> tuple[list[Exchange], Callable[..., Leaves]]:
    """What may be confused, and the gradient where one exchange is made, by its number."""

    def both(point: Leaves, fixed: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
        outputs, pull = jax.vjp(lambda point: function.outputs(point, fixed), point)
        return outputs, pull(list(cotangent))[0]

    traced = jax.make_jaxpr(both)(*map(list, shapes))
    flat = jax.make_jaxpr(lambda *leaves: plain(traced, leaves))(*(leaf for group in shapes for leaf in group))
    jaxpr, count = flat.jaxpr, len(shapes[2])
    passes = _taken_apart(jaxpr, count, jaxpr.invars[: len(shapes[0])], paths)

    @compiled
    def run(point: Leaves, fixed: Leaves, cotangent: Leaves, number: Any) -> Leaves:
        values = dict(zip(jaxpr.constvars, flat.consts, strict=True))
        values.update(zip(jaxpr.invars, [*point, *fixed, *cotangent], strict=True))
        for equation in passes.forward:
            _step(equation, values, values)
        seen = dict(values)
        for i, exchange in enumerate(passes.exchanges):
            seen[exchange.right] = jnp.where(number == i, exchange.read(values), seen[exchange.right])
        for equation in passes.backward:
            _step(equation, seen, seen)
        return [_value(v, seen) for v in jaxpr.outvars[count:]]

    return passes.exchanges, run


def _step(equation: JaxprEqn, values: Values, into: Values) -> None:
    inputs = [_value(v, values) for v in equation.invars]
    into.update(zip(equation.outvars, compute(equation, inputs), strict=True))


def confused(evidence: Evidence) -> Verdict | None:
    """One value of the forward pass is read in the place of another throughout the backward pass."""
    case, leaf = evidence.case, evidence.leaf
    with in_float64():
        fixed = case.fixed_in(True)
        shapes = described(widened(case.differentiated), fixed, [np.zeros(output.shape) for output in case.outputs])
        exchanges, run = _program(case.function, shapes, tuple(case.paths))

    def gradient(where: Comparison, number: int) -> Floats:
        with in_float64(), np.errstate(all="ignore"):
            return widened(run(where.place.point, fixed, where.place.cotangent, number))[leaf]

    for number, exchange in enumerate(exchanges):
        if evidence.holds(lambda c, n=number: gradient(c, n)):
            return "cache", f"the backward pass reads {exchange.text}"
    return None


HYPOTHESES = (Hypothesis(Level.FORWARD, confused, ("cache",)),)
