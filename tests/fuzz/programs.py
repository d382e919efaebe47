"""Programs that nobody wrote: a small language of JAX expressions, from which functions with arguments are drawn.

A program is a list of lines, each an expression of what came before; what is printed is what runs. A template is an
expression with `{x}`, `{y}` for arrays of floats, `{i}` for integers and other names for settings that are drawn.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TRIES = 3  # of finding a line that fits what there is
MOST = 24  # elements of an array
LARGEST = 1e4  # what a program returns at its arguments, and its gradient
GIVEN, MADE = "abdegh", "jlmnopqtuyz"  # names of arguments and of lines; others are those of functions inside lines
HALF = ("bfloat16", "float16")
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}


class Value(NamedTuple):
    """What a line has computed."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        return "float" in self.dtype


class Argument(NamedTuple):
    """An argument: an array, or a dictionary of arrays. How its numbers are drawn is in the word, and in the seed."""

    leaves: tuple[Value, ...]
    kinds: tuple[str, ...]
    tree: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """A function with its arguments.

    Attributes:
        arguments: what it takes.
        lines: assignments.
        results: the names of what it returns.
        tree: what it returns them in: "bare", "tuple" or "dict".
        seed: of the arguments' numbers.
    """

    arguments: tuple[Argument, ...]
    lines: tuple[tuple[str, str], ...]
    results: tuple[str, ...]
    tree: str
    seed: int

    @property
    def source(self) -> str:
        """The function in Python."""
        names, opened = [], []
        for number, argument in enumerate(self.arguments):
            names.append(f"tree_{number}" if argument.tree else argument.leaves[0].name)
            if argument.tree:
                opened += [f"{leaf.name} = tree_{number}['{leaf.name}']" for leaf in argument.leaves]
        returned = {
            "bare": self.results[0],
            "tuple": f"({', '.join(self.results)},)",
            "dict": f"{{{', '.join(f'{name!r}: {name}' for name in self.results)}}}",
        }[self.tree]
        body = [*opened, *(f"{name} = {expression}" for name, expression in self.lines), f"return {returned}"]
        return f"def f({', '.join(names)}):\n" + "".join(f"    {line}\n" for line in body)

    def function(self) -> Callable[..., Any]:
        """The function."""
        return defined(self.source)

    def widened(self) -> Callable[..., Any]:
        """The function with everything that it casts in float64."""
        return defined(re.sub("'(b?float16|float32)'", "'float64'", self.source.replace("bfloat16", "float16")))

    def values(self) -> tuple[Any, ...]:
        """The arguments: `jax.Array`s."""
        generator = np.random.default_rng(self.seed)
        made = []
        for argument in self.arguments:
            drawn = [
                KINDS[kind](generator, leaf.shape) for kind, leaf in zip(argument.kinds, argument.leaves, strict=True)
            ]
            arrays = [jnp.asarray(d, leaf.dtype) for d, leaf in zip(drawn, argument.leaves, strict=True)]
            named = {leaf.name: array for leaf, array in zip(argument.leaves, arrays, strict=True)}
            made.append(named if argument.tree else arrays[0])
        return tuple(made)

    def uses(self, *words: str) -> bool:
        """Whether one of these words stands in it."""
        return any(word in self.source for word in words)

    def __repr__(self) -> str:
        """The function and its arguments, to be pasted."""
        shown = [jax.tree.map(lambda leaf: _written(leaf), value) for value in self.values()]
        text = ", ".join(str(value).replace('"', "") for value in shown)
        return f"\n\n{self.source}\nargs = ({text},)\n"


class _Text(str):
    """A text that prints as it is inside containers."""

    def __repr__(self) -> str:
        return str(self)


def _written(leaf: Any) -> _Text:
    return _Text(
        f"jnp.array({np.asarray(leaf, np.float64 if 'float' in str(leaf.dtype) else None).tolist()}, '{leaf.dtype}')"
    )


@functools.lru_cache(maxsize=64)
def defined(source: str) -> Callable[..., Any]:
    """The function f of a source text."""
    space: dict[str, Any] = {"jax": jax, "jnp": jnp, "lax": lax}
    exec(source, space)
    return space["f"]


