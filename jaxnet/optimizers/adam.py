"""Adam, with decoupled weight decay (AdamW) and with Nesterov's look ahead (NAdam)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from optax import GradientTransformation

from jaxnet.optimizers.transformation import Decay, Schedulable, average, checked, decay, optimizer


class AdamState(NamedTuple):
    """Finished steps t, and the averages m of gradients and v of squared gradients."""

    count: Array
    mu: Any
    nu: Any


def adam(
    learning_rate: Schedulable,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Adam: RMSProp with momentum, both averages corrected for having started at 0.

    m := β₁m + (1 - β₁)g,  v := β₂v + (1 - β₂)g²,  m̂ = m/(1 - β₁ᵗ),  v̂ = v/(1 - β₂ᵗ)
    θ := θ - α m̂/(√(v̂ + ε_root) + ε)

    Kingma and Ba (2015), Algorithm 1; `optax.adam`. PyTorch does the same without ε_root; its `weight_decay` adds λθ to
    the gradient, which m and v then average. TensorFlow and Keras add ε to √v before the correction: the paper's ε̂.

    Args:
        learning_rate: α, or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε >= 0, outside the root.
        eps_root: ε_root >= 0, inside the root.
        mu_dtype: of m; None is the parameter's.
        nu_dtype: of v; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    numbers = _adam_numbers(b1, b2, eps, eps_root)
    return optimizer(AdamState, _adam, learning_rate, slots={"mu": mu_dtype, "nu": nu_dtype}, **numbers)


def _adam(
    g: Array, m: Array, v: Array, *, alpha: Array, b1: Decay, b2: Decay, eps: Array, eps_root: Array
) -> tuple[Array, Array, Array]:
    m = average(b1, m, g)
    v = average(b2, v, jnp.square(g))
    m_hat = m / b1.correction
    v_hat = v / b2.correction
    return -alpha * (m_hat / (jnp.sqrt(v_hat + eps_root) + eps)), m, v


def adamw(
    learning_rate: Schedulable,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Schedulable = 1e-4,
    mask: Any = None,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """AdamW: Adam's step and, apart from it, weight decay: θ := θ - α(m̂/(√(v̂ + ε_root) + ε) + λθ).

    Loshchilov and Hutter (2019); `optax.adamw`. PyTorch (λ = 0.01) and Keras (0.004) multiply λ by α too. The paper
    does not: a schedule multiplier η scales both, θ := θ - η(α m̂/(√v̂ + ε) + λθ), so that λ does not depend on α.

    Args:
        learning_rate: α, or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε >= 0, outside the root.
        eps_root: ε_root >= 0, inside the root.
        mu_dtype: of m; None is the parameter's.
        weight_decay: λ >= 0, or a schedule.
        mask: where λ applies: a tree of booleans that is a prefix of the parameters, or a function from them to it.
        nu_dtype: of v; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range; in `update`, without parameters.
    """
    numbers = _adam_numbers(b1, b2, eps, eps_root) | {"lam": checked("weight_decay", weight_decay, 0)}
    slots = {"mu": mu_dtype, "nu": nu_dtype}
    return optimizer(AdamState, _adamw, learning_rate, slots=slots, decays=True, mask=mask, **numbers)


def _adamw(
    g: Array,
    m: Array,
    v: Array,
    *,
    theta: Array,
    alpha: Array,
    b1: Decay,
    b2: Decay,
    eps: Array,
    eps_root: Array,
    lam: Array,
) -> tuple[Array, Array, Array]:
    m = average(b1, m, g)
    v = average(b2, v, jnp.square(g))
    m_hat = m / b1.correction
    v_hat = v / b2.correction
    return -alpha * (m_hat / (jnp.sqrt(v_hat + eps_root) + eps) + lam * theta), m, v


def nadam(
    learning_rate: Schedulable,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """NAdam: Adam, one step ahead along m, as Nesterov's gradient is along its velocity.

    m and v as in `adam`, then m̂ = β₁m/(1 - β₁ᵗ⁺¹) + (1 - β₁)g/(1 - β₁ᵗ),  v̂ = v/(1 - β₂ᵗ)
    θ := θ - α m̂/(√(v̂ + ε_root) + ε)

    Dozat (2016), with a constant β₁ and without the β₂ by which its Algorithm 2 multiplies v̂; `optax.nadam`. PyTorch
    and Keras replace β₁ in step t by a schedule, β₁(1 - 0.96^(ψt)/2) with ψ = 0.004.

    Args:
        learning_rate: α, or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε >= 0, outside the root.
        eps_root: ε_root >= 0, inside the root.
        mu_dtype: of m; None is the parameter's.
        nu_dtype: of v; None is the parameter's.

    Raises:
        ValueError: for a hyperparameter outside its range.
    """
    numbers = _adam_numbers(b1, b2, eps, eps_root)
    return optimizer(AdamState, _nadam, learning_rate, slots={"mu": mu_dtype, "nu": nu_dtype}, **numbers)


def _nadam(
    g: Array, m: Array, v: Array, *, alpha: Array, b1: Decay, b2: Decay, eps: Array, eps_root: Array
) -> tuple[Array, Array, Array]:
    m = average(b1, m, g)
    v = average(b2, v, jnp.square(g))
    m_hat = b1.rate * (m / b1.next_correction) + b1.complement * (g / b1.correction)
    v_hat = v / b2.correction
    return -alpha * (m_hat / (jnp.sqrt(v_hat + eps_root) + eps)), m, v


def _adam_numbers(b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, eps_root: ArrayLike) -> dict[str, Any]:
    return {
        "b1": decay("b1", b1),
        "b2": decay("b2", b2),
        "eps": checked("eps", eps, 0),
        "eps_root": checked("eps_root", eps_root, 0),
    }
