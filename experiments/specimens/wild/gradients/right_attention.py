# ruff: noqa: N803, N806 (matrices are capital letters)
"""Right rules of attention, recurrent layers and normalization that save statistics and go by blocks."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right

AREA = "attention"
LLM_C = "karpathy/llm.c train_gpt2.c"


# Attention -----------------------------------------------------------------------------------------------------------

BLOCK = 3


def masked_attention(q, k, v, mask):
    """softmax(Q Kᵀ / √n) V over the keys in the mask."""
    scores = jnp.where(mask, q @ k.T / q.shape[-1] ** 0.5, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1) @ v


def key_masked(generator, scale):
    """Five queries, six keys in two blocks, the first of which has one key in the mask and the last all but one."""
    mask = jnp.asarray([0, 0, 1, 1, 1, 0], bool)
    return normal(generator, 5, 4, scale=scale), normal(generator, 6, 4), normal(generator, 6, 3), mask


def online_softmax(q, k, v, mask):
    """Output and log-sum-exp of each row by an online softmax, one block of keys after the other."""
    out, total, top = jnp.zeros((len(q), v.shape[1]), q.dtype), jnp.zeros_like(q[:, :1]), jnp.full_like(q[:, :1], -1e30)
    for start in range(0, len(k), BLOCK):
        block = slice(start, start + BLOCK)
        scores = jnp.where(mask[block], q @ k[block].T / q.shape[-1] ** 0.5, -jnp.inf)
        new = jnp.maximum(top, scores.max(axis=-1, keepdims=True))
        p, shrink = jnp.exp(scores - new), jnp.exp(top - new)
        out, total, top = shrink * out + p @ v[block], shrink * total + p.sum(axis=-1, keepdims=True), new
    return out / total, jnp.log(total) + top


@right(
    of=Function(AREA, masked_attention, key_masked),
    source="lucidrains/flash-attention-jax flash_attention_jax/flash_attention.py",
)
def flash_attention_by_blocks(ct, q, k, v, mask):
    """The probabilities of each block come again from the log-sum-exp; Σ ct out stands for the softmax's sum."""
    out, log_sum_exp = online_softmax(q, k, v, mask)
    scale = 1 / q.shape[-1] ** 0.5
    delta = (ct * out).sum(axis=-1, keepdims=True)
    dq, dk, dv = jnp.zeros_like(q), [], []
    for start in range(0, len(k), BLOCK):
        block = slice(start, start + BLOCK)
        p = jnp.where(mask[block], jnp.exp(q @ k[block].T * scale - log_sum_exp), 0)
        ds = p * (ct @ v[block].T - delta) * scale
        dq = dq + ds @ k[block]
        dk.append(ds.T @ q)
        dv.append(p.T @ ct)
    return dq, jnp.concatenate(dk), jnp.concatenate(dv), None


HEADS = 2


def heads(x):
    """(steps, features) as (heads, steps, features of a head)."""
    return x.reshape(len(x), HEADS, -1).swapaxes(0, 1)


def causal_self_attention(packed):
    """Two heads of attention to what came before, with queries, keys and values side by side: (steps, 3 features)."""
    q, k, v = map(heads, jnp.split(packed, 3, axis=-1))
    scores = q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5
    past = jnp.tril(jnp.ones(scores.shape[1:], bool))
    out = jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=-1) @ v
    return out.swapaxes(0, 1).reshape(len(packed), -1)


@right(of=Function(AREA, causal_self_attention, lambda g, scale: (normal(g, 5, 12, scale=scale),)), source=LLM_C)
def causal_attention_with_packed_inputs(ct, packed):
    """Each softmax by its Jacobian p_i (1{i = j} - p_j), written out; the three parts go back into one array."""
    q, k, v = map(heads, jnp.split(packed, 3, axis=-1))
    scale = 1 / q.shape[-1] ** 0.5
    past = jnp.tril(jnp.ones((len(packed), len(packed)), bool))
    p = jax.nn.softmax(jnp.where(past, q @ k.swapaxes(1, 2) * scale, -jnp.inf), axis=-1)
    d_out = heads(ct)
    jacobian = p[..., :, None] * (jnp.eye(len(packed), dtype=p.dtype) - p[..., None, :])
    ds = jnp.einsum("htij,hti->htj", jacobian, d_out @ v.swapaxes(1, 2)) * scale
    parts = ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d_out
    return (jnp.concatenate([d.swapaxes(0, 1).reshape(len(packed), -1) for d in parts], axis=-1),)


def grouped_attention(q, k, v):
    """Attention of six heads of queries to two of keys and values: (heads, steps, features)."""
    k, v = jnp.repeat(k, 3, axis=0), jnp.repeat(v, 3, axis=0)
    return jax.nn.softmax(q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5, axis=-1) @ v


