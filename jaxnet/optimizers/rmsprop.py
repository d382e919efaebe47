"""Steps scaled by past squared gradients: their sum in AdaGrad, their average in RMSProp."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from optax import GradientTransformation

from jaxnet.optimizers.transformation import Decay, Schedulable, average, checked, decay, optimizer


class AdagradState(NamedTuple):
    """Finished steps and the sum s of squared gradients."""

    count: Array
    sum_of_squares: Any


def adagrad(
    learning_rate: Schedulable,
    initial_accumulator_value: ArrayLike = 0.1,
    eps: ArrayLike = 1e-7,
    *,
    accumulator_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """AdaGrad: s := s + g², θ := θ - α g/√(s + ε), and no step where s is still 0.

    Duchi, Hazan and Singer (2011); `optax.adagrad`. Keras too starts s at 0.1 with ε = 1e-7 inside the root. PyTorch
    starts s at 0 and adds ε = 1e-10 to the root.

    Args:
        learning_rate: α, or a schedule.
        initial_accumulator_value: s before the first step, >= 0.
        eps: ε >= 0, inside the root.
        accumulator_dtype: of s; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    start = checked("initial_accumulator_value", initial_accumulator_value, 0)
    return optimizer(
        AdagradState,
        _adagrad,
        learning_rate,
        slots={"sum_of_squares": accumulator_dtype},
        starts={"sum_of_squares": start},
        eps=checked("eps", eps, 0),
    )


def _adagrad(g: Array, s: Array, *, alpha: Array, eps: Array) -> tuple[Array, Array]:
    s = jnp.square(g) + s
    return -alpha * (jnp.where(s > 0, jax.lax.rsqrt(s + eps), 0) * g), s


class RmspropState(NamedTuple):
    """Finished steps, and the averages s of squared gradients, m of gradients (centered), and the velocity (momentum).

    What is not in use is None.
    """

    count: Array
    nu: Any
    mu: Any = None
    velocity: Any = None


def rmsprop(
    learning_rate: Schedulable,
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    accumulator_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """RMSProp: s := ρs + (1 - ρ)g², θ := θ + u with u = -α g/√(s + ε).

    Centered: m := ρm + (1 - ρ)g, and s - m² in the place of s (Graves 2013).
    Momentum: v := βv + u, θ := θ + v, and with Nesterov's look ahead θ := θ + βv + u.

    Tieleman and Hinton (2012); `optax.rmsprop`. Keras also has ε inside the root, 1e-7; PyTorch has it outside
    (`eps_in_sqrt=False`), keeps α out of v, and so does ρ = 0.99 by default.

    Args:
        learning_rate: α, or a schedule.
        decay: ρ in [0, 1).
        eps: ε >= 0.
        initial_scale: s before the first step, >= 0.
        eps_in_sqrt: √(s + ε) if true, else √s + ε.
        centered: whether to divide by the deviation of the gradients from their average.
        momentum: β in [0, 1), or None for no velocity.
        nesterov: whether the velocity looks ahead.
        bias_correction: whether s and m are divided by 1 - ρᵗ.
        accumulator_dtype: of the slots; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    slots = {"nu": True, "mu": centered, "velocity": momentum is not None}
    return optimizer(
        RmspropState,
        _rmsprop,
        learning_rate,
        slots={field: accumulator_dtype for field, used in slots.items() if used},
        starts={"nu": checked("initial_scale", initial_scale, 0)},
        choices={"eps_in_sqrt": eps_in_sqrt, "nesterov": nesterov, "bias_correction": bias_correction},
        rho=_decay("decay", decay),
        eps=checked("eps", eps, 0),
        beta=None if momentum is None else _decay("momentum", momentum),
    )


_decay = decay  # the factory's own argument hides the name


def _rmsprop(
    g: Array,
    s: Array,
    m: Array | None,
    v: Array | None,
    *,
    alpha: Array,
    rho: Decay,
    eps: Array,
    beta: Decay | None,
    eps_in_sqrt: bool,
    nesterov: bool,
    bias_correction: bool,
) -> tuple[Array | None, ...]:
    s = average(rho, s, jnp.square(g))
    variance = s / rho.correction if bias_correction else s
    if m is not None:
        m = average(rho, m, g)
        # Rounding leaves a difference below 0 where gradients hardly change.
        variance = jnp.maximum(variance - jnp.square(m / rho.correction if bias_correction else m), 0)
    scale = jax.lax.rsqrt(variance + eps) if eps_in_sqrt else 1 / (jnp.sqrt(variance) + eps)
    u = -alpha * (scale * g)
    if v is not None and beta is not None:
        v = u + beta.rate * v
        u = u + beta.rate * v if nesterov else v
    return u, s, m, v
