"""Learning rates that change: read a step early, late or never, and warm-up and cosine of another form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import ADAM, DESCENT, HEAVY_BALL, adam
from experiments.specimens.optimizers.wholes import Whole, transformation
from experiments.specimens.specimen import Catalogue, words
from experiments.specimens.wild.optimizers.momentum import heavy_ball

catalogue = Catalogue()
found = catalogue.found


def descent(g, alpha):
    """-αg."""
    return (-alpha * g,)


def moved(learning_rate: Any, read: Any) -> Any:
    """A schedule that is read at another count; a number stays."""
    return (lambda count: learning_rate(read(count))) if callable(learning_rate) else learning_rate


@found(
    "google-deepmind/optax#1744",
    "convention",
    "one step early",
    of=Whole("gradient descent", optax.sgd),
    mended=DESCENT.factory(descent),
)
def count_that_starts_at_1(learning_rate):
    """The count is 1 before the first step, and the schedule's rate for the step 0 is never used."""
    return DESCENT.optimizer(descent, moved(learning_rate, lambda count: count + 1))


@found(
    "NVIDIA-NeMo/Megatron-Bridge#5399",
    "convention",
    "one step late",
    of=Whole("adam", optax.adam),
    mended=ADAM.factory(adam),
)
def schedule_advanced_after_the_step(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """The schedule is advanced after each step and not once before the first: every rate comes a step late."""
    late = moved(learning_rate, lambda count: count - 1)
    return ADAM.optimizer(adam, late, b1=b1, b2=b2, eps=eps)


def heavy_ball_of_optax(learning_rate: Any, momentum: float = 0.9) -> GradientTransformation:
    """Optax's."""
    return optax.sgd(learning_rate, momentum)


@found(
    "NVIDIA-NeMo/Emerging-Optimizers#260",
    "convention",
    "never advances",
    of=Whole("heavy ball", heavy_ball_of_optax),
    mended=HEAVY_BALL.factory(heavy_ball),
)
def step_that_stays_at_0(learning_rate, momentum=0.9):
    """The step is never incremented, and the schedule is read at 0 for ever."""
    right: Any = HEAVY_BALL.optimizer(heavy_ball, learning_rate, momentum=momentum)

    def update(gradients, state, params=None):
        updates, after = right.update(gradients, state, params)
        return updates, after._replace(count=state.count)

    return transformation(right.init, update)


# Finished optimizers, each with a schedule of its own -----------------------------------------------------------------


def scheduled(rate: Any) -> GradientTransformation:
    """Descent by hand with this rate, count -> α."""
    return DESCENT.optimizer(descent, rate)


def warmed_up(count: Any) -> Any:
    """0.1 max(1, t)/8, and 0.1 from t = 8 on."""
    return 0.1 * jnp.clip(jnp.asarray(count, float), 1, 8) / 8


def found_rate(source: str, *, of: Any, area: str) -> Any:
    """A decorator for a schedule that is wrong, where the schedule `of` is right."""

    def register(rate: Any) -> Any:
        name, subject = f"{area}: {words(rate)}", Whole(area, optax.sgd(of))
        catalogue.enter(name, "convention", subject.case(scheduled(rate)), source=source)
        catalogue.enter(f"{name}, mended", None, subject.case(scheduled(of)), source=source)
        return rate

    return register


@found_rate("EleutherAI/gpt-neox#1379", of=warmed_up, area="warm-up")
def first_rate_of_zero(count):
    """Warm-up starts at t/8 with t = 0: the first step moves nothing."""
    return 0.1 * jnp.clip(jnp.asarray(count, float), 0, 8) / 8


def halved_every_step_after_warm_up(count: Any) -> Any:
    """0.02, 0.04, ..., 0.1, and then half of the rate before in every step."""
    t = jnp.asarray(count, float)
    return jnp.where(t < 5, 0.02 * (t + 1), 0.1 * 0.5 ** (t - 4))


@found_rate("ildoonet/pytorch-gradual-warmup-lr#11", of=halved_every_step_after_warm_up, area="warm-up")
def last_rate_of_warm_up_twice(count):
    """The step after warm-up has its last rate once more, and the next one is halved twice."""
    t = jnp.asarray(count, float)
    return jnp.where(t == 5, 0.1, halved_every_step_after_warm_up(count))


def half_period(count: Any) -> Any:
    """0.1 (1 + cos(π t/40))/2."""
    return 0.1 * 0.5 * (1 + jnp.cos(np.pi * jnp.clip(jnp.asarray(count, float) / 40, 0, 1)))


@found_rate("goodfire-ai/spd#311", of=half_period, area="cosine")
def quarter_of_the_period(count):
    """0.1 cos(π/2 t/40): a quarter of a period in place of a half."""
    return 0.1 * jnp.cos(0.5 * np.pi * jnp.clip(jnp.asarray(count, float) / 40, 0, 1))


def cosine_after_warm_up(count: Any) -> Any:
    """Eight steps of warm-up, then half a period of 32 steps."""
    t = jnp.asarray(count, float)
    return jnp.where(t < 8, 0.1 * (t + 1) / 8, 0.1 * 0.5 * (1 + jnp.cos(np.pi * jnp.clip((t - 8) / 32, 0, 1))))


@found_rate("lindermanlab/S5#11", of=cosine_after_warm_up, area="cosine")
def cosine_that_counts_the_warm_up(count):
    """The count goes on from warm-up: the cosine starts at its eighth step, and the rate falls there at once."""
    t = jnp.asarray(count, float)
    return jnp.where(t < 8, 0.1 * (t + 1) / 8, 0.1 * 0.5 * (1 + jnp.cos(np.pi * jnp.clip(t / 32, 0, 1))))


def stairs(count: Any) -> Any:
    """0.1, and half of it after every ten steps."""
    return 0.1 * 0.5 ** jnp.floor(jnp.asarray(count, float) / 10)


@found_rate("FluxML/Flux.jl#684", of=stairs, area="stairs")
def factor_in_place_of_the_rate(count):
    """What multiplies the gradient is the factor of decay, which never changes, and not the rate that it lowers."""
    return 0.5 + 0 * jnp.asarray(count, float)


# Gradients collected over several steps -------------------------------------------------------------------------------


def over_two(combined: Any) -> Any:
    """A factory of descent that moves in every second step, by this function of the two gradients."""

    def make(learning_rate: Any) -> GradientTransformation:
        def init(params: Any) -> Any:
            return jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params)

        def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            count, before = state
            rate = learning_rate(count // 2) if callable(learning_rate) else learning_rate
            moves = count % 2 == 1

            def one(g: Any, b: Any) -> Any:
                return jnp.where(moves, -jnp.asarray(rate, g.dtype) * combined(b, g), jnp.zeros_like(g))

            return jax.tree.map(one, gradients, before), (
                count + 1,
                jax.tree.map(lambda g: jnp.where(moves, jnp.zeros_like(g), g), gradients),
            )

        return transformation(init, update)

    return make


def descent_over_two(learning_rate: Any) -> GradientTransformation:
    """Optax's."""
    steps = optax.MultiSteps(optax.sgd(learning_rate), 2, accumulator_dtype=jnp.result_type(float))
    return steps.gradient_transformation()


@found(
    "paiml/aprender#2123",
    "scale",
    "2 times",
    of=Whole("descent by two gradients", descent_over_two),
    mended=over_two(lambda before, g: (before + g) / 2),
)
def sum_of_the_gradients(learning_rate):
    """The gradients of a window are summed, not averaged."""
    return over_two(lambda before, g: before + g)(learning_rate)