@right(
    of=Function(
        AREA,
        grouped_attention,
        lambda g, scale: (normal(g, 6, 3, 4, scale=scale), normal(g, 2, 5, 4), normal(g, 2, 5, 2)),
    ),
    source="jax-ml/jax jax/_src/nn/functions.py",
)
def grouped_heads_that_share_their_keys(ct, q, k, v):
    """The gradients of shared keys and values are sums over the heads of a group."""
    scale = 1 / q.shape[-1] ** 0.5
    groups = q.reshape(2, 3, *q.shape[1:])
    p = jax.nn.softmax(jnp.einsum("ghqn,gkn->ghqk", groups, k) * scale, axis=-1)
    ct = ct.reshape(2, 3, *ct.shape[1:])
    dp = jnp.einsum("ghqm,gkm->ghqk", ct, v)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) * scale
    dq = jnp.einsum("ghqk,gkn->ghqn", ds, k).reshape(q.shape)
    return dq, jnp.einsum("ghqk,ghqn->gkn", ds, groups), jnp.einsum("ghqk,ghqm->gkm", p, ct)


def causal_product(q, k, v):
    """Linear attention's q_t · Σ_(s ≤ t) k_s v_sᵀ."""
    return jnp.einsum("tn,tnm->tm", q, jnp.cumsum(k[:, :, None] * v[:, None, :], axis=0))


@right(
    of=Function(
        AREA, causal_product, lambda g, scale: (normal(g, 6, 4, scale=scale), normal(g, 6, 4), normal(g, 6, 3))
    ),
    source="idiap/fast-transformers fast_transformers/causal_product/__init__.py",
)
def causal_product_by_two_running_sums(ct, q, k, v):
    """The queries by the forward sum of k vᵀ, keys and values by the backward sum of q ctᵀ."""
    dq = jnp.einsum("tm,tnm->tn", ct, jnp.cumsum(k[:, :, None] * v[:, None, :], axis=0))
    ahead = jnp.cumsum((q[:, :, None] * ct[:, None, :])[::-1], axis=0)[::-1]
    return dq, jnp.einsum("tm,tnm->tn", v, ahead), jnp.einsum("tn,tnm->tm", k, ahead)


# State spaces --------------------------------------------------------------------------------------------------------


def states(u, delta, A, B):
    """x_t = e^(δ_t A) x_(t-1) + δ_t B_t u_t, for each channel: (steps, channels, states)."""
    decay = jnp.exp(delta[:, :, None] * A)
    drive = (delta * u)[:, :, None] * B[:, None, :]

    def step(x, given):
        x = given[0] * x + given[1]
        return x, x

    return jax.lax.scan(step, jnp.zeros_like(A), (decay, drive))[1], decay


def selective_scan(u, delta, A, B, C, D):
    """y_t = C_t x_t + D u_t."""
    return jnp.einsum("tdn,tn->td", states(u, delta, A, B)[0], C) + D * u


@right(
    of=Function(
        AREA,
        selective_scan,
        lambda g, scale: (
            normal(g, 6, 3, scale=scale),
            uniform(g, 0.1, 1.0, 6, 3),
            uniform(g, -2.0, -0.2, 3, 2),
            normal(g, 6, 2),
            normal(g, 6, 2),
            normal(g, 3),
        ),
    ),
    source="state-spaces/mamba mamba_ssm/ops/selective_scan_interface.py",
)
def selective_scan_by_a_reverse_scan(ct, u, delta, A, B, C, D):
    """The states' cotangents run backwards with the same decays; δ acts through the decay and the drive."""
    x, decay = states(u, delta, A, B)

    def step(carried, given):
        dx = carried + given[0]
        return given[1] * dx, dx

    _, dx = jax.lax.scan(step, jnp.zeros_like(A), (ct[:, :, None] * C[:, None, :], decay), reverse=True)
    by_exponent = dx * decay * jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    by_drive = jnp.einsum("tdn,tn->td", dx, B)
    d_delta = (by_exponent * A).sum(axis=-1) + by_drive * u
    dA, dB = jnp.einsum("tdn,td->dn", by_exponent, delta), jnp.einsum("tdn,td->tn", dx, delta * u)
    return ct * D + by_drive * delta, d_delta, dA, dB, jnp.einsum("td,tdn->tn", ct, x), (ct * u).sum(axis=0)


# Normalization from saved statistics ---------------------------------------------------------------------------------

EPS = 1e-5


def normalized(x, weight, bias):
    """(x - mean)/√(variance + ε) of each position, times weights and with a bias."""
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt((centered**2).mean(axis=-1, keepdims=True) + EPS) * weight + bias


