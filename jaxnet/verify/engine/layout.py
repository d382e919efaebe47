"""Arguments taken apart into leaves, and put together again whenever a function is called.

Leaves are differentiated, handed through (data, integers, random keys) or static (strings, Python integers, functions).
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from jaxnet.verify.engine.precision import Leaves, is_float


class StructureError(Exception):
    """The candidate's answer is not the tree that was asked for."""


@dataclass(frozen=True)
class Layout:
    """Everything about arguments but their numbers.

    Attributes:
        treedef: the tree of args.
        roles: of each leaf of args: "differentiated", "fixed" or "static".
        kinds: what each leaf of args came as: "jax", "numpy" or "python".
        static: the static leaves.
        answer: which of args the gradient has entries for; an int for the bare gradient of one argument.
        names: what the entries of the gradient are called in paths, in place of [0], [1], ...
    """

    treedef: Any
    roles: tuple[str, ...]
    kinds: tuple[str, ...]
    static: tuple[Any, ...]
    answer: int | tuple[int, ...]
    names: tuple[str, ...] = ()

    def arguments(self, differentiated: Sequence[Any], fixed: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments made of these leaves."""
        sources = {"differentiated": iter(differentiated), "fixed": iter(fixed), "static": iter(self.static)}
        return jax.tree.unflatten(self.treedef, [next(sources[role]) for role in self.roles])

    def as_came(self, role: str, leaves: Sequence[Any]) -> Leaves:
        """Copies of the leaves of a role as what the user gave: NumPy arrays, Python floats or JAX arrays."""
        kinds = [kind for kind, of in zip(self.kinds, self.roles, strict=True) if of == role]
        makers: dict[str, Callable[[Any], Any]] = {"numpy": np.array, "python": float, "jax": jnp.asarray}
        return [makers[kind](leaf) for leaf, kind in zip(leaves, kinds, strict=True)]

    def asked_for(self) -> tuple[Any, list[str], list[int]]:
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

    def entries(self, answer: Any) -> Leaves:
        """The leaves of a candidate's answer that stand for differentiated leaves; None stands for zeros.

        Raises:
            StructureError: if the answer is another tree.
        """
        treedef, _, positions = self.asked_for()
        if isinstance(self.answer, int):
            leaves = _flatten_like(treedef, answer)
            return [leaves[position] for position in positions]
        count = len(self.answer)
        if not isinstance(answer, tuple):
            raise StructureError(
                f"expected a tuple with one entry for each of {count} arguments, got {described(answer)}"
            )
        if len(answer) != count:
            raise StructureError(f"expected a tuple of {count} entries, one for each argument, got {len(answer)}")
        leaves = []
        for part, given in zip(treedef.children(), answer, strict=True):
            try:
                leaves += [None] * part.num_leaves if given is None else _flatten_like(part, given)
            except StructureError as error:
                if any(_fits(part, other) for other in answer):
                    raise StructureError(
                        f"{error}; another entry is one: the order of the entries is mixed up"
                    ) from error
                raise
        return [leaves[position] for position in positions]


def _fits(treedef: Any, given: Any) -> bool:
    try:
        return given is not None and bool(_flatten_like(treedef, given))
    except StructureError:
        return False


def _flatten_like(treedef: Any, given: Any) -> Leaves:
    try:
        return treedef.flatten_up_to(given)
    except (ValueError, TypeError) as error:
        expected = jax.tree.unflatten(treedef, range(treedef.num_leaves))
        text = _renamed(expected, given) or f"expected the tree {treedef}, got {described(given)}"
        raise StructureError(text) from error


def _renamed(expected: Any, given: Any) -> str:
    """The advice to rename the entries of a dictionary; empty where that is not what is wrong."""
    if not (isinstance(expected, dict) and isinstance(given, dict)):
        return ""
    missing, others = [[key for key in a if key not in b] for a, b in ((expected, given), (given, expected))]
    pairs = [(other, key) for key in missing for other in others if str(other) in (f"d{key}", f"grad_{key}")]
    if len(pairs) == len(missing) == len(others):
        names = ", ".join(f"{other} to {key}" for other, key in pairs)
        return f"the entries are named after the derivatives; a gradient has its parameters' names: rename {names}"
    parts = [f"lacks {missing}"] * bool(missing) + [f"has {others} that no parameter is called"] * bool(others)
    return f"expected a dictionary with the parameters' names, {list(expected)}; it {' and '.join(parts)}"


def described(value: Any) -> str:
    """The type of a value with the dtypes and shapes of what is in it."""
    shapes = jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", value)
    return f"{type(value).__name__}: {shapes}"


class Parted(NamedTuple):
    """Arguments taken apart."""

    layout: Layout
    differentiated: Leaves
    fixed: Leaves


def take_apart(
    args: tuple[Any, ...], chosen: Sequence[int], answer: int | tuple[int, ...], names: tuple[str, ...] = ()
) -> Parted:
    """The leaves of arguments, of which the chosen ones are differentiated.

    Raises:
        TypeError: if an argument to differentiate is complex or holds nothing to differentiate.
        ValueError: if an array to differentiate is empty or not finite.
    """
    roles, kinds, static, differentiated, fixed = [], [], [], [], []
    flat, treedef = jax.tree_util.tree_flatten_with_path(args)
    for path, leaf in flat:
        role, kind, value = _classify(leaf, path[0].idx in chosen, keystr(path))
        roles.append(role)
        kinds.append(kind)
        {"differentiated": differentiated, "fixed": fixed, "static": static}[role].append(value)
    if not differentiated:
        raise TypeError(f"nothing to differentiate: arguments {sorted(chosen)} hold no floating-point numbers")
    layout = Layout(treedef, tuple(roles), tuple(kinds), tuple(static), answer, names)
    return Parted(layout, differentiated, fixed)


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
    if not np.isfinite(np.asarray(array, np.float64)).all():  # by NumPy: XLA would compile two programs for it
        raise ValueError(f"argument {path} must be finite, got NaN or infinity")
    return "differentiated", kind, array


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
