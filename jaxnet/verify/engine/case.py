"""What is to be judged: a function, a candidate for its derivative, and the point to judge it at."""

import contextlib
import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.constants import anew, with_own_constants
from jaxnet.verify.engine.iteration import iterates
from jaxnet.verify.engine.layout import Layout, take_apart
from jaxnet.verify.engine.lifting import is_narrow, lifted
from jaxnet.verify.engine.precision import (
    Leaves,
    as_the_user_runs_it,
    has_float64,
    in_float64,
    is_float,
    is_large,
    widened,
)
from jaxnet.verify.engine.program import calls_back, draws, equations, holds_fixed, narrowings, signature, waits


class Own(NamedTuple):
    """How the user runs a program that cannot be traced in float64, as one whose loop carries float32 by name.

    Attributes:
        dtypes: of the leaves that are given.
        double: whether JAX has float64 there.
    """

    dtypes: tuple[Any, ...]
    double: bool


@dataclass(frozen=True)
class Function:
    """A function of leaves, hashable where its static arguments are, so that what was compiled for it is found again.

    Attributes:
        call: (*args) -> outputs.
        layout: of args.
        scalar: whether the output is one number, and the candidate its gradient.
        traced: whether JAX can trace it; if not, it is called.
        lift: whether what it computes in narrower dtypes is computed in float64.
        own: how it is traced for that, where it cannot be traced in float64.
        side: to which the numbers are moved that it holds in narrower dtypes; 0 for none.
        mixed: whether it closes over NumPy arrays and the user runs it without float64: they are met in two precisions.
        version: what it is when traced, so that a changed one is not taken for its old self.
    """

    call: Callable[..., Any]
    layout: Layout
    scalar: bool = False
    traced: bool = True
    lift: bool = False
    own: Own | None = None
    side: int = 0
    mixed: bool = False
    version: Hashable = None

    def tree(self, differentiated: Sequence[Any], fixed: Sequence[Any]) -> Any:
        """What the function returns."""
        return self.call(*self.layout.arguments(differentiated, fixed))

    def outputs(self, differentiated: Sequence[Any], fixed: Sequence[Any]) -> Leaves:
        """The function's outputs that are floats, as leaves."""
        if self.lift:
            return lifted_outputs(self._floats, differentiated, fixed, own=self.own, side=self.side)
        if self.mixed:
            return with_own_constants(self._floats, differentiated, fixed)
        return self._floats(differentiated, fixed)

    def _floats(self, differentiated: Sequence[Any], fixed: Sequence[Any]) -> Leaves:
        outputs = self.tree(differentiated, fixed)
        return [leaf for leaf in map(jnp.asarray, jax.tree.leaves(outputs)) if is_float(leaf)]


def lifted_outputs(function: Callable[..., Any], *leaves: Any, own: Own | None = None, side: int = 0) -> Any:
    """function(*leaves) with everything in float64."""
    flat, structure = jax.tree.flatten(leaves)
    shapes, double = flat, contextlib.nullcontext()
    if own is not None:
        shapes = [jax.ShapeDtypeStruct(np.shape(leaf), dtype) for leaf, dtype in zip(flat, own.dtypes, strict=True)]
        double = jax.enable_x64(own.double)
    with double:
        program, tree = jax.make_jaxpr(function, return_shape=True)(*structure.unflatten(shapes))
    return jax.tree.unflatten(jax.tree.structure(tree), lifted(program, flat, side))


