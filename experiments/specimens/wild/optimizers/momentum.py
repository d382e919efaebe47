"""Descent with momentum: the velocity, Nesterov's step ahead, dampening, and signs of velocities."""

from typing import Any

import jax.numpy as jnp
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import HEAVY_BALL, NESTEROV, Family
from experiments.specimens.optimizers.wholes import DAMPENED, by_hand, dampened
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


def nesterov(g, v, alpha, momentum):
    """-α(g + βv)."""
    v = momentum * v + g
    return -alpha * (g + momentum * v), v


@found("PaddlePaddle/Paddle#12231", "convention", of=NESTEROV, mended=nesterov)
def velocity_of_the_wrong_sign(g, v, alpha, momentum):
    """-αg + αβv: a bracket is missing."""
    v = momentum * v + g
    return -alpha * g + alpha * momentum * v, v


def heavy_ball(g, v, alpha, momentum):
    """-αv."""
    v = momentum * v + g
    return -alpha * v, v


@found("apache/mxnet#15533", "convention", "inside the momentum", of=HEAVY_BALL, mended=heavy_ball)
def rate_of_its_own_step_in_the_velocity(g, v, alpha, momentum):
    """The velocity holds gradients times the rates they came with: another rate leaves them as they are."""
    v = momentum * v - alpha * g
    return v, v


def momentum_of_keras(learning_rate: Any, momentum: float = 0.9) -> GradientTransformation:
    """Optax's learning rate, and then its trace."""
    return optax.chain(optax.scale_by_learning_rate(learning_rate), optax.trace(momentum))


RATE_INSIDE = Family("momentum with the rate inside", momentum_of_keras, {"v": "velocity"}, {"momentum": 0.9})


def rate_inside(g, v, alpha, momentum):
    """v := βv + αg, θ := θ - v."""
    v = momentum * v + alpha * g
    return -v, v


@found("zc911/MatrixSlow#17", "convention", of=RATE_INSIDE, mended=rate_inside)
def first_velocity_without_the_rate(g, v, t, alpha, momentum):
    """The velocity is g in the first step, without the learning rate that all later gradients get."""
    v = jnp.where(t == 1, g, momentum * v + alpha * g)
    return -v, v


@found("ml-explore/mlx#473", "convention", of=DAMPENED, mended=dampened)
def first_gradient_dampened(g, v, alpha, momentum, dampening):
    """The first gradient is dampened like all others, where PyTorch takes it whole."""
    v = momentum * v + (1 - dampening) * g
    return -alpha * v, v


def signum(learning_rate: Any, beta: float = 0.9) -> GradientTransformation:
    """Optax's."""
    return optax.signum(learning_rate, beta)


SIGNUM = Family("signum", signum, {"m": "trace"}, {"beta": 0.9})


def sign_of_the_velocity(g, m, alpha, beta):
    """The sign of m, of any scale."""
    m = beta * m + (1 - beta) * g
    return -alpha * jnp.sign(m), m


@found("kozistr/pytorch_optimizer#516", "convention", "there is no momentum", of=SIGNUM, mended=sign_of_the_velocity)
def velocity_made_anew_in_every_step(g, m, alpha, beta):
    """The buffer is set to zero before every update, and the sign is the gradient's."""
    m = (1 - beta) * g
    return -alpha * jnp.sign(m), m


def length(x: Any) -> Any:
    """‖x‖, and 1 for no length."""
    square = jnp.sum(x**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 1.0)


def normalized(g, m, alpha, momentum):
    """A step of length α along the average of gradients, array by array."""
    m = momentum * m + (1 - momentum) * g
    return -alpha * m / length(m), m


NORMALIZED = by_hand(Family("normalized momentum", None, {"m": "momentum_buffer"}, {"momentum": 0.9}), normalized)


@found("pytorch/pytorch#194664", "convention", of=NORMALIZED, mended=normalized)
def buffer_normalized_in_place(g, m, alpha, momentum):
    """A conversion to the dtype that it has already makes no copy, and the buffer itself is normalized."""
    m = momentum * m + (1 - momentum) * g
    m = m / length(m)
    return -alpha * m, m
