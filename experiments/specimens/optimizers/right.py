"""Right optimizers, which a verifier must not object to: this library's own, and unusual forms of the same rules."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import (
    ADAGRAD,
    ADAM,
    ADAMAX,
    ADAMW,
    AMSGRAD,
    DESCENT,
    HEAVY_BALL,
    LION,
    MOMENTUM,
    NADAM,
    NESTEROV,
    RMSPROP,
    RMSPROP_WITH_MOMENTUM,
    OptimizerPair,
    adam,
    averages,
    corrected,
    heavy_ball,
    nesterov,
)
from experiments.specimens.specimen import Catalogue, Specimen, words
from jaxnet import optimizers
from jaxnet.verify import from_step

catalogue = Catalogue()
right = catalogue.right

# This library's own beside Optax's -----------------------------------------------------------------------------------


def lecture_momentum(learning_rate: Any, momentum: float = 0.9) -> GradientTransformation:
    """Optax's moving average of gradients, and the learning rate."""
    return optax.chain(optax.ema(momentum, debias=False), optax.scale_by_learning_rate(learning_rate))


def with_options(factory: Any, **options: Any) -> Any:
    """A factory with some of its options fixed, and no more of its arguments."""
    return lambda learning_rate: factory(learning_rate, **options)


for name, own, other in (
    ("gradient descent", optimizers.gradient_descent, optax.sgd),
    ("momentum", optimizers.momentum, lecture_momentum),
    ("heavy ball", optimizers.heavy_ball, heavy_ball),
    ("nesterov", optimizers.nesterov, nesterov),
    ("adagrad", optimizers.adagrad, optax.adagrad),
    ("rmsprop", optimizers.rmsprop, optax.rmsprop),
    ("adam", optimizers.adam, optax.adam),
    ("adamw", optimizers.adamw, optax.adamw),
    ("nadam", optimizers.nadam, optax.nadam),
    ("amsgrad", optimizers.amsgrad, optax.amsgrad),
    ("adamax", optimizers.adamax, optax.adamax),
    ("lion", optimizers.lion, optax.lion),
):
    catalogue.enter(f"{name}: this library's", None, OptimizerPair(own, other))

for name, options in (
    ("eps outside the root", {"eps_in_sqrt": False}),
    ("centred", {"centered": True, "eps": 0.1}),
    ("with momentum", {"momentum": 0.9}),
    ("with nesterov's momentum", {"momentum": 0.9, "nesterov": True}),
    ("corrected for bias", {"bias_correction": True, "eps_in_sqrt": False}),
    ("started at 1", {"initial_scale": 1.0}),
):
    own, other = (with_options(factory, **options) for factory in (optimizers.rmsprop, optax.rmsprop))
    catalogue.enter(f"rmsprop: this library's {name}", None, OptimizerPair(own, other))

PAPER: Any = {"bias_correction_mu": False, "bias_correction_nu": False}
MASK: Any = {"mask": {"weight": True, "bias": False}, "weight_decay": 0.1}
SCHEDULE = optax.cosine_decay_schedule(0.01, 200)

for name, own, other in (
    ("adam: finished", optimizers.adam(0.01, 0.8, 0.99, 1e-3, 1e-4), optax.adam(0.01, 0.8, 0.99, 1e-3, 1e-4)),
    ("adam: finished, with a schedule", optimizers.adam(SCHEDULE), optax.adam(SCHEDULE)),
    ("adam: m in bfloat16", optimizers.adam(0.01, mu_dtype=jnp.bfloat16), optax.adam(0.01, mu_dtype=jnp.bfloat16)),
    ("adamw: masked", optimizers.adamw(0.01, **MASK), optax.adamw(0.01, **MASK)),
    ("amsgrad: without correction", optimizers.amsgrad(0.01, **PAPER), optax.amsgrad(0.01, **PAPER)),
    ("lion: finished", optimizers.lion(1e-3, weight_decay=0.1), optax.lion(1e-3, weight_decay=0.1)),
    ("heavy ball: of the moving average", optimizers.momentum(0.1, 0.9), optax.sgd(0.01, 0.9)),
    ("momentum: of the heavy ball", optax.sgd(0.01, 0.9), optimizers.momentum(0.1, 0.9)),
    ("adam: a chain", optax.chain(optax.scale_by_adam(), optax.scale(-0.01)), optax.adam(0.01)),
    ("adam: hyperparameters in the state", optax.inject_hyperparams(optax.adam)(0.01), optax.adam(0.01)),
):
    catalogue.enter(name, None, OptimizerPair(own, other))

# By hand -------------------------------------------------------------------------------------------------------------

right(of=ADAM)(adam)


