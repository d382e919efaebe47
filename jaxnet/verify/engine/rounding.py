"""What rounding does to a program: a copy of it in which every result is moved by a unit in its last place."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.lifting import lifted_equation
from jaxnet.verify.engine.numbers import widen
from jaxnet.verify.engine.precision import Floats, is_float, spacing
from jaxnet.verify.engine.program import LOOPS, Dependence, dependence, equations, inner, interpret, shaped
from jaxnet.verify.engine.randomness import signs

# Operations whose results are exact, whatever comes in: to move these would break comparisons such as x == max(x).
EXACT = {
    "abs", "and", "argmax", "argmin", "broadcast_in_dim", "ceil", "clamp", "concatenate", "copy", "copy_p", "cummax",
    "cummin", "dynamic_slice", "dynamic_update_slice", "eq", "expand_dims", "floor", "gather", "ge", "gt", "iota",
    "is_finite", "le", "lt", "max", "min", "ne", "neg", "nextafter", "not", "or", "pad", "pvary", "real",
    "reduce_max", "reduce_min", "reduce_precision", "reduce_window_max", "reduce_window_min", "reshape", "rev", "round",
    "scatter", "scatter-max", "scatter-min", "scatter_max", "scatter_min", "select_and_gather_add",
    "select_and_scatter", "select_n", "sign", "slice", "sort", "split", "squeeze", "stop_gradient", "top_k",
    "transpose",
}  # fmt: skip


def rounds(equation: JaxprEqn) -> bool:
    """Whether the equation's results are rounded floats."""
    if inner(equation) is not None or equation.primitive.name in LOOPS:
        return False
    if equation.primitive.name == "convert_element_type":
        (before,), (after,) = equation.invars, equation.outvars
        before, after = shaped(before), shaped(after)
        return is_float(before) and is_float(after) and spacing(before.dtype) < spacing(after.dtype)
    return equation.primitive.name not in EXACT and any(is_float(shaped(variable)) for variable in equation.outvars)


def nudged(value: Any, way: Any, unit: Any, at_zero: Any = 0.0) -> Any:
    """The value moved by so much of a relative unit as `way` says for each element; a 0 as if it were `at_zero`."""
    size = jnp.where(value == 0, at_zero, jnp.abs(value))
    return value + (way * (size * unit)).astype(value.dtype)


class Moves(NamedTuple):
    """Which way, and how far, everything in a program is moved.

    Where terms of a sum cancel, a step of the same relative size for all would cancel, too: each element goes its own
    way. The ways of all results are pieces of one row of random numbers, so that a program has little to compute.

    Attributes:
        ways: mostly between -1 and 1, in a row: random ones, and behind them some that are chosen.
        starts: for each place in the program, where in it its ways begin.
        units: for each place, the relative step.
        at_zero: the size of zeros.
    """

    ways: Any
    starts: Any
    units: Any
    at_zero: Any

    def applied(self, place: int, value: Any) -> Any:
        """A value that is moved as at such a place."""
        way = jax.lax.dynamic_slice(self.ways, (self.starts[place],), (math.prod(value.shape),))
        way, unit, at_zero = (x.astype(value.dtype) for x in (way, self.units[place], jnp.asarray(self.at_zero)))
        return nudged(value, way.reshape(value.shape), unit, at_zero)


PERTURBATIONS = 6  # moves of a whole program at a time
STARTS = 4099  # in a row of ways, from which a place may take its own


class Slots:
    """The places of a program where something is moved: its inputs, as many as there are, and what it rounds."""

    def __init__(self, program: ClosedJaxpr, given: Sequence[bool], *, lift: bool = False) -> None:
        """The places of a program, which is kept alive: equations are known by identity.

        Args:
            program: in which results are moved.
            given: which of its inputs are moved, too.
            lift: whether it is run in float64 although it computes in narrower dtypes.
        """
        self.program, self.lift = program, lift
        if lift:
            self.program = program.replace(consts=[widen(constant) for constant in program.consts])
        found = {id(equation): equation for equation in equations(program) if rounds(equation)}
        inputs = [shaped(variable) for variable, chosen in zip(program.jaxpr.invars, given, strict=True) if chosen]
        self.inputs = len(inputs)
        self.numbers = {identity: number for number, identity in enumerate(found, start=self.inputs)}
        floats = [[v for v in map(shaped, e.outvars) if is_float(v)] for e in found.values()]
        self.spacings = np.asarray([max(spacing(v.dtype) for v in outputs) for outputs in floats], float)
        depends = dependence(program, given)
        self._depend = [Dependence.VARIES] * self.inputs + [depends[identity] for identity in found]
        self.longest = max((math.prod(v.shape) for group in (inputs, *floats) for v in group), default=1)

    @property
    def count(self) -> int:
        """How many places there are."""
        return self.inputs + len(self.numbers)

    def moved(self, *, constants: bool) -> Floats:
        """Which places are moved, as ones and zeros: not what stays the same beside a point, as a floor does.

        Args:
            constants: whether what depends on no input is: in float64 a whole number that is computed is exact.
        """
        chosen = {Dependence.VARIES, Dependence.CONSTANT} if constants else {Dependence.VARIES}
        return np.asarray([how in chosen for how in self._depend], float)

    def signs(self, generator: np.random.Generator) -> Floats:
        """Ways by which each element goes about a step up or down: what rounding may do.

        Steps of one length would cancel exactly, again and again, where only a few results take part.
        """
        lengths = np.resize(generator.uniform(0.5, 1.5, STARTS), self.length)
        return lengths * np.resize(signs(generator, (self.longest + STARTS,)), self.length)

    def parts(self, generator: np.random.Generator, pieces: Floats) -> tuple[Floats, list[int]]:
        """Ways by which no two elements stay equal, and behind them given ones, a row each; and where these begin."""
        random = generator.uniform(-1, 1, self.longest + STARTS)
        ways = np.concatenate([random, *(np.resize(piece, self.longest) for piece in pieces)])
        return ways, [len(random) + i * self.longest for i in range(len(pieces))]

    @property
    def length(self) -> int:
        """Of a row of ways: one for all, as what is compiled is compiled for a length."""
        return STARTS + (1 + PERTURBATIONS) * self.longest

    def starts(self, generator: np.random.Generator, rows: int) -> Floats:
        """Where the ways of each place begin, for some moves of the whole program."""
        return generator.integers(0, STARTS, (rows, self.count), np.int32)

    def run(self, arguments: Sequence[Any], moves: Moves) -> list[Any]:
        """The outputs of the program, every rounded result moved."""

        def visit(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
            outputs = lifted_equation(equation, inputs, run) if self.lift else run(*inputs)
            place = self.numbers.get(id(equation))
            if place is None:
                return outputs
            return [moves.applied(place, output) if is_float(output) else output for output in outputs]

        return interpret(self.program, arguments, visit, into_loops=True)
