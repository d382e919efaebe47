"""Adam with a maximum of the past in its denominator: AMSGrad and Adamax."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from optax import GradientTransformation

from jaxnet.optimizers.adam import AdamState
from jaxnet.optimizers.transformation import Decay, Schedulable, average, checked, decay, optimizer


class AmsgradState(NamedTuple):
    """Finished steps t, the averages m of gradients and v of squared gradients, and the largest v̂ so far."""

    count: Array
    mu: Any
    nu: Any
    nu_max: Any


def amsgrad(
    learning_rate: Schedulable,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """AMSGrad: Adam whose denominator never shrinks.

    m, v, m̂ and v̂ as in `adam`, then v_max := max(v_max, v̂), θ := θ - α m̂/(√(v_max + ε_root) + ε).

    Reddi, Kale and Kumar (2018); `optax.amsgrad`. The paper corrects neither m nor v. PyTorch and Keras
    (`amsgrad=True`) take the maximum of the uncorrected v and correct it afterwards.

    Args:
        learning_rate: α, or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε >= 0, outside the root.
        eps_root: ε_root >= 0, inside the root.
        mu_dtype: of m; None is the parameter's.
        bias_correction_mu: whether m̂ = m/(1 - β₁ᵗ), else m.
        bias_correction_nu: whether v̂ = v/(1 - β₂ᵗ), else v.
        nu_dtype: of v and v_max; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    return optimizer(
        AmsgradState,
        _amsgrad,
        learning_rate,
        slots={"mu": mu_dtype, "nu": nu_dtype, "nu_max": nu_dtype},
        choices={"bias_correction_mu": bias_correction_mu, "bias_correction_nu": bias_correction_nu},
        b1=decay("b1", b1),
        b2=decay("b2", b2),
        eps=checked("eps", eps, 0),
        eps_root=checked("eps_root", eps_root, 0),
    )


def _amsgrad(
    g: Array,
    m: Array,
    v: Array,
    v_max: Array,
    *,
    alpha: Array,
    b1: Decay,
    b2: Decay,
    eps: Array,
    eps_root: Array,
    bias_correction_mu: bool,
    bias_correction_nu: bool,
) -> tuple[Array, Array, Array, Array]:
    m = average(b1, m, g)
    v = average(b2, v, jnp.square(g))
    m_hat = m / b1.correction if bias_correction_mu else m
    v_hat = v / b2.correction if bias_correction_nu else v
    v_max = jnp.maximum(v_max, v_hat)
    return -alpha * (m_hat / (jnp.sqrt(v_max + eps_root) + eps)), m, v, v_max


def adamax(
    learning_rate: Schedulable,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    *,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Adamax: Adam with a decaying maximum of |g|, its limit for the p-th power in the place of the square.

    m := β₁m + (1 - β₁)g,  u := max(β₂u, |g| + ε),  θ := θ - α/(1 - β₁ᵗ) · m/u

    Kingma and Ba (2015), Algorithm 2, which has no ε; `optax.adamax`. PyTorch adds ε to |g| too, Keras to u in the
    quotient.

    Args:
        learning_rate: α, or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε >= 0, which keeps u from 0.
        mu_dtype: of m; None is the parameter's.
        nu_dtype: of u; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    return optimizer(
        AdamState,
        _adamax,
        learning_rate,
        slots={"mu": mu_dtype, "nu": nu_dtype},
        b1=decay("b1", b1),
        b2=decay("b2", b2),
        eps=checked("eps", eps, 0),
    )


def _adamax(
    g: Array, m: Array, u: Array, *, alpha: Array, b1: Decay, b2: Decay, eps: Array
) -> tuple[Array, Array, Array]:
    m = average(b1, m, g)
    u = jnp.maximum(jnp.abs(g) + eps, b2.rate * u)
    return -alpha * (m / b1.correction / u), m, u
