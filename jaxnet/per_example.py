"""Per-example gradients, their norms, and the gradient noise scale: what the mean over a batch hides.

Each takes a network and a loss and returns a pure function of (params, x, y) for a batch x (m, n_in), as those of
`jaxnet.network` do. Norms need no gradient of an example: `map_layers` gives every dense layer a backward that returns
them instead.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxnet.layers import Dense, Layer, map_layers
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


def _checked_targets(network: Layer, loss: Loss, params: Any, x: Array, y: ArrayLike) -> Array:
    """y as the loss uses it, checked while it is concrete: inside `vmap` it is not."""
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"per-example gradients need a batch of shape (m, n_in) with m at least 1, got {x.shape}")
    outputs, _ = jax.eval_shape(network.forward, params, x)
    return loss.targets(outputs, y)


@functools.cache
def per_example_gradients(network: Layer, loss: Loss) -> Callable[[Any, Array, ArrayLike], Any]:
    """The function (params, x, y) -> ∂L(i)/∂params for each example i, on a leading axis of every leaf."""

    def one(params: Any, x: Array, y: Array) -> Any:
        return cost_and_gradient(network, loss)(params, x, y)[1]

    def function(params: Any, x: Float[Array, "*batch n_in"], y: ArrayLike) -> Any:
        return jax.vmap(one, in_axes=(None, 0, 0))(params, x, _checked_targets(network, loss, params, x, y))

    return function


@functools.cache
def _squared_norms(leaf: Layer) -> Layer:
    """The leaf whose backward returns ‖∂L(i)/∂params‖² for each example i instead of the gradient's sum.

    A leaf whose parameters are `Dense` is taken to be z = W a + b, with a for its cache.
    """

    def backward(params: Any, cache: Any, delta: Array) -> tuple[Array, Any]:
        """∂L(i)/∂W = δ aᵀ and ∂L(i)/∂b = δ, and ‖δ aᵀ‖² = Σ_ij δ_i² a_j² = ‖δ‖²‖a‖²: together ‖δ‖²(‖a‖² + 1)."""
        grad_inputs, gradient = leaf.backward(params, cache, delta)
        if isinstance(params, Dense):
            return grad_inputs, jnp.square(delta).sum(-1) * (jnp.square(cache).sum(-1) + 1)
        if jax.tree.leaves(params):
            raise TypeError(f"no closed form for the per-example gradient norm of {leaf.name}")
        return grad_inputs, gradient

    return leaf._replace(backward=backward)


@functools.cache
def per_example_gradient_norms(network: Layer, loss: Loss) -> Callable[[Any, Array, ArrayLike], Array]:
    """The function (params, x, y) -> ‖∂L(i)/∂params‖ for each example i, shape (m,).

    ‖∂L(i)/∂params‖² = Σ_l ‖δ[l]‖²(‖a[l-1]‖² + 1), summed over the dense layers in one backward pass over the batch: no
    gradient of one example is ever formed (Goodfellow, 2015).
    """
    with_norms = map_layers(_squared_norms, network)

    def function(params: Any, x: Float[Array, "*batch n_in"], y: ArrayLike) -> Float[Array, " m"]:
        y = _checked_targets(network, loss, params, x, y)
        outputs, cache = with_norms.forward(params, x)
        _, squares = with_norms.backward(params, cache, loss.gradient(outputs, y))
        # `repeat` stacks its layers on a leading axis, so the examples are the last one.
        by_leaf = (square.reshape(-1, len(x)).sum(0) for square in jax.tree.leaves(squares))
        return jnp.sqrt(sum(by_leaf, jnp.zeros(len(x), outputs.dtype)))

    return function


class _Squares(NamedTuple):
    """Σ_i ‖g(i)‖² and ‖Σ_i g(i)‖² of a leaf, g(i) = ∂L(i)/∂params."""

    summed: Array
    of_sum: Array


@functools.cache
def _both_squares(leaf: Layer) -> Layer:
    """The leaf whose backward returns its `_Squares` instead of the gradient's sum."""
    with_norms = _squared_norms(leaf)

    def backward(params: Any, cache: Any, delta: Array) -> tuple[Array, Any]:
        _, squares = with_norms.backward(params, cache, delta)
        grad_inputs, gradient = leaf.backward(params, cache, delta)
        if not jax.tree.leaves(gradient):
            return grad_inputs, ()
        of_sum = sum(jnp.square(part).sum() for part in jax.tree.leaves(gradient))
        return grad_inputs, _Squares(squares.sum(), jnp.asarray(of_sum))

    return leaf._replace(backward=backward)


@functools.cache
def gradient_noise_scale(network: Layer, loss: Loss) -> Callable[[Any, Array, ArrayLike], NoiseScale]:
    """The function (params, x, y) -> `NoiseScale`, from one backward pass over the batch.

    With g(i) = ∂L(i)/∂params and their mean ḡ over m examples, E‖g‖² = |G|² + tr(Σ) and E‖ḡ‖² = |G|² + tr(Σ)/m, hence

    tr(Σ) = m/(m-1) · (mean_i ‖g(i)‖² - ‖ḡ‖²)        |G|² = ‖ḡ‖² - tr(Σ)/m        B_simple = tr(Σ)/|G|²

    Both are unbiased over the draw of the batch, their ratio is not: average the two over steps and then divide
    (McCandlish et al., 2018, "An Empirical Model of Large-Batch Training", appendix A.1). Neither the gradient of one
    example is formed, nor that of the whole network at once.

    The function raises `ValueError` for fewer than two examples, `TypeError` for a leaf with parameters that is not
    dense, and what `per_example_gradient_norms` refuses.
    """
    with_squares = map_layers(_both_squares, network)

    def function(params: Any, x: Float[Array, "*batch n_in"], y: ArrayLike) -> NoiseScale:
        y = _checked_targets(network, loss, params, x, y)
        m = len(x)
        if m < 2:
            raise ValueError(f"the gradient noise scale needs at least 2 examples, got {m}")
        outputs, cache = with_squares.forward(params, x)
        _, squares = with_squares.backward(params, cache, loss.gradient(outputs, y))
        leaves = jax.tree.leaves(squares, is_leaf=lambda node: isinstance(node, _Squares))
        zero = jnp.zeros([], outputs.dtype)
        mean_square = sum((leaf.summed.sum() for leaf in leaves), zero) / m
        square_of_mean = sum((leaf.of_sum.sum() for leaf in leaves), zero) / m**2
        noise = m / (m - 1) * (mean_square - square_of_mean)
        squared_gradient = square_of_mean - noise / m
        return NoiseScale(squared_gradient, noise, noise / squared_gradient)

    return function