@right(of=ADAM)
def corrections_by_expm1(g, m, v, t, alpha, b1, b2, eps):
    """1 - βᵗ = -expm1(t log β)."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = (x / -jnp.expm1(t * np.log(beta)) for x, beta in ((m, b1), (v, b2)))
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@right(of=ADAM)
def corrections_in_the_learning_rate(g, m, v, t, alpha, b1, b2, eps):
    """α√(1 - β₂ᵗ)/(1 - β₁ᵗ) · m/(√v + ε√(1 - β₂ᵗ))."""
    m, v = averages(g, m, v, b1, b2)
    root = jnp.sqrt(1 - b2**t)
    return -(alpha * root / (1 - b1**t)) * m / (jnp.sqrt(v) + eps * root), m, v


@right(of=ADAM)
def moments_by_differences(g, m, v, t, alpha, b1, b2, eps):
    """m + (1 - β)(g - m)."""
    m, v = m + (1 - b1) * (g - m), v + (1 - b2) * (g**2 - v)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@right(of=ADAM._replace(slots={"a": "sum", "v": "nu"}))
def m_as_a_sum_with_its_factor_in_the_update(g, a, v, t, alpha, b1, b2, eps):
    """a = m/(1 - β₁)."""
    a, v = b1 * a + g, b2 * v + (1 - b2) * g**2
    m_hat, v_hat = corrected((1 - b1) * a, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), a, v


@right(of=ADAM._replace(counted_in=jnp.float32))
def counter_of_floats(g, m, v, t, alpha, b1, b2, eps):
    """float32 counts to 2²⁴."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@right(of=ADAM._replace(slots={**ADAM.slots, "p": "power"}, starts={"p": 1.0}))
def power_of_b1_in_the_state(g, m, v, p, t, alpha, b1, b2, eps):
    """β₁ᵗ by multiplication."""
    m, v, p = *averages(g, m, v, b1, b2), p * b1
    return -alpha * m / (1 - p) / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v, p


NESTED = {"layers": [{"W": jnp.ones((2, 2, 2)), "b": jnp.zeros(1)}, (jnp.ones(3), jnp.float32(0.5))], "none": None}


@right(of=ADAM._replace(params=NESTED))
def nested_parameters(g, m, v, t, alpha, b1, b2, eps):
    """Dictionaries, lists and tuples, a number among them."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@right(of=ADAM._replace(params=jnp.float32(2.0)))
def one_number(g, m, v, t, alpha, b1, b2, eps):
    """Parameters that are a number."""
    return adam(g, m, v, t, alpha, b1, b2, eps)


@right(of=ADAMW)
def decay_beside_the_step(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """Adam's update, less αλθ."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update - (alpha * weight_decay) * theta, m, v


@right(of=NADAM)
def both_terms_of_the_step_ahead(g, m, v, t, alpha, b1, b2, eps):
    """β₁m/(1 - β₁ᵗ⁺¹) + (1 - β₁)g/(1 - β₁ᵗ)."""
    m, v = averages(g, m, v, b1, b2)
    m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return -alpha * m_hat / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v


@right(of=AMSGRAD)
def maximum_by_a_condition(g, m, v, v_max, t, alpha, b1, b2, eps):
    """The larger of the two, by `where`."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    v_max = jnp.where(v_hat > v_max, v_hat, v_max)
    return -alpha * m_hat / (jnp.sqrt(v_max) + eps), m, v, v_max


@right(of=ADAMAX)
def correction_in_the_learning_rate(g, m, v, t, alpha, b1, b2, eps):
    """α/(1 - β₁ᵗ) · m/v."""
    m, v = b1 * m + (1 - b1) * g, jnp.maximum(b2 * v, jnp.abs(g) + eps)
    return -(alpha / (1 - b1**t)) * (m / v), m, v


@right(of=LION)
def sign_by_comparisons(g, m, alpha, b1, b2, weight_decay, theta):
    """1 where positive, -1 where negative."""
    c = b1 * m + (1 - b1) * g
    sign = (c > 0).astype(g.dtype) - (c < 0).astype(g.dtype)
    return -alpha * sign - alpha * weight_decay * theta, b2 * m + (1 - b2) * g


@right(of=RMSPROP)
def reciprocal_root(g, s, alpha, decay, eps):
    """g · rsqrt(s + ε)."""
    s = s + (1 - decay) * (g * g - s)
    return -alpha * (g * jax.lax.rsqrt(s + eps)), s


@right(of=RMSPROP_WITH_MOMENTUM._replace(slots={"s": "nu", "u": "pace"}))
def velocity_of_the_opposite_sign(g, s, u, alpha, decay, eps, momentum):
    """u := βu + αd, θ := θ - u."""
    s = decay * s + (1 - decay) * g**2
    u = momentum * u + alpha * g / jnp.sqrt(s + eps)
    return -u, s, u


@right(of=ADAGRAD)
def divided_by_the_root(g, s, alpha, eps):
    """αg/√(s + ε)."""
    s = s + g**2
    return -alpha * g / jnp.sqrt(s + eps), s


@right(of=DESCENT)
def gradient_times_the_rate(g, alpha):
    """-αg."""
    return (g * -alpha,)


@right(of=MOMENTUM)
def average_by_differences(g, v, alpha, momentum):
    """v + (1 - β)(g - v)."""
    v = v + (1 - momentum) * (g - v)
    return -alpha * v, v


@right(of=HEAVY_BALL._replace(slots={"v": "pace"}))
def velocity_downhill(g, v, alpha, momentum):
    """v := βv - g, θ := θ + αv."""
    v = momentum * v - g
    return alpha * v, v


@right(of=NESTEROV)
def step_ahead_multiplied_out(g, v, alpha, momentum):
    """β²v + (1 + β)g."""
    return -alpha * (momentum**2 * v + (1 + momentum) * g), momentum * v + g


# Other states and other interfaces -----------------------------------------------------------------------------------


def state_in_a_dictionary(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Any:
    """Adam with a state of other names, by leaf."""
    moments = ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)

    def init(params: Any) -> dict[str, Any]:
        t, m, v = moments.init(params)  # pyright: ignore[reportGeneralTypeIssues]
        return {"finished": t, "averages": {"of_g": m, "of_squares": v}}

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, dict[str, Any]]:
        of_g, of_squares = state["averages"]["of_g"], state["averages"]["of_squares"]
        updates, (t, m, v) = moments.update(gradients, Moments(state["finished"], of_g, of_squares), params)  # pyright: ignore[reportGeneralTypeIssues]
        return updates, {"finished": t, "averages": {"of_g": m, "of_squares": v}}

    return GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


class Moments(NamedTuple):
    """Adam's state."""

    t: Any
    m: Any
    v: Any


