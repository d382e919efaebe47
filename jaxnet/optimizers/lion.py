"""Lion: steps of one size, in the direction of a sign."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from optax import GradientTransformation

from jaxnet.optimizers.transformation import Decay, Schedulable, average, checked, decay, optimizer


class LionState(NamedTuple):
    """Finished steps and the average m of gradients."""

    count: Array
    mu: Any


def lion(
    learning_rate: Schedulable,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Schedulable = 1e-3,
    mask: Any = None,
) -> GradientTransformation:
    """Lion: θ := θ - α(sign(β₁m + (1 - β₁)g) + λθ), then m := β₂m + (1 - β₂)g.

    Chen et al. (2023); `optax.lion`. Keras has weight decay off by default; PyTorch has no Lion. The paper advises an α
    3 to 10 times smaller than for AdamW, and a λ so much larger.

    Args:
        learning_rate: α, or a schedule.
        b1: β₁ in [0, 1), for the step.
        b2: β₂ in [0, 1), for the average.
        mu_dtype: of m; None is the parameter's.
        weight_decay: λ >= 0, or a schedule.
        mask: where λ applies: a tree of booleans that is a prefix of the parameters, or a function from them to it.

    Raises:
        ValueError: for a hyperparameter outside its range; in `update`, without parameters.
    """
    return optimizer(
        LionState,
        _lion,
        learning_rate,
        slots={"mu": mu_dtype},
        decays=True,
        mask=mask,
        b1=decay("b1", b1),
        b2=decay("b2", b2),
        lam=checked("weight_decay", weight_decay, 0),
    )


def _lion(g: Array, m: Array, *, theta: Array, alpha: Array, b1: Decay, b2: Decay, lam: Array) -> tuple[Array, Array]:
    return -alpha * (jnp.sign(average(b1, m, g)) + lam * theta), average(b2, m, g)
