"""A tiny constant of the function that its gradient neglects on purpose: the ε that keeps a division finite.

A rule that is right to 1e-10, where the function has + 1e-10 in it and its dtype holds seven digits, is right to all
that anybody will see. It is said what it neglects, and proved: with ε = 0 in both it is right to the last bits.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from jaxnet.verify.engine.autodiff import AUTODIFF, Shapes, described
from jaxnet.verify.engine.case import memoized
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.hearing import Hearing
from jaxnet.verify.engine.precision import compiled, in_float64, widened
from jaxnet.verify.engine.program import interpret, literal, literals
from jaxnet.verify.engine.trial import own_unit


def notes(hearing: Hearing, wrong: dict[int, list[Comparison]]) -> dict[int, str]:
    """For each wrong leaf with the places where it is wrong: what it neglects, if that is all."""
    trial = hearing.trial
    unit = own_unit(trial.case)
    seen = {i: max(_largest_error(c, i) for c in places) for i, places in wrong.items()}
    small = [i for i, error in seen.items() if error < unit]
    if not small or not trial.exact or not trial.traced or trial.function.mode == "differences":
        return {}
    found: dict[int, str] = {}
    for epsilon in _tiny(hearing, unit):
        for i in small:
            if i not in found and all(_right_without(hearing, c, i, epsilon) for c in wrong[i]):
                path = trial.case.paths[i] or "gradient"
                found[i] = (
                    f"{path}: it neglects the function's ε = {epsilon:g}, with ε = 0 it is right to the last bits; the "
                    f"difference, {seen[i]:.0e} of the gradient, is below what the arguments' dtype holds"
                )
    return found


def _largest_error(comparison: Comparison, leaf: int) -> float:
    if not np.isfinite(comparison.answer(leaf)).all():
        return np.inf
    error = np.abs(comparison.answer(leaf) - comparison.truth.gradient[leaf]).max(initial=0)
    return float(error / (comparison.truth.largest(leaf) or 1.0))


def _programs(hearing: Hearing) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
    """The derivative by autodiff and the candidate as functions of all leaves, and leaves to trace them with."""
    case, mode = hearing.trial.case, hearing.trial.function.mode
    given = hearing.given.place.point, case.fixed_in(True), hearing.given.place.cotangent
    return (
        lambda *leaves: AUTODIFF[mode](case.function, *leaves)[1],
        lambda *leaves: case.candidate.leaves(case.layout, *leaves),
        given,
    )


def _tiny(hearing: Hearing, unit: float) -> Iterator[float]:
    """The numbers in the function that are smaller than a unit in the last place."""
    automatic, _, given = _programs(hearing)
    with in_float64():
        program = jax.make_jaxpr(automatic)(*given)
    yield from dict.fromkeys(number for number in literals(program) if 0 < abs(number) < unit)


def _right_without(hearing: Hearing, comparison: Comparison, leaf: int, epsilon: float) -> bool:
    """Whether the candidate is right where both programs have 0 in the place of a number."""
    with in_float64(), np.errstate(all="ignore"):
        case = hearing.trial.case
        leaves = comparison.place.point, case.fixed_in(True), comparison.place.cotangent
        both = _without(case.function, case.candidate, hearing.trial.function.mode, epsilon, described(*leaves))
        expected, found = (widened(run(*leaves))[leaf] for run in both)
    if not np.isfinite(expected).all():
        return False
    slack = comparison.limit * comparison.truth.floor(leaf)
    return bool((np.abs(found - expected) <= slack).all())


@memoized
def _without(function: Any, candidate: Any, mode: Any, epsilon: float, shapes: Shapes) -> list[Callable[..., Any]]:
    both = (
        lambda *leaves: AUTODIFF[mode](function, *leaves)[1],
        lambda *leaves: candidate.leaves(function.layout, *leaves),
    )

    def visit(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        changed = [0 * x if literal(v) == epsilon else x for v, x in zip(equation.invars, inputs, strict=True)]
        return run(*changed)

    def run(program: Any, *leaves: Any) -> Any:
        return interpret(program, jax.tree.leaves(leaves), visit, into_loops=True)

    return [compiled(functools.partial(run, jax.make_jaxpr(each)(*map(list, shapes)))) for each in both]
