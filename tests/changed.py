"""Layers one of whose passes is another, for tests of what notices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxnet.layers import Layer, Reading


@dataclass(frozen=True)
class Changed(Reading):
    """A layer with another backward pass: (params, cache, δ) -> whatever it returns."""

    instead: Callable[..., Any]

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> Any:
        return self.instead(params, cache, grad_outputs)


@dataclass(frozen=True)
class Written(Layer):
    """A layer of three functions."""

    create: Callable[..., Any]
    ahead: Callable[..., Any]
    back: Callable[..., Any]
    name: str = "written"  # pyright: ignore[reportIncompatibleVariableOverride]

    def init(self, key: Any) -> Any:
        return self.create(key)

    def forward(self, params: Any, inputs: Any, *, key: Any = None) -> Any:
        return self.ahead(params, inputs)

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> Any:
        return self.back(params, cache, grad_outputs)
