"""Right optimizers as public libraries write them: folded, flattened, in place, with other states and counters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import (
    ADAM,
    ADAMW,
    AMSGRAD,
    HEAVY_BALL,
    LION,
    NESTEROV,
    RMSPROP,
    OptimizerPair,
    adam,
    averages,
    nesterov,
)
from experiments.specimens.optimizers.wholes import (
    DAMPENED,
    RPROP,
    SCHEDULED_NADAM,
    Whole,
    scheduled_rates,
    transformation,
)
from experiments.specimens.specimen import Catalogue
from experiments.specimens.wild.optimizers.adam import RADAM
from experiments.specimens.wild.optimizers.rmsprop import ADADELTA
from experiments.specimens.wild.optimizers.trust import LARS
from jaxnet.verify import from_step

catalogue = Catalogue()
right = catalogue.right

# Adam -----------------------------------------------------------------------------------------------------------------


@right(of=ADAM, source="keras-team/keras keras/src/optimizers/adam.py")
def correction_folded_into_the_rate_and_eps(g, m, v, t, alpha, b1, b2, eps):
    """m += (1 - β₁)(g - m), and α√(1 - β₂ᵗ)/(1 - β₁ᵗ) · m/(√v + ε̂) with ε̂ = ε√(1 - β₂ᵗ)."""
    m, v = m + (g - m) * (1 - b1), v + (g**2 - v) * (1 - b2)
    root = jnp.sqrt(1 - jnp.power(b2, t))
    return -(m * (alpha * root / (1 - jnp.power(b1, t)))) / (jnp.sqrt(v) + eps * root), m, v


def capturable_adam(alpha: float) -> GradientTransformation:
    """m/(√v/(-a√(1 - β₂ᵗ)) - ε/a) with a = α/(1 - β₁ᵗ): the whole step size is in the denominator, and t a float."""

    def rule(g, m, v, t, b1, b2, eps):
        m, v = averages(g, m, v, b1, b2)
        negative = -(alpha / (1 - b1**t))
        return m / (jnp.sqrt(v) / (jnp.sqrt(1 - b2**t) * negative) + eps / negative), m, v

    return ADAM._replace(counted_in=jnp.float32).optimizer(rule, alpha, b1=0.9, b2=0.999, eps=1e-8)


catalogue.enter(
    "adam: step size in the denominator",
    None,
    OptimizerPair(capturable_adam(0.01), optax.adam(0.01)),
    source="pytorch/pytorch torch/optim/adam.py",
)


@right(of=AMSGRAD, source="pytorch/pytorch#142323")
def maximum_before_the_root(g, m, v, v_max, t, alpha, b1, b2, eps):
    """The maximum is of the roots of the corrected v, and is squared in the state."""
    m, v = averages(g, m, v, b1, b2)
    root = jnp.maximum(jnp.sqrt(v_max), jnp.sqrt(v / (1 - b2**t)))
    return -alpha / (1 - b1**t) * m / (root + eps), m, v, root**2


@right(of=ADAMW, source="karpathy/llm.c llmc/adamw.cuh")
def averages_by_two_products(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """βm + (g - βg), of two multiply-adds."""
    m, v = b1 * m + (g - b1 * g), b2 * v + (g * g - b2 * (g * g))
    return -(alpha * (m / (1 - b1**t) / (jnp.sqrt(v / (1 - b2**t)) + eps) + weight_decay * theta)), m, v


def start(params: Any) -> Any:
    """A count and two arrays for each parameter."""
    return 0, *({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))


def step_of_ggml(params, gradients, state):
    """θ(1 - αλ) - α m h₁/(√(v h₂) + ε), with h = 1/(1 - βᵗ) formed once."""
    t, m, v = state
    t += 1
    h1, h2 = 1 / (1 - 0.9**t), 1 / (1 - 0.999**t)
    m = {name: x * 0.9 + np.asarray(gradients[name]) * (1 - 0.9) for name, x in m.items()}
    v = {name: x * 0.999 + np.asarray(gradients[name]) ** 2 * (1 - 0.999) for name, x in v.items()}
    after = {
        name: theta * (1 - 0.05 * 0.1) - 0.05 * (m[name] * h1) / (np.sqrt(v[name] * h2) + 1e-8)
        for name, theta in params.items()
    }
    return after, (t, m, v)


catalogue.enter(
    "adamw: decay by a factor, in numpy",
    None,
    OptimizerPair(from_step(start, step_of_ggml), optax.adamw(0.05, weight_decay=0.1)),
    source="ggml-org/llama.cpp ggml/src/ggml-cuda/opt-step-adamw.cu",
)


@right(of=Whole("adam", optax.adam), source="tinygrad/tinygrad tinygrad/nn/optim.py")
def all_parameters_in_one_vector(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """The parameters are laid end to end, and the state has one array for each moment."""
    flat: Any = ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)

    def update(gradients, state, params=None):
        vector, restored = ravel_pytree(gradients)
        updates, after = flat.update(vector, state, vector)
        return restored(updates), after

    return transformation(lambda params: flat.init(ravel_pytree(params)[0]), update)


@right(of=Whole("adamw", optax.adamw), source="tinygrad/tinygrad tinygrad/nn/optim.py")
def powers_of_both_rates_in_the_state(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4):
    """β₁ᵗ and β₂ᵗ are arrays of one number, multiplied in every step; nothing else counts but the schedule."""

    def init(params):
        m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        powers = [jnp.ones(1, jnp.result_type(float))] * 2
        return {"t": jnp.zeros(1, jnp.int32), "b_t": powers, "m": m, "v": v}

    def update(gradients, state, params=None):
        rate = learning_rate(state["t"][0]) if callable(learning_rate) else learning_rate
        powers = [state["b_t"][0] * b1, state["b_t"][1] * b2]
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["m"], gradients)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state["v"], gradients)

        def one(m, v, theta):
            first, second = (1 - power[0].astype(m.dtype) for power in powers)
            up = m / first / (jnp.sqrt(v / second) + eps) + weight_decay * theta
            return -jnp.asarray(rate, m.dtype) * up

        return jax.tree.map(one, m, v, params), {"t": state["t"] + 1, "b_t": powers, "m": m, "v": v}

    return transformation(init, update)


@right(of=Whole("adam", optax.adam), source="google/flax flax/optim/adam.py")
def pair_of_moments_at_each_parameter(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """The state holds a dictionary of two moments in the place of each parameter."""
    usual: Any = ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)

    def init(params: Any) -> Any:
        return {
            "step": jnp.zeros([], jnp.int32),
            "param_states": jax.tree.map(lambda p: {"grad_ema": 0 * p, "grad_sq_ema": 0 * p}, params),
        }

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        tree = jax.tree.structure(gradients)
        pairs = tree.flatten_up_to(state["param_states"])
        m, v = (tree.unflatten([pair[name] for pair in pairs]) for name in ("grad_ema", "grad_sq_ema"))
        before = usual.init(gradients)._replace(count=state["step"], mu=m, nu=v)  # pyright: ignore[reportAttributeAccessIssue]
        updates, after = usual.update(gradients, before, params)
        states = jax.tree.map(lambda m, v: {"grad_ema": m, "grad_sq_ema": v}, after.mu, after.nu)
        return updates, {"step": after.count, "param_states": states}

    return transformation(init, update)


@right(of=RADAM, source="LiyuanLucasLiu/RAdam#36")
def scalars_of_t_in_one_factor(g, m, v, t, alpha, b1, b2, eps):
    """Rectification and both corrections are one number, √((1 - β₂ᵗ) ...)/(1 - β₁ᵗ), and ε is scaled with it."""
    m, v = averages(g, m, v, b1, b2)
    last = 2 / (1 - b2) - 1
    rho = last - 2 * t * b2**t / (1 - b2**t)
    root = jnp.sqrt(1 - b2**t)
    parts = (rho - 4) / (last - 4) * (rho - 2) / rho * last / (last - 2)
    factor = root * jnp.sqrt(jnp.where(rho >= 4, parts, 1.0)) / (1 - b1**t)
    return -alpha * jnp.where(rho >= 4, factor * m / (jnp.sqrt(v) + eps * root), m / (1 - b1**t)), m, v


@right(of=SCHEDULED_NADAM, source="pytorch/pytorch#92699")
def product_of_the_rates_up_to_the_next(g, m, v, p, t, alpha, b1, b2, eps):
    """The two terms of the step are applied one after the other, each with its own rate."""
    now, ahead = scheduled_rates(t, b1)
    p = p * now
    m, v = averages(g, m, v, b1, b2)
    root = jnp.sqrt(v / (1 - b2**t)) + eps
    return g * (-alpha * (1 - now) / (1 - p)) / root + m * (-alpha * ahead / (1 - p * ahead)) / root, m, v, p


# Momentum -------------------------------------------------------------------------------------------------------------


def nag_of_fairseq(learning_rate: Any) -> GradientTransformation:
    """The velocity holds -α times Optax's, and is rescaled by α/α₋₁ whenever the rate changes."""

    def init(params: Any) -> Any:
        return {
            "step": jnp.zeros([], jnp.int32),
            "lr_old": jnp.asarray(learning_rate(0), jnp.result_type(float)),
            "pace": jax.tree.map(jnp.zeros_like, params),
        }

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        rate = jnp.asarray(learning_rate(state["step"]), state["lr_old"].dtype)
        corrected = rate / state["lr_old"]

        def step(g: Any, buffer: Any) -> Any:
            scale, size = corrected.astype(g.dtype), rate.astype(g.dtype)
            return 0.9 * 0.9 * scale * buffer - (1 + 0.9) * size * g

        def next_buffer(g: Any, buffer: Any) -> Any:
            return 0.9 * corrected.astype(g.dtype) * buffer - rate.astype(g.dtype) * g

        buffers = state["pace"]
        after = {
            "step": state["step"] + 1,
            "lr_old": rate,
            "pace": jax.tree.map(next_buffer, gradients, buffers),
        }
        return jax.tree.map(step, gradients, buffers), after

    return transformation(init, update)


