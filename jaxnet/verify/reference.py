"""The right gradient by autodiff, and what rounding explains of a difference from it.

What is compiled is kept for each rule, so that other keys, points and scales of the same shapes compile nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxnet.verify.interpreter import LOOPS, inner, interpret, shaped
from jaxnet.verify.problem import (
    Floats,
    Leaves,
    Problem,
    Rule,
    as_the_user_runs_it,
    in_float64,
    is_float,
    spacing,
    widened,
)

PERTURBATIONS = 6
DOUBLE = spacing(np.float64)

# Operations whose results are exact, whatever comes in: to move these would break comparisons such as x == max(x).
EXACT = {
    "abs", "and", "argmax", "argmin", "broadcast_in_dim", "ceil", "clamp", "concatenate", "copy", "copy_p",
    "dynamic_slice", "dynamic_update_slice", "eq", "expand_dims", "floor", "gather", "ge", "gt", "iota", "is_finite",
    "le", "lt", "max", "min", "ne", "neg", "not", "or", "pad", "pvary", "real", "reduce_max", "reduce_min",
    "reduce_precision", "reshape", "rev", "round", "scatter", "select_and_scatter", "select_n", "sign", "slice",
    "sort", "split", "squeeze", "stop_gradient", "transpose",
}  # fmt: skip


class Truth(NamedTuple):
    """The right gradient at a point.

    Attributes:
        outputs: what the function returns there.
        gradient: by autodiff in float64, or by differences where autodiff cannot.
        noise: for each element, what rounding explains: the largest change when inputs, cotangent and every
            intermediate result move by one unit in their last place.
    """

    outputs: Leaves
    gradient: Leaves
    noise: Leaves


def _vjp(rule: Rule, differentiated: Leaves, fixed: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
    """The outputs and, by autodiff, the gradient."""
    outputs, pull = jax.vjp(lambda leaves: rule.outputs(leaves, fixed), differentiated)
    (gradient,) = pull([c.astype(o.dtype) for c, o in zip(cotangent, outputs, strict=True)])
    return outputs, gradient


def rounds(equation: JaxprEqn) -> bool:
    """Whether the equation's results are rounded floats."""
    if inner(equation) is not None or equation.primitive.name in LOOPS:
        return False
    if equation.primitive.name == "convert_element_type":
        (before,), (after,) = equation.invars, equation.outvars
        before, after = shaped(before), shaped(after)
        return is_float(before) and is_float(after) and spacing(before.dtype) < spacing(after.dtype)
    return equation.primitive.name not in EXACT and any(is_float(shaped(variable)) for variable in equation.outvars)


def nudged(value: Any, step: Any) -> Any:
    """The value moved by so many units in its own last place, as the integer that its bits are; 0 stays 0.

    A product with 1 + ε would be contracted with what follows to one rounding, and differ from one use to the next.
    """
    integer = jnp.dtype(f"int{8 * value.dtype.itemsize}")
    moved = jax.lax.bitcast_convert_type(value, integer) + step.astype(integer)
    still = (value == 0) | ~jnp.isfinite(value)
    return jnp.where(still, value, jax.lax.bitcast_convert_type(moved, value.dtype))


class Program(NamedTuple):
    """A compiled function of stacked (differentiated, cotangent, nudges) and of fixed.

    Attributes:
        run: the outputs and gradients for every entry of the stack.
        spacings: for each rounded result, the least that its own dtype can move by.
    """

    run: Callable[..., tuple[Leaves, Leaves]]
    spacings: Floats