@dataclass(frozen=True)
class Candidate:
    """A derivative written by hand.

    Attributes:
        call: (args, cotangent) -> the gradient; the cotangent is None where the function is scalar.
        value: args -> outputs as the candidate computes them, where it does.
        wants: the outputs' tree with their shapes.
        takes: the dtypes of the cotangents, where it takes no others than those of the outputs.
        lift, own, side, mixed, version: as for the function.
    """

    call: Callable[[tuple[Any, ...], Any], Any]
    value: Callable[[tuple[Any, ...]], Any] | None = None
    wants: Any = field(default=None, compare=False)
    takes: tuple[Any, ...] = ()
    lift: bool = False
    own: Own | None = None
    side: int = 0
    mixed: bool = False
    version: Hashable = None

    def answer(self, layout: Layout, differentiated: Leaves, fixed: Leaves, cotangent: Leaves) -> Any:
        """What the candidate returns, whatever that is; the cotangent is given by its leaves that are floats."""
        args = layout.arguments(differentiated, fixed)
        if self.wants is None:
            return self.call(args, None)
        # Integer outputs have a cotangent of dtype float0, as everywhere in JAX.
        shapes, tree = jax.tree.flatten(self.wants)
        if self.takes:
            cotangent = [jnp.asarray(leaf, dtype) for leaf, dtype in zip(cotangent, self.takes, strict=True)]
        given = iter(cotangent)
        leaves = [next(given) if is_float(leaf) else np.zeros(leaf.shape, jax.dtypes.float0) for leaf in shapes]
        return self.call(args, tree.unflatten(leaves))

    def leaves(self, layout: Layout, differentiated: Leaves, fixed: Leaves, cotangent: Leaves) -> Leaves:
        """The leaves of its answer that stand for differentiated leaves, where it is being traced."""

        def answer(*leaves: Leaves) -> Leaves:
            return layout.entries(self.answer(layout, *leaves))

        if self.lift:
            return lifted_outputs(answer, differentiated, fixed, cotangent, own=self.own, side=self.side)
        if self.mixed:
            return with_own_constants(answer, differentiated, fixed, cotangent)
        return answer(differentiated, fixed, cotangent)

    def outputs(self, layout: Layout, differentiated: Leaves, fixed: Leaves) -> Leaves:
        """The outputs of its own forward pass that are floats."""
        assert self.value is not None
        value = self.value

        def floats(*leaves: Leaves) -> Leaves:
            return [leaf for leaf in jax.tree.leaves(value(layout.arguments(*leaves))) if is_float(leaf)]

        if not self.lift:
            return floats(differentiated, fixed)
        given = len(jax.tree.leaves((differentiated, fixed)))
        own = self.own and self.own._replace(dtypes=self.own.dtypes[:given])
        return lifted_outputs(floats, differentiated, fixed, own=own)


class Traits(NamedTuple):
    """What is to be known of a function's program, which is not kept: JAX would know its NumPy arrays in one dtype.

    Attributes:
        draws: whether it draws random numbers.
        holds_fixed: whether it tells autodiff to take something for constant.
        calls_back: whether it calls Python while it runs.
        iterates: whether it has loops that repeat one map, as solvers have.
        waits: whether it has loops that end when their numbers say so, and may never end where these overflow.
        narrowest: one unit in the last place of the narrowest dtype that it computes in, as the user runs it.
    """

    draws: bool = False
    holds_fixed: bool = False
    calls_back: bool = False
    iterates: bool = False
    waits: bool = False
    narrowest: float = 0.0


class Case(NamedTuple):
    """A function and a candidate with the numbers of their arguments, as the user runs them.

    Attributes:
        function: what is differentiated.
        candidate: the derivative to judge.
        differentiated: the leaves that are differentiated, arrays of the user's dtypes.
        fixed: the arrays that are handed through.
        outputs: the shapes of the outputs that are floats, in the user's dtypes.
        paths: of each differentiated leaf in the gradient.
        subject: what reports call it.
        traits: of the function's program.
        options: what the user asks for.
    """

    function: Function
    candidate: Candidate
    differentiated: Leaves
    fixed: Leaves
    outputs: list[Any]
    paths: list[str]
    subject: str
    traits: Traits
    options: "Options"

    @property
    def layout(self) -> Layout:
        """Of the arguments."""
        return self.function.layout

    @property
    def large(self) -> bool:
        """Whether the arrays are so large that every evaluation counts."""
        return is_large(self.differentiated)

    @property
    def units(self) -> list[float]:
        """One unit in the last place of each differentiated leaf."""
        return [float(jnp.finfo(leaf.dtype).eps) for leaf in self.differentiated]

    def as_written(self) -> "Case":
        """With the casts to narrower dtypes as they are written."""
        function, candidate = (
            replace(self.function, lift=False, own=None),
            replace(self.candidate, lift=False, own=None, takes=()),
        )
        return self._replace(function=function, candidate=candidate)

    def fixed_in(self, exact: bool) -> Leaves:
        """The arrays that are handed through, in float64 if exact."""
        return widened(self.fixed) if exact else self.fixed