FALLING = optax.exponential_decay(0.1, 10, 0.5)
catalogue.enter(
    "nesterov: velocity rescaled when the rate changes",
    None,
    OptimizerPair(nag_of_fairseq(FALLING), nesterov(FALLING)),
    source="facebookresearch/fairseq fairseq/optim/nag.py",
)


def start_with_velocities(params: Any) -> Any:
    """A list, in the order of the leaves."""
    return [np.zeros_like(p) for p in jax.tree.leaves(params)]


def step_of_scikit_learn(params, gradients, state):
    """βv - αg, formed twice for Nesterov's step ahead; the parameters are changed in place."""
    leaves = jax.tree.leaves(gradients)
    state = [0.9 * v - 0.05 * np.asarray(g) for v, g in zip(state, leaves, strict=True)]
    for theta, v, g in zip(jax.tree.leaves(params), state, leaves, strict=True):
        theta += 0.9 * v - 0.05 * np.asarray(g)
    return None, state


catalogue.enter(
    "nesterov: velocities in a list, parameters in place",
    None,
    OptimizerPair(from_step(start_with_velocities, step_of_scikit_learn), optax.sgd(0.05, 0.9, nesterov=True)),
    source="scikit-learn/scikit-learn sklearn/neural_network/_stochastic_optimizers.py",
)


