"""A gradient and a backward pass that are plain functions."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Gradient(NamedTuple):
    """A gradient, which takes no cotangent."""

    gradient: Callable[..., Any]

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        """The gradient at args."""
        return self.gradient(*args)
