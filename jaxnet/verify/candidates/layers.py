"""The backward passes of jaxnet's layers, losses and networks."""

from typing import Any, NamedTuple

from jaxnet.layers import Layer
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient


class Forward(NamedTuple):
    """A layer's forward pass as a function of (params, inputs)."""

    layer: Layer

    def __call__(self, params: Any, inputs: Any) -> Any:
        """The outputs."""
        return self.layer.forward(params, inputs)[0]


class Backward(NamedTuple):
    """A layer's backward pass as a candidate."""

    layer: Layer

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        """What it returns for args."""
        params, inputs = args
        _, cache = self.layer.forward(params, inputs)
        answer = self.layer.backward(params, cache, cotangent)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            return answer
        grad_inputs, grad_params = answer
        return grad_params, grad_inputs


class CostGradient(NamedTuple):
    """The gradient of a network's cost as a candidate."""

    network: Layer
    loss: Loss

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        """What it returns for args."""
        return cost_and_gradient(self.network, self.loss)(*args)[1]


class LossGradient(NamedTuple):
    """The gradient of a loss of each example as a candidate; the targets have none."""

    loss: Loss

    def __call__(self, args: tuple[Any, ...], cotangent: Any) -> Any:
        """What it returns for args."""
        z, y = args
        return cotangent[..., None] * self.loss.gradient(z, y), None