def start_with_dictionaries(params: Any) -> Any:
    """Zeros under the same names."""
    return {name: 0 * p for name, p in params.items()}


def step_of_lasagne(params, gradients, state):
    """x = βv + (θ - αg) is the new θ, and the new velocity is what θ moved by."""
    after = {name: 0.9 * state[name] + (theta - 0.05 * gradients[name]) for name, theta in params.items()}
    return after, {name: after[name] - theta for name, theta in params.items()}


catalogue.enter(
    "heavy ball: velocity as a difference of parameters",
    None,
    OptimizerPair(from_step(start_with_dictionaries, step_of_lasagne), optax.sgd(0.05, 0.9)),
    source="Lasagne/Lasagne lasagne/updates.py",
)


@right(of=DAMPENED, source="ml-explore/mlx#473")
def velocity_prepared_for_the_first_step(g, v, t, alpha, momentum, dampening):
    """v starts as τ/β g, with which βv + (1 - τ)g is g in the first step."""
    v = jnp.where(t == 1, dampening / momentum * g, v)
    v = momentum * v + (1 - dampening) * g
    return -alpha * v, v


@right(of=NESTEROV._replace(slots={"v": "negative"}), source="FluxML/Optimisers.jl src/rules.jl")
def step_from_the_velocity_before(g, v, alpha, momentum):
    """β²v - (1 + β)g with the velocity before the step, which is kept with the opposite sign."""
    return alpha * (momentum**2 * v - (1 + momentum) * g), momentum * v - g


