"""Numbers that have another value: an ε, a slope, a temperature, a factor 0.044715."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.engine.program import Run, literal, literals, shaped
from jaxnet.verify.mistakes.altered import Alter, Altered
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict

NEWTON_STEPS, HALVINGS = 16, 6
MOST = 32  # numbers that are looked at


def _replaced(program: ClosedJaxpr) -> tuple[list[float], Alter]:
    """The numbers that stand in a program's equations, and how others take their place."""
    numbers = [n for n in dict.fromkeys(literals(program)) if n not in (0.0, 1.0, -1.0) and np.isfinite(n)]

    def alter(equation: JaxprEqn, inputs: list[Any], run: Run, others: Any) -> list[Any]:
        replaced = list(inputs)
        for i, variable in enumerate(equation.invars):
            number = literal(variable)
            if number in numbers:
                replaced[i] = others[numbers.index(number)].astype(shaped(variable).dtype)
        return run(*replaced)

    return numbers, alter


def another_value(evidence: Evidence) -> Verdict | None:
    """One number of the function has another value in the gradient, which is solved for."""
    altered = Altered(evidence, _replaced)
    for i, number in enumerate(altered.subjects[:MOST]):
        with_other = functools.partial(_with, np.asarray(altered.subjects), i)
        solved = _solve(evidence, lambda c, x, w=with_other: altered.gradient(c, w(x)), number)
        if solved is not None and evidence.holds(lambda c, w=with_other, x=solved: altered.gradient(c, w(x))):
            return "value", f"it is the gradient of the function with {solved:.6g} where that has {number:.6g}"
    return None


def _with(numbers: Floats, i: int, value: float) -> Floats:
    others = numbers.copy()
    others[i] = value
    return others


def _solve(evidence: Evidence, gradient: Callable[[Comparison, float], Floats], start: float) -> float | None:
    """The number with which the gradient is the candidate's, by Gauss and Newton from the function's own, damped."""
    here = max(evidence.shown, key=lambda c: c.error(evidence.leaf))
    found = here.answer(evidence.leaf)
    if evidence.explains(here, gradient(here, 0.0)):
        return 0.0
    value, finite = start, np.isfinite(found)
    at = gradient(here, value)
    for _ in range(NEWTON_STEPS):
        step = 1e-4 * (abs(value) or 1e-8)
        slope = (gradient(here, value + step) - gradient(here, value - step)) / (2 * step)
        known = np.isfinite(slope) & finite & np.isfinite(at)
        size = float(np.square(slope[known]).sum())
        if not size or not np.isfinite(size):
            return None
        change = float(np.clip((slope * (found - at))[known].sum() / size, -10 * abs(start), 10 * abs(start)))
        misfit = np.square(found - at)[known].sum()
        for _ in range(HALVINGS):  # beyond the first ones lie roots of negative numbers
            ahead = gradient(here, value + change)
            if np.square(found - ahead)[known].sum() <= misfit:
                break
            change /= 2
        else:
            break
        value, at = value + change, ahead
        if abs(change) < 1e-9 * abs(value):
            break
    rounded = float(f"{value:.6g}")
    return next((v for v in (rounded, value) if evidence.explains(here, gradient(here, v))), None)


HYPOTHESES = (Hypothesis(Level.FUNCTION, another_value, ("value",)),)