# Numbers -------------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "positive": lambda generator, shape: generator.uniform(0.5, 2.0, shape),
    "tied": lambda generator, shape: generator.choice([-1.0, 0.0, 0.5, 1.0], shape),
    "zeros": lambda generator, shape: generator.standard_normal(shape) * generator.integers(0, 2, shape),
    "wide": lambda generator, shape: 3 * generator.standard_normal(shape),
    "integer": lambda generator, shape: generator.integers(0, 3, shape),
}

# Expressions ---------------------------------------------------------------------------------------------------------

ELEMENTWISE = """
jnp.tanh({x}) | jnp.sin({x}) | jnp.cos({x}) | jax.nn.sigmoid({x}) | jax.nn.relu({x}) | jnp.abs({x}) | -{x} | 2 * {x} |
{x}**2 | {x}**3 | 1 / (1 + {x}**2) | jnp.exp(jnp.tanh({x})) | jnp.exp(-({x}**2)) | jnp.log(1 + {x}**2) | {x} + 1 |
jnp.log(jnp.abs({x}) + 0.5) | jnp.sqrt(0.1 + {x}**2) | jnp.sqrt(jnp.abs({x}) + 0.5) | (1.5 + jnp.sin({x})) ** 1.7 |
jax.nn.softplus({x}) | jnp.arctan({x}) | jax.nn.gelu({x}) | jax.nn.silu({x}) | jax.nn.elu({x}) |
jnp.clip({x}, -1, 1) | jnp.maximum({x}, 0.3) | jnp.sign({x}) * {x} ** 2 | jnp.expm1(jnp.minimum({x}, 1)) |
jax.scipy.special.erf({x}) | jnp.where({x} > 0, {x}**2, -{x}) | jnp.where({x} > 0.2, jnp.sin({x}), 0.5) |
jnp.exp({x}) | jax.nn.leaky_relu({x}) | jnp.arcsin(0.9 * jnp.sin({x})) | jax.nn.log_sigmoid({x}) |
{x} * jnp.floor({x}) | jnp.log1p({x} ** 2) | lax.rsqrt(1 + {x}**2) | jnp.reciprocal(2 + jnp.cos({x})) |
jnp.cbrt(1 + {x}**2) | jnp.sinc({x}) | jnp.logaddexp({x}, 0)
"""
OF_POSITIVE = """
jnp.log({p}) | jnp.sqrt({p}) | {p}**0.5 | 1 / {p} | {p}**-1.5 | jnp.log({p}) * {p} | jax.lax.lgamma({p})
"""
PAIRWISE = """
{x} + {y} | {x} - {y} | {x} * {y} | {x} / (1 + {y} ** 2) | {x} / (0.5 + jnp.abs({y})) | jnp.maximum({x}, {y}) |
jnp.minimum({x}, {y}) | jnp.where({x} > {y}, {x}, {y} ** 2) | jnp.arctan2({x}, 1 + {y} ** 2) |
jnp.logaddexp({x}, {y}) | (1.5 + jnp.sin({x})) ** {y} | jnp.where({y} > 0, {x} * {y}, {x}) |
jnp.hypot({x}, 1 + {y}**2) | {x} * jax.nn.sigmoid({y}) | jnp.where({x} < {y}, jnp.tanh({x}), jnp.sin({y})) |
{x} * {x} * {y} | jnp.clip({x}, -1, jnp.abs({y}))
"""
PRODUCTS = """
{x} @ {y} | {x}.T @ {y} | {x} @ {y}.T | jnp.outer({x}, {y}) | jnp.vdot({x}, {y}) | {x} @ {x}.T | jnp.tanh({x} @ {y}) |
jnp.einsum('...i,...j->ij', {x}, {y}) | jnp.einsum('ij,kj->ik', {x}, {y}) | jnp.tensordot({x}, {y}, 1) |
jnp.kron({x}, {y})
"""
REDUCTIONS = """
jnp.sum({x}) | jnp.sum({x}, {axis}) | jnp.mean({x}) | jnp.mean({x}, {axis}) | jnp.max({x}) | jnp.max({x}, {axis}) |
jnp.min({x}, {axis}) | jnp.prod({x}, {axis}) | jnp.prod(jnp.cos({x})) | jax.nn.logsumexp({x}) |
jax.nn.logsumexp({x}, {axis}) | jnp.linalg.norm({x}) | jnp.sqrt(jnp.sum({x} ** 2, {axis}) + 0.1) | jnp.var({x}) |
jnp.std({x}) | jnp.linalg.norm({x}, axis={axis}) | {x} - jnp.mean({x}, {axis}, keepdims=True) |
{x} / (1 + jnp.max(jnp.abs({x}), {axis}, keepdims=True)) | jnp.median({x}) | jax.nn.softmax({x}, {axis}) |
jax.nn.log_softmax({x}, {axis}) | jax.nn.standardize({x}, {axis}) | jnp.ptp({x}, {axis})
"""
CUMULATIVE = """
jnp.cumsum({x}, {axis}) | jnp.cumprod({x}, {axis}) | lax.cummax({x}, {axis}) | lax.cumlogsumexp({x}, {axis}) |
lax.cumsum({x}, {axis}, reverse=True) | jnp.cumprod(jnp.cos({x}), {axis}) | lax.cummin({x}, {axis}, reverse=True)
"""
# JAX reads the last element where an index is too large, and gives it no derivative: right rules would differ.
GATHERING = """
jnp.take({x}, jnp.array({indices}), {axis}) | {x}[jnp.array({indices}) % {x}.shape[0]] |
jnp.take({x}, {i}, {axis}, mode='wrap') |
{x}[1:] | {x}[..., ::-1] | {x}[::2] | jnp.take_along_axis({x}, jnp.argsort({x}, {axis}), {axis}) |
{x}[jnp.argmax({x}) % {x}.shape[0]] | lax.dynamic_slice_in_dim({x}, 1, 1, {axis}) | {x}[{i} % {x}.shape[0]] |
jnp.where(jnp.arange({x}.shape[-1]) < 1, {x}, 0)
"""
SCATTERING = """
{x}.at[jnp.array({indices})].add({y}) | {x}.at[0].set({y}) | {x}.at[-1].multiply(2.0) |
{x}.at[jnp.array({indices})].set(0.5) | jax.ops.segment_sum({x}, jnp.arange({x}.shape[0]) % 2, 3) |
{x}.at[0].max(0.25) | {x}.at[jnp.array({indices})].add(jnp.sin({x}[0])) |
jnp.zeros_like({x}).at[jnp.array({indices})].add({x}[-1]) | {x}.at[jnp.clip({i}, 0, 1)].add({x}[0] ** 2) |
jax.ops.segment_max({x}, jnp.arange({x}.shape[0]) % 2, 2) | {x}.at[jnp.array({indices})].multiply({y})
"""
ORDERING = """
jnp.sort({x}, {axis}) | jnp.sort({x}, {axis})[::-1] | lax.top_k({x}, 1)[0] | jnp.sort(jnp.abs({x}), {axis}) |
lax.sort(({x}, jnp.sin({x})), num_keys=1)[1]
"""
SHAPING = """
{x}.reshape(-1) | {x}.T | jnp.swapaxes({x}, 0, -1) | jnp.broadcast_to({x}, (2, *{x}.shape)) | {x}[None] |
{x}[..., None] | jnp.concatenate([{x}, {x} ** 2], {axis}) | jnp.stack([{x}, jnp.sin({x})]) | jnp.tile({x}, 2) |
jnp.pad({x}, 1) | jnp.flip({x}, {axis}) | jnp.roll({x}, 1, {axis}) | jnp.triu({x}) | jnp.tril({x}, -1) |
jnp.diagonal({x}) | jnp.trace({x}) | jnp.concatenate([{x}, {y}]) | jnp.stack([{x}, {y}], -1) |
jnp.diff({x}, axis={axis}) | jnp.squeeze({x}) | jnp.repeat({x}, 2, {axis})
"""
BRANCHING = """
lax.cond(jnp.sum({x}) > 0, jnp.sin, lambda v: v**2, {x}) |
lax.cond({x}.ravel()[0] > 0, lambda v, w: v * w, lambda v, w: v - w, {x}, {y}) |
lax.switch(1, [jnp.sin, jnp.cos], {x}) | jax.vmap(lambda r: jnp.where(jnp.sum(r) > 0, r, r**2))({x}) |
jax.vmap(lambda r: lax.cond(jnp.sum(r) > 0, jnp.tanh, jnp.square, r))({x}) |
lax.map(lambda r: jnp.sin(r) * jnp.sum(r), {x}) | lax.select({x} > 0.1, jnp.cos({x}), {x} * {x}) |
jax.checkpoint(lambda v: jnp.sin(v) * v)({x}) | jax.jit(lambda v: v * jnp.tanh(v))({x})
"""
LOOPS = """
lax.scan(lambda c, r: (jnp.tanh(c + r), c * r), jnp.zeros_like({x}[0]), {x})[0] |
lax.fori_loop(0, 3, lambda k, v: jnp.sin(v) + 0.5 * v, {x}) |
lax.scan(lambda c, r: (jnp.tanh(c + r), c * r), jnp.ones_like({x}[0]), {x})[1] |
lax.fori_loop(0, 2, lambda k, v: v * {x} + k, {x}) |
lax.scan(lambda c, r: (0.5 * c + jnp.sin(r), jnp.max(c)), {x}[0], {x}, reverse=True)[1] |
lax.scan(lambda c, r: (jnp.maximum(c, r), c), {x}[0], {x})[1] |
lax.scan(lambda c, _: (jnp.cos(c) + {x}, None), {x}, None, length=3)[0] |
lax.associative_scan(jnp.multiply, jnp.cos({x})) |
lax.scan(lambda c, r: (lax.cond(r.sum() > 0, jnp.sin, jnp.cos, c) + r, c), {x}[0], {x})[0] |
lax.scan(lambda c, r: (c + r, c * r), jnp.zeros_like({x}), jnp.stack([{x}, {x} ** 2]))[1]
"""
WHILE = """
lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1]) + {x}), (0, {x}))[1] |
lax.while_loop(lambda v: jnp.sum(v**2) > 1, lambda v: 0.5 * v, {x}) |
lax.fori_loop(0, {n}, lambda k, v: jnp.tanh(v) * 1.5, {x}) |
lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] * {x} + 0.5), (0, {x}))[1] |
lax.while_loop(lambda s: (s[0] < 50) & (jnp.max(jnp.abs(s[1] - s[2])) > 1e-12), lambda s: (s[0] + 1, 0.4 *
    jnp.cos(s[1]) + {x}, s[1]), (0, {x}, {x} + 1))[1]
"""
LINEAR_ALGEBRA = """
jnp.linalg.solve(3 * jnp.eye({x}.shape[-1]) + jnp.tanh({x}), {y}) |
jnp.linalg.inv(3 * jnp.eye({x}.shape[-1]) + jnp.tanh({x})) | jnp.linalg.det({x}) |
jnp.linalg.cholesky({x} @ {x}.T + jnp.eye({x}.shape[0])) |
jnp.linalg.slogdet({x} @ {x}.T + jnp.eye({x}.shape[0]))[1] |
jax.scipy.linalg.solve_triangular(jnp.tril(jnp.tanh({x})) + 2 * jnp.eye({x}.shape[-1]), {y}, lower=True) |
jnp.linalg.eigvalsh(0.1 * jnp.tanh({x} + {x}.T) + jnp.diag(jnp.arange({x}.shape[-1]) * 1.0)) |
jax.scipy.linalg.expm(jnp.tanh({x})) | jnp.linalg.matrix_power({x}, 3) |
jax.scipy.linalg.cho_solve((jnp.linalg.cholesky({x} @ {x}.T + jnp.eye({x}.shape[0])), True), {y})
"""
CONVOLUTIONS = """
jnp.convolve({x}, {y}) | jnp.convolve({x}, {y}, mode='same') | jnp.correlate({x}, {y}, mode='valid') |
lax.conv_general_dilated({x}[None], {y}[None], (1,), 'SAME') |
lax.reduce_window({x}, -jnp.inf, lax.max, (2,), (1,), 'VALID') |
lax.conv_general_dilated({x}[None, None], {y}[None, None], (2, 1), 'SAME') |
lax.reduce_window({x}, 0.0, lax.add, (2,), (1,), 'SAME') |
lax.conv_transpose({x}[None], jnp.swapaxes({y}[None], 0, 2), (2,), 'SAME', dimension_numbers=('NCH', 'HIO',
    'NCH')) |
lax.reduce_window({x}, -jnp.inf, lax.max, (2, 2), (1, 1), 'VALID') |
lax.reduce_window({x}, -jnp.inf, lax.max, (2, 1), (2, 1), 'SAME')
"""
CASTS = """
{x}.astype('bfloat16').astype('float32') | {x}.astype('float32') | {x}.astype('float16').astype('float32') |
jnp.tanh({x}.astype('bfloat16')).astype('float32') | {x}.astype('bfloat16') |
jnp.sum({x}.astype('float16'), {axis}).astype('float32')
"""
INTEGERS = """
{x} * {i} | jax.nn.one_hot({i}, 3) | jnp.where({i} > 0, {x}, {x} ** 2) | jnp.argmax({x}) | jnp.argsort({x}.ravel()) |
{x} ** {i}
"""
STEPS = """
{x}[(jnp.floor({x}) + 1).astype(int) % {x}.shape[0]] * {x} | {x} - jnp.floor({x}) | jnp.round(4 * {x}) / 4 * {y} |
{y} * (1 + jnp.floor({x})) ** 2 | jnp.where({x} == jnp.max({x}), {x} ** 2, 0.1 * {x}) | jnp.mod({x}, 0.7) |
{y}[(0.5 + jnp.abs(jnp.round({x}))).astype(int) % {y}.shape[0]] | {x} + lax.stop_gradient(jnp.round({x}) - {x}) |
jnp.sum({x} * ({x} >= jnp.mean({x}))) | {y} * (jnp.sign({x}) + 1) / 2 | jnp.nan_to_num({x} / {y}) |
jnp.interp({x}, jnp.linspace(-2, 2, 5), jnp.array([0.0, 1.0, -0.5, 2.0, 0.3])) |
lax.fori_loop(0, 2, lambda k, v: v * (jnp.floor(v) + 1.5), {x}) | jnp.heaviside({x}, 0.5) * {y}
"""


