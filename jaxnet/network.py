"""Networks: a stack of dense layers, its cost, and the gradient of the cost by one backward pass.

`cost`, `cost_and_gradient` and their like take a network and a loss and return a pure function of (params, x, y), the
same function for the same network and loss, ready for `jit`, `vmap` and sharding. x is (m, n_in) for a batch or (n_in,)
for one example; y has the shape of the outputs, or of the examples where the network has one output or the loss takes
class labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Bool, Float

from jaxnet.activations import Activation, identity, relu, sigmoid, tanh
from jaxnet.arguments import positive_integer
from jaxnet.initializers import Initializer, he_normal, lecun_normal
from jaxnet.layers import Layer, abstract_passes, dense, elementwise, pull, run, serial
from jaxnet.losses import Loss


def mlp(
    sizes: Sequence[int],
    hidden: Activation = relu,
    output: Activation = identity,
    initializer: Initializer | None = None,
    *,
    dtype: DTypeLike = float,
) -> Layer:
    """A multilayer perceptron: z[l] = W[l] a[l-1] + b[l], a[l] = g[l](z[l]), from a[0] = x.

    The losses take linear outputs and contain the output activation, so `output` is the identity (and no layer) unless
    the activated outputs themselves are wanted.

    Args:
        sizes: (n[0], ..., n[L]); (12288, 3, 2, 1) is the lecture's network and (n, 1) logistic regression.
        hidden: g[l] for l < L.
        output: g[L].
        initializer: of every weight. By default each layer's follows its activation: variance 1/n_in for identity,
            sigmoid and tanh (`lecun_normal`), 2/n_in for the rectifiers (`he_normal`). Biases start at 0.
        dtype: of the parameters; JAX's default float if not given.

    Raises:
        ValueError: if there are fewer than two sizes, or one is below 1.
        TypeError: if a size is not an integer.
    """
    if not isinstance(sizes, Sequence):
        raise TypeError(f"sizes must be a sequence, such as mlp((3, 4, 1)), got {sizes!r}")
    for name, activation in (("hidden", hidden), ("output", output)):
        if not isinstance(activation, Activation):
            raise TypeError(
                f"{name} must be one activation for all such layers, such as jaxnet.tanh, got {activation!r:.80}; "
                "where they differ write serial(dense(3, 4), elementwise(tanh), dense(4, 1))"
            )
    sizes = tuple(positive_integer("every size", size) for size in sizes)
    if len(sizes) < 2:
        raise ValueError(f"sizes needs at least two entries, inputs and outputs, got {sizes}")
    activations = [hidden] * (len(sizes) - 2) + [output]
    layers = []
    for n_in, n_out, activation in zip(sizes, sizes[1:], activations, strict=False):
        default = lecun_normal if activation in (identity, sigmoid, tanh) else he_normal
        layers.append(dense(n_in, n_out, initializer or default, dtype=dtype))
        layers.append(elementwise(activation))
    return serial(*(layers[:-1] if output == identity else layers))


def _mean_over_examples(losses: Array) -> Array:
    """J = (1/m) Σ L(i); one example is its own mean."""
    if losses.size == 0:
        raise ValueError("the cost of an empty batch is undefined: x has no examples")
    return losses.mean()


def _weighted(values: Array, weight: ArrayLike | None) -> Array:
    """w(i) times what belongs to example i, whatever axes it has of its own."""
    if weight is None:
        return values
    weight = jnp.asarray(weight, values.dtype)
    return values * jnp.expand_dims(weight, range(weight.ndim, values.ndim))


@dataclass(frozen=True)
class _Cost:
    """(params, x, y) -> J."""

    network: Layer
    loss: Loss

    def __call__(
        self, params: Any, x: Any, y: ArrayLike, *, key: Array | None = None, sample_weight: ArrayLike | None = None
    ) -> Float[Array, ""]:
        outputs, _ = run(self.network, params, x, key)
        return _mean_over_examples(_weighted(self.loss.value(outputs, y), sample_weight))


def _refuse_more(name: str, then: str, misplaced: tuple[Any, ...]) -> None:
    if misplaced:
        raise TypeError(
            f"{name}(network, loss) makes a function of {then}, got {len(misplaced)} arguments more: "
            f"write {name}(network, loss){then}"
        )


def cost(network: Layer, loss: Loss, *misplaced: Any) -> Callable[..., Array]:
    """The function (params, x, y) -> J = (1/m) Σ_i L(i), a scalar; with `key=` for a network that draws.

    With `sample_weight=`, a number w(i) for each example, it is (1/m) Σ_i w(i) L(i). It raises `ValueError` for an
    empty batch, a wrong number of features or targets of another shape.
    """
    _refuse_more("cost", "(params, x, y)", misplaced)
    return _Cost(network, loss)


@dataclass(frozen=True)
class _CostAndGradient:
    """(params, x, y) -> (J, ∂J/∂params)."""

    network: Layer
    loss: Loss

    def __call__(
        self, params: Any, x: Any, y: ArrayLike, *, key: Array | None = None, sample_weight: ArrayLike | None = None
    ) -> tuple[Float[Array, ""], Any]:
        try:
            outputs, cache = run(self.network, params, x, key)
            losses = _weighted(self.loss.value(outputs, y), sample_weight)
            delta = _weighted(self.loss.gradient(outputs, y), sample_weight) / max(losses.size, 1)
            _, gradient = pull(self.network, params, cache, delta)
        except Exception:
            self._check_contract(params, x, y, key)
            raise
        if jax.tree.map(jnp.shape, gradient) != jax.tree.map(jnp.shape, params):
            self._check_contract(params, x, y, key)
        return _mean_over_examples(losses), gradient

    def _check_contract(self, params: Any, x: Any, y: ArrayLike, key: Array | None) -> None:
        """Names the layer that breaks its contract, if one does; a batch has as many targets as inputs."""
        batched = jnp.ndim(y) > 0 and jnp.shape(y)[:1] == jnp.shape(jax.tree.leaves(x)[0])[:1]
        abstract_passes(self.network, params, x, key, batched=batched)


def cost_and_gradient(network: Layer, loss: Loss, *misplaced: Any) -> Callable[..., tuple[Array, Any]]:
    """The function (params, x, y) -> (J, ∂J/∂params): `jax.value_and_grad(cost(network, loss))`, derived by hand.

    The derivative is linear, so the gradient of the mean is the mean of the gradients: each δ[L](i) is divided by m
    once, and the sums over examples inside the backward pass do the rest. With `key=` for a network that draws, and
    `sample_weight=` as in `cost`: a weight is a factor of the example's loss, and so of its δ[L](i).
    """
    _refuse_more("cost_and_gradient", "(params, x, y)", misplaced)
    return _CostAndGradient(network, loss)


@dataclass(frozen=True)
class _Predict:
    """(params, x) -> ŷ."""

    network: Layer
    loss: Loss

    def __call__(self, params: Any, x: Any) -> Float[Array, "*batch n_out"]:
        outputs, _ = self.network.forward(params, x)
        return self.loss.predict(outputs)


def predict(network: Layer, loss: Loss, *misplaced: Any) -> Callable[[Any, Array], Array]:
    """The function (params, x) -> ŷ: the outputs, at inference, through the activation that the loss contains.

    A probability for `binary_cross_entropy`, one for each class for `softmax_cross_entropy`.
    """
    _refuse_more("predict", "(params, x)", misplaced)
    return _Predict(network.at_inference(), loss)


def is_correct(prediction: Float[Array, "*batch n_out"], y: ArrayLike) -> Bool[Array, "*batch"]:
    """Whether each predicted class is the label: the most probable of several, or ŷ > ½ for one output; never for NaN.

    Raises:
        ValueError: if y has neither the shape of the examples nor, for one output, that of the prediction.
    """
    *examples, n_out = prediction.shape
    y = jnp.asarray(y)
    if n_out == 1 and y.shape == prediction.shape:
        y = y[..., 0]
    if y.shape != tuple(examples):
        raise ValueError(
            f"a prediction of shape {prediction.shape} needs labels of shape {tuple(examples)}, got {y.shape}"
        )
    if n_out == 1:
        correct = (prediction[..., 0] > 0.5) == (y.astype(prediction.dtype) > 0.5)
    else:
        correct = prediction.argmax(axis=-1) == y
    return correct & jnp.isfinite(prediction).all(axis=-1)
