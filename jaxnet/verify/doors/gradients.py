"""Judges a derivative written by hand: of a scalar function, of any function, of a `jax.custom_vjp`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
from jax import Array

from jaxnet.verify.candidates.custom_vjp import ForwardPass, Rule, bound
from jaxnet.verify.candidates.functions import Gradient
from jaxnet.verify.doors.options import Asked, options
from jaxnet.verify.engine.case import Candidate, Statement
from jaxnet.verify.engine.layout import positions
from jaxnet.verify.judge import judge
from jaxnet.verify.report import Report


def verify_gradient(
    function: Callable[..., Any],
    gradient: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    key: Array,
    **asked: Unpack[Asked],
) -> Report:
    """Judges gradient(*args), which should be `jax.grad(function, argnums)(*args)`: ∂f/∂args[argnums] of a scalar f.

    Every element is compared in float64 at the given arguments and at random ones around them, against autodiff and
    Taylor's theorem, and in the arguments' own dtypes against the float64 truth. What rounding explains is measured, so
    there is no tolerance. A function that JAX cannot trace, one in NumPy for instance, is judged by differences.

    Args:
        function: (*args) -> one number.
        gradient: (*args) -> the gradient: a tree like args[argnums], or a tuple of such trees for several argnums.
        *args: where to judge; arrays, numbers and trees of them, and whatever else the function takes.
        argnums: the arguments that the gradient is by; the others are held fixed. Integers, random keys and None in
            them are passed over.
        key: of the random points.
        **asked: `native=True` where the candidate runs in the arguments' dtypes only, and never in float64;
            `at="given"` to judge at the given point alone; `allow=("precision",)` to waive kinds of findings.

    Returns:
        A report, true if nothing is wrong. A candidate that raises or returns nonsense is a finding too.

    Raises:
        TypeError: if the function does not return one real number, an argument to differentiate is complex or holds
            no floats, or key is no key.
        ValueError: if the function itself raises, argnums are out of range, or an argument is empty or not finite.
    """
    chosen = positions(argnums, args)
    answer = chosen if isinstance(argnums, Sequence) else chosen[0]
    candidate, subject = Candidate(Gradient(gradient)), _named("gradient", gradient)
    return judge(Statement(function, candidate, args, chosen, answer, subject, scalar=True), key, options(asked))


def verify_vjp(
    function: Callable[..., Any],
    backward: Callable[[tuple[Any, ...], Any], Any],
    *args: Any,
    argnums: int | Sequence[int] | None = None,
    key: Array,
    **asked: Unpack[Asked],
) -> Report:
    """Judges backward(args, cotangent), which should be `jax.vjp(function, *args)[1](cotangent)`.

    For f with Jacobian J = ∂f/∂args it returns Jᵀ ∂L/∂f: one entry for each argument, in a tuple; None stands for
    zeros. The outputs may be any tree. Otherwise as `verify_gradient`.

    Args:
        function: (*args) -> outputs.
        backward: (args, cotangent) -> a tuple with a cotangent for each argument.
        *args: where to judge.
        argnums: the arguments whose entries are judged, all by default; the others are held fixed.
        key: of the random points and cotangents.
        **asked: as for `verify_gradient`.

    Returns:
        A report, true if nothing is wrong.

    Raises:
        TypeError: if the outputs are no real floats, an argument to differentiate is complex, none holds floats, or
            key is no key.
        ValueError: if the function itself raises, argnums are out of range, or an argument is empty or not finite.
    """
    every = tuple(range(len(args)))
    chosen = positions(every if argnums is None else argnums, args)
    statement = Statement(function, Candidate(backward), args, chosen, every, _named("backward", backward))
    return judge(statement, key, options(asked))


def verify_custom_vjp(
    function: Any,
    *args: Any,
    reference: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    key: Array,
    **keywords: Any,
) -> Report:
    """Judges the rule of a `jax.custom_vjp` function: its backward pass, and that its forward pass is the function.

    Args:
        function: a function made by `jax.custom_vjp`, its rule defined by `defvjp`.
        *args: where to judge. Arguments that have defaults may be left out, and are held fixed then.
        reference: the function to hold it against, where its own body is a kernel that cannot be differentiated or is
            not to be trusted; its own body by default.
        argnums: the arguments whose entries are judged; by default all that are given, but those in the function's
            `nondiff_argnums`. The others are held fixed.
        key: of the random points and cotangents.
        **keywords: the options of `verify_gradient`, and arguments of the function by name.

    Returns:
        A report, true if nothing is wrong.

    Raises:
        TypeError: if the function is no `jax.custom_vjp`, and as `verify_vjp` does.
        ValueError: if no rule is defined, and as `verify_vjp` does.
    """
    if not isinstance(function, jax.custom_vjp):
        raise TypeError(
            f"verify_custom_vjp needs a function made by jax.custom_vjp, got {type(function).__name__}; for one that "
            "is wrapped, as by jax.jit, pass what is inside"
        )
    if function.fwd is None or function.bwd is None:
        raise ValueError(f"{_named('function', function)} has no rule yet: call its defvjp(forward, backward)")
    asked = {name: value for name, value in keywords.items() if name in Asked.__annotations__}
    call = bound(function.fun, args, {name: value for name, value in keywords.items() if name not in asked})
    fixed = {number % len(call.args) for number in function.nondiff_argnums}
    answer = tuple(i for i in range(len(call.args)) if i not in fixed)
    given = tuple(i for i in call.given if i in answer)
    chosen = given if argnums is None else positions(argnums, call.args)
    rule = Rule(function, answer)
    statement = Statement(
        reference or function.fun,
        Candidate(rule, ForwardPass(rule)),
        call.args,
        chosen,
        answer,
        _named("custom_vjp", function),
    )
    return judge(statement, key, options(asked))


def _named(what: str, function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", "")
    return f"{what} {name}" if name and name != "<lambda>" else what