def _templates(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("|")]


FAMILIES: dict[str, list[str]] = {
    name: _templates(text)
    for name, text in {
        "elementwise": ELEMENTWISE,
        "pairwise": PAIRWISE,
        "products": PRODUCTS,
        "reductions": REDUCTIONS,
        "shaping": SHAPING,
        "gathering": GATHERING,
        "scattering": SCATTERING,
        "ordering": ORDERING,
        "cumulative": CUMULATIVE,
        "branching": BRANCHING,
        "loops": LOOPS,
        "linear algebra": LINEAR_ALGEBRA,
        "convolutions": CONVOLUTIONS,
        "casts": CASTS,
        "integers": INTEGERS,
        "steps": STEPS,
        "positive": OF_POSITIVE,
    }.items()
}
OFTEN = ("elementwise", "elementwise", "pairwise", "reductions")
REVERSIBLE = (*OFTEN, *FAMILIES)
FAMILIES["while"] = _templates(WHILE)

# Drawing -------------------------------------------------------------------------------------------------------------


def _shapes(n: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes that fit each other more often than not."""
    return st.sampled_from(
        [(n,), (n, n), (n, n), (3, n), (), (2, n), (n, 1), (2, 2, n), (1, n), (n, 3), (2, n, 2), (1,)]
    )


@st.composite
def _arguments(draw: st.DrawFn) -> tuple[Argument, ...]:
    dtype = draw(st.sampled_from(["float32"] * 6 + ["bfloat16", "float16"]))
    n = draw(st.sampled_from([2, 3, 4]))
    names = iter(GIVEN)
    made = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.sampled_from([1, 1, 1, 2]))
        kinds = tuple(
            draw(st.sampled_from(["normal", "normal", "positive", "tied", "zeros", "wide"])) for _ in range(count)
        )
        leaves = tuple(Value(next(names), draw(_shapes(n)), dtype) for _ in range(count))
        made.append(Argument(leaves, kinds, count > 1))
    if draw(st.sampled_from([False, False, True])):
        made.append(Argument((Value("i", draw(st.sampled_from([(2,), (), (3,)])), "int32"),), ("integer",), False))
    return tuple(made)


def _line(draw: st.DrawFn, template: str, pool: Sequence[Value], positive: Sequence[str]) -> str:
    """The template with everything in it filled."""
    floats = [value for value in pool if value.is_float]
    choices: dict[str, Any] = {}
    for hole in dict.fromkeys(re.findall(r"\{(\w+)\}", template)):
        if hole in ("x", "y"):
            lately = [floats[-1]] * 3 * (hole == "x")  # so that lines build on each other
            choices[hole] = draw(st.sampled_from([*lately, *floats[::-1]])).name
        elif hole == "p":
            choices[hole] = draw(st.sampled_from(positive or [f"(0.5 + {floats[-1].name}**2)"]))
        elif hole == "i":
            whole = [value.name for value in pool if not value.is_float]
            choices[hole] = draw(st.sampled_from(whole[::-1])) if whole else "jnp.array([0, 2])"
        elif hole == "axis":
            choices[hole] = draw(st.sampled_from([0, -1]))
        elif hole == "indices":
            choices[hole] = draw(st.sampled_from([[0, 0], [1, 0, 1], [0, -1]]))
        else:
            choices[hole] = f"jnp.array({draw(st.integers(0, 3))})"
    return template.format(**choices)


@functools.lru_cache(maxsize=4096)
def _shape_of(expression: str, known: tuple[Value, ...]) -> tuple[tuple[int, ...], str] | None:
    """What an expression has for shape and dtype; None if it is none, or too large."""
    source = f"def f({', '.join(value.name for value in known)}):\n    return {expression}\n"
    given = [jax.ShapeDtypeStruct(value.shape, jnp.dtype(value.dtype)) for value in known]
    try:
        found = jax.eval_shape(defined.__wrapped__(source), *given)
    except Exception:  # what does not fit is not drawn
        return None
    fits = 0 < found.size <= MOST and len(found.shape) <= 3
    return (found.shape, str(found.dtype)) if fits else None


@st.composite
def programs(draw: st.DrawFn, families: Sequence[str] = REVERSIBLE, last: str | None = None) -> Program:
    """Programs of the families, the last line from one of its own if asked for."""
    arguments = draw(_arguments())
    pool = [leaf for argument in arguments for leaf in argument.leaves]
    positive = [
        leaf.name for a in arguments for leaf, kind in zip(a.leaves, a.kinds, strict=True) if kind == "positive"
    ]
    lines: list[tuple[str, str]] = []
    names = iter(MADE)
    wanted = [draw(st.sampled_from(families)) for _ in range(draw(st.sampled_from([1, 2, 3, 4, 5, 6])))]
    wanted += [last] if last else []
    for family in wanted:
        for _ in range(TRIES):
            expression = _line(draw, draw(st.sampled_from(FAMILIES[family])), pool, positive)
            read = tuple(value for value in pool if re.search(rf"\b{value.name}\b", expression))
            found = _shape_of(expression, read)
            if found is not None:
                lines.append((next(names), expression))
                pool.append(Value(lines[-1][0], *found))
                break
    made = [value for value in pool if any(value.name == name for name, _ in lines) and value.is_float]
    results = [made[-1] if made else pool[0]]
    tree = draw(st.sampled_from(["bare", "bare", "tuple", "dict"]))
    if tree != "bare":
        results += draw(st.lists(st.sampled_from(pool[::-1]), max_size=2))
    returned = tuple(dict.fromkeys(value.name for value in results))
    return Program(arguments, _reached(lines, returned), returned, tree, draw(st.integers(0, 2**16)))


def _reached(lines: list[tuple[str, str]], results: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The lines without those that nothing reads."""
    needed, kept = set(results), []
    for name, expression in reversed(lines):
        if name in needed:
            kept.append((name, expression))
            needed |= set(re.findall(r"\b[a-z]\b", expression))
    return tuple(reversed(kept))
