"""The backward passes of jaxnet's layers, losses and networks."""

from typing import Any, NamedTuple

import jax
from jax import Array

from jaxnet.layers import Layer, run
from jaxnet.losses import Loss
from jaxnet.network import cost, cost_and_gradient


def same_key(layer: Layer) -> Array | None:
    """The key of a layer that draws random numbers: always the same ones, as its gradient supposes."""
    return jax.random.key(0) if layer.needs_key else None


def forward_pass(layer: Layer, params: Any, inputs: Any) -> tuple[Any, Any]:
    """The outputs and the cache."""
    return run(layer, params, inputs, same_key(layer))


class Forward(NamedTuple):
    """A layer's forward pass as a function of (params, inputs)."""

    layer: Layer

    def __call__(self, params: Any, inputs: Any) -> Any:
        """The outputs."""
        return forward_pass(self.layer, params, inputs)[0]


class Backward(NamedTuple):
    """A layer's backward pass as a candidate."""

    layer: Layer

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        """What it returns for args."""
        params, inputs = args
        _, cache = forward_pass(self.layer, params, inputs)
        answer = self.layer.backward(params, cache, cotangent)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            return answer
        grad_inputs, grad_params = answer
        return grad_params, grad_inputs


class Cost(NamedTuple):
    """A network's cost as a function of (params, x, y)."""

    network: Layer
    loss: Loss

    def __call__(self, params: Any, x: Any, y: Any) -> Any:
        """J."""
        return cost(self.network, self.loss)(params, x, y, key=same_key(self.network))


class CostGradient(NamedTuple):
    """The gradient of a network's cost as a candidate."""

    network: Layer
    loss: Loss

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        """What it returns for args."""
        return cost_and_gradient(self.network, self.loss)(*args, key=same_key(self.network))[1]


class LossGradient(NamedTuple):
    """The gradient of a loss of each example as a candidate; the targets have none."""

    loss: Loss

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        """What it returns for args."""
        z, y = args
        return cotangent[..., None] * self.loss.gradient(z, y), None
