"""Losses of one example, from the network's linear outputs z, each beside its hand-derived gradient ∂L/∂z.

Starting from z and not from the probability ŷ = σ(z) is what makes them exact: log ŷ and 1/ŷ are infinite as soon as ŷ
rounds to 0, while L and ∂L/∂z = ŷ - y are finite for every finite z. Both are accurate to a few units in the last place
also where they are tiny, which a subtraction such as ŷ - 1 would round to 0.

Shapes: z is (..., n), y is (..., n), or (...) where n = 1; L is (...). A mean over examples is the network's business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxnet.activations import Activation, relu, sigmoid, softplus
from jaxnet.arguments import check_instance

Outputs = Array | jax.ShapeDtypeStruct  # targets are held against the shape and dtype of z alone


def _matching(z: Outputs, y: ArrayLike) -> Array:
    """y in the shape and dtype of z; nothing broadcasts, only the last axis of a one-output network may be missing."""
    y = jnp.asarray(y)
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise TypeError(f"targets must be real numbers, got {y.dtype}")
    if y.shape != z.shape:
        if z.shape != (*y.shape, 1):
            raise ValueError(f"outputs of shape {z.shape} need targets of the same shape, got {y.shape}")
        y = y[..., None]
    return y.astype(z.dtype)


def _as_they_are(z: Outputs, y: ArrayLike) -> Array:
    return jnp.asarray(y)


class Loss(NamedTuple):
    """A loss of one example and its gradient by the linear outputs.

    Attributes:
        name: how reports call it.
        value: (z, y) -> L, of shape z.shape[:-1].
        gradient: (z, y) -> ∂L/∂z, of z's shape.
        predict: z -> ŷ, the output activation that the loss contains: the network's answer in the units of y.
        targets: (z, y) -> y in the form that `value` and `gradient` bring it to themselves. Raises `ValueError` where
            the shapes of z and y disagree or concrete targets are out of range, and `TypeError` for class labels that
            are not integers or targets that are complex. Only the shape and dtype of z matter. A loss of your own may
            leave it out.
    """

    name: str
    value: Callable[[Array, ArrayLike], Array]
    gradient: Callable[[Array, ArrayLike], Array]
    predict: Callable[[Array], Array]
    targets: Callable[[Outputs, ArrayLike], Array] = _as_they_are

    def __repr__(self) -> str:
        """Its name."""
        return self.name


def check_loss(loss: Any) -> None:
    """Raises `TypeError` unless it is a loss."""
    check_instance(Loss, loss, "jaxnet.squared_error")


def _all(condition: Array | np.ndarray) -> bool:
    """Whether the condition holds everywhere, taken for granted while tracing, when values are unknown."""
    return isinstance(condition, Tracer) or bool(condition.all())


def _sum_outputs(losses: Array) -> Array:
    """The sum over the outputs of each example; z without axes is one output."""
    return losses.sum(axis=-1) if losses.ndim else losses


# Binary cross-entropy ------------------------------------------------------------------------------------------------


def _probabilities(z: Outputs, y: ArrayLike) -> Array:
    y = _matching(z, y)
    if not _all((y >= 0) & (y <= 1)):
        raise ValueError(f"binary labels must lie in [0, 1], got values from {y.min()} to {y.max()}")
    return y


def _binary_cross_entropy(z: Array, y: ArrayLike) -> Array:
    """L = -(y log ŷ + (1 - y) log(1 - ŷ)), where -log ŷ = -log σ(z) = softplus(-z) and -log(1 - ŷ) = softplus(z)."""
    y = _probabilities(z, y)
    return _sum_outputs(y * softplus.value(-z) + (1 - y) * softplus.value(z))


def _binary_cross_entropy_gradient(z: Array, y: ArrayLike) -> Array:
    """∂L/∂z = ŷ - y.

    The long way round: ∂L/∂ŷ · dŷ/dz = (-y/ŷ + (1 - y)/(1 - ŷ)) · ŷ(1 - ŷ) = -y(1 - ŷ) + (1 - y)ŷ. That last form is
    the one computed, with 1 - ŷ = σ(-z): it stays accurate where ŷ rounds to y.
    """
    y = _probabilities(z, y)
    return (1 - y) * jax.nn.sigmoid(z) - y * jax.nn.sigmoid(-z)


binary_cross_entropy = Loss(
    "binary_cross_entropy", _binary_cross_entropy, _binary_cross_entropy_gradient, sigmoid.value, _probabilities
)


# Softmax cross-entropy -----------------------------------------------------------------------------------------------


def _labels(z: Outputs, y: ArrayLike) -> Array:
    y = y if isinstance(y, Array) else np.asarray(y)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"softmax_cross_entropy needs integer class labels, got {y.dtype}")
    if z.shape == () or z.shape[-1] < 2:
        raise ValueError(f"softmax_cross_entropy needs outputs for at least 2 classes, got shape {z.shape}")
    if y.shape != z.shape[:-1]:
        raise ValueError(f"outputs of shape {z.shape} need labels of shape {z.shape[:-1]}, got {y.shape}")
    y = y.astype(np.int64 if isinstance(y, np.ndarray) else int)  # 8 bits would wrap around at 256 classes
    if not _all((y >= 0) & (y < z.shape[-1])):
        raise ValueError(f"labels must lie in 0 to {z.shape[-1] - 1}, got values from {y.min()} to {y.max()}")
    return jnp.asarray(y, int)


def _shifted(z: Array) -> tuple[Array, Array]:
    """s = z - max z, so that nothing overflows, and e^s.

    The rounding error of the subtraction is put back, exactly (Knuth's two-sum): at s = -80 it is 80 ulp of e^s.
    """
    top = z.max(axis=-1, keepdims=True)
    s = z - top
    kept = s + top
    lost = (z - kept) + ((kept - s) - top)
    return s, jnp.exp(s) * (1 + jnp.where(jnp.isfinite(s), lost, 0))


def _softmax_cross_entropy(z: Array, y: ArrayLike) -> Array:
    """L = -log ŷ_y = log Σ_k e^(z_k) - z_y, ŷ = softmax(z).

    With s = z - max z this is log Σ_k e^(s_k) - s_y: two terms that are never negative, so nothing cancels. One summand
    is 1, so that the logarithm is log1p of the others.
    """
    y = _labels(z, y)
    s, e = _shifted(z)
    others = jnp.where(s < 0, e, 0).sum(axis=-1) + ((s == 0).sum(axis=-1) - 1).astype(z.dtype)
    s_y = jnp.take_along_axis(s, y[..., None], axis=-1)[..., 0]
    return jnp.log1p(others) - s_y


def _softmax_cross_entropy_gradient(z: Array, y: ArrayLike) -> Array:
    """∂L/∂z = ŷ - 1{k = y}.

    ∂(log Σ_j e^(z_j))/∂z_k = e^(z_k)/Σ_j e^(z_j) = ŷ_k, and ∂z_y/∂z_k = 1{k = y}. At k = y the difference ŷ_y - 1 is
    computed as -Σ_(k≠y) ŷ_k, which stays accurate where ŷ_y rounds to 1.
    """
    y = _labels(z, y)
    _, e = _shifted(z)
    prediction = e / e.sum(axis=-1, keepdims=True)
    is_label = jax.nn.one_hot(y, z.shape[-1], dtype=bool)
    others = jnp.where(is_label, 0, prediction)
    return jnp.where(is_label, -others.sum(axis=-1, keepdims=True), others)


softmax_cross_entropy = Loss(
    "softmax_cross_entropy", _softmax_cross_entropy, _softmax_cross_entropy_gradient, jax.nn.softmax, _labels
)


# Squared error -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SquaredErrorThrough:
    """½‖g(z) - y‖²."""

    activation: Activation

    def __call__(self, z: Array, y: ArrayLike) -> Array:
        return _sum_outputs(0.5 * jnp.square(self.activation.value(z) - _matching(z, y)))


@dataclass(frozen=True)
class _SquaredErrorThroughGradient:
    """(ŷ - y) ⊙ g'(z)."""

    activation: Activation

    def __call__(self, z: Array, y: ArrayLike) -> Array:
        prediction = self.activation.value(z)
        slope = self.activation.derivative(prediction if self.activation.reads == "output" else z)
        return (prediction - _matching(z, y)) * slope


def squared_error_through(activation: Activation) -> Loss:
    """The squared error of an output activation: L = ½‖ŷ - y‖² with ŷ = g(z), for targets that live in g's range.

    ∂L/∂z = (ŷ - y) ⊙ g'(z). ReLU suits a quantity in [0, ∞), such as a price; tanh a signed reward in (-1, 1).
    """
    value, gradient = _SquaredErrorThrough(activation), _SquaredErrorThroughGradient(activation)
    return Loss(f"squared_error_through({activation.name})", value, gradient, activation.value, _matching)


def _squared_error(z: Array, y: ArrayLike) -> Array:
    """L = ½‖z - y‖², summed over outputs. The ½ makes the gradient ŷ - y, as for both cross-entropies."""
    return _sum_outputs(0.5 * jnp.square(z - _matching(z, y)))


def _squared_error_gradient(z: Array, y: ArrayLike) -> Array:
    """∂L/∂z = ŷ - y, ŷ = z."""
    return z - _matching(z, y)


def _linear(z: Array) -> Array:
    """ŷ = z."""
    return z


squared_error = Loss("squared_error", _squared_error, _squared_error_gradient, _linear, _matching)


# The textbook form, for comparison -----------------------------------------------------------------------------------


def _textbook_cross_entropy(a: Array, y: ArrayLike) -> Array:
    """L = -(y log a + (1 - y) log(1 - a)), literally: infinite or NaN once a rounds to 0 or 1."""
    y = _probabilities(a, y)
    return _sum_outputs(-(y * jnp.log(a) + (1 - y) * jnp.log(1 - a)))


def _textbook_cross_entropy_gradient(a: Array, y: ArrayLike) -> Array:
    """∂L/∂a = -y/a + (1 - y)/(1 - a), literally: a division by zero once a rounds to 0 or 1."""
    y = _probabilities(a, y)
    return -y / a + (1 - y) / (1 - a)


textbook_cross_entropy = Loss(
    "textbook_cross_entropy", _textbook_cross_entropy, _textbook_cross_entropy_gradient, _linear, _probabilities
)

ALL = (binary_cross_entropy, softmax_cross_entropy, squared_error, squared_error_through(relu))
