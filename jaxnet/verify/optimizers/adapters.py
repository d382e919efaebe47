"""Optimizers written in other forms, as Optax's pair of functions, so that they can be judged."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from optax import GradientTransformation

from jaxnet.verify.problem import Leaves


class StepDifference(NamedTuple):
    """An update that is the difference of the parameters after a step and before it.

    Attributes:
        step: (params, grads, state) -> (params, state), or (None, state) with params changed in place.
    """

    step: Callable[[Any, Any, Any], Any]

    def __call__(self, gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        """The update and the state after the step."""
        before = params
        if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params)):
            params = jax.tree.map(np.array, params)
        after, state = self.step(params, gradients, state)
        return jax.tree.map(lambda new, old: new - old, params if after is None else after, before), state


def from_step(init: Callable[[Any], Any], step: Callable[[Any, Any, Any], Any]) -> GradientTransformation:
    """A plain update rule (params, grads, state) -> (params, state) as an Optax transformation.

    The update is θ_new - θ, so the rounding of θ itself counts as rounding when it is verified. A step in NumPy that
    changes params in place returns (None, state).

    Args:
        init: params -> the state before the first step.
        step: (params, grads, state) -> (params, state). Code that JAX cannot trace is called step by step.
    """
    return GradientTransformation(init, StepDifference(step))  # pyright: ignore[reportArgumentType]


class _TorchStep(NamedTuple):
    """One step of an optimizer of PyTorch, made anew each time from the state that is handed through.

    Attributes:
        make: (tensors) -> the optimizer.
    """

    make: Callable[[Sequence[Any]], Any]

    def __call__(self, params: Any, gradients: Any, state: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
        import torch  # pyright: ignore[reportMissingImports]

        leaves, tree = jax.tree.flatten(params)
        tensors = [torch.tensor(np.asarray(leaf)).requires_grad_() for leaf in leaves]
        optimizer = self.make(tensors)
        for tensor, gradient, kept in zip(tensors, jax.tree.leaves(gradients), state, strict=True):
            tensor.grad = torch.tensor(np.asarray(gradient))
            optimizer.state[tensor].update({name: copy.deepcopy(value) for name, value in kept.items()})
        optimizer.step()
        after: Leaves = [tensor.detach().numpy() for tensor in tensors]
        return tree.unflatten(after), [dict(optimizer.state[tensor]) for tensor in tensors]


def from_torch(make: Callable[[Sequence[Any]], Any]) -> GradientTransformation:
    """An optimizer of PyTorch as an Optax transformation, to be judged or to judge by; it runs step by step.

    Args:
        make: tensors -> the optimizer, such as `lambda tensors: torch.optim.Adam(tensors, lr=0.01)`.
    """
    return from_step(lambda params: [{} for _ in jax.tree.leaves(params)], _TorchStep(make))