@right(
    of=Function(
        AREA,
        normalized,
        lambda g, scale: (normal(g, 2, 3, 4, scale=max(scale, 1.0)), weights(g, scale, 4), normal(g, 4)),
    ),
    source=LLM_C,
)
def layer_norm_from_mean_and_reciprocal_deviation(ct, x, weight, bias):
    """Two means of each row, then everything times the reciprocal deviation that was saved."""
    mean = x.mean(axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + EPS)
    norm, d_norm = (x - mean) * rstd, ct * weight
    first, second = d_norm.mean(axis=-1, keepdims=True), (d_norm * norm).mean(axis=-1, keepdims=True)
    return (d_norm - first - norm * second) * rstd, (ct * norm).sum(axis=(0, 1)), ct.sum(axis=(0, 1))


@right(
    of=Function(AREA, normalized, lambda g, scale: (normal(g, 5, 1, scale=scale), normal(g, 1), normal(g, 1))),
    source="google/flax flax/linen/normalization.py",
)
def layer_norm_of_a_single_feature(ct, x, weight, bias):
    """A single feature is its own mean: only the bias has a gradient."""
    return None, jnp.zeros_like(weight), ct.sum(axis=0)


def rms_normalized(x, weight):
    """x/√(mean of squares + ε) times weights."""
    return x * jax.lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * weight


@right(
    of=Function(AREA, rms_normalized, lambda g, scale: (normal(g, 5, 4, scale=max(scale, 1.0)), weights(g, scale, 4))),
    source="jax-ml/jax jax/experimental/pallas/ops/gpu/rms_norm.py",
)
def rms_norm_from_the_reciprocal_that_was_saved(ct, x, weight):
    """(weight ct - x̂ mean(weight ct x̂)) times the reciprocal root."""
    rstd = jax.lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + EPS)
    x_hat, weighted = x * rstd, ct * weight
    return (weighted - x_hat * (weighted * x_hat).mean(axis=-1, keepdims=True)) * rstd, (ct * x_hat).sum(axis=0)


def masked_batch_norm(x, gain, mask):
    """Each feature by mean and variance of the rows in the mask; the other rows are normalized by them too."""
    count = mask.sum().astype(x.dtype)
    mean = jnp.where(mask[:, None], x, 0).sum(axis=0) / count
    variance = jnp.where(mask[:, None], (x - mean) ** 2, 0).sum(axis=0) / count
    return (x - mean) * jax.lax.rsqrt(variance + EPS) * gain


@right(
    of=Function(
        AREA,
        masked_batch_norm,
        lambda g, scale: (
            normal(g, 6, 3, scale=max(scale, 1.0)),
            weights(g, scale, 3),
            jnp.asarray([1, 1, 0, 1, 0, 1], bool),
        ),
    ),
    source="google/flax flax/linen/normalization.py",
)
def batch_norm_with_rows_outside_the_mask(ct, x, gain, mask):
    """All rows act on the statistics' cotangents, but only those in the mask take part of them."""
    inside = mask[:, None].astype(x.dtype)
    count = inside.sum()
    mean = (inside * x).sum(axis=0) / count
    rstd = jax.lax.rsqrt((inside * (x - mean) ** 2).sum(axis=0) / count + EPS)
    x_hat, g = (x - mean) * rstd, ct * gain
    shared = (g.sum(axis=0) + x_hat * (g * x_hat).sum(axis=0)) / count
    return (g - inside * shared) * rstd, (ct * x_hat).sum(axis=0), None


def standard_deviation(x):
    """The unbiased standard deviation of each row."""
    return jnp.std(x, axis=-1, ddof=1)


@right(
    of=Function(AREA, standard_deviation, lambda g, scale: (normal(g, 5, 4, scale=scale),)),
    source="HIPS/autograd autograd/numpy/numpy_vjps.py",
)
def standard_deviation_from_its_output(ct, x):
    """(x - mean)/((n - 1) out)."""
    return ((ct / standard_deviation(x))[:, None] * (x - x.mean(axis=-1, keepdims=True)) / (x.shape[-1] - 1),)


def softmax_over_two_axes(x, mask):
    """The softmax over rows and columns together, of the elements in the mask, and 0 elsewhere."""
    return jax.nn.softmax(x, axis=(-2, -1), where=mask)


@right(
    of=Function(
        AREA,
        softmax_over_two_axes,
        lambda g, scale: (
            normal(g, 2, 3, 4, scale=scale),
            jnp.asarray([[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool),
        ),
    ),
    source="jax-ml/jax jax/_src/nn/functions.py",
)
def softmax_from_its_output_where_a_mask_is(ct, x, mask):
    """out (ct - Σ out ct): the output is 0 outside the mask, and so is the gradient."""
    p = softmax_over_two_axes(x, mask)
    return p * (ct - (p * ct).sum(axis=(-2, -1), keepdims=True)), None
