"""Gradient descent, and with a velocity: momentum, the heavy ball, Nesterov's accelerated gradient."""

from typing import Any, NamedTuple

from jax import Array
from jax.typing import ArrayLike, DTypeLike
from optax import GradientTransformation

from jaxnet.optimizers.transformation import Decay, Schedulable, average, decay, optimizer


class GradientDescentState(NamedTuple):
    """Finished steps, which a schedule reads."""

    count: Array


def gradient_descent(learning_rate: Schedulable) -> GradientTransformation:
    """Gradient descent: θ := θ - α g. `optax.sgd`, and SGD in PyTorch and Keras.

    Args:
        learning_rate: α, or a schedule.

    Raises:
        ValueError: for a negative learning rate.
    """
    return optimizer(GradientDescentState, _gradient_descent, learning_rate)


def _gradient_descent(g: Array, *, alpha: Array) -> tuple[Array]:
    return (-alpha * g,)


class MomentumState(NamedTuple):
    """Finished steps and the velocity v."""

    count: Array
    velocity: Any


def momentum(
    learning_rate: Schedulable, momentum: ArrayLike = 0.9, accumulator_dtype: DTypeLike | None = None
) -> GradientTransformation:
    """Momentum as an exponential moving average, the lecture's form: v := βv + (1 - β)g, θ := θ - αv.

    On stretched contours it averages the zig-zag across away and keeps the motion along. At a constant learning rate
    it equals `heavy_ball` with α(1 - β), which is what PyTorch, Keras and `optax.sgd` mean by momentum; PyTorch has
    this one as `dampening=β`, but for its first step. `optax.chain(optax.ema(β, debias=False), optax.scale(-α))`.

    Args:
        learning_rate: α, or a schedule.
        momentum: β in [0, 1).
        accumulator_dtype: of v; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    return _with_velocity(_momentum, learning_rate, momentum, accumulator_dtype)


def _momentum(g: Array, v: Array, *, alpha: Array, beta: Decay) -> tuple[Array, Array]:
    v = average(beta, v, g)
    return -alpha * v, v


def heavy_ball(
    learning_rate: Schedulable, momentum: ArrayLike = 0.9, accumulator_dtype: DTypeLike | None = None
) -> GradientTransformation:
    """Polyak's (1964) heavy ball: v := βv + g, θ := θ - αv. `optax.sgd(learning_rate, momentum)`.

    PyTorch does the same. Keras has α inside: v := βv - αg, θ := θ + v, which differs once α changes.

    Args:
        learning_rate: α, or a schedule.
        momentum: β in [0, 1).
        accumulator_dtype: of v; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    return _with_velocity(_heavy_ball, learning_rate, momentum, accumulator_dtype)


def _heavy_ball(g: Array, v: Array, *, alpha: Array, beta: Decay) -> tuple[Array, Array]:
    v = g + beta.rate * v
    return -alpha * v, v


def nesterov(
    learning_rate: Schedulable, momentum: ArrayLike = 0.9, accumulator_dtype: DTypeLike | None = None
) -> GradientTransformation:
    """Nesterov's (1983) accelerated gradient: v := βv + g, θ := θ - α(βv + g), one step ahead along v.

    In the form of Sutskever et al. (2013); `optax.sgd(learning_rate, momentum, nesterov=True)`. PyTorch does the same;
    Keras has α inside v, as in `heavy_ball`.

    Args:
        learning_rate: α, or a schedule.
        momentum: β in [0, 1).
        accumulator_dtype: of v; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    return _with_velocity(_nesterov, learning_rate, momentum, accumulator_dtype)


def _nesterov(g: Array, v: Array, *, alpha: Array, beta: Decay) -> tuple[Array, Array]:
    v = g + beta.rate * v
    return -alpha * (g + beta.rate * v), v


def _with_velocity(
    equation: Any, learning_rate: Schedulable, momentum: ArrayLike, dtype: Any
) -> GradientTransformation:
    return optimizer(
        MomentumState, equation, learning_rate, slots={"velocity": dtype}, beta=decay("momentum", momentum)
    )
