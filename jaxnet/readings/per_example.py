"""Per-example gradients, their norms, and the gradient noise scale: what the mean over a batch hides.

Each takes a network and a loss and returns a pure function of (params, x, y) for a batch x (m, ...), as those of
`jaxnet.network` do. Norms need no gradient of an example: `map_layers` gives every layer a backward that returns them
instead. Where an example has several positions, its loss is their mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxnet.examples import check_batch, count
from jaxnet.layers import Layer, Reading, map_layers, run
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient


class NoiseScale(NamedTuple):
    """How much the gradients of examples scatter: unbiased estimates from one batch, and their ratio.

    Attributes:
        squared_gradient: |G|², G being the gradient over all data; may be negative by chance, as noise is subtracted.
        noise: tr(Σ), Σ being the covariance of the gradient of one example.
        scale: B_simple = tr(Σ)/|G|². Far larger batches than that many examples waste work, far smaller ones steps.
    """

    squared_gradient: Float[Array, ""]
    noise: Float[Array, ""]
    scale: Float[Array, ""]


def _checked_targets(network: Layer, loss: Loss, params: Any, x: Any, y: ArrayLike) -> Array:
    """y as the loss uses it, checked while it is concrete: inside `vmap` it is not."""
    if network.couples_examples:
        raise ValueError(f"{network.name} couples the examples of a batch: there is no gradient of one example alone")
    check_batch("per-example gradients", x)
    outputs, _ = jax.eval_shape(partial(run, network), params, x, _a_key(network))
    return loss.targets(outputs, y)


def _a_key(network: Layer) -> Array | None:
    return jax.random.key(0) if network.needs_key else None


def _mean_gradient(loss: Loss, outputs: Array, y: Array) -> Array:
    """∂L(i)/∂z, where L(i) is the mean over the positions of example i."""
    return loss.gradient(outputs, y) / max(1, math.prod(outputs.shape[1:-1]))


@dataclass(frozen=True)
class _PerExampleGradients:
    """(params, x, y) -> ∂L(i)/∂params."""

    network: Layer
    loss: Loss

    def __call__(self, params: Any, x: Any, y: ArrayLike, *, key: Array | None = None) -> Any:
        def one(x: Any, y: Array, key: Array | None) -> Any:
            return cost_and_gradient(self.network, self.loss)(params, x, y, key=key)[1]

        targets = _checked_targets(self.network, self.loss, params, x, y)
        keys = None if key is None else jax.random.split(key, count(x))
        return jax.vmap(one, in_axes=(0, 0, None if keys is None else 0))(x, targets, keys)


def per_example_gradients(network: Layer, loss: Loss) -> Callable[..., Any]:
    """The function (params, x, y) -> ∂L(i)/∂params for each example i, on a leading axis of every leaf.

    With `key=` for a network that draws. It raises `ValueError` for one that couples examples.
    """
    return _PerExampleGradients(network, loss)


@dataclass(frozen=True)
class _PerExampleGradientNorms:
    """(params, x, y) -> ‖∂L(i)/∂params‖."""

    network: Layer
    loss: Loss

    def __call__(self, params: Any, x: Any, y: ArrayLike, *, key: Array | None = None) -> Array:
        y = _checked_targets(self.network, self.loss, params, x, y)
        outputs, cache = run(self.network, params, x, key)
        return jnp.sqrt(self.network.squared_norms(params, cache, _mean_gradient(self.loss, outputs, y)))


def per_example_gradient_norms(network: Layer, loss: Loss) -> Callable[..., Array]:
    """The function (params, x, y) -> ‖∂L(i)/∂params‖ for each example i, shape (m,).

    ‖∂L(i)/∂params‖² = Σ_l ‖δ[l]‖²(‖a[l-1]‖² + 1), summed over the dense layers in one backward pass over the batch: no
    gradient of one example is ever formed (Goodfellow, 2015). Every layer has its own `squared_norms`.

    With `key=` for a network that draws. It raises `ValueError` for one that couples examples.
    """
    return _PerExampleGradientNorms(network, loss)


class _Squares(NamedTuple):
    """Σ_i ‖g(i)‖² and ‖Σ_i g(i)‖² of a leaf, g(i) = ∂L(i)/∂params."""

    summed: Array
    of_sum: Array


@dataclass(frozen=True)
class _BothSquares(Reading):
    """The leaf whose backward returns its `_Squares` instead of the gradient's sum."""

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """∂L/∂inputs, and both."""
        grad_inputs, gradient = self.layer.backward(params, cache, grad_outputs)
        if not jax.tree.leaves(gradient):
            return grad_inputs, ()
        of_sum = sum(jnp.square(part).sum() for part in jax.tree.leaves(gradient))
        squares = self.layer.squared_norms(params, cache, grad_outputs)
        return grad_inputs, _Squares(squares.sum(), jnp.asarray(of_sum))


@dataclass(frozen=True)
class _GradientNoiseScale:
    """(params, x, y) -> `NoiseScale`."""

    network: Layer
    loss: Loss

    def __call__(self, params: Any, x: Any, y: ArrayLike, *, key: Array | None = None) -> NoiseScale:
        y = _checked_targets(self.network, self.loss, params, x, y)
        m = count(x)
        if m < 2:
            raise ValueError(f"the gradient noise scale needs at least 2 examples, got {m}")
        with_squares = map_layers(_BothSquares, self.network)
        outputs, cache = run(with_squares, params, x, key)
        _, squares = with_squares.backward(params, cache, _mean_gradient(self.loss, outputs, y))
        leaves = jax.tree.leaves(squares, is_leaf=lambda node: isinstance(node, _Squares))
        zero = jnp.zeros([], outputs.dtype)
        mean_square = sum((leaf.summed.sum() for leaf in leaves), zero) / m
        square_of_mean = sum((leaf.of_sum.sum() for leaf in leaves), zero) / m**2
        noise = m / (m - 1) * (mean_square - square_of_mean)
        squared_gradient = square_of_mean - noise / m
        return NoiseScale(squared_gradient, noise, noise / squared_gradient)


def gradient_noise_scale(network: Layer, loss: Loss) -> Callable[..., NoiseScale]:
    """The function (params, x, y) -> `NoiseScale`, from one backward pass over the batch.

    With g(i) = ∂L(i)/∂params and their mean ḡ over m examples, E‖g‖² = |G|² + tr(Σ) and E‖ḡ‖² = |G|² + tr(Σ)/m, hence

    tr(Σ) = m/(m-1) · (mean_i ‖g(i)‖² - ‖ḡ‖²)        |G|² = ‖ḡ‖² - tr(Σ)/m        B_simple = tr(Σ)/|G|²

    Both are unbiased over the draw of the batch, their ratio is not: average the two over steps and then divide
    (McCandlish et al., 2018, "An Empirical Model of Large-Batch Training", appendix A.1). Neither the gradient of one
    example is formed, nor that of the whole network at once.

    The function raises `ValueError` for fewer than two examples, and what `per_example_gradient_norms` refuses.
    """
    return _GradientNoiseScale(network, loss)