def memoized(build: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what was built for a rule, unless the rule cannot be hashed."""
    kept = functools.lru_cache(maxsize=256)(build)

    @functools.wraps(build)
    def found(rule: Rule, *shapes: Any) -> Any:
        try:
            hash(rule)
        except TypeError:
            return build(rule, *shapes)
        return kept(rule, *shapes)

    return found


@memoized
def _reference(
    rule: Rule, differentiated: tuple[Any, ...], fixed: tuple[Any, ...], cotangent: tuple[Any, ...]
) -> Program:
    """The derivative by autodiff at the shapes given, every rounded result of which can be nudged."""
    shapes = [[jax.ShapeDtypeStruct(*shape) for shape in group] for group in (differentiated, fixed, cotangent)]
    traced = jax.make_jaxpr(lambda *leaves: _vjp(rule, *leaves))(*shapes)
    spacings: list[float] = []

    def count(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        if rounds(equation):
            spacings.append(max(spacing(shaped(v).dtype) for v in equation.outvars if is_float(shaped(v))))
        return run(*inputs)

    jax.eval_shape(lambda *leaves: interpret(traced, jax.tree.leaves(leaves), count, into_loops=True), *shapes)

    def moved(fixed: Leaves, point: tuple[Leaves, Leaves, Any]) -> tuple[Leaves, Leaves]:
        differentiated, cotangent, nudges = point
        position = iter(range(len(spacings)))

        def nudge(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
            outputs = run(*inputs)
            if not rounds(equation):
                return outputs
            step = nudges[next(position)]
            return [nudged(output, step) if is_float(output) else output for output in outputs]

        leaves = interpret(traced, jax.tree.leaves((differentiated, fixed, cotangent)), nudge, into_loops=True)
        gradient = leaves[len(leaves) - len(differentiated) :]
        return leaves[: len(leaves) - len(differentiated)], gradient

    @jax.jit
    def run(differentiated: Leaves, fixed: Leaves, cotangent: Leaves, nudges: Any) -> tuple[Leaves, Leaves]:
        return jax.lax.map(lambda point: moved(fixed, point), (differentiated, cotangent, nudges))

    return Program(run, np.asarray(spacings))


def described(leaves: Sequence[Any]) -> tuple[Any, ...]:
    """The shapes and dtypes of leaves, hashable."""
    return tuple((leaf.shape, leaf.dtype) for leaf in leaves)


@memoized
def _values(rule: Rule) -> Callable[..., Leaves]:
    """The outputs for every entry of a stack of differentiated leaves; for functions that autodiff cannot take."""
    return jax.jit(lambda stack, fixed: jax.lax.map(lambda leaves: rule.outputs(leaves, fixed), stack))


def outputs_and_gradients(
    problem: Problem,
    points: Leaves,
    cotangents: Leaves,
    nudges: Callable[[np.ndarray], np.ndarray] = np.zeros_like,
    *,
    float64: bool = True,
) -> tuple[Leaves, Leaves]:
    """The function's outputs and its gradients by autodiff for stacked points and cotangents.

    In float64, or else in the user's own dtypes. `nudges` makes of the spacings of all rounded results a row of steps
    for each point of the stack, in units of their own last place.
    """
    with in_float64() if float64 else as_the_user_runs_it():
        fixed = widened(problem.fixed) if float64 else problem.fixed
        if not float64:
            points = [np.asarray(leaf, own.dtype) for leaf, own in zip(points, problem.differentiated, strict=True)]
            cotangents = in_the_dtypes_of_the_outputs(problem, cotangents)
        shapes = (described([leaf[0] for leaf in points]), described(fixed), described([c[0] for c in cotangents]))
        program = _reference(problem.rule.function_alone, *shapes)
        rows = np.broadcast_to(nudges(program.spacings), (len(points[0]), len(program.spacings)))
        rows = rows.astype(np.int64 if float64 else np.int32)
        outputs, gradients = program.run(points, fixed, cotangents, rows)
        return widened(outputs), widened(gradients)


def in_the_dtypes_of_the_outputs(problem: Problem, cotangent: Leaves) -> Leaves:
    """The cotangent as the user's dtypes hold it."""
    shapes = jax.tree.leaves(problem.rule.output_shapes(problem.differentiated, problem.fixed))
    return [np.asarray(c, s.dtype) for c, s in zip(cotangent, filter(is_float, shapes), strict=True)]


def stacked(leaves: Leaves) -> Leaves:
    """Each leaf as often as `truth` stacks it, so that its compiled program serves."""
    return [np.broadcast_to(leaf, (1 + PERTURBATIONS, *leaf.shape)) for leaf in leaves]


def outputs_alone(problem: Problem, points: Leaves) -> Leaves:
    """The function's outputs in float64 for stacked points."""
    with in_float64():
        return widened(_values(problem.rule.function_alone)(points, widened(problem.fixed)))


def truth(
    problem: Problem,
    point: Leaves,
    cotangent: Leaves,
    generator: np.random.Generator,
    *,
    at_inputs: Sequence[float],
    inside: float = DOUBLE,
    float64: bool = True,
) -> Truth:
    """The right gradient at a point and what rounding explains of a difference from it.

    Args:
        problem: the function and its fixed arguments.
        point: the differentiated leaves, float64.
        cotangent: the leaves of the cotangent, float64.
        generator: of the directions of the perturbations.
        at_inputs: one unit in the last place of each leaf of the point, relative.
        inside: the same for every rounded result; where its own dtype is coarser than that, its own unit is taken.
        float64: whether the truth is computed in float64, or in the user's own dtypes because it cannot be.
    """

    def perturbed(leaf: Floats, unit: float) -> Floats:
        count = PERTURBATIONS * leaf.size
        bits = np.unpackbits(np.frombuffer(generator.bytes(count // 8 + 1), np.uint8), count=count)
        up, down = leaf * (1 + unit), leaf * (1 - unit)
        return np.concatenate([leaf[None], np.where(bits.reshape(PERTURBATIONS, *leaf.shape), up, down)])

    def nudges(spacings: Floats) -> Floats:
        signs = generator.choice((-1.0, 1.0), (PERTURBATIONS, len(spacings)))
        return np.concatenate([np.zeros((1, len(spacings))), signs * np.maximum(np.round(inside / spacings), 1)])

    points = [perturbed(leaf, unit) for leaf, unit in zip(point, at_inputs, strict=True)]
    cotangents = [perturbed(leaf, max(at_inputs) if len(point) else inside) for leaf in cotangent]
    if problem.rule.scalar:
        cotangents = [np.ones(1 + PERTURBATIONS)]
    with np.errstate(all="ignore"):
        outputs, gradients = outputs_and_gradients(problem, points, cotangents, nudges, float64=float64)
        noise = [_largest_change(g) + inside * _largest(g[0]) for g in gradients]
    return Truth([output[0] for output in outputs], [gradient[0] for gradient in gradients], noise)


def _largest_change(stack: Floats) -> Floats:
    """For each element, over the perturbations that stay finite."""
    change = np.abs(stack[1:] - stack[0])
    return np.where(np.isfinite(change), change, 0).max(axis=0)


def _largest(leaf: Floats) -> float:
    return float(np.max(np.abs(leaf), initial=0, where=np.isfinite(leaf)))


@memoized
def _automatic(rule: Rule) -> Callable[..., Leaves]:
    return jax.jit(lambda *leaves: _vjp(rule, *leaves)[1])


def by_autodiff(problem: Problem, point: Leaves, cotangent: Leaves) -> Leaves:
    """The gradient by autodiff in the user's dtypes, widened to float64 afterwards."""
    with as_the_user_runs_it():
        own = [np.asarray(leaf, given.dtype) for leaf, given in zip(point, problem.differentiated, strict=True)]
        return widened(_automatic(problem.rule.function_alone)(own, problem.fixed, cotangent))
