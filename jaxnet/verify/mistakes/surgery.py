"""The backward pass of a function opened at every equation, so that mistakes can be made in it.

At each operand and each result of an equation something can be added to the cotangent that flows there. Somebody who
makes a mistake at one place of the chain rule, g'(a) for g'(z) say, passes on another cotangent there, and everything
before it is right: what he gets is the right gradient of the function with the difference added at that place. So one
program, not much larger than the derivative, simulates any mistake, and every simulation is one run of it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxnet.verify.engine.autodiff import Shapes, described
from jaxnet.verify.engine.case import Function, memoized
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves, compiled, in_float64, is_float, widened
from jaxnet.verify.engine.program import compute, inner, of_scan, shaped
from jaxnet.verify.engine.trial import Trial
from jaxnet.verify.mistakes.evidence import Evidence

# The operand of an equation, counted from 0, or its result, counted from -1 downwards, with the equation's number.
Site = tuple[int, int]
LARGEST = 2**21  # numbers in all places that are opened


class Operation(NamedTuple):
    """An equation, or a chain of them that act element by element, at which a mistake can be made.

    Attributes:
        number: of the equation.
        equation: the first one of a chain.
        name: what reports call it.
        operand: which operand carries the derivative that a mistake is made in.
        result: the site of the result.
        repeats: how often it is run in a row: mistakes in a loop are made in every round.
    """

    number: int
    equation: JaxprEqn
    name: str
    operand: int
    result: Site
    repeats: int = 1

    @property
    def site(self) -> Site:
        """Where the cotangent of the operand can be changed."""
        return self.number, self.operand

    @property
    def primitive(self) -> str:
        """The name of the primitive; empty for a chain of several."""
        return self.equation.primitive.name if self.result[0] == self.number else ""


@jax.custom_vjp
def _opened(value: Any, extra: Any, factor: Any) -> Any:
    """The value; its cotangent is multiplied and has something added, whose own cotangent is the one that arrives."""
    return value


_opened.defvjp(
    lambda value, extra, factor: (value, (extra, factor)),
    lambda changed, ct: (ct * changed[1] + changed[0], ct, jnp.zeros_like(changed[1])),
)


class _Opened(NamedTuple):
    """A program with its places, in the order in which it is run."""

    program: ClosedJaxpr
    places: dict[Site, tuple[int, ...]]
    starts: dict[Site, int]
    operations: list[Operation]

    def part(self, site: Site) -> slice:
        """Where the numbers of a place are in one vector of all, which is passed on faster than many arrays."""
        start = self.starts[site]
        return slice(start, start + int(np.prod(self.places[site])))

    @property
    def size(self) -> int:
        """How many numbers there are in all places."""
        return sum(int(np.prod(shape)) for shape in self.places.values())


def _open(program: ClosedJaxpr) -> _Opened:
    """All places and operations of a program, loops of a fixed length included."""
    places: dict[Site, tuple[int, ...]] = {}
    operations: list[Operation] = []
    counter = iter(range(10**9))

    def look(jaxpr: Any, lengths: tuple[int, ...]) -> None:
        first = len(operations)
        rows: list[tuple[int, JaxprEqn]] = []
        for equation in jaxpr.eqns:
            number = next(counter)
            inside = inner(equation)
            if inside is not None:
                look(inside.jaxpr, lengths)
            elif equation.primitive.name == "scan":
                look(equation.params["jaxpr"].jaxpr, (*lengths, equation.params["length"]))
            else:
                rows.append((number, equation))
                changing = _changing(equation)
                results = [(number, -1 - j) for j, v in enumerate(equation.outvars) if is_float(shaped(v)) and changing]
                for site in results:
                    places[site] = (*lengths, *shaped(equation.outvars[-1 - site[1]]).shape)
                for i in changing:
                    places[number, i] = (*lengths, *shaped(equation.invars[i]).shape)
                    name = _name(equation)
                    repeats = int(np.prod(lengths)) if lengths else 1
                    operations.append(Operation(number, equation, name, i, results[0], repeats))
        repeats = int(np.prod(lengths)) if lengths else 1
        operations[first:first] = [chain._replace(repeats=repeats) for chain in _chains(rows, jaxpr)]

    look(program.jaxpr, ())
    sizes = [int(np.prod(shape)) for shape in places.values()]
    starts = dict(zip(places, np.cumsum([0, *sizes]).tolist(), strict=False))
    return _Opened(program, places, starts, operations)


def _name(equation: JaxprEqn) -> str:
    inside = equation.params.get("call_jaxpr")
    named = next((e.params["name"] for e in inside.eqns if "name" in e.params), None) if inside is not None else None
    return str(named or equation.params.get("name", equation.primitive.name))


def _changing(equation: JaxprEqn) -> list[int]:
    """Which operands carry a derivative; none of a comparison, say, whose results are no floats."""
    if not any(is_float(shaped(v)) for v in equation.outvars):
        return []
    return [i for i, v in enumerate(equation.invars) if not isinstance(v, Literal) and is_float(shaped(v))]


def acts_elementwise(equation: JaxprEqn) -> bool:
    """Whether it has one operand that carries a derivative and one result of the same shape, element by element."""
    changing = _changing(equation)
    if len(changing) != 1 or len(equation.outvars) != 1 or equation.primitive.name in MIXING:
        return False
    before, after = shaped(equation.invars[changing[0]]), shaped(equation.outvars[0])
    return before.shape == after.shape and is_float(after) and not _mixes(equation)


MIXING = {
    "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "rev", "transpose", "while", "cond",
    "reshape", "custom_linear_solve", "triangular_solve", "fft", "stop_gradient", "copy", "convert_element_type",
}  # fmt: skip


def _mixes(equation: JaxprEqn) -> bool:
    """Whether a program inside does more than act element by element."""
    inside = equation.params.get("call_jaxpr") or equation.params.get("jaxpr")
    if inside is None:
        return False
    names = [e.primitive.name for e in getattr(inside, "jaxpr", inside).eqns if inner(e) is None]
    return any(
        name in MIXING or name.startswith(("reduce", "dot", "conv", "gather", "scatter", "argm")) for name in names
    )


def _chains(rows: list[tuple[int, JaxprEqn]], jaxpr: Any) -> Iterator[Operation]:
    """Every longest chain of equations that act element by element, such as 1/(1 + e^-z), as one operation."""
    used: dict[Any, int] = {}
    for _, equation in rows:
        for variable in equation.invars:
            if not isinstance(variable, Literal):
                used[variable] = used.get(variable, 0) + 1
    for variable in jaxpr.outvars:
        if not isinstance(variable, Literal):
            used[variable] = used.get(variable, 0) + 2
    by_input = {
        equation.invars[_changing(equation)[0]]: (number, equation)
        for number, equation in rows
        if acts_elementwise(equation)
    }
    results = {equation.outvars[0] for _, equation in by_input.values()}
    for variable, (number, equation) in by_input.items():
        if variable in results and used.get(variable) == 1:
            continue  # within a chain
        last_number, last, length = number, equation, 1
        while used.get(last.outvars[0]) == 1 and last.outvars[0] in by_input:
            last_number, last = by_input[last.outvars[0]]
            length += 1
        if length > 1:
            name = " ∘ ".join(dict.fromkeys((_name(last), _name(equation))))
            yield Operation(number, equation, name, _changing(equation)[0], (last_number, -1))


class _Walk:
    """Runs the program; equations take their numbers in the order in which `_open` has met them."""

    def __init__(self, extra: dict[Site, Any], factors: dict[Site, Any]) -> None:
        """A walk with the cotangents multiplied and something added to them."""
        self.extra, self.factors = extra, factors
        self.number = -1

    def run(self, program: ClosedJaxpr, arguments: Sequence[Any]) -> tuple[list[Any], dict[Site, Any]]:
        """The outputs, and the values at all places."""
        jaxpr = program.jaxpr
        seen: dict[Site, Any] = {}
        values = dict(zip(jaxpr.constvars, program.consts, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            self.number += 1
            inputs, inside = [read(v) for v in equation.invars], inner(equation)
            if inside is not None:
                outputs, found = self.run(inside, inputs)
            elif equation.primitive.name == "scan":
                outputs, found = self._scan(equation, inputs)
            else:
                outputs, found = self._equation(equation, inputs)
            seen |= found
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars], seen

    def _equation(self, equation: JaxprEqn, inputs: list[Any]) -> tuple[list[Any], dict[Site, Any]]:
        seen: dict[Site, Any] = {}

        def open_at(place: int, value: Any) -> Any:
            site = self.number, place
            seen[site] = value
            return _opened(value, self.extra[site], self.factors[site]) if site in self.extra else value

        if not any((self.number, -1 - j) in self.extra for j in range(len(equation.outvars))):
            return compute(equation, inputs), seen
        inputs = [open_at(i, value) for i, value in enumerate(inputs)]
        return [open_at(-1 - j, value) for j, value in enumerate(compute(equation, inputs))], seen

    def _scan(self, equation: JaxprEqn, inputs: list[Any]) -> tuple[list[Any], dict[Site, Any]]:
        params, begin = equation.params, self.number
        constants, carried = of_scan(params)
        fixed, start = inputs[:constants], inputs[constants : constants + carried]
        last = begin

        def step(carry: list[Any], row: tuple[list[Any], dict[Site, Any]]) -> Any:
            nonlocal last
            walk = _Walk(row[1], self.factors)
            walk.number = begin
            outputs, seen = walk.run(params["jaxpr"], [*fixed, *carry, *row[0]])
            last = walk.number
            return outputs[:carried], (outputs[carried:], seen)

        end = begin + _size(params["jaxpr"].jaxpr)
        own = {site: value for site, value in self.extra.items() if begin < site[0] <= end}
        options = {name: params[name] for name in ("length", "reverse", "unroll")}
        carry, (outputs, seen) = jax.lax.scan(step, list(start), (inputs[constants + carried :], own), **options)
        self.number = last
        return [*carry, *outputs], seen


def _size(jaxpr: Any) -> int:
    """How many numbers the equations of a program take."""
    insides = [inner(e) or (e.params["jaxpr"] if e.primitive.name == "scan" else None) for e in jaxpr.eqns]
    return len(jaxpr.eqns) + sum(_size(inside.jaxpr) for inside in insides if inside is not None)


Simulated = tuple[Leaves, dict[Site, Any], dict[Site, Any]]


@memoized
def _program(function: Function, shapes: Shapes) -> tuple[_Opened, Callable[..., Simulated], Callable[..., Leaves]]:
    """The function opened, its derivative with what is seen on the way, and the gradient alone."""
    opened = _open(jax.make_jaxpr(function.outputs)(*map(list, shapes[:2])))

    def run(leaves: tuple[Leaves, Leaves, Leaves], numbers: Any, factors: Any) -> Simulated:
        point, fixed, cotangent = leaves
        by_site = {site: factors[i] for i, site in enumerate(opened.places)}
        extra = {site: numbers[opened.part(site)].reshape(shape) for site, shape in opened.places.items()}

        def outputs(point: Leaves, extra: dict[Site, Any]) -> Any:
            return _Walk(extra, by_site).run(opened.program, [*point, *fixed])

        _, pull, seen = jax.vjp(outputs, point, extra, has_aux=True)
        gradient, arriving = pull(list(cotangent))
        return gradient, arriving, seen

    return opened, compiled(run), compiled(lambda *given: run(*given)[0])


class Surgery:
    """The derivative of a function at some places of the verification, open to mistakes.

    Attributes:
        operations: where mistakes can be made, those nearest to the output first.
        activations: those of them that act element by element.
        runs: how many simulations are left.
    """

    def __init__(self, trial: Trial, runs: int) -> None:
        """Opens the function of a trial; raises `ValueError` where it is too large."""
        self.case, self.runs = trial.case, runs
        with in_float64():
            self.fixed = self.case.fixed_in(True)
            cotangent = [np.zeros(output.shape) for output in self.case.outputs]
            shapes = described(widened(self.case.differentiated), self.fixed, cotangent)
            self._opened, self._run, self._run_alone = _program(self.case.function, shapes)
        if self._opened.size > LARGEST:
            raise ValueError("the function is too large to be opened")
        self.operations = sorted(self._opened.operations, key=lambda operation: -operation.number)
        self.activations = [o for o in self.operations if not o.primitive or acts_elementwise(o.equation)]
        self._right: dict[str, Simulated] = {}

    def right(self, where: Comparison) -> Simulated:
        """The gradient, the cotangents that arrive and the values at all places, without a mistake."""
        if where.place.name not in self._right:
            self._right[where.place.name] = self.seen(where, {})
        return self._right[where.place.name]

    def seen(self, where: Comparison, extra: dict[Site, Floats]) -> Simulated:
        """The same with something added to the cotangents at some places."""
        with in_float64(), np.errstate(all="ignore"):
            gradient, arriving, seen = self._run(*self._given(where, extra, {}))
            return widened(gradient), arriving, seen

    def gradient(
        self, where: Comparison, extra: dict[Site, Floats], factors: dict[Site, float] | None = None
    ) -> Leaves:
        """The gradient with the cotangents at some places multiplied, and something added to them."""
        with in_float64(), np.errstate(all="ignore"):
            return widened(self._run_alone(*self._given(where, extra, factors or {})))

    def _given(self, where: Comparison, extra: dict[Site, Floats], factors: dict[Site, float]) -> tuple[Any, ...]:
        self.runs -= 1
        multiplied = np.asarray([factors.get(site, 1.0) for site in self._opened.places])
        added = np.zeros(self._opened.size)
        for site, value in extra.items():
            added[self._opened.part(site)] = np.ravel(value)
        return (where.place.point, self.fixed, where.place.cotangent), added, multiplied


RUNS = 1200  # simulations of a diagnosis


def opened(evidence: Evidence) -> Surgery:
    """The function of a diagnosis, opened once for all its leaves."""
    return evidence.kept("surgery", lambda: Surgery(evidence.trial, RUNS))
