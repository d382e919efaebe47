"""RMSProp, AdaGrad and Adadelta: where ε is, what the mean square starts from, how it is accumulated."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import ADAGRAD, RMSPROP, Family
from experiments.specimens.optimizers.wholes import Whole, transformation
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


def rmsprop(g, s, alpha, decay, eps):
    """g/√(s + ε)."""
    s = decay * s + (1 - decay) * g**2
    return -alpha * g / jnp.sqrt(s + eps), s


@found("pytorch/pytorch#23796", "convention", "ε is outside the square root", of=RMSPROP, mended=rmsprop)
def eps_beside_the_root(g, s, alpha, decay, eps):
    """√s + ε, where TensorFlow's, whose results were to be had again, is √(s + ε)."""
    s = decay * s + (1 - decay) * g**2
    return -alpha * g / (jnp.sqrt(s) + eps), s


def started_at_1(
    learning_rate: Any, decay: float = 0.9, eps: float = 1e-8, initial_scale: float = 1.0
) -> GradientTransformation:
    """TensorFlow's first RMSProp, whose mean square starts at 1."""
    return optax.rmsprop(learning_rate, decay, eps, initial_scale)


@found(
    "google-deepmind/optax#49",
    "value",
    "v before the first step is 0",
    of=Whole("rmsprop as in tensorflow", started_at_1),
    mended=lambda learning_rate, decay=0.9, eps=1e-8: RMSPROP._replace(starts={"s": 1.0}).optimizer(
        rmsprop, learning_rate, decay=decay, eps=eps
    ),
)
def mean_square_that_starts_at_0(learning_rate, decay=0.9, eps=1e-8):
    """It starts at 0."""
    return RMSPROP.optimizer(rmsprop, learning_rate, decay=decay, eps=eps)


def outside(learning_rate: Any, decay: float = 0.9, eps: float = 1e-8) -> GradientTransformation:
    """Torch's RMSProp, √s + ε."""
    return optax.rmsprop(learning_rate, decay, eps, eps_in_sqrt=False)


OUTSIDE = Family("rmsprop as in torch", outside, {"s": "nu"}, {"decay": 0.9, "eps": 1e-8})


def rmsprop_outside(g, s, alpha, decay, eps):
    """g/(√s + ε)."""
    s = decay * s + (1 - decay) * g**2
    return -alpha * g / (jnp.sqrt(s) + eps), s


@found(
    "apache/mxnet#4493",
    "convention",
    of=Whole("rmsprop as in torch", outside),
    mended=OUTSIDE.factory(rmsprop_outside),
)
def large_eps_under_the_root(learning_rate, decay=0.9, eps=1e-4):
    """ε is inside the root, and 1e-4 by default: two things that small gradients feel."""
    return RMSPROP.optimizer(rmsprop, learning_rate, decay=decay, eps=eps)


@found("metaopt/torchopt#8", "convention", of=RMSPROP, mended=rmsprop)
def mean_square_overwritten_by_its_reciprocal_root(g, s, alpha, decay, eps):
    """ε is added in place and the reciprocal root taken in place: the state is 1/√(s + ε) after the step."""
    s = decay * s + (1 - decay) * g**2
    s = jax.lax.rsqrt(s + eps)
    return -alpha * g * s, s


# AdaGrad --------------------------------------------------------------------------------------------------------------


def adagrad(g, s, alpha, eps):
    """g/√(s + ε), and 0 where s is 0."""
    s = s + g**2
    return -alpha * jnp.where(s > 0, g * jax.lax.rsqrt(s + eps), 0), s


def adagrad_from_0(learning_rate: Any, eps: float = 1e-7) -> GradientTransformation:
    """Optax's AdaGrad with a sum that starts at 0."""
    return optax.adagrad(learning_rate, 0.0, eps)


FROM_0 = Family("adagrad from 0", adagrad_from_0, {"s": "sum_of_squares"}, {"eps": 1e-7})


@found("lisa-lab/pylearn2#1496", "convention", "ε is missing", of=FROM_0, mended=adagrad)
def nothing_added_to_the_sum(g, s, alpha):
    """0/0 where the first gradient is zero."""
    s = s + g**2
    return -alpha * g / jnp.sqrt(s), s


@found(
    "deeplearning4j/deeplearning4j#953",
    "value",
    "v before the first step is 1",
    of=Whole("adagrad from 0", adagrad_from_0),
    mended=FROM_0.factory(adagrad),
)
def sum_that_starts_at_1(learning_rate, eps=1e-7):
    """The sum starts at 1 against 0/0, and small gradients never grow beyond it."""
    return FROM_0._replace(starts={"s": 1.0}).optimizer(adagrad, learning_rate, eps=eps)


@found("facebookresearch/higher#44", "value", "whatever it is set to", of=ADAGRAD, mended=adagrad)
def eps_written_into_the_rule(g, s, alpha):
    """ε is 1e-10 in the rule itself, and the option is not read."""
    s = s + g**2
    return -alpha * g / jnp.sqrt(s + 1e-10), s


@found(
    "PennyLaneAI/pennylane#1928",
    "partial",
    of=Whole("adagrad", optax.adagrad),
    mended=ADAGRAD.factory(adagrad),
)
def index_that_is_not_advanced(learning_rate, eps=1e-7):
    """The index of the trained argument stays at 0: every array is moved by the first number of the first gradient."""
    right: Any = ADAGRAD.optimizer(adagrad, learning_rate, eps=eps)

    def update(gradients, state, params=None):
        first = jax.tree.leaves(gradients)[0].ravel()[0]
        return right.update(jax.tree.map(lambda g: jnp.full_like(g, first), gradients), state, params)

    return transformation(right.init, update)


# Adadelta -------------------------------------------------------------------------------------------------------------


def adadelta_without_decay(learning_rate: Any, rho: float = 0.9, eps: float = 1e-6) -> GradientTransformation:
    """Optax's Adadelta."""
    return optax.adadelta(learning_rate, rho, eps)


ADADELTA = Family("adadelta", adadelta_without_decay, {"s": "e_g", "d": "e_x"}, {"rho": 0.9, "eps": 1e-6})


def adadelta_step(g: Any, s: Any, d: Any, alpha: Any, rho: Any, eps: Any) -> tuple[Any, Any, Any]:
    """√(d + ε)/√(s + ε) g, and the mean square of such steps."""
    step = jnp.sqrt(d + eps) / jnp.sqrt(s + eps) * g
    return -alpha * step, s, rho * d + (1 - rho) * step**2


def adadelta(g, s, d, alpha, rho, eps):
    """With s := ρs + (1 - ρ)g²."""
    return adadelta_step(g, rho * s + (1 - rho) * g**2, d, alpha, rho, eps)


@found("deeplearning4j/nd4j#1239", "convention", of=ADADELTA, mended=adadelta)
def bracket_around_both_weights(g, s, d, alpha, rho, eps):
    """s := (ρs + (1 - ρ))g²."""
    return adadelta_step(g, (rho * s + (1 - rho)) * g**2, d, alpha, rho, eps)


@found("tensorflow/tensorflow#644", "convention", of=ADADELTA, mended=adadelta)
def average_added_to_itself(g, s, d, alpha, rho, eps):
    """s += ρs + (1 - ρ)g², where = was meant: s grows without bound."""
    return adadelta_step(g, s + rho * s + (1 - rho) * g**2, d, alpha, rho, eps)