@dataclass(frozen=True)
class Options:
    """What a user may ask for.

    Attributes:
        native: whether the candidate runs in the arguments' dtypes only, and never in float64.
        at: "around" to judge at the given point and around it; "given" at the given point alone.
        allow: kinds of findings that are waived.
    """

    native: bool = False
    at: str = "around"
    allow: tuple[str, ...] = ()


class Statement(NamedTuple):
    """What a door hands over: a function, a candidate, and which arguments are differentiated.

    Attributes:
        function: (*args) -> outputs.
        candidate: its derivative.
        args: where to judge.
        argnums: the arguments that are differentiated, counted from 0.
        answer: the arguments that the gradient has entries for; an int for the bare gradient of one.
        subject: what reports call it.
        scalar: whether the function's output is one number.
        names: of the entries of the gradient, in place of [0], [1], ...
    """

    function: Callable[..., Any]
    candidate: Candidate
    args: tuple[Any, ...]
    argnums: tuple[int, ...]
    answer: int | tuple[int, ...]
    subject: str
    scalar: bool = False
    names: tuple[str, ...] = ()


def state(statement: Statement, options: Options) -> Case:
    """The case that a door has stated.

    Raises:
        TypeError: if an argument to differentiate is complex or holds nothing to differentiate, or if the outputs are
            no real floats.
        ValueError: if an array to differentiate is empty, not finite, or, for a scalar function, the output is no
            single number.
    """
    layout, differentiated, fixed = take_apart(statement.args, statement.argnums, statement.answer, statement.names)
    function = Function(statement.function, layout, statement.scalar)
    with as_the_user_runs_it():
        function, traits, tree = _looked_at(function, differentiated, fixed)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree) if is_float(leaf)]
    candidate = replace(statement.candidate, wants=None if statement.scalar else tree)
    _, paths, _ = layout.asked_for()
    return Case(function, candidate, differentiated, fixed, shapes, paths, statement.subject, traits, options)


def _looked_at(function: Function, differentiated: Leaves, fixed: Leaves) -> tuple[Function, Traits, Any]:
    """The function, its traits and the tree of its outputs; a function that JAX cannot trace is called."""
    try:
        # A new function each time: JAX keeps what it traced as long as the function lives.
        program, tree = jax.make_jaxpr(lambda *leaves: function.tree(*leaves), return_shape=True)(differentiated, fixed)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        function, program = replace(function, traced=False), None
        came = [function.layout.as_came(role, leaves) for role, leaves in _by_role(differentiated, fixed)]
        tree = _called(function, came)
    except Exception as error:
        raise ValueError(f"the function itself raises {in_words(error)}") from error
    _check_outputs(tree, function.scalar)
    if program is None:
        return function, Traits(), tree
    loops = any(map(iterates, equations(program)))
    narrowest = max(narrowings(program), default=0.0)
    traits = Traits(draws(program), holds_fixed(program), calls_back(program), loops, waits(program), narrowest)
    return replace(function, version=signature(program), mixed=is_mixed(program)), traits, tree


def is_mixed(program: Any) -> bool:
    """Whether a program closes over NumPy arrays and the user runs it without float64."""
    return not has_float64() and any(isinstance(constant, np.ndarray) for constant in program.consts)


def _by_role(differentiated: Leaves, fixed: Leaves) -> list[tuple[str, Leaves]]:
    return [("differentiated", differentiated), ("fixed", fixed)]


def _called(function: Function, came: list[Leaves]) -> Any:
    try:
        with np.errstate(all="ignore"):
            return jax.tree.map(_as_array, function.tree(*came))
    except Exception as error:
        raise ValueError(f"the function itself raises {in_words(error)}") from error


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _check_outputs(tree: Any, scalar: bool) -> None:
    leaves = jax.tree.leaves(tree)
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves):
        raise TypeError("the function returns complex numbers; only real gradients are judged")
    if not any(is_float(leaf) for leaf in leaves):
        raise TypeError(f"the function must return floating-point numbers, got {jax.tree.map(str, tree)}")
    if scalar and [leaf.shape for leaf in leaves] != [()]:
        shapes = [leaf.shape for leaf in leaves]
        raise TypeError(
            f"verify_gradient needs a function that returns one number, got shapes {shapes}: use verify_vjp"
        )


