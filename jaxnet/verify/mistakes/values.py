"""Numbers that have another value: an ε, a slope, a temperature, a factor 0.044715."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from jaxnet.verify.engine.autodiff import Shapes, described
from jaxnet.verify.engine.case import Function, memoized
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves, compiled, in_float64, widened
from jaxnet.verify.engine.program import interpret, literal, literals, shaped
from jaxnet.verify.mistakes.evidence import Evidence, Verdict

NEWTON_STEPS = 12
MOST = 32  # numbers that are looked at


@memoized
def _program(function: Function, shapes: Shapes) -> tuple[list[float], Callable[..., Leaves]]:
    """The numbers that stand in a function's equations, and its gradient with others in their place."""
    traced = jax.make_jaxpr(function.outputs)(*map(list, shapes[:2]))
    numbers = [
        number for number in dict.fromkeys(literals(traced)) if number not in (0.0, 1.0, -1.0) and np.isfinite(number)
    ]

    @compiled
    def run(point: Leaves, fixed: Leaves, cotangent: Leaves, others: Any) -> Leaves:
        def visit(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
            replaced = list(inputs)
            for i, variable in enumerate(equation.invars):
                number = literal(variable)
                if number in numbers:
                    replaced[i] = others[numbers.index(number)].astype(shaped(variable).dtype)
            return run(*replaced)

        _, pull = jax.vjp(lambda point: interpret(traced, [*point, *fixed], visit, into_loops=True), point)
        return pull(list(cotangent))[0]

    return numbers, run


def another_value(evidence: Evidence) -> Verdict | None:
    """One number of the function has another value in the gradient, which is solved for."""
    case = evidence.case
    with in_float64():
        leaves = widened(case.differentiated), case.fixed_in(True), [np.zeros(o.shape) for o in case.outputs]
        numbers, run = _program(case.function, described(*leaves))

    def gradient(where: Comparison, others: Floats) -> Floats:
        with in_float64(), np.errstate(all="ignore"):
            return widened(run(where.place.point, leaves[1], where.place.cotangent, others))[evidence.leaf]

    for i, number in enumerate(numbers[:MOST]):
        with_other = functools.partial(_with, np.asarray(numbers), i)
        solved = _solve(evidence, lambda c, x, w=with_other: gradient(c, w(x)), number)
        if solved is not None and evidence.holds(lambda c, w=with_other, x=solved: gradient(c, w(x))):
            what = "is left out" if solved == 0 else f"is {solved:.6g}"
            return "value", f"the number {number:.6g} of the function {what} in the gradient"
    return None


def _with(numbers: Floats, i: int, value: float) -> Floats:
    others = numbers.copy()
    others[i] = value
    return others


def _solve(evidence: Evidence, gradient: Callable[[Comparison, float], Floats], start: float) -> float | None:
    """The number with which the gradient is the candidate's, by Gauss and Newton from the function's own."""
    here = max(evidence.shown, key=lambda c: c.error(evidence.leaf))
    found = here.answer(evidence.leaf)
    if evidence.explains(here, gradient(here, 0.0)):
        return 0.0
    value = start
    for _ in range(NEWTON_STEPS):
        step = 1e-4 * (abs(value) or 1e-8)
        ahead, at, behind = (gradient(here, value + sign * step) for sign in (1, 0, -1))
        slope = (ahead - behind) / (2 * step)
        known = np.isfinite(slope) & np.isfinite(found) & np.isfinite(at)
        size = float(np.square(slope[known]).sum())
        if not size or not np.isfinite(size):
            return None
        change = float((slope * (found - at))[known].sum()) / size
        value = value + float(np.clip(change, -10 * abs(start), 10 * abs(start)))
        if abs(change) < 1e-9 * abs(value):
            break
    rounded = float(f"{value:.6g}")
    return next((v for v in (rounded, value) if evidence.explains(here, gradient(here, v))), None)