@right(of=HEAVY_BALL._replace(slots={"v": "average"}), source="samsja/muon_fsdp_2#6")
def average_with_a_larger_rate(g, v, alpha, momentum):
    """v is an average, v + (1 - β)(g - v), and the rate is α/(1 - β)."""
    v = v + (1 - momentum) * (g - v)
    return -(alpha / (1 - momentum)) * v, v


@right(of=LION, source="FluxML/Optimisers.jl#129")
def direction_in_terms_of_the_new_moment(g, m, alpha, b1, b2, weight_decay, theta):
    """β₂c = β₁m + (β₂ - β₁)g with the moment after the step, so that the old one can be overwritten first."""
    m = b2 * m + (1 - b2) * g
    return -alpha * (jnp.sign((b2 - b1) * g + b1 * m) + weight_decay * theta), m


# RMSProp, Adadelta, Rprop, LARS ---------------------------------------------------------------------------------------


@right(of=RMSPROP, source="jax-ml/jax#1427")
def mean_square_by_differences(g, s, alpha, decay, eps):
    """s - (1 - ρ)(s - g²), and αg times the reciprocal root."""
    s = s - (1 - decay) * (s - jnp.square(g))
    return (-alpha * g) * jax.lax.rsqrt(s + eps), s


@right(of=ADADELTA, source="ml-explore/mlx python/mlx/optimizers/optimizers.py")
def one_root_of_the_quotient(g, s, d, alpha, rho, eps):
    """√((d + ε)/(s + ε)) g."""
    s = s + (1 - rho) * (g * g - s)
    step = g * jnp.sqrt((d + eps) / (s + eps))
    return -alpha * step, s, d + (1 - rho) * (step * step - d)


@right(of=RPROP, source="FluxML/Optimisers.jl src/rules.jl")
def sizes_by_minimum_and_maximum(g, last, size, t, alpha):
    """min(1.2η, 50) where the sign stays, max(η/2, 1e-6) where it turns."""
    size = jnp.where(t == 1, alpha, size)
    grown, shrunk = jnp.minimum(1.2 * size, 50.0), jnp.maximum(0.5 * size, 1e-6)
    size = jnp.where(g * last > 0, grown, jnp.where(g * last < 0, shrunk, size))
    g = jnp.where(g * last < 0, 0.0, g)
    return -(size * jnp.sign(g)), g, size


@right(of=LARS, source="tinygrad/tinygrad tinygrad/nn/optim.py")
def ratio_and_rate_on_the_gradient(g, v, alpha, weight_decay, momentum, theta):
    """(g + λθ) · r · α goes into the velocity, and r is formed from sums of squares."""
    g = g + weight_decay * theta
    above, below = jnp.sum(theta * theta), jnp.sum(g * g)
    safe = jnp.where(below > 0, below, 1.0)
    r = jnp.where(above > 0, jnp.where(below > 0, 0.001 * jnp.sqrt(above / safe), 1.0), 1.0)
    v = momentum * v + g * r * alpha
    return -v, v
