"""The rule of a `jax.custom_vjp`, run by itself: what it returns is judged as it is."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax


class Bound(NamedTuple):
    """The arguments of a call by position, and which of them were given."""

    args: tuple[Any, ...]
    given: tuple[int, ...]


def bound(function: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Bound:
    """All arguments of a function in the order of its signature, defaults filled in.

    Raises:
        TypeError: if they do not fit the signature.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it has none
        return Bound(args, tuple(range(len(args))))
    call = signature.bind(*args, **keywords)
    given = set(call.arguments)
    call.apply_defaults()
    if call.kwargs:
        raise TypeError(f"a rule's arguments must have positions, {sorted(call.kwargs)} are keywords alone")
    names = [name for name, value in call.arguments.items() for _ in range(_places(signature.parameters[name], value))]
    return Bound(call.args, tuple(i for i, name in enumerate(names) if name in given))


def _places(parameter: inspect.Parameter, value: Any) -> int:
    return len(value) if parameter.kind is inspect.Parameter.VAR_POSITIONAL else 1


class Rule(NamedTuple):
    """The backward pass of a `jax.custom_vjp`.

    Attributes:
        function: the function with its rule.
        answer: the arguments that the rule has cotangents for.
    """

    function: Any
    answer: tuple[int, ...]

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        """What the rule returns for args."""
        # custom_vjp hands symbolic zeros and their like to rules that ask for them: only JAX can call those.
        if self.function.symbolic_zeros or not self.function.bwd:
            chosen = tuple(args[i] for i in self.answer)
            return jax.vjp(self._at(args), *chosen)[1](cotangent)
        static = [args[i] for i in self.function.nondiff_argnums]
        _, residuals = self.function.fwd(*args)
        return self.function.bwd(*static, residuals, cotangent)

    def _at(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        def function(*chosen: Any) -> Any:
            replaced = dict(zip(self.answer, chosen, strict=True))
            return self.function(*(replaced.get(i, arg) for i, arg in enumerate(args)))

        return function


class ForwardPass(NamedTuple):
    """The outputs of the rule's own forward pass."""

    rule: Rule

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """The outputs at args."""
        function = self.rule.function
        return function(*args) if function.symbolic_zeros else function.fwd(*args)[0]
