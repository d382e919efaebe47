"""Weight decay: coupled or not, by which rate, of which parameters, and left out."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import (
    ADAM_NUMBERS,
    ADAMW,
    MOMENTS,
    Family,
    OptimizerPair,
    adam,
    averages,
)
from experiments.specimens.optimizers.wholes import Whole
from experiments.specimens.specimen import Catalogue
from experiments.specimens.wild.optimizers.adam import adamw, nadam
from experiments.specimens.wild.optimizers.rmsprop import adagrad
from jaxnet.verify import from_step

catalogue = Catalogue()
found = catalogue.found


@found("FluxML/Optimisers.jl#182", "convention", "not multiplied by the learning rate", of=ADAMW, mended=adamw)
def decay_chained_after_the_rate(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """AdamW was Adam and then a decay that knows no learning rate."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update - weight_decay * theta, m, v


@found("Oneflow-Inc/oneflow#5960", "convention", of=ADAMW, mended=adamw)
def decay_by_the_corrected_rate(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """Bias correction is in the learning rate, which then multiplies weight decay too."""
    m, v = averages(g, m, v, b1, b2)
    root = jnp.sqrt(1 - b2**t)
    size = alpha * root / (1 - b1**t)
    return -size * (m / (jnp.sqrt(v) + eps * root) + weight_decay * theta), m, v


@found("huggingface/transformers#14539", "convention", of=ADAMW, mended=adamw)
def decay_of_the_new_parameters(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """Decay is taken from the parameters after the step, θ + u, not from θ."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update - alpha * weight_decay * (theta + update), m, v


def adamw_with_its_schedule(
    learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-4
) -> GradientTransformation:
    """Optax's."""
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay)


@found(
    "kozistr/pytorch_optimizer#170",
    "convention",
    of=Whole("adamw", adamw_with_its_schedule),
    mended=ADAMW.factory(adamw),
)
def decay_by_the_rate_before_its_schedule(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4):
    """Decay is multiplied by the group's learning rate, not by the one that warm-up has made of it."""
    base = learning_rate(0) if callable(learning_rate) else learning_rate

    def rule(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
        update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
        return update - jnp.asarray(base, g.dtype) * weight_decay * theta, m, v

    return ADAMW.optimizer(rule, learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


# Descent --------------------------------------------------------------------------------------------------------------


def descent_with_decay(learning_rate: Any, weight_decay: float = 0.01) -> GradientTransformation:
    """-α(g + λθ)."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))


DECAYED = Family("descent with weight decay", descent_with_decay, {}, {"weight_decay": 0.01})


def decayed(g, alpha, weight_decay, theta):
    """-α(g + λθ)."""
    return (-alpha * (g + weight_decay * theta),)


@found("chainer/chainer#261", "convention", "weight decay has the wrong sign", of=DECAYED, mended=decayed)
def decay_subtracted_from_the_gradient(g, alpha, weight_decay, theta):
    """g - λθ: the weights grow."""
    return (-alpha * (g - weight_decay * theta),)


@found("ml-explore/mlx#440", "convention", "weight decay is missing", of=DECAYED, mended=decayed)
def return_before_the_decay(g, alpha):
    """Without momentum the step returns before it comes to weight decay."""
    return (-alpha * g,)


def decayed_momentum(learning_rate: Any, momentum: float = 0.9, weight_decay: float = 0.01) -> GradientTransformation:
    """-α(v + λθ)."""
    return optax.chain(
        optax.trace(momentum), optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(learning_rate)
    )


DECAYED_MOMENTUM = Family(
    "momentum with weight decay", decayed_momentum, {"v": "trace"}, {"momentum": 0.9, "weight_decay": 0.01}
)


def momentum_and_decay(g, v, alpha, momentum, weight_decay, theta):
    """The velocity knows no decay."""
    v = momentum * v + g
    return -alpha * (v + weight_decay * theta), v


@found(
    "tinygrad/tinygrad#17708", "convention", "weight decay is missing", of=DECAYED_MOMENTUM, mended=momentum_and_decay
)
def decayed_parameters_not_used(g, v, alpha, momentum):
    """The decayed parameters are computed, but the step has come to return the update, which they are not in."""
    v = momentum * v + g
    return -alpha * v, v


def start(params: Any) -> tuple[()]:
    """There is no state."""
    return ()


def step_in_numpy(params, gradients, state):
    """-0.1(g + 0.5θ), of arrays of its own."""
    return {name: theta - 0.1 * (gradients[name] + 0.5 * theta) for name, theta in params.items()}, state


def step_that_changes_the_gradients(params, gradients, state):
    """g += λθ, in the caller's arrays."""
    for name, theta in params.items():
        gradients[name] += 0.5 * np.asarray(theta)
    return {name: theta - 0.1 * gradients[name] for name, theta in params.items()}, state


STRONGLY_DECAYED = descent_with_decay(0.1, 0.5)
for name, kind, step in (
    ("gradients changed in place", "impure", step_that_changes_the_gradients),
    ("gradients changed in place, mended", None, step_in_numpy),
):
    pair = OptimizerPair(from_step(start, step), STRONGLY_DECAYED)
    catalogue.enter(f"descent with weight decay: {name}", kind, pair, source="ml-explore/mlx#4426")

# NAdam and AdaGrad ----------------------------------------------------------------------------------------------------


def nadam_with_decay(
    learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
) -> GradientTransformation:
    """Optax's, with coupled decay."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.nadam(learning_rate, b1, b2, eps))


DECAYED_NADAM = Family("nadam with weight decay", nadam_with_decay, MOMENTS, {**ADAM_NUMBERS, "weight_decay": 0.01})


def nadam_of_decayed_gradients(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """g + λθ."""
    return nadam(g + weight_decay * theta, m, v, t, alpha, b1, b2, eps)


@found("apache/mxnet#8925", "convention", of=DECAYED_NADAM, mended=nadam_of_decayed_gradients)
def decay_that_multiplies_the_gradient(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """g(1 + λθ), from *= where = was meant."""
    return nadam(g * (1 + weight_decay * theta), m, v, t, alpha, b1, b2, eps)


def adagrad_with_decay(learning_rate: Any, eps: float = 1e-7, weight_decay: float = 0.01) -> GradientTransformation:
    """Optax's, with coupled decay."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adagrad(learning_rate, eps=eps))


DECAYED_ADAGRAD = Family(
    "adagrad with weight decay",
    adagrad_with_decay,
    {"s": "sum_of_squares"},
    {"eps": 1e-7, "weight_decay": 0.01},
    {"s": 0.1},
)


def adagrad_of_decayed_gradients(g, s, alpha, eps, weight_decay, theta):
    """g + λθ."""
    return adagrad(g + weight_decay * theta, s, alpha, eps)


@found("apache/mxnet#9363", "convention", "decoupled", of=DECAYED_ADAGRAD, mended=adagrad_of_decayed_gradients)
def decay_that_the_sum_does_not_see(g, s, alpha, eps, weight_decay, theta):
    """λθ is added to the step, not to the gradient whose squares are summed."""
    update, s = adagrad(g, s, alpha, eps)
    return update - alpha * weight_decay * theta, s
