"""The gradient of a function whose equations compute something else: what somebody differentiates who misreads it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.autodiff import Shapes, described
from jaxnet.verify.engine.case import Function, memoized
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves, compiled, in_float64, widened
from jaxnet.verify.engine.program import Run, interpret
from jaxnet.verify.mistakes.evidence import Evidence

# (equation, inputs, run, how) -> outputs, where run(*inputs) gives those of the equation as it is.
Alter = Callable[[JaxprEqn, list[Any], Run, Any], list[Any]]
# (program) -> what can be altered in it, and the means to do it.
Alteration = Callable[[ClosedJaxpr], tuple[list[Any], Alter]]


@memoized
def _program(function: Function, alteration: Alteration, shapes: Shapes) -> tuple[list[Any], Callable[..., Leaves]]:
    traced = jax.make_jaxpr(function.outputs)(*map(list, shapes[:2]))
    subjects, alter = alteration(traced)

    @compiled
    def run(point: Leaves, fixed: Leaves, cotangent: Leaves, how: Any) -> Leaves:
        def visit(equation: JaxprEqn, inputs: list[Any], run: Run) -> list[Any]:
            return alter(equation, inputs, run, how)

        _, pull = jax.vjp(lambda point: interpret(traced, [*point, *fixed], visit, into_loops=True), point)
        return pull(list(cotangent))[0]

    return subjects, run


class Altered:
    """The function of a diagnosis with something in it altered.

    Attributes:
        subjects: what can be altered.
    """

    def __init__(self, evidence: Evidence, alteration: Alteration) -> None:
        """Traces the function; what is compiled serves all functions of the same form."""
        self.leaf, case = evidence.leaf, evidence.case
        with in_float64():
            self._fixed = case.fixed_in(True)
            shapes = described(widened(case.differentiated), self._fixed, [np.zeros(o.shape) for o in case.outputs])
            self.subjects, self._run = _program(case.function, alteration, shapes)

    def gradient(self, where: Comparison, how: Any) -> Floats:
        """The leaf's gradient at a place, with something altered."""
        with in_float64(), np.errstate(all="ignore"):
            return widened(self._run(where.place.point, self._fixed, where.place.cotangent, how))[self.leaf]
