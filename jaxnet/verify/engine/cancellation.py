"""What a gradient loses by itself in a dtype: sums that cancel, and subtractions before the rule is reached.

No rule can be blamed for it. It is told apart from digits that a rule throws away by two measures: ε|J|ᵀ|c|, the linear
backward program run with absolute values, each local derivative exact; and the change of the gradient where the results
of the function's own forward pass are moved by a unit in their last place, each local derivative exact again.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxnet.verify.engine.autodiff import Shapes, described
from jaxnet.verify.engine.case import Function, memoized
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.differentiator import Differentiator
from jaxnet.verify.engine.places import Place
from jaxnet.verify.engine.precision import DOUBLE, Floats, Leaves, compiled, in_float64, is_float, widened
from jaxnet.verify.engine.program import compute, inner
from jaxnet.verify.engine.rounding import PERTURBATIONS, Moves, Slots

NEARLY, TINY = 1e-3, 1e-9  # what cancels may be off by, relative to the gradient or to the cotangent
Marked = tuple[Any, bool]  # a value, or where it depends on the cotangent its magnitude, and whether it does


def lost(function: Differentiator, place: Place, units: Sequence[float]) -> Leaves:
    """For each element what it may be off by in numbers of such units, whatever formula it is computed by."""
    with in_float64(), np.errstate(all="ignore"):
        leaves = place.point, function.case.fixed_in(True), place.cotangent
        run, slots = _measured(function.case.function, described(*leaves))
        ways, starts = slots.signs(function.generator), slots.starts(function.generator, PERTURBATIONS)
        at_places = np.concatenate([units, np.full(slots.count - len(units), max(units))])
        at_places *= slots.moved(constants=max(units) > DOUBLE)
        magnitudes, gradient, moved = map(widened, run(leaves, ways, starts, at_places))
        changes = [np.abs(stack - leaf).max(axis=0) for stack, leaf in zip(moved, gradient, strict=True)]
        return [max(units) * m + np.nan_to_num(change) for m, change in zip(magnitudes, changes, strict=True)]


def summed(function: Differentiator, place: Place) -> Leaves:
    """For each element |J|ᵀ|c|: the magnitudes of all that is added up in it."""
    with in_float64(), np.errstate(all="ignore"):
        leaves = place.point, function.case.fixed_in(True), place.cotangent
        run, slots = _measured(function.case.function, described(*leaves))
        starts = slots.starts(function.generator, PERTURBATIONS)
        return widened(run(leaves, slots.signs(function.generator), starts, np.zeros(slots.count))[0])


def cancelled(function: Differentiator, comparison: Comparison, leaf: int) -> Floats:
    """The wrong elements, where all are nearly right, of which float64 may lose as much by whatever formula."""
    with np.errstate(all="ignore"):
        expected = comparison.truth.gradient[leaf]
        error = np.abs(comparison.answer(leaf) - expected)
        wrong = comparison.wrong(leaf)
        sent = max(float(np.max(np.abs(c), initial=0)) for c in comparison.place.cotangent)
        nearly = wrong.any() and bool((error < np.maximum(NEARLY * np.abs(expected), TINY * sent))[wrong].all())
        if not nearly or not function.exact or function.mode != "reverse":
            return np.zeros(expected.shape, bool)
        return wrong & (error <= comparison.limit * lost(function, comparison.place, [DOUBLE])[leaf])


@memoized
def _measured(function: Function, shapes: Shapes) -> tuple[Any, Slots]:
    traced = jax.make_jaxpr(function.outputs)(*map(list, shapes[:2]))
    slots = Slots(traced, [True] * len(shapes[0]) + [False] * len(shapes[1]))

    def gradient(leaves: tuple[Leaves, Leaves, Leaves], moves: Moves) -> Leaves:
        differentiated, fixed, cotangent = leaves

        def forward(given: Leaves) -> Leaves:
            return slots.run([*(moves.applied(i, leaf) for i, leaf in enumerate(given)), *fixed], moves)

        return jax.vjp(forward, differentiated)[1](list(cotangent))[0]

    def magnitudes(leaves: tuple[Leaves, Leaves, Leaves]) -> Leaves:
        differentiated, fixed, cotangent = leaves
        _, pull = jax.vjp(lambda given: function.outputs(given, fixed), differentiated)
        program = jax.make_jaxpr(lambda c: pull(c)[0])(list(cotangent))
        return [value for value, _ in _with_magnitudes(program, [(jnp.abs(c), True) for c in cotangent])]

    @compiled
    def run(leaves: tuple[Leaves, Leaves, Leaves], ways: Any, starts: Any, units: Any) -> tuple[Leaves, Leaves, Leaves]:
        plain = gradient(leaves, Moves(ways, starts[0], 0 * units, 0.0))
        moved = jax.lax.map(lambda row: gradient(leaves, Moves(ways, row, units, 0.0)), starts)
        return magnitudes(leaves), plain, moved

    return run, slots


def _with_magnitudes(program: ClosedJaxpr, arguments: Sequence[Marked]) -> list[Marked]:
    """The outputs of a program that is linear in what is marked, computed with absolute values."""
    jaxpr = program.jaxpr
    values: dict[Any, Marked] = {v: (c, False) for v, c in zip(jaxpr.constvars, program.consts, strict=True)}
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Marked:
        return (variable.val, False) if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        values.update(zip(equation.outvars, _step(equation, inputs), strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _step(equation: JaxprEqn, inputs: list[Marked]) -> list[Marked]:
    inside = inner(equation)
    if inside is not None:
        return _with_magnitudes(inside, inputs)
    if not any(marked for _, marked in inputs):
        return [(value, False) for value in compute(equation, [value for value, _ in inputs])]
    positive = [jnp.abs(value) if is_float(jnp.asarray(value)) else value for value, _ in inputs]
    if equation.primitive.name == "sub":
        return [(positive[0] + positive[1], True)]
    return [(jnp.abs(value), True) for value in compute(equation, positive)]
