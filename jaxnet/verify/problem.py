"""What is to be judged: a function, a candidate for its derivative, and the arguments to judge it at.

Everything here works on leaves. The arguments are taken apart into leaves that are differentiated, arrays that are
handed through (data, integers, random keys) and static values (strings, Python integers, functions), and put together
again whenever a function is called.
"""

import contextlib
import hashlib
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from jaxnet.verify.constants import with_own_constants

Leaves = list[Any]
Floats = Any  # a NumPy array of float64, or the scalar that NumPy makes of one without axes


class Rule(NamedTuple):
    """A function and a candidate for its derivative, with everything about the arguments but their numbers.

    Hashable where the static arguments are, so that what was compiled for it is found again.

    Attributes:
        function: (*args) -> outputs.
        candidate: (args, cotangent) -> the gradient; the cotangent is None where the function is `scalar`.
        answer: which of args the gradient has entries for; an int for the bare gradient of one argument.
        scalar: whether the function's output is one number, and the candidate its gradient.
        names: what the entries of the gradient are called in paths, in place of [0], [1], ...
        value: (args) -> outputs as the candidate computes them, where it does.
        programs: what function and candidate are when traced, so that a changed one is not taken for its old self.
        mixed: whether it closes over NumPy arrays and the user runs it without float64: they are met in two precisions.
        treedef: the tree of args.
        roles: of each leaf of args: "differentiated", "fixed" or "static".
        kinds: what each leaf of args came as: "jax", "numpy" or "python".
        static: the static leaves.
    """

    function: Callable[..., Any]
    candidate: Callable[[tuple[Any, ...], Any], Any]
    answer: int | tuple[int, ...]
    scalar: bool = False
    names: tuple[str, ...] = ()
    value: Callable[[tuple[Any, ...]], Any] | None = None
    treedef: Any = None
    roles: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    static: tuple[Any, ...] = ()
    programs: tuple[str, ...] = ()
    mixed: bool = False

    @property
    def function_alone(self) -> "Rule":
        """The rule without its candidate: what is compiled for the function serves every candidate."""
        return self._replace(candidate=_no_candidate, answer=(), names=(), value=None, programs=self.programs[:1])

    def arguments(self, differentiated: Sequence[Any], fixed: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments made of these leaves."""
        sources = {"differentiated": iter(differentiated), "fixed": iter(fixed), "static": iter(self.static)}
        return jax.tree.unflatten(self.treedef, [next(sources[role]) for role in self.roles])

    def outputs(self, differentiated: Sequence[Any], fixed: Sequence[Any]) -> Leaves:
        """The function's outputs that are floats, as leaves."""
        outputs = self.run(lambda *leaves: self.function(*self.arguments(*leaves)), differentiated, fixed)
        return [leaf for leaf in map(jnp.asarray, jax.tree.leaves(outputs)) if is_float(leaf)]

    def gradient(self, differentiated: Sequence[Any], fixed: Sequence[Any], cotangent: Sequence[Any]) -> Any:
        """What the candidate returns, whatever that is."""
        if self.scalar:
            return self.run(lambda *leaves: self.candidate(self.arguments(*leaves), None), differentiated, fixed)
        # Integer outputs have a cotangent of dtype float0, as everywhere in JAX.
        outputs, tree = jax.tree.flatten(self.output_shapes(differentiated, fixed))

        def backward(differentiated: Sequence[Any], fixed: Sequence[Any], cotangent: Sequence[Any]) -> Any:
            given = iter(cotangent)
            leaves = [next(given) if is_float(leaf) else np.zeros(leaf.shape, jax.dtypes.float0) for leaf in outputs]
            return self.candidate(self.arguments(differentiated, fixed), tree.unflatten(leaves))

        return self.run(backward, differentiated, fixed, cotangent)

    def output_shapes(self, differentiated: Sequence[Any], fixed: Sequence[Any]) -> Any:
        """The tree of the function's outputs, without their numbers."""
        return jax.eval_shape(lambda *leaves: self.function(*self.arguments(*leaves)), differentiated, fixed)

    def run(self, function: Callable[..., Any], *leaves: Sequence[Any]) -> Any:
        """function(*leaves), in the precision of the moment whatever it closes over."""
        return with_own_constants(function, *leaves) if self.mixed else function(*leaves)

    def answer_leaves(self) -> tuple[Any, list[str], list[int]]:
        """The tree that the gradient mirrors, and of its leaves that are differentiated the paths and positions in it.

        Both are in the order of the arguments, whatever the order of argnums.
        """
        marked = jax.tree.unflatten(self.treedef, range(len(self.roles)))
        answer = marked[self.answer] if isinstance(self.answer, int) else tuple(marked[i] for i in self.answer)
        pairs, treedef = jax.tree_util.tree_flatten_with_path(answer)
        found = sorted(
            (leaf, position, self._path(path))
            for position, (path, leaf) in enumerate(pairs)
            if self.roles[leaf] == "differentiated"
        )
        return treedef, [path for _, _, path in found], [position for _, position, _ in found]

    def _path(self, path: tuple[Any, ...]) -> str:
        if self.names and path:
            return self.names[path[0].idx] + keystr(path[1:])
        return keystr(path)


def _no_candidate(args: tuple[Any, ...], cotangent: Any) -> Any:
    raise NotImplementedError


class Problem(NamedTuple):
    """A rule and the numbers of its arguments, as the user runs it.

    Attributes:
        rule: the function and the candidate.
        differentiated: the leaves that are differentiated, arrays of the user's dtype.
        fixed: the arrays that are handed through.
        paths: of each differentiated leaf in the gradient.
        subject: what reports call it.
    """

    rule: Rule
    differentiated: Leaves
    fixed: Leaves
    paths: list[str]
    subject: str


def is_float(leaf: Any) -> bool:
    """Whether a leaf is a real floating-point array."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def positions(argnums: int | Sequence[int], args: tuple[Any, ...]) -> tuple[int, ...]:
    """The arguments meant by argnums, counted from 0.

    Raises:
        TypeError: if argnums are no integers, or there are no arguments.
        ValueError: if one is out of range or named twice.
    """
    if not args:
        raise TypeError("there are no arguments to differentiate")
    several = argnums if isinstance(argnums, Sequence) else (argnums,)
    if not all(hasattr(number, "__index__") and not isinstance(number, bool) for number in several):
        raise TypeError(f"argnums must be an integer or a sequence of integers, got {argnums!r}")
    for number in several:
        if not -len(args) <= number < len(args):
            raise ValueError(f"argnums has {number}, but there are {len(args)} arguments")
    found = tuple(operator.index(number) % len(args) for number in several)
    if len(set(found)) < len(found):
        raise ValueError(f"argnums must name each argument once, got {argnums!r}")
    return found


def state(rule: Rule, args: tuple[Any, ...], argnums: Sequence[int], subject: str) -> Problem:
    """The problem of judging a rule at these arguments, argnums counted from 0.

    Raises:
        TypeError: if an argument to differentiate is complex or holds nothing to differentiate, or if the outputs are
            no real floats.
        ValueError: if argnums are out of range, an array to differentiate is empty, not finite, or, for a scalar
            rule, the output is no single number.
    """
    chosen = set(argnums)
    roles, kinds, static, differentiated, fixed = [], [], [], [], []
    flat, treedef = jax.tree_util.tree_flatten_with_path(args)
    for path, leaf in flat:
        role, kind, value = _classify(leaf, path[0].idx in chosen, keystr(path))
        roles.append(role)
        kinds.append(kind)
        {"differentiated": differentiated, "fixed": fixed, "static": static}[role].append(value)
    if not differentiated:
        raise TypeError(f"nothing to differentiate: arguments {sorted(chosen)} hold no floating-point numbers")
    rule = rule._replace(treedef=treedef, roles=tuple(roles), kinds=tuple(kinds), static=tuple(static))
    _, paths, _ = rule.answer_leaves()
    problem = Problem(rule, differentiated, fixed, paths, subject)
    _check_outputs(problem)
    programs = _programs(problem)
    arrays = any(isinstance(constant, np.ndarray) for program in programs.values() for constant in program.consts)
    rule = rule._replace(programs=tuple(programs), mixed=arrays and not has_float64())
    return problem._replace(rule=rule)


def _classify(leaf: Any, chosen: bool, path: str) -> tuple[str, str, Any]:
    """The role of a leaf, what it came as, and the leaf, an array unless static."""
    if isinstance(leaf, np.ndarray | np.generic):
        kind = "numpy"
    elif isinstance(leaf, jax.Array):
        kind = "jax"
    else:
        kind = "python"
    number = isinstance(leaf, float | complex)
    if kind == "python" and not (number and chosen):
        return "static", kind, leaf
    if kind == "numpy" and (leaf.dtype.kind not in "biufcV" or leaf.dtype == np.longdouble):
        raise TypeError(f"argument {path} has dtype {leaf.dtype}, which JAX cannot hold")
    array = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
    if chosen and jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"argument {path} is complex; only real gradients are judged: split it into two real arrays")
    if not (chosen and is_float(array)):
        return "fixed", kind, array
    if array.size == 0:
        raise ValueError(f"argument {path} is empty, of shape {array.shape}: there is nothing to judge")
    if not bool(jnp.isfinite(array).all()):
        raise ValueError(f"argument {path} must be finite, got NaN or infinity")
    return "differentiated", kind, array


def _check_outputs(problem: Problem) -> None:
    try:
        outputs = problem.rule.output_shapes(problem.differentiated, problem.fixed)
    except Exception as error:
        raise ValueError(f"the function itself raises {in_words(error)}") from error
    leaves = jax.tree.leaves(outputs)
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves):
        raise TypeError("the function returns complex numbers; only real gradients are judged")
    if not any(is_float(leaf) for leaf in leaves):
        raise TypeError(f"the function must return floating-point numbers, got {jax.tree.map(str, outputs)}")
    if problem.rule.scalar and [leaf.shape for leaf in leaves] != [()]:
        shapes = [leaf.shape for leaf in leaves]
        raise TypeError(
            f"verify_gradient needs a function that returns one number, got shapes {shapes}: use verify_vjp"
        )


def _programs(problem: Problem) -> dict[str, Any]:
    """The function and the candidate as JAX traces them, by what they are when printed.

    A candidate that cannot be traced is never compiled.
    """
    rule, leaves = problem.rule, (problem.differentiated, problem.fixed)
    cotangent = [jnp.zeros(s.shape, s.dtype) for s in jax.tree.leaves(rule.output_shapes(*leaves)) if is_float(s)]
    program = jax.make_jaxpr(rule.outputs)(*leaves)
    found = {printed(program): program}
    with contextlib.suppress(Exception):
        program = jax.make_jaxpr(rule.gradient)(*leaves, cotangent)
        found[printed(program)] = program
    return found


def printed(program: Any) -> str:
    """A traced program as text, with the numbers that it closes over, without addresses in memory."""
    digest = hashlib.sha256()
    for constant in program.consts:
        digest.update(np.asarray(constant).tobytes() if not _is_key(constant) else str(constant).encode())
    return re.sub(r"0x[0-9a-f]+", "", str(program)) + digest.hexdigest()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def draws(problem: Problem) -> bool:
    """Whether the function draws random numbers: in float64 it would draw others."""
    return bool(re.search(r"\brandom_(bits|gamma)|threefry|\brng_", problem.rule.programs[0]))


def holds_fixed(problem: Problem) -> bool:
    """Whether the function tells autodiff to take something for constant that is not."""
    return "stop_gradient" in problem.rule.programs[0]


def in_words(error: Exception) -> str:
    """An exception's type and message, in one line that is not too long."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # one that cannot be printed
        text = "no message"
    return f"{type(error).__name__}: {text[:300]}{'...' * (len(text) > 300)}"


@contextlib.contextmanager
def as_the_user_runs_it() -> Iterator[None]:
    """The user's own settings, but that matrix products are not rounded to fewer bits than the dtype has."""
    with jax.default_matmul_precision("highest"), jax.debug_nans(False):
        yield


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Float64, where arrays that the user's function closes over in a narrower dtype are promoted."""
    with as_the_user_runs_it(), jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def has_float64() -> bool:
    """Whether JAX has float64 now."""
    return jnp.result_type(float) == jnp.float64


def widened(leaves: Sequence[Any]) -> Leaves:
    """The leaves with every float as a NumPy float64."""
    return [np.asarray(leaf, np.float64) if is_float(leaf) else leaf for leaf in leaves]


def spacing(dtype: Any) -> float:
    """One unit in the last place of numbers near 1."""
    return float(jnp.finfo(dtype).eps)
