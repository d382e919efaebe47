"""The type checker of the tests: beartype, but that its checks are compiled once, not whenever a `def` is run."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from beartype import beartype


class _Signature:
    """Of a function that jaxtyping made to be checked; its body is empty, so that equal ones are interchangeable."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        self.key = (
            function.__module__,
            function.__qualname__,
            *((p.name, p.kind, p.default is p.empty) for p in parameters),
            *function.__annotations__.items(),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Signature) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.cache
def _checked(signature: _Signature) -> Callable[..., Any]:
    return beartype(signature.function)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping checks with: `python -m pytest --jaxtyping-packages=...,tests.checked`."""
    return _checked(_Signature(function))
