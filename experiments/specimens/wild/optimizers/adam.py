"""Adam and its kin: ε, bias correction, the moments and their rates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.subjects import (
    ADAM,
    ADAM_NUMBERS,
    ADAMW,
    AMSGRAD,
    MOMENTS,
    NADAM,
    Family,
    adam,
    averages,
    corrected,
)
from experiments.specimens.optimizers.wholes import (
    ADOPT,
    SCHEDULED_NADAM,
    Whole,
    adopt,
    by_hand,
    scheduled_nadam,
    scheduled_rates,
    transformation,
)
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


def adamw(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """Adam's step, and αλθ beside it."""
    update, m, v = adam(g, m, v, t, alpha, b1, b2, eps)
    return update - alpha * weight_decay * theta, m, v


# ε --------------------------------------------------------------------------------------------------------------------


@found("karpathy/nanochat#304", "convention", "before bias correction", of=ADAMW, mended=adamw)
def eps_scaled_by_the_correction(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """ε is added to √v and the correction of v is in the step size, so that ε is corrected with it."""
    m, v = averages(g, m, v, b1, b2)
    size = alpha * jnp.sqrt(1 - b2**t) / (1 - b1**t)
    return -size * m / (jnp.sqrt(v) + eps) - alpha * weight_decay * theta, m, v


@found("FluxML/Flux.jl#448", "convention", "ε is inside the square root", of=ADAM, mended=adam)
def eps_under_the_root(g, m, v, t, alpha, b1, b2, eps):
    """√(v̂ + ε), which at ε = 1e-8 is as large as an ε of 1e-4 outside."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / jnp.sqrt(v_hat + eps), m, v


@found("tensorflow/tensorflow#61411", "convention", of=ADAM, mended=adam)
def eps_subtracted(g, m, v, t, alpha, b1, b2, eps):
    """√v̂ - ε: the sign of ε is wrong."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) - eps), m, v


@found("kozistr/pytorch_optimizer#480", "non_finite", of=ADAM, mended=adam)
def eps_after_the_reciprocal_root(g, m, v, t, alpha, b1, b2, eps):
    """1/√v̂ + ε in place of 1/(√v̂ + ε): 0 · ∞ where every gradient was zero."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat * (jax.lax.rsqrt(v_hat) + eps), m, v


@found("LBANN/lbann#2467", "unknown", of=ADAM, mended=adam)
def eps_added_to_the_gradient(g, m, v, t, alpha, b1, b2, eps):
    """Against denormal numbers every gradient was made larger by ε."""
    return adam(g + eps, m, v, t, alpha, b1, b2, eps)


@found("mlpnlp/mlpnlp-nmt#4", "value", "ε is 0.1", of=Whole("adam", optax.adam), mended=ADAM.factory(adam))
def eps_of_a_tenth(learning_rate, b1=0.9, b2=0.999, eps=0.1):
    """The default of ε was 0.1."""
    return ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)


@found("deeplearning4j/deeplearning4j#2705", "value", "whatever it is set to", of=ADAM, mended=adam)
def eps_that_cannot_be_set(g, m, v, t, alpha, b1, b2):
    """ε was an option that never reached the update."""
    return adam(g, m, v, t, alpha, b1, b2, 1e-8)


def in_float16(shape: tuple[int, ...]) -> Any:
    """Parameters of half precision."""
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float16).reshape(shape)


def adam_in_the_dtype_of_g(denominator: Any) -> Any:
    """A factory of Adam whose arrays are all of the gradients' dtype, but for what is done in the denominator."""

    def make(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> GradientTransformation:
        moments: Any = optax.scale_by_adam(b1, b2)

        def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            _, after = moments.update(gradients, state, params)
            rate: Any = learning_rate(state.count) if callable(learning_rate) else learning_rate

            def one(m: Any, v: Any) -> Any:
                count = after.count.astype(jnp.promote_types(m.dtype, jnp.float32))
                m_hat, v_hat = m / (1 - b1**count).astype(m.dtype), v / (1 - b2**count).astype(v.dtype)
                return jnp.asarray(-rate * m_hat / denominator(v_hat, eps)).astype(m.dtype)

            return jax.tree.map(one, after.mu, after.nu), after

        return transformation(moments.init, update)

    return make


def widened_denominator(v_hat: Any, eps: float) -> Any:
    """√v̂ + ε in float32 at least."""
    return jnp.sqrt(v_hat).astype(jnp.promote_types(v_hat.dtype, jnp.float32)) + eps


def narrow_denominator(v_hat: Any, eps: float) -> Any:
    """√v̂ + ε in the dtype of v̂."""
    return jnp.sqrt(v_hat) + jnp.asarray(eps, v_hat.dtype)


HALF = Whole(
    "adam in float16",
    adam_in_the_dtype_of_g(widened_denominator),
    {"weight": in_float16((2, 3)), "bias": in_float16((4,))},
)


@found("google-deepmind/optax#1754", "non_finite", of=HALF, mended=adam_in_the_dtype_of_g(widened_denominator))
def eps_that_vanishes(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """ε = 1e-8 is 0 in float16: 0/0 where every gradient was zero."""
    return adam_in_the_dtype_of_g(narrow_denominator)(learning_rate, b1, b2, eps)


# Bias correction ------------------------------------------------------------------------------------------------------


@found("karpathy/convnetjs#70", "convention", of=ADAM, mended=adam)
def corrections_multiplied(g, m, v, t, alpha, b1, b2, eps):
    """The moments are multiplied by 1 - βᵗ where they must be divided by it."""
    m, v = averages(g, m, v, b1, b2)
    return -alpha * m * (1 - b1**t) / (jnp.sqrt(v * (1 - b2**t)) + eps), m, v


@found("oxiglade/mlx-rs#301", "convention", "bias correction is absent", of=ADAM, mended=adam)
def moments_uncorrected(g, m, v, alpha, b1, b2, eps):
    """m/(√v + ε)."""
    m, v = averages(g, m, v, b1, b2)
    return -alpha * m / (jnp.sqrt(v) + eps), m, v


@found("kozistr/AdaBound-tensorflow#3", "convention", of=ADAM, mended=adam)
def correction_taken_from_one_twice(g, m, v, t, alpha, b1, b2, eps):
    """What is 1 - β₂ᵗ already is subtracted from 1 once more, so that √β₂ᵗ multiplies the step."""
    m, v = averages(g, m, v, b1, b2)
    second = 1 - b2**t
    return -alpha * jnp.sqrt(1 - second) / (1 - b1**t) * m / (jnp.sqrt(v) + eps), m, v


@found("allenai/OLMo-core#317", "convention", "never advances", of=ADAMW, mended=adamw)
def step_that_is_never_incremented(g, m, v, alpha, b1, b2, eps, weight_decay, theta):
    """Both corrections are those of the first step for ever, and cancel but for a factor √(1 - β₂)/(1 - β₁)."""
    return adamw(g, m, v, 1.0, alpha, b1, b2, eps, weight_decay, theta)


@found("ikostrikov/pytorch-a3c#12", "convention", of=ADAM, mended=adam)
def moments_shared_by_two_workers_and_the_count_not(g, m, v, t, alpha, b1, b2, eps):
    """Two workers take turns on the same moments; each corrects them with the count of its own steps."""
    return adam(g, m, v, jnp.ceil(t / 2), alpha, b1, b2, eps)


@found("PennyLaneAI/pennylane#1929", "convention", of=ADAM, mended=adam)
def first_moments_without_their_factors(g, m, v, t, alpha, b1, b2, eps):
    """The first step sets m to g and v to g², without 1 - β, and corrects them like all others."""
    first, second = averages(g, m, v, b1, b2)
    m, v = jnp.where(t == 1, g, first), jnp.where(t == 1, g**2, second)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


@found("DiffSharp/DiffSharp#292", "convention", of=Whole("adam", optax.adam), mended=ADAM.factory(adam))
def count_of_every_parameter(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """One counter for all parameters is advanced at each of them, twice in a step of two."""
    moments: Any = optax.scale_by_adam(b1, b2)

    def update(gradients, state, params=None):
        _, after = moments.update(gradients, state, params)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        columns = [jax.tree.leaves(part) for part in (after.mu, after.nu)]
        steps = []
        for i, (m, v) in enumerate(zip(*columns, strict=True)):
            count = jnp.asarray(state.count * len(columns[0]) + i + 1, m.dtype)
            m_hat, v_hat = corrected(m, v, count, b1, b2)
            steps.append(-jnp.asarray(rate, m.dtype) * m_hat / (jnp.sqrt(v_hat) + eps))
        return jax.tree.unflatten(jax.tree.structure(gradients), steps), after

    return transformation(moments.init, update)


def debiased(learning_rate: Any, decay: float = 0.9) -> GradientTransformation:
    """Optax's average of gradients, corrected for bias, and the learning rate."""
    return optax.chain(optax.ema(decay), optax.scale_by_learning_rate(learning_rate))


DEBIASED = Family("debiased average", debiased, {"m": "ema"}, {"decay": 0.9})


def debiased_rule(g, m, t, alpha, decay):
    """m/(1 - βᵗ)."""
    m = decay * m + (1 - decay) * g
    return -alpha * m / (1 - decay**t), m


@found("kozistr/pytorch_optimizer#525", "convention", of=DEBIASED, mended=debiased_rule)
def divided_by_the_power_itself(g, m, t, alpha, decay):
    """m/βᵗ, which grows without bound."""
    m = decay * m + (1 - decay) * g
    return -alpha * m / decay**t, m


# The counter ----------------------------------------------------------------------------------------------------------


@found("pytorch/ao#4915", "precision", of=Whole("adamw", optax.adamw), mended=ADAMW.factory(adamw))
def count_in_bfloat16(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4):
    """The counter takes the default dtype, bfloat16, in which 256 + 1 is 256."""
    family = ADAMW._replace(counted_in=jnp.bfloat16)
    return family.optimizer(adamw, learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


# The rates ------------------------------------------------------------------------------------------------------------


@found("FluxML/Optimisers.jl#215", "value", "rounded to bfloat16", of=ADAM, mended=adam)
def b2_in_bfloat16(g, m, v, t, alpha, b1, b2, eps):
    """β₂ = 0.999 becomes 1, v never moves and its correction divides by zero."""
    return adam(g, m, v, t, alpha, b1, jnp.asarray(b2, jnp.bfloat16).astype(g.dtype), eps)


def truncated(number: Any, dtype: Any) -> Any:
    """The upper half of a float32's bits."""
    bits = jax.lax.bitcast_convert_type(jnp.asarray(number, jnp.float32), jnp.uint32)
    return jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32).astype(dtype)


@found("tenstorrent/tt-metal#55935", "value", of=ADAMW, mended=adamw)
def rates_truncated_in_the_averages_alone(g, m, v, t, alpha, b1, b2, eps, weight_decay, theta):
    """β is cut to bfloat16 in the averages, so that 0.999 is 0.99609, and not in their corrections."""
    m, v = averages(g, m, v, truncated(b1, g.dtype), truncated(b2, g.dtype))
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps) - alpha * weight_decay * theta, m, v


@found("mila-iqia/blocks#1159", "convention", "1 - β₁ stands where β₁ should", of=ADAM, mended=adam)
def rates_as_the_first_version_of_the_paper_had_them(g, m, v, t, alpha, b1, b2, eps):
    """β means the weight of the new gradient."""
    return adam(g, m, v, t, alpha, 1 - b1, 1 - b2, eps)


# The moments ----------------------------------------------------------------------------------------------------------


@found("raskr/rust-autograd#16", "convention", of=ADAM, mended=adam)
def new_moments_never_stored(g, m, v, t, alpha, b1, b2, eps):
    """The moments are formed in copies: the state stays at zero."""
    return adam(g, m, v, t, alpha, b1, b2, eps)[0], m, v


@found("oracle/tribuo#401", "convention", of=ADAM, mended=adam)
def multiplied_by_the_root(g, m, v, t, alpha, b1, b2, eps):
    """m̂ is multiplied by √v̂ + ε where it must be divided."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat * (jnp.sqrt(v_hat) + eps), m, v


@found("decoderesearch/SAELens#728", "precision", of=Whole("adam", optax.adam), mended=ADAM.factory(adam))
def moments_in_bfloat16(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """v changes by a thousandth in a step, which is less than bfloat16 resolves."""
    return ADAM._replace(kept_in=jnp.bfloat16).optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)


# AMSGrad, NAdam, RAdam, AdaBelief, ADOPT ------------------------------------------------------------------------------


def amsgrad(g, m, v, v_max, t, alpha, b1, b2, eps):
    """The maximum of the corrected v."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    v_max = jnp.maximum(v_max, v_hat)
    return -alpha * m_hat / (jnp.sqrt(v_max) + eps), m, v, v_max


@found("pytorch/pytorch#142323", "convention", "before its correction", of=AMSGRAD, mended=amsgrad)
def maximum_of_the_uncorrected(g, m, v, v_max, t, alpha, b1, b2, eps):
    """The code takes the maximum of v and corrects it then; what it is documented to do is the other way round."""
    m, v = averages(g, m, v, b1, b2)
    v_max = jnp.maximum(v_max, v)
    m_hat, v_hat = corrected(m, v_max, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v, v_max


def nadam(g, m, v, t, alpha, b1, b2, eps):
    """β₁m/(1 - β₁ᵗ⁺¹) + (1 - β₁)g/(1 - β₁ᵗ)."""
    m, v = averages(g, m, v, b1, b2)
    step = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return -alpha * step / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v


@found("deeplearning4j/nd4j#1891", "convention", of=NADAM, mended=nadam)
def corrected_in_place(g, m, v, t, alpha, b1, b2, eps):
    """β₁m/(1 - β₁ᵗ⁺¹) is computed in place, and is the moment of the next step."""
    m, v = averages(g, m, v, b1, b2)
    m = b1 * m / (1 - b1 ** (t + 1))
    step = m + (1 - b1) * g / (1 - b1**t)
    return -alpha * step / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v


@found("dotnet/TorchSharp#1154", "convention", of=SCHEDULED_NADAM, mended=scheduled_nadam)
def product_that_starts_at_zero(g, m, v, p, t, alpha, b1, b2, eps):
    """The product of all μ is never set to 1 at first: it stays 0, and nothing is corrected."""
    update, m, v, _ = scheduled_nadam(g, m, v, jnp.zeros_like(p), t, alpha, b1, b2, eps)
    return update, m, v, jnp.zeros_like(p)


@found("pytorch/pytorch#92699", "convention", of=SCHEDULED_NADAM, mended=scheduled_nadam)
def rate_of_this_step_twice_in_the_product(g, m, v, p, t, alpha, b1, b2, eps):
    """The product up to the next step has μₜ in it twice, for it was multiplied in already."""
    now, ahead = scheduled_rates(t, b1)
    m, v = averages(g, m, v, b1, b2)
    p = p * now
    step = ahead * m / (1 - p * now * ahead) + (1 - now) * g / (1 - p)
    return -alpha * step / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v, p


def radam_from_4(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> GradientTransformation:
    """Optax's RAdam with the threshold of the paper."""
    return optax.radam(learning_rate, b1, b2, eps, threshold=4.0)


RADAM = Family("radam", radam_from_4, MOMENTS, ADAM_NUMBERS)


def rectified(m_hat: Any, v_hat: Any, t: Any, b2: Any, eps: Any, threshold: float = 4.0) -> Any:
    """r m̂/(√v̂ + ε) where the variance is tractable, ρ ≥ 4, else m̂."""
    last = 2 / (1 - b2) - 1
    rho = last - 2 * t * b2**t / (1 - b2**t)
    ratio = (rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho)
    r = jnp.sqrt(jnp.where(rho >= threshold, ratio, 1.0))
    return jnp.where(rho >= threshold, r * m_hat / (jnp.sqrt(v_hat) + eps), m_hat)


def radam(g, m, v, t, alpha, b1, b2, eps):
    """Adam where it is tractable, momentum before."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * rectified(m_hat, v_hat, t, b2, eps), m, v


@found("lessw2020/Ranger-Deep-Learning-Optimizer#2", "value", of=RADAM, mended=radam)
def threshold_of_5(g, m, v, t, alpha, b1, b2, eps):
    """The threshold of tractability is 5 where the paper has 4: one more step of momentum at β₂ = 0.999."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * rectified(m_hat, v_hat, t, b2, eps, threshold=5.0), m, v


@found("frgfm/holocron#1", "convention", "kept in the state", of=RADAM, mended=radam)
def average_corrected_in_place(g, m, v, t, alpha, b1, b2, eps):
    """m̂ is computed in place of m, and corrected again in every step."""
    m, v = averages(g, m, v, b1, b2)
    m, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * rectified(m, v_hat, t, b2, eps), m, v


BETAS = {"weight": (0.9, 0.999), "bias": (0.5, 0.99)}


def radam_in_two_groups(learning_rate: Any) -> GradientTransformation:
    """Optax's RAdam with the betas of each group."""
    parts = {name: optax.radam(learning_rate, *betas, threshold=4.0) for name, betas in BETAS.items()}
    return optax.partition(parts, {name: name for name in BETAS})  # pyright: ignore[reportArgumentType]


def groups_of_radam(scalars_of: Any) -> Any:
    """A factory of RAdam in two groups: what is computed from t alone is that of the group this function gives."""

    def make(learning_rate: Any) -> GradientTransformation:
        def init(params: Any) -> Any:
            return {"t": jnp.zeros([], jnp.int32), **{n: (jnp.zeros_like(p),) * 2 for n, p in params.items()}}

        def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            rate = learning_rate(state["t"]) if callable(learning_rate) else learning_rate
            after = {"t": state["t"] + 1}
            updates = {}
            for name, g in gradients.items():
                t, alpha = jnp.asarray(after["t"], g.dtype), jnp.asarray(rate, g.dtype)
                (m, v), (b1, b2) = state[name], BETAS[name]
                after[name] = m, v = averages(g, m, v, b1, b2)
                b1, b2 = BETAS[scalars_of(name)]
                m_hat, v_hat = corrected(m, v, t, b1, b2)
                updates[name] = -alpha * rectified(m_hat, v_hat, t, b2, 1e-8)
            return updates, after

        return transformation(init, update)

    return make


@found(
    "LiyuanLucasLiu/RAdam#36",
    "partial",
    of=Whole("radam in two groups", radam_in_two_groups),
    mended=groups_of_radam(lambda name: name),
)
def buffer_shared_by_the_groups(learning_rate):
    """What depends on t is kept for the group that came first, and is used for those with other betas too."""
    return groups_of_radam(lambda name: "bias")(learning_rate)


def adabelief(g, m, v, t, alpha, b1, b2, eps):
    """-α m̂/(√((s + ε)/(1 - β₂ᵗ)) + ε), where ε is added for the step alone."""
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (g - m) ** 2
    m_hat, v_hat = corrected(m, v + eps, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


ADABELIEF = by_hand(Family("adabelief", None, MOMENTS, ADAM_NUMBERS), adabelief)


@found("juntang-zhuang/Adabelief-Optimizer#18", "convention", of=ADABELIEF, mended=adabelief)
def eps_accumulated_in_the_state(g, m, v, t, alpha, b1, b2, eps):
    """ε is added in place: after t steps the state holds nearly tε."""
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (g - m) ** 2 + eps
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v


def adabelief_of_the_paper(
    learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 1e-8
) -> GradientTransformation:
    """Optax's AdaBelief with the paper's ε in both places."""
    return optax.adabelief(learning_rate, b1, b2, eps, eps_root)


@found(
    "google-deepmind/optax#440",
    "value",
    of=Whole("adabelief", adabelief_of_the_paper),
    mended=adabelief_of_the_paper,
)
def eps_of_1e_16(learning_rate, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16):
    """The default of both ε is 1e-16, where the paper has 1e-8."""
    return optax.adabelief(learning_rate, b1, b2, eps, eps_root)


@found("kozistr/pytorch_optimizer#346", "convention", of=ADOPT, mended=adopt)
def divided_by_the_new_root(g, m, v, t, alpha, b1, b2, eps):
    """The gradient is divided by the root of the v that has it in it already."""
    v = jnp.where(t == 1, g**2, b2 * v + (1 - b2) * g**2)
    scaled = g / jnp.maximum(jnp.sqrt(v), eps)
    m = jnp.where(t == 1, m, b1 * m + (1 - b1) * scaled)
    return jnp.where(t == 1, 0.0, -alpha * m), m, v


@found("stockeh/mlx-optimizers#43", "convention", of=ADOPT, mended=adopt)
def v_of_the_parameters(g, m, v, t, alpha, b1, b2, eps, theta):
    """After the first step v is the average of θ² in place of g²."""
    update, m, _ = adopt(g, m, v, t, alpha, b1, b2, eps)
    return update, m, jnp.where(t == 1, g**2, b2 * v + (1 - b2) * theta**2)
