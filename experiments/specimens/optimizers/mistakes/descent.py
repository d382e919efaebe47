"""Descent and momentum."""

from experiments.specimens.optimizers.subjects import DESCENT, HEAVY_BALL, MOMENTUM, NESTEROV, OptimizerPair
from experiments.specimens.specimen import Catalogue
from jaxnet import optimizers

catalogue = Catalogue()
planted = catalogue.planted


@planted("convention", "the sign is wrong", of=DESCENT)
def ascent(g, alpha):
    """θ + αg."""
    return (alpha * g,)


@planted("convention", "the learning rate is applied twice", of=DESCENT)
def descent_with_the_rate_squared(g, alpha):
    """α²."""
    return (-alpha * alpha * g,)


@planted("convention", "m is a sum", of=MOMENTUM)
def sum_in_place_of_an_average(g, v, alpha, momentum):
    """The heavy ball."""
    v = momentum * v + g
    return -alpha * v, v


@planted("convention", "exchanged", of=MOMENTUM)
def weights_of_the_average_exchanged(g, v, alpha, momentum):
    """(1 - β)v + βg."""
    v = (1 - momentum) * v + momentum * g
    return -alpha * v, v


@planted("convention", "m is an average", of=HEAVY_BALL)
def average_in_place_of_a_sum(g, v, alpha, momentum):
    """The lecture's form."""
    v = momentum * v + (1 - momentum) * g
    return -alpha * v, v


@planted("convention", "inside the momentum", of=HEAVY_BALL)
def learning_rate_inside_the_velocity(g, v, alpha, momentum):
    """Keras's form."""
    v = momentum * v - alpha * g
    return v, v


@planted("convention", "there is no momentum", of=HEAVY_BALL)
def velocity_forgotten(g, v, alpha, momentum):
    """The velocity is kept and not used."""
    return -alpha * g, momentum * v + g


@planted("convention", "m is stale", of=HEAVY_BALL)
def stale_velocity(g, v, alpha, momentum):
    """The update reads the velocity from before the step."""
    return -alpha * v, momentum * v + g


@planted("convention", "no Nesterov step ahead", of=NESTEROV)
def heavy_ball_in_place_of_nesterov(g, v, alpha, momentum):
    """The velocity as it is."""
    v = momentum * v + g
    return -alpha * v, v


@planted("convention", "βm alone", of=NESTEROV)
def step_ahead_without_the_gradient(g, v, alpha, momentum):
    """βv in place of βv + g."""
    v = momentum * v + g
    return -alpha * momentum * v, v


catalogue.enter(
    "momentum: a velocity of another size under the same name",
    "convention",
    OptimizerPair(optimizers.heavy_ball(0.01, 0.9), optimizers.momentum(0.1, 0.9)),
    "another form of the same rule",
)
