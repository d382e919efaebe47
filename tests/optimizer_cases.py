"""The optimizers under test, each beside Optax's, and what they are run on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from jaxnet import adam, gradient_descent
from jaxnet.optimizers import adagrad, adamax, adamw, amsgrad, heavy_ball, lion, momentum, nadam, nesterov, rmsprop

RATE = 0.02
STEPS = 1000


def ema(learning_rate, momentum=0.9):
    return optax.chain(optax.ema(momentum, debias=False), optax.scale(-learning_rate))


def sgd(learning_rate, momentum=0.9, *, nesterov=False):
    return optax.sgd(learning_rate, momentum, nesterov=nesterov)


# name: (our factory, Optax's)
FACTORIES = {
    "gradient_descent": (gradient_descent, optax.sgd),
    "momentum": (momentum, ema),
    "heavy_ball": (heavy_ball, sgd),
    "nesterov": (nesterov, functools.partial(sgd, nesterov=True)),
    "adagrad": (adagrad, optax.adagrad),
    "rmsprop": (rmsprop, optax.rmsprop),
    "adam": (adam, optax.adam),
    "adamw": (adamw, optax.adamw),
    "nadam": (nadam, optax.nadam),
    "amsgrad": (amsgrad, optax.amsgrad),
    "adamax": (adamax, optax.adamax),
    "lion": (lion, optax.lion),
}


def case(name, fields, *arguments, **keywords):
    ours, theirs = FACTORIES[name]
    return ours(RATE, *arguments, **keywords), theirs(RATE, *arguments, **keywords), fields


ADAM = (0.8, 0.99, 0.1, 0.05)
# (ours, Optax's, the fields of Optax's state that correspond to the slots in use of ours)
CASES = {
    "gradient_descent": case("gradient_descent", []),
    "momentum": case("momentum", ["ema"], 0.8),
    "heavy_ball": case("heavy_ball", ["trace"], 0.8),
    "nesterov": case("nesterov", ["trace"], 0.8),
    "adagrad": case("adagrad", ["sum_of_squares"], 0.3, 0.01),
    "adagrad at its defaults": case("adagrad", ["sum_of_squares"]),
    "rmsprop": case("rmsprop", ["nu"], 0.8, 0.1, 0.5),
    "rmsprop at its defaults": case("rmsprop", ["nu"]),
    "rmsprop eps outside, corrected": case("rmsprop", ["nu"], 0.8, 0.1, eps_in_sqrt=False, bias_correction=True),
    "rmsprop centered, corrected": case("rmsprop", ["nu", "mu"], 0.8, 0.1, centered=True, bias_correction=True),
    "rmsprop centered, eps outside, momentum": case("rmsprop", ["nu", "mu", "trace"], 0.8, 0.1, 0.5, False, True, 0.7),
    "rmsprop nesterov": case("rmsprop", ["nu", "trace"], 0.8, 0.1, momentum=0.7, nesterov=True),
    "adam": case("adam", ["mu", "nu"], *ADAM),
    "adam at its defaults": case("adam", ["mu", "nu"]),
    "adamw": case("adamw", ["mu", "nu"], *ADAM, weight_decay=0.3),
    "adamw at its defaults": case("adamw", ["mu", "nu"]),
    "nadam": case("nadam", ["mu", "nu"], *ADAM),
    "nadam at its defaults": case("nadam", ["mu", "nu"]),
    "amsgrad": case("amsgrad", ["mu", "nu", "nu_max"], *ADAM),
    "amsgrad at its defaults": case("amsgrad", ["mu", "nu", "nu_max"]),
    "amsgrad as in the paper": case(
        "amsgrad", ["mu", "nu", "nu_max"], *ADAM, bias_correction_mu=False, bias_correction_nu=False
    ),
    "adamax": case("adamax", ["mu", "nu"], 0.8, 0.99, 0.1),
    "adamax at its defaults": case("adamax", ["mu", "nu"]),
    "lion": case("lion", ["mu"], 0.8, 0.95, weight_decay=0.3),
    "lion at its defaults": case("lion", ["mu"]),
}


def equations(name, gradients, theta):
    """Each rule as its paper writes it, one number at a time in NumPy float64."""
    m = v = s = 0.0
    for t, g in enumerate(gradients, start=1):
        if name == "gradient_descent":
            yield -RATE * g
        elif name == "momentum":
            v = 0.8 * v + 0.2 * g
            yield -RATE * v
        elif name == "heavy_ball":
            v = 0.8 * v + g
            yield -RATE * v
        elif name == "nesterov":
            v = 0.8 * v + g
            yield -RATE * (0.8 * v + g)
        elif name == "adagrad":
            s = (s if t > 1 else 0.3) + g**2
            yield -RATE * g / np.sqrt(s + 0.01)
        elif name == "rmsprop":
            s = 0.8 * (s if t > 1 else 0.5) + 0.2 * g**2
            yield -RATE * g / np.sqrt(s + 0.1)
        elif name == "rmsprop centered, eps outside, momentum":
            s, m = 0.8 * (s if t > 1 else 0.5) + 0.2 * g**2, 0.8 * m + 0.2 * g
            v = 0.7 * v - RATE * g / (np.sqrt(s - m**2) + 0.1)
            yield v
        elif name in ("adam", "adamw", "nadam", "amsgrad", "amsgrad as in the paper"):
            m, s = 0.8 * m + 0.2 * g, 0.99 * s + 0.01 * g**2
            m_hat, s_hat = m / (1 - 0.8**t), s / (1 - 0.99**t)
            if name == "nadam":
                m_hat = 0.8 * m / (1 - 0.8 ** (t + 1)) + 0.2 * g / (1 - 0.8**t)
            if name == "amsgrad as in the paper":
                m_hat, s_hat = m, s
            if name.startswith("amsgrad"):
                s_hat = v = max(v, s_hat)
            yield -RATE * (m_hat / (np.sqrt(s_hat + 0.05) + 0.1) + (0.3 * theta if name == "adamw" else 0))
        elif name == "adamax":
            m, v = 0.8 * m + 0.2 * g, max(0.99 * v, abs(g) + 0.1)
            yield -RATE / (1 - 0.8**t) * m / v
        elif name == "lion":
            yield -RATE * (np.sign(0.8 * m + 0.2 * g) + 0.3 * theta)
            m = 0.95 * m + 0.05 * g


EQUATIONS = [name for name in CASES if list(equations(name, [1.0], 1.0))]


def parameters(dtype):
    return {"weight": jnp.linspace(-2, 2, 6, dtype=dtype).reshape(2, 3), "nothing": (), "bias": jnp.ones(3, dtype)}


@functools.cache
def gradients(dtype, steps=STEPS):
    """Large, tiny, sparse and vanishing gradients, one a step."""
    generator = np.random.default_rng(3)
    scale = 10.0 ** generator.integers(-4, 3, steps) * generator.binomial(1, 0.8, steps)
    scale[300:400] = 0

    def leaf(*shape):
        return jnp.asarray((generator.standard_normal((steps, *shape)).T * scale).T, dtype)

    return {"weight": leaf(2, 3), "nothing": (), "bias": leaf(3)}


# Compiled without LLVM's optimizations, which take longer than the steps.
@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def trajectory(optimizer, params, gradients):
    """The updates and the state after each step."""

    def step(state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return state, (updates, state)

    return jax.lax.scan(step, optimizer.init(params), gradients)[1]


def optax_trajectory(optimizer, params, gradients):
    """The same for closures, which become static, and for Optax's rules, which mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return trajectory(as_pytree(optimizer), params, gradients)


def as_pytree(optimizer):
    return jax.tree.map(lambda leaf: Partial(leaf) if callable(leaf) else leaf, optimizer)


def slots_of(state):
    """The slots in use."""
    return [slot for slot in state[1:] if slot is not None]