def start(params: Any) -> Moments:
    """Moments of zero, in the arrays' own sort."""
    zeros = jax.tree.map(lambda p: p * 0, params)
    return Moments(0, zeros, jax.tree.map(lambda p: p * 0, params))


def step_in_jax(params, gradients, state):
    """θ - α m̂/(√v̂ + ε)."""
    t, m, v = state
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, gradients)
    size = jnp.asarray(t + 1, jnp.result_type(float))

    def after(theta, m, v):
        m_hat, v_hat = m / (1 - 0.9**size).astype(m.dtype), v / (1 - 0.999**size).astype(v.dtype)
        return theta - 0.01 * m_hat / (jnp.sqrt(v_hat) + 1e-8)

    return jax.tree.map(after, params, m, v), Moments(t + 1, m, v)


def step_in_numpy(params, gradients, state):
    """The same, a leaf after the other, in dictionaries."""
    t, m, v = state
    t += 1
    m = {name: 0.9 * m[name] + 0.1 * np.asarray(g) for name, g in gradients.items()}
    v = {name: 0.999 * v[name] + 0.001 * np.asarray(g) ** 2 for name, g in gradients.items()}
    params = {
        name: theta - 0.01 * m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
        for name, theta in params.items()
    }
    return params, Moments(t, m, v)


def step_in_numpy_in_place(params, gradients, state):
    """The parameters are changed, not returned."""
    after, state = step_in_numpy(params, gradients, state)
    for name, theta in params.items():
        theta[...] = after[name]
    return None, state


def step_in_numpy_with_moments_in_place(params, gradients, state):
    """The arrays of the state are overwritten."""
    t, m, v = state
    t += 1
    after = {}
    for name, g in gradients.items():
        m[name] += 0.1 * (np.asarray(g) - m[name])
        v[name] += 0.001 * (np.asarray(g) ** 2 - v[name])
        after[name] = params[name] - 0.01 * m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
    return after, Moments(t, m, v)


catalogue.enter("adam: state in a dictionary", None, OptimizerPair(state_in_a_dictionary, optax.adam))
for step in (step_in_jax, step_in_numpy, step_in_numpy_in_place, step_in_numpy_with_moments_in_place):
    catalogue.enter(f"adam: {words(step)}", None, OptimizerPair(from_step(start, step), optax.adam(0.01)))

# Other parameters ----------------------------------------------------------------------------------------------------

for dtype in ("bfloat16", "float16"):
    params = {"weight": jnp.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3), "bias": jnp.ones(3, dtype)}
    for name, own, other in (("adam", optimizers.adam, optax.adam), ("heavy ball", optimizers.heavy_ball, heavy_ball)):
        catalogue.enter(f"{name}: this library's in {dtype}", None, OptimizerPair(own, other, params))

MIXED = {"weight": jnp.linspace(-1, 1, 6, dtype="bfloat16"), "bias": jnp.ones(3, "float32")}
catalogue.enter("adamw: this library's in mixed precision", None, OptimizerPair(optimizers.adamw, optax.adamw, MIXED))
catalogue.enter("adam: itself", None, OptimizerPair(optax.adam, optax.adam))

RIGHT_OPTIMIZERS: tuple[Specimen, ...] = tuple(catalogue.specimens)
