"""Runs the candidate: as the user calls it, compiled, in float64, all points at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from jaxnet.verify.interpreter import shaped
from jaxnet.verify.problem import (
    Leaves,
    Problem,
    Rule,
    as_the_user_runs_it,
    in_float64,
    is_float,
    spacing,
    widened,
)
from jaxnet.verify.reference import described, in_the_dtypes_of_the_outputs, memoized


class CandidateError(Exception):
    """The candidate raised; its own error is the cause."""


class StructureError(Exception):
    """The candidate's answer is not the tree that was asked for."""


def entries(rule: Rule, answer: Any) -> Leaves:
    """The leaves of the candidate's answer that stand for differentiated leaves; None stands for zeros.

    Raises:
        StructureError: if the answer is another tree.
    """
    treedef, _, positions = rule.answer_leaves()
    if isinstance(rule.answer, tuple):
        count = len(rule.answer)
        if not isinstance(answer, tuple):
            raise StructureError(f"expected a tuple with one entry for each of {count} arguments, got {_brief(answer)}")
        if len(answer) != count:
            raise StructureError(f"expected a tuple of {count} entries, one for each argument, got {len(answer)}")
        leaves = []
        for part, given in zip(treedef.children(), answer, strict=True):
            leaves += [None] * part.num_leaves if given is None else _flatten_like(part, given)
    else:
        leaves = _flatten_like(treedef, answer)
    return [leaves[position] for position in positions]


def _flatten_like(treedef: Any, given: Any) -> Leaves:
    try:
        return treedef.flatten_up_to(given)
    except (ValueError, TypeError) as error:
        raise StructureError(f"expected the tree {treedef}, got {_brief(given)}") from error


def _brief(value: Any) -> str:
    shapes = jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", value)
    return f"{type(value).__name__}: {shapes}"


@memoized
def _candidate(rule: Rule) -> Callable[..., Leaves]:
    return jax.jit(lambda *leaves: entries(rule, rule.gradient(*leaves)))


def as_came(rule: Rule, differentiated: Sequence[Any], fixed: Sequence[Any]) -> tuple[Leaves, Leaves]:
    """Copies of the leaves as the kinds of values that the user gave: NumPy arrays, Python floats or JAX arrays."""

    def convert(role: str, leaves: Sequence[Any]) -> Leaves:
        kinds = [kind for kind, of in zip(rule.kinds, rule.roles, strict=True) if of == role]
        makers = {"numpy": np.array, "python": float, "jax": jnp.asarray}
        return [makers[kind](leaf) for leaf, kind in zip(leaves, kinds, strict=True)]

    return convert("differentiated", differentiated), convert("fixed", fixed)


def by_candidate(problem: Problem, point: Leaves, cotangent: Leaves, *, traced: bool, float64: bool) -> Leaves:
    """The candidate's gradient at a point; each leaf a float64 array whatever it was computed in, None where None.

    `float64` has it computed in float64, else in the user's dtypes; `traced` has it compiled.
    """
    rule = problem.rule
    with np.errstate(all="ignore"), in_float64() if float64 else as_the_user_runs_it():
        fixed = widened(problem.fixed) if float64 else problem.fixed
        if not float64:
            point = [np.asarray(leaf, own.dtype) for leaf, own in zip(point, problem.differentiated, strict=True)]
            cotangent = in_the_dtypes_of_the_outputs(problem, cotangent)
        try:
            if traced:
                leaves = _candidate(rule)(point, fixed, cotangent)
            else:
                leaves = entries(rule, rule.gradient(*as_came(rule, point, fixed), [jnp.asarray(c) for c in cotangent]))
        except Exception as error:
            raise CandidateError(str(error)) from error
        return [None if leaf is None else np.asarray(leaf, np.float64) for leaf in leaves]


@memoized
def _narrowest(rule: Rule, *shapes: tuple[Any, ...]) -> float:
    traced = jax.make_jaxpr(lambda *leaves: entries(rule, rule.gradient(*leaves)))(
        *([jax.ShapeDtypeStruct(*shape) for shape in group] for group in shapes)
    )
    return max(narrowings(traced), default=0.0)


def narrowings(program: Any) -> Iterator[float]:
    """The spacings of the narrow floats that a program computes or holds, anywhere in it."""
    for constant in getattr(program, "consts", ()):
        if is_float(constant) and constant.ndim:
            yield spacing(constant.dtype)
    for equation in getattr(program, "jaxpr", program).eqns:
        for variable in equation.outvars:
            if is_float(shaped(variable)):
                yield spacing(shaped(variable).dtype)
        for inside in jaxprs_in_params(equation.params):
            yield from narrowings(inside)


def narrowest(problem: Problem, place_cotangent: Leaves) -> float:
    """One unit in the last place of the narrowest dtype that the candidate computes in when asked for float64; or 0."""
    with in_float64():
        groups = widened(problem.differentiated), widened(problem.fixed), place_cotangent
        return _narrowest(problem.rule, *map(described, groups))


def vmapped(problem: Problem, points: Leaves, cotangents: Leaves, *, float64: bool) -> Leaves:
    """The candidate's gradients at stacked points, all at once by `jax.vmap`."""
    rule = problem.rule
    with in_float64() if float64 else as_the_user_runs_it():
        fixed = widened(problem.fixed) if float64 else problem.fixed
        if not float64:
            points = [np.asarray(leaf, own.dtype) for leaf, own in zip(points, problem.differentiated, strict=True)]
            cotangents = in_the_dtypes_of_the_outputs(problem, cotangents)
        one = _candidate(rule)
        leaves = jax.vmap(lambda point, cotangent: one(point, fixed, cotangent))(points, cotangents)
        return [None if leaf is None else np.asarray(leaf, np.float64) for leaf in leaves]


@memoized
def _value(rule: Rule) -> Callable[..., Leaves]:
    assert rule.value is not None
    value = rule.value

    def outputs(*leaves: Leaves) -> Leaves:
        found = rule.run(lambda *leaves: value(rule.arguments(*leaves)), *leaves)
        return [leaf for leaf in jax.tree.leaves(found) if is_float(leaf)]

    return jax.jit(outputs)


def value_by_candidate(problem: Problem, point: Leaves) -> Leaves:
    """The outputs that the candidate computes beside its derivative, in float64."""
    with in_float64():
        return widened(_value(problem.rule)(point, widened(problem.fixed)))


@memoized
def _narrowest_value(rule: Rule, *shapes: tuple[Any, ...]) -> float:
    traced = jax.make_jaxpr(_value(rule))(*([jax.ShapeDtypeStruct(*shape) for shape in group] for group in shapes))
    return max(narrowings(traced), default=0.0)


def narrowest_value(problem: Problem) -> float:
    """As `narrowest`, for the candidate's own forward pass."""
    with in_float64():
        return _narrowest_value(
            problem.rule, described(widened(problem.differentiated)), described(widened(problem.fixed))
        )
