"""Random mistakes in a derivative: of one equation of a function's program, or in the gradient itself."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxnet.verify.engine.program import compute, interpret

Backward = Callable[[tuple[Any, ...], Any], tuple[Any, ...]]


class Alteration(NamedTuple):
    """One change of a derivative.

    Attributes:
        equation: the name of a primitive, and which of its equations counted from 0; of the gradient, "" and a leaf.
        how: what is done to its tangent.
        operand: which of its inputs that are floats.
        number: a factor.
    """

    equation: tuple[str, int]
    how: str
    operand: int
    number: float

    def __repr__(self) -> str:
        name, which = self.equation
        where = f"the derivative of {name} number {which}" if name else f"leaf {which} of the gradient"
        return f"{where}: {self.how}, operand {self.operand}, number {self.number}"


INSIDE = ("scale", "scale", "drop", "operand", "elsewhere", "transpose", "roll", "flip", "row", "element", "leak")
OUTSIDE = ("scale", "transpose", "roll", "flip", "row", "element", "one")
NUMBERS = (2.0, -1.0, 1.0078125, 0.5)  # in every dtype: what rounds to 1 is no mistake


def is_float(leaf: Any) -> bool:
    """Whether a leaf is differentiated; cotangents of integers are not."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def alterations(function: Callable[..., Any], args: tuple[Any, ...]) -> st.SearchStrategy[Alteration]:
    """The changes that can be made to the derivative of a function."""
    seen: list[tuple[str, int]] = []
    program = jax.make_jaxpr(function)(*args)
    jax.eval_shape(
        lambda *leaves: _interpreted(program, leaves, lambda name, number, *_: seen.append((name, number))),
        *jax.tree.leaves(args),
    )
    inside = st.builds(
        Alteration,
        st.sampled_from(seen or [("", 0)]),
        st.sampled_from(INSIDE),
        st.integers(0, 2),
        st.sampled_from(NUMBERS),
    )
    leaves = sum(map(is_float, jax.tree.leaves(args)))
    places = st.tuples(st.just(""), st.integers(0, leaves - 1))
    outside = st.builds(Alteration, places, st.sampled_from(OUTSIDE), st.just(0), st.sampled_from(NUMBERS))
    return st.one_of(inside, inside, inside, outside) if seen else outside


def _interpreted(program: ClosedJaxpr, leaves: Sequence[Any], alter: Callable[..., list[Any] | None]) -> list[Any]:
    """What a program computes, where `alter` may compute an equation in another way."""
    numbers: dict[int, tuple[str, int]] = {}
    count: Counter[str] = Counter()

    def visit(equation: Any, inputs: list[Any], run: Any) -> list[Any]:
        name = equation.primitive.name
        differentiable = any(map(is_float, inputs)) and any(is_float(variable.aval) for variable in equation.outvars)
        # Casts vanish in the dtype that they are to, so that the others would be counted in another way.
        if not differentiable or name in ("convert_element_type", "jit", "pjit"):
            return run(*inputs)
        if id(equation) not in numbers:  # the body of a loop is traced more than once
            numbers[id(equation)] = name, count[name]
            count[name] += 1
        found = alter(*numbers[id(equation)], equation, inputs)
        return run(*inputs) if found is None else found

    return interpret(program, leaves, visit, into_loops=True)


def altered(function: Callable[..., Any], alteration: Alteration) -> Callable[..., Any]:
    """The function, its value as it is, with the derivative of one equation changed."""

    def spoiled(name: str, number: int, equation: Any, inputs: list[Any]) -> list[Any] | None:
        return _with_mistake(equation, inputs, alteration) if (name, number) == alteration.equation else None

    def run(*args: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shapes), _interpreted(program, jax.tree.leaves(args), spoiled))

    return run


def _with_mistake(equation: Any, inputs: list[Any], alteration: Alteration) -> list[Any]:
    @jax.custom_jvp
    def operation(*values: Any) -> list[Any]:
        return compute(equation, values)

    @operation.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        floats = [i for i, value in enumerate(primals) if is_float(value)]
        chosen = floats[alteration.operand % len(floats)]
        points, given = list(primals), list(tangents)
        if alteration.how == "drop":
            given[chosen] = jnp.zeros_like(given[chosen])
        if alteration.how == "operand":
            given[chosen] = (alteration.number * given[chosen]).astype(given[chosen].dtype)
        if alteration.how == "elsewhere":
            points[chosen] = (alteration.number * points[chosen]).astype(points[chosen].dtype)
        _, moved = jax.jvp(lambda *values: compute(equation, values), points, given)
        moved = [_spoiled(m, alteration, given[chosen]) if is_float(m) else m for m in moved]
        return compute(equation, primals), moved

    return operation(*map(jnp.asarray, inputs))


