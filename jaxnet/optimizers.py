"""Update rules written by hand: from the gradient g of a step to the update that is added to the parameters θ.

Each factory returns an `optax.GradientTransformation` with Optax's argument names, so it composes with `optax.chain`,
`optax.inject_hyperparams` and the rest. It is also a pytree of its hyperparameters: an optimizer passes through
`jax.jit` as an argument, where another learning rate is another number and not another program, and through `jax.vmap`
with stacked hyperparameters.

A rule is a function of one array in the symbols of its equation: (g, *slots, α, numbers) -> (update, *slots). The rest
of an optimizer is its state, whose fields after `count` are the rule's slots.

Every factory takes as `learning_rate` the number α or a schedule (finished steps -> α), and raises `ValueError` for a
hyperparameter that is not a number in its range; traced values are taken on trust.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.tree_util import Partial
from jax.typing import ArrayLike
from optax import GradientTransformation

LearningRate = ArrayLike | Callable[[Array], ArrayLike]


# Gradient descent ----------------------------------------------------------------------------------------------------


class GradientDescentState(NamedTuple):
    """Finished steps, which a schedule reads."""

    count: Array


def gradient_descent(learning_rate: LearningRate) -> GradientTransformation:
    """Gradient descent: θ := θ - α g. `optax.sgd`."""
    return _optimizer(GradientDescentState, _gradient_descent, learning_rate)


def _gradient_descent(g: Array, *, alpha: Array) -> tuple[Array]:
    return (-alpha * g,)


# Momentum, in its three forms ----------------------------------------------------------------------------------------


class MomentumState(NamedTuple):
    """Finished steps and the velocity v."""

    count: Array
    velocity: Any


def momentum(learning_rate: LearningRate, momentum: ArrayLike = 0.9) -> GradientTransformation:
    """Momentum as an exponential moving average, the lecture's form: v := βv + (1 - β)g, θ := θ - αv.

    On stretched contours it averages the zig-zag across away and keeps the motion along. At a constant learning rate
    it equals `heavy_ball` with α(1 - β).

    Args:
        learning_rate: α.
        momentum: β in [0, 1).
    """
    return _optimizer(MomentumState, _momentum, learning_rate, beta=_decay("momentum", momentum))


def _momentum(g: Array, v: Array, *, alpha: Array, beta: "Decay") -> tuple[Array, Array]:
    v = _average(beta, v, g)
    return -alpha * v, v


def heavy_ball(learning_rate: LearningRate, momentum: ArrayLike = 0.9) -> GradientTransformation:
    """Polyak's (1964) heavy ball: v := βv + g, θ := θ - αv. `optax.sgd(learning_rate, momentum)`.

    Args:
        learning_rate: α.
        momentum: β in [0, 1).
    """
    return _optimizer(MomentumState, _heavy_ball, learning_rate, beta=_decay("momentum", momentum))


def _heavy_ball(g: Array, v: Array, *, alpha: Array, beta: "Decay") -> tuple[Array, Array]:
    v = beta.rate * v + g
    return -alpha * v, v


def nesterov(learning_rate: LearningRate, momentum: ArrayLike = 0.9) -> GradientTransformation:
    """Nesterov's (1983) accelerated gradient: v := βv + g, θ := θ - α(βv + g), one step ahead along v.

    In the form of Sutskever et al. (2013); `optax.sgd(learning_rate, momentum, nesterov=True)`.

    Args:
        learning_rate: α.
        momentum: β in [0, 1).
    """
    return _optimizer(MomentumState, _nesterov, learning_rate, beta=_decay("momentum", momentum))


def _nesterov(g: Array, v: Array, *, alpha: Array, beta: "Decay") -> tuple[Array, Array]:
    v = beta.rate * v + g
    return -alpha * (beta.rate * v + g), v


# RMSProp -------------------------------------------------------------------------------------------------------------


class RmspropState(NamedTuple):
    """Finished steps and the average s of squared gradients."""

    count: Array
    nu: Any


def rmsprop(
    learning_rate: LearningRate, decay: ArrayLike = 0.9, eps: ArrayLike = 1e-8, initial_scale: ArrayLike = 0.0
) -> GradientTransformation:
    """RMSProp: s := ρs + (1 - ρ)g², θ := θ - α g/√(s + ε).

    Tieleman and Hinton (2012); `optax.rmsprop`. PyTorch and Keras put ε outside the root.

    Args:
        learning_rate: α.
        decay: ρ in [0, 1).
        eps: ε >= 0, inside the root.
        initial_scale: s before the first step, >= 0.
    """
    _check("initial_scale", initial_scale, 0)
    return _optimizer(
        RmspropState, _rmsprop, learning_rate, fill=initial_scale, rho=_decay("decay", decay), eps=_check("eps", eps, 0)
    )


def _rmsprop(g: Array, s: Array, *, alpha: Array, rho: "Decay", eps: Array) -> tuple[Array, Array]:
    s = _average(rho, s, jnp.square(g))
    return -alpha * (g * jax.lax.rsqrt(s + eps)), s


# Adam ----------------------------------------------------------------------------------------------------------------


class AdamState(NamedTuple):
    """Finished steps t, and the averages m of gradients and v of squared gradients."""

    count: Array
    mu: Any
    nu: Any


def adam(
    learning_rate: LearningRate,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
) -> GradientTransformation:
    """Adam: RMSProp with momentum, both averages corrected for having started at 0.

    m := β₁m + (1 - β₁)g,  v := β₂v + (1 - β₂)g²,  m̂ = m/(1 - β₁ᵗ),  v̂ = v/(1 - β₂ᵗ)
    θ := θ - α m̂/(√(v̂ + ε_root) + ε)

    Kingma and Ba (2015), Algorithm 1; `optax.adam`. TensorFlow adds ε before v is corrected (the paper's ε̂).

    Args:
        learning_rate: α.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε >= 0, outside the root.
        eps_root: ε_root >= 0, inside the root.
    """
    return _optimizer(
        AdamState,
        _adam,
        learning_rate,
        b1=_decay("b1", b1),
        b2=_decay("b2", b2),
        eps=_check("eps", eps, 0),
        eps_root=_check("eps_root", eps_root, 0),
    )


def _adam(
    g: Array, m: Array, v: Array, *, alpha: Array, b1: "Decay", b2: "Decay", eps: Array, eps_root: Array
) -> tuple[Array, Array, Array]:
    m = _average(b1, m, g)
    v = _average(b2, v, jnp.square(g))
    m_hat = m / b1.correction
    v_hat = v / b2.correction
    return -alpha * (m_hat / (jnp.sqrt(v_hat + eps_root) + eps)), m, v


# From a rule for one array to a transformation of trees --------------------------------------------------------------


class Decay(NamedTuple):
    """A decay rate β of an average that starts at 0.

    Attributes:
        rate: β.
        complement: 1 - β, subtracted before float32 rounds β, which would leave 1 - 0.999 wrong by 1.3e-5.
        correction: 1 - βᵗ in step t, the weight that the average has gathered by then.
    """

    rate: Any
    complement: Any
    correction: Any = None


def _with_correction(decay: Decay, t: Array) -> Decay:
    return decay._replace(correction=1 - jnp.asarray(decay.rate, float) ** t.astype(float))


def _average(decay: Decay, average: Array, new: Array) -> Array:
    """The exponential moving average β · average + (1 - β) · new."""
    return decay.rate * average + decay.complement * new


def _optimizer(
    state: type,
    rule: Callable[..., tuple[Array, ...]],
    learning_rate: LearningRate,
    fill: ArrayLike = 0.0,
    **numbers: Any,
) -> GradientTransformation:
    """The transformation whose slots start at `fill` and follow `rule`, with every number a leaf of its pytree."""
    _check("learning_rate", learning_rate, 0)
    alpha = Partial(learning_rate) if callable(learning_rate) else learning_rate
    return GradientTransformation(
        Partial(_init, Partial(state), fill),  # pyright: ignore[reportArgumentType]
        Partial(_update, Partial(rule), alpha, numbers),  # pyright: ignore[reportArgumentType]
    )


def _init(state: Any, fill: ArrayLike, params: Any) -> Any:
    slots = state.func._fields[1:]
    return state(
        jnp.zeros([], jnp.int32), *(jax.tree.map(lambda leaf: jnp.full_like(leaf, fill), params) for _ in slots)
    )


def _update(
    rule: Partial, learning_rate: LearningRate, numbers: Any, gradients: Any, state: Any, params: Any = None
) -> tuple[Any, Any]:
    """One step of the rule for every leaf of the gradients.

    The arithmetic is float32 at least, since bfloat16 rounds 0.999 to 1; every result keeps the dtype of its slot.
    """
    count, *slots = state
    alpha = learning_rate(count) if callable(learning_rate) else learning_rate
    # A counter that turned negative would make βᵗ explode, so it stays at the largest integer.
    t = jnp.where(count < jnp.iinfo(count.dtype).max, count + 1, count)
    scalars = {"alpha": alpha} | {
        name: _with_correction(number, t) if isinstance(number, Decay) else number for name, number in numbers.items()
    }

    def apply(*leaves: Array) -> tuple[Array, ...]:
        dtype = leaves[0].dtype if leaves[0].dtype.itemsize >= 4 else jnp.float32
        cast = jax.tree.map(lambda scalar: jnp.asarray(scalar, dtype), scalars)
        if any(jnp.ndim(scalar) for scalar in jax.tree.leaves(cast)):
            raise ValueError("hyperparameters must be scalars; put stacked ones through jax.vmap")
        results = rule(*(leaf.astype(dtype) for leaf in leaves), **cast)
        return tuple(result.astype(leaf.dtype) for result, leaf in zip(results, leaves, strict=True))

    columns = jax.tree.structure((0,) * (1 + len(slots)))
    results = jax.tree.map(apply, gradients, *slots)
    updates, *slots = jax.tree.transpose(jax.tree.structure(gradients), columns, results)
    return updates, type(state)(t, *slots)


def _check(name: str, value: Any, low: ArrayLike, high: ArrayLike = np.inf) -> Any:
    """The value, after a `ValueError` unless low <= value < high; a schedule passes."""
    if not callable(value) and not isinstance(value, Tracer):
        number = np.asarray(value)
        if not ((number >= low) & (number < high)).all():
            raise ValueError(f"{name} must be at least {low} and below {high}, got {value}")
    return value


def _decay(name: str, rate: Any) -> Decay:
    return Decay(_check(name, rate, 0, 1), 1 - rate)
