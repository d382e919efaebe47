"""Optimizers written in other forms, as Optax's pair of functions, so that they can be judged."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from optax import GradientTransformation

from jaxnet.verify.engine.precision import Leaves


class StepDifference(NamedTuple):
    """An update that is the difference of the parameters after a step and before it.

    Attributes:
        step: (params, grads, state) -> (params, state), or (None, state) with params changed in place.
    """

    step: Callable[[Any, Any, Any], Any]

    def __call__(self, gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        """The update and the state after the step."""
        given = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, params)
        after, state = self.step(given, gradients, state)
        if after is None and not all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params)):
            raise TypeError("a step that changes params in place needs NumPy's arrays; JAX's cannot be changed")
        return jax.tree.map(lambda new, old: new - old, given if after is None else after, params), state


def from_step(init: Callable[[Any], Any], step: Callable[[Any, Any, Any], Any]) -> GradientTransformation:
    """A plain update rule (params, grads, state) -> (params, state) as an Optax transformation.

    The update is θ_new - θ, so the rounding of θ itself counts as rounding when it is verified. A step in NumPy that
    changes params in place returns (None, state).

    Args:
        init: params -> the state before the first step.
        step: (params, grads, state) -> (params, state). Code that JAX cannot trace is called step by step.
    """
    return GradientTransformation(init, StepDifference(step))  # pyright: ignore[reportArgumentType]


class WithCost(NamedTuple):
    """An update that asks for the cost beside the gradient, such as Polyak's step size or a line search.

    Attributes:
        update: (gradients, state, params, **what it asks for among value, grad, value_fn) -> (updates, state).
    """

    update: Callable[..., tuple[Any, Any]]

    def __call__(self, gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        """The update where the cost is half the sum of the parameters' squares."""
        given = {"value": half_of_squares(params), "grad": gradients, "value_fn": half_of_squares}
        asked = inspect.signature(self.update).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked.values()):
            given = {name: value for name, value in given.items() if name in asked}
        return self.update(gradients, state, params, **given)


def half_of_squares(params: Any) -> Any:
    """½‖θ‖²."""
    leaves = jax.tree.leaves(params)
    return 0.5 * sum(jnp.sum(jnp.square(leaf), dtype=jnp.result_type(*leaves)) for leaf in leaves)


def with_cost(optimizer: Any) -> GradientTransformation:
    """The optimizer without what its update asks for beside gradients, state and parameters."""
    return GradientTransformation(optimizer.init, WithCost(optimizer.update))  # pyright: ignore[reportArgumentType]


class _TorchStep(NamedTuple):
    """One step of an optimizer of PyTorch, made anew each time from the state that is handed through.

    Attributes:
        make: (tensors) -> the optimizer.
    """

    make: Callable[[Sequence[Any]], Any]

    def __call__(self, params: Any, gradients: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        import torch  # pyright: ignore[reportMissingImports]

        leaves, tree = jax.tree.flatten(params)
        tensors = [torch.tensor(np.asarray(leaf)).requires_grad_() for leaf in leaves]
        optimizer = self.make(tensors)
        for i, (tensor, gradient) in enumerate(zip(tensors, jax.tree.leaves(gradients), strict=True)):
            tensor.grad = torch.tensor(np.asarray(gradient))
            if state:  # an empty one is made in the first step
                kept = {name: tree.flatten_up_to(field)[i] for name, field in state.items()}
                optimizer.state[tensor].update({n: torch.tensor(v) if _is_array(v) else v for n, v in kept.items()})
        optimizer.step()
        after: Leaves = [tensor.detach().numpy() for tensor in tensors]
        rows = [optimizer.state[tensor] for tensor in tensors]
        fields = {name: tree.unflatten([_as_numpy(row[name]) for row in rows]) for name in rows[0]}
        return tree.unflatten(after), fields


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _as_numpy(value: Any) -> Any:
    return value.detach().numpy().copy() if hasattr(value, "detach") else value


def from_torch(make: Callable[[Sequence[Any]], Any]) -> GradientTransformation:
    """An optimizer of PyTorch as an Optax transformation, to be judged or to judge by; it runs step by step.

    Args:
        make: tensors -> the optimizer, such as `lambda tensors: torch.optim.Adam(tensors, lr=0.01)`. The tensors are
            leaves of float16, float32 or float64 on the CPU.
    """
    return from_step(lambda params: {}, _TorchStep(make))