def _spoiled(leaf: Any, alteration: Alteration, source: Any) -> Any:
    """A tangent or a gradient with a mistake."""
    how, axis = alteration.how, alteration.operand % leaf.ndim if leaf.ndim else 0
    if how == "scale":
        return (alteration.number * leaf).astype(leaf.dtype)
    if how == "transpose" and leaf.ndim > 1 and leaf.shape[-1] == leaf.shape[-2]:
        return jnp.swapaxes(leaf, -1, -2)
    if how in ("roll", "flip") and leaf.ndim:
        return jnp.roll(leaf, 1, axis) if how == "roll" else jnp.flip(leaf, axis)
    if how == "row" and leaf.ndim:
        return leaf * (jnp.arange(leaf.shape[0]) != 0).reshape(-1, *[1] * (leaf.ndim - 1)).astype(leaf.dtype)
    if how in ("element", "one"):
        factors = jnp.where(jnp.arange(leaf.size) == leaf.size - 1, 0 if how == "element" else alteration.number, 1)
        return leaf * factors.reshape(leaf.shape).astype(leaf.dtype)
    if how == "leak":
        return leaf + (0.01 * jnp.mean(source)).astype(leaf.dtype)
    return leaf


def backward_of(function: Callable[..., Any], forward: bool, alteration: Alteration | None = None) -> Backward:
    """A backward pass by autodiff, in forward mode where loops cannot be reversed; with a mistake if asked for."""
    inside = alteration is not None and bool(alteration.equation[0])
    differentiated = altered(function, alteration) if alteration is not None and inside else function

    def backward(args: tuple[Any, ...], cotangent: Any) -> tuple[Any, ...]:
        pulled = (
            _by_columns(differentiated, args, cotangent) if forward else jax.vjp(differentiated, *args)[1](cotangent)
        )
        if alteration is None or inside:
            return pulled
        leaves, tree = jax.tree.flatten(pulled)
        places = [i for i, leaf in enumerate(leaves) if leaf.dtype != jax.dtypes.float0]
        chosen = places[alteration.equation[1]]
        leaves[chosen] = _spoiled(leaves[chosen], alteration, leaves[chosen])
        return tree.unflatten(leaves)

    return backward


def _by_columns(function: Callable[..., Any], args: tuple[Any, ...], cotangent: Any) -> tuple[Any, ...]:
    """⟨ct, J e⟩ for every unit vector e."""
    leaves, tree = jax.tree.flatten(args)
    zeros = [jnp.zeros_like(leaf) if is_float(leaf) else np.zeros(leaf.shape, jax.dtypes.float0) for leaf in leaves]

    def slope(number: int, direction: Any) -> Any:
        tangents = [direction if i == number else zero for i, zero in enumerate(zeros)]
        _, moved = jax.jvp(function, args, tree.unflatten(tangents))
        pairs = zip(jax.tree.leaves(cotangent), jax.tree.leaves(moved), strict=True)
        return sum(jnp.sum(c * m) for c, m in pairs if m.dtype != jax.dtypes.float0)

    found = []
    for number, leaf in enumerate(leaves):
        if is_float(leaf):
            basis = jnp.eye(leaf.size, dtype=leaf.dtype).reshape(leaf.size, *leaf.shape)
            columns = jax.lax.map(lambda direction, number=number: slope(number, direction), basis)
            found.append(columns.reshape(leaf.shape).astype(leaf.dtype))
        else:
            found.append(zeros[number])
    return tree.unflatten(found)


def wrong_at(given: tuple[Any, ...], backward: Backward, place: int, number: float) -> Backward:
    """A backward pass that is another at the given arguments alone, in one element of its leaves laid end to end."""
    known = [leaf for leaf in jax.tree.leaves(given) if is_float(leaf)]

    def spoiled(args: tuple[Any, ...], cotangent: Any) -> tuple[Any, ...]:
        pulled = backward(args, cotangent)
        floats = [leaf for leaf in jax.tree.leaves(args) if is_float(leaf)]
        here = jnp.stack([(a == g.astype(a.dtype)).all() for a, g in zip(floats, known, strict=True)]).all()
        added = number * sum(jnp.mean(abs(c)) for c in jax.tree.leaves(cotangent) if is_float(c)) * here
        leaves, tree = jax.tree.flatten(pulled)
        start = 0
        for i, leaf in enumerate(leaves):
            if leaf.dtype != jax.dtypes.float0:
                elements = start + jnp.arange(leaf.size).reshape(leaf.shape)
                leaves[i] = leaf + jnp.where(elements == place, added, 0).astype(leaf.dtype)
                start += leaf.size
        return tree.unflatten(leaves)

    return spoiled
