"""Judges a derivative written by hand: of a scalar function, of any function, of a `jax.custom_vjp`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array

from jaxnet.verify.judge import judge
from jaxnet.verify.problem import Rule, positions, state
from jaxnet.verify.report import Report


class _Gradient(NamedTuple):
    """A gradient, which takes no cotangent, as a candidate."""

    gradient: Callable[..., Any]

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        return self.gradient(*args)


class _CustomVjp(NamedTuple):
    """The backward pass of a `jax.custom_vjp`, run by itself: what it returns is judged as it is."""

    function: Any
    differentiated: tuple[int, ...]

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        # custom_vjp hands symbolic zeros and their like to rules that ask for them: only JAX can call those.
        if self.function.symbolic_zeros or not self.function.bwd:
            chosen = tuple(args[i] for i in self.differentiated)
            return jax.vjp(self._at(args), *chosen)[1](cotangent)
        static = [args[i] for i in self.function.nondiff_argnums]
        _, residuals = self.function.fwd(*args)
        return self.function.bwd(*static, residuals, cotangent)

    def value(self, args: tuple[Any, ...]) -> Any:
        """The outputs of the forward pass."""
        if self.function.symbolic_zeros:
            return self.function(*args)
        return self.function.fwd(*args)[0]

    def _at(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        def function(*chosen: Any) -> Any:
            replaced = dict(zip(self.differentiated, chosen, strict=True))
            return self.function(*(replaced.get(i, arg) for i, arg in enumerate(args)))

        return function


class _Value(NamedTuple):
    """The forward pass of a candidate that has one."""

    candidate: _CustomVjp

    def __call__(self, args: tuple[Any, ...]) -> Any:
        return self.candidate.value(args)


def verify_gradient(
    function: Callable[..., Any],
    gradient: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    key: Array,
    native: bool = False,
) -> Report:
    """Judges gradient(*args), which should be `jax.grad(function, argnums)(*args)`: ∂f/∂args[argnums] of a scalar f.

    Every element is compared in float64 at the given arguments and at random ones around them, against autodiff and
    Taylor's theorem, and in the arguments' own dtypes against the float64 truth. What rounding explains is measured, so
    there is no tolerance.

    Args:
        function: (*args) -> one number.
        gradient: (*args) -> the gradient: a tree like args[argnums], or a tuple of such trees for several argnums.
        *args: where to judge; arrays, numbers and trees of them, and whatever else the function takes.
        argnums: the arguments that the gradient is by. Integers, random keys and None in them are passed over.
        key: of the random points.
        native: whether the candidate runs in the arguments' dtypes only, and never in float64.

    Returns:
        A report, true if nothing is wrong. A candidate that raises or returns nonsense is a finding too.

    Raises:
        TypeError: if the function does not return one real number, an argument to differentiate is complex or holds
            no floats, or key is no key.
        ValueError: if the function itself raises, argnums are out of range, or an argument is empty or not finite.
    """
    chosen = positions(argnums, args)
    rule = Rule(function, _Gradient(gradient), chosen if isinstance(argnums, Sequence) else chosen[0], scalar=True)
    return judge(state(rule, args, chosen, _named("gradient", gradient)), key, native=native)


def verify_vjp(
    function: Callable[..., Any],
    backward: Callable[[tuple[Any, ...], Any], Any],
    *args: Any,
    argnums: int | Sequence[int] | None = None,
    key: Array,
    native: bool = False,
) -> Report:
    """Judges backward(args, cotangent), which should be `jax.vjp(function, *args)[1](cotangent)`.

    For f with Jacobian J = ∂f/∂args it returns Jᵀ ∂L/∂f: one entry for each argument, in a tuple; None stands for
    zeros. The outputs may be any tree. Otherwise as `verify_gradient`.

    Args:
        function: (*args) -> outputs.
        backward: (args, cotangent) -> a tuple with a cotangent for each argument.
        *args: where to judge.
        argnums: the arguments whose entries are judged; all by default.
        key: of the random points and cotangents.
        native: whether the candidate runs in the arguments' dtypes only, and never in float64.

    Returns:
        A report, true if nothing is wrong.

    Raises:
        TypeError: if the outputs are no real floats, an argument to differentiate is complex, none holds floats, or
            key is no key.
        ValueError: if the function itself raises, argnums are out of range, or an argument is empty or not finite.
    """
    chosen = positions(range(len(args)) if argnums is None else argnums, args)
    rule = Rule(function, backward, tuple(range(len(args))))
    return judge(state(rule, args, chosen, _named("backward", backward)), key, native=native)


def verify_custom_vjp(
    function: Any, *args: Any, reference: Callable[..., Any] | None = None, key: Array, native: bool = False
) -> Report:
    """Judges the rule of a `jax.custom_vjp` function: its backward pass, and that its forward pass is the function.

    Args:
        function: a function made by `jax.custom_vjp`, its rule defined by `defvjp`.
        *args: where to judge; all are differentiated but those in the function's `nondiff_argnums`.
        reference: the function to hold it against, where its own body is a kernel that cannot be differentiated or is
            not to be trusted; its own body by default.
        key: of the random points and cotangents.
        native: whether function and rule run in the arguments' dtypes only, and never in float64.

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
    fixed = positions(function.nondiff_argnums, args)
    differentiated = tuple(i for i in range(len(args)) if i not in fixed)
    candidate = _CustomVjp(function, differentiated)
    rule = Rule(reference or function.fun, candidate, differentiated, value=_Value(candidate))
    return judge(state(rule, args, differentiated, _named("custom_vjp", function)), key, native=native)


def _named(what: str, function: Any) -> str:
    name = getattr(function, "__name__", "")
    return f"{what} {name}" if name and name != "<lambda>" else what