def in_words(error: Exception) -> str:
    """An exception's type and message, in one line that is not too long."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # one that cannot be printed
        text = "no message"
    return f"{type(error).__name__}: {text[:300]}{'...' * (len(text) > 300)}"


def memoized(build: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what was built, unless what it was built for cannot be hashed."""
    kept = functools.lru_cache(maxsize=256)(build)

    @functools.wraps(build)
    def found(*key: Any) -> Any:
        try:
            hash(key)
        except TypeError:
            return build(*key)
        return kept(*key)

    return found


def with_casts_lifted(case: Case) -> Case:
    """The case with function and candidate in float64 throughout, where they cast to narrower dtypes."""
    dtypes = [leaf.dtype for leaf in [*case.differentiated, *case.fixed, *case.outputs]]
    every = Own(tuple(dtypes), has_float64())
    given = every._replace(dtypes=every.dtypes[: len(dtypes) - len(case.outputs)])
    with in_float64():
        point, fixed = widened(case.differentiated), case.fixed_in(True)
        cotangent = [np.zeros(shape.shape) for shape in case.outputs]
        function, candidate = case.function, case.candidate
        if function.mixed or candidate.mixed:
            with contextlib.suppress(Exception):  # why it cannot be traced is told where it is run
                anew(lambda: _trace(case, point, fixed, cotangent), mixed=True)
        if function.traced:
            calls_back = case.traits.calls_back  # which is told the dtypes of what comes back
            function = replace(function, **_lifting(function._floats, None if calls_back else given, point, fixed))
        if case.options.native:
            return case._replace(function=function)
        candidate = replace(candidate, takes=_taken(case, point, fixed, cotangent))
        backward = functools.partial(replace(candidate, mixed=False).leaves, case.layout)
        forward = functools.partial(candidate.outputs, case.layout)
        lifting = _lifting(backward, every, point, fixed, cotangent)
        if candidate.value and not lifting:
            lifting = _lifting(forward, given, point, fixed)
        candidate = replace(candidate, **lifting)
    return case._replace(function=function, candidate=candidate)


def _trace(case: Case, *leaves: Leaves) -> None:
    if case.function.traced:
        jax.eval_shape(lambda *leaves: case.function._floats(*leaves), *leaves[:2])
    jax.eval_shape(lambda *leaves: case.candidate.leaves(case.layout, *leaves), *leaves)


def _taken(case: Case, *leaves: Leaves) -> tuple[Any, ...]:
    """The dtypes of cotangents that the candidate takes: none in particular, or, as autodiff does, the outputs'.

    In float64, a function that casts to float32 has outputs of float32.
    """
    if not case.function.traced or case.candidate.wants is None:
        return ()
    try:
        outputs = jax.eval_shape(lambda *given: case.function._floats(*given), *leaves[:2])
    except Exception:  # a function that cannot be traced in float64 is judged in the user's own dtypes
        return ()
    for takes in ((), tuple(output.dtype for output in outputs)):
        candidate = replace(case.candidate, mixed=False, takes=takes)
        try:
            jax.eval_shape(lambda *given, c=candidate: c.leaves(case.layout, *given), *leaves)
        except Exception:  # a candidate that raises is told so where it is run
            continue
        return takes
    return ()


def _lifting(function: Callable[..., Any], own: Own | None, *leaves: Leaves) -> dict[str, Any]:
    """How a function is lifted: traced in float64, or else as the user runs it; not at all if it is in float64 anyway.

    What cannot be lifted is run as it is, and what it loses is measured.
    """
    try:
        if not is_narrow(jax.make_jaxpr(lambda *leaves: function(*leaves))(*leaves)):
            return {}
        traced_in = None
    except Exception:  # no program of float64
        traced_in = own
    try:
        jax.eval_shape(lambda *leaves: lifted_outputs(function, *leaves, own=traced_in), *leaves)
    except Exception:  # as it is
        return {}
    return {"lift": True, "own": traced_in}
