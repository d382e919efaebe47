"""Update rules written by hand: from the gradient g of a step to the update that is added to the parameters θ.

Each factory returns an `optax.GradientTransformation` with Optax's argument names, order and defaults, so it composes
with `optax.chain`, `optax.inject_hyperparams` and the rest. It is also a pytree of its hyperparameters: an optimizer
passes through `jax.jit` as an argument, where another learning rate is another number and not another program, and
through `jax.vmap` with stacked hyperparameters.

Every factory takes as `learning_rate` the number α or a schedule (finished steps -> α), and raises `ValueError` for a
hyperparameter that is not a number in its range; traced values are taken on trust. Every `update` raises `ValueError`
for gradients that do not match the state or the parameters, and `TypeError` for gradients that are not real
floating-point numbers.
"""

from jaxnet.optimizers.adam import AdamState, adam, adamw, nadam
from jaxnet.optimizers.adam_maximum import AmsgradState, adamax, amsgrad
from jaxnet.optimizers.descent import (
    GradientDescentState,
    MomentumState,
    gradient_descent,
    heavy_ball,
    momentum,
    nesterov,
)
from jaxnet.optimizers.lion import LionState, lion
from jaxnet.optimizers.own import optimizer_of
from jaxnet.optimizers.rmsprop import AdagradState, RmspropState, adagrad, rmsprop

# Every rule, as the tests cross it with all that an optimizer must do: a new one enters here, and is proved.
ALL = (
    gradient_descent, momentum, heavy_ball, nesterov, adagrad, rmsprop, adam, adamw, nadam, amsgrad, adamax, lion,
)  # fmt: skip

__all__ = [
    "ALL",
    "AdagradState",
    "AdamState",
    "AmsgradState",
    "GradientDescentState",
    "LionState",
    "MomentumState",
    "RmspropState",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "gradient_descent",
    "heavy_ball",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "optimizer_of",
    "rmsprop",
]
