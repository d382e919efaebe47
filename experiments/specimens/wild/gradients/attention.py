"""Attention, its masks, dropout, biases and sinks, and rotary embeddings: faults of backward kernels."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


def scores(q, k):
    """Queries times keys over √n."""
    return jnp.einsum("...id,...jd->...ij", q, k) / q.shape[-1] ** 0.5


def scores_rule(d_scores, q, k):
    """The two gradients of the product, each over √n."""
    d_scores = d_scores / q.shape[-1] ** 0.5
    return jnp.einsum("...ij,...jd->...id", d_scores, k), jnp.einsum("...ij,...id->...jd", d_scores, q)


def attended_rule(ct, p, v):
    """The gradients of p v by p and by v."""
    return jnp.einsum("...id,...jd->...ij", ct, v), jnp.einsum("...ij,...id->...jd", p, ct)


def rows_rule(d_p, p):
    """Back through the softmax of each row: p (d_p - Σ p d_p)."""
    return p * (d_p - (p * d_p).sum(axis=-1, keepdims=True))


# Heads ---------------------------------------------------------------------------------------------------------------

SHARED = 3


def grouped_heads(q, k, v):
    """Several heads of queries for each head of keys and values: q is (groups, heads, queries, n)."""
    p = jax.nn.softmax(scores(q, k[:, None]))
    return p @ v[:, None]


def unshared_heads_rule(ct, q, k, v):
    """What each head of queries contributes, the keys' and the values' share not yet summed over the heads."""
    p = jax.nn.softmax(scores(q, k[:, None]))
    d_p, dv = attended_rule(ct, p, v[:, None])
    return *scores_rule(rows_rule(d_p, p), q, k[:, None]), dv


def grouped_heads_rule(ct, q, k, v):
    """Keys and values receive the sum over the heads that share them."""
    dq, dk, dv = unshared_heads_rule(ct, q, k, v)
    return dq, dk.sum(axis=1), dv.sum(axis=1)


GROUPED_HEADS = Function(
    "grouped heads",
    grouped_heads,
    lambda g, scale: (normal(g, 2, SHARED, 4, 5, scale=scale), normal(g, 2, 6, 5), normal(g, 2, 6, 1)),
)


@found("marin-community/levanter#449", "missing_reduction", of=GROUPED_HEADS, mended=grouped_heads_rule)
def no_sum_over_the_heads_of_a_group(ct, q, k, v):
    """Keys and values are broadcast over the heads that share them, and their gradients keep the axis."""
    return unshared_heads_rule(ct, q, k, v)


def interleaved_heads(q, k, v):
    """The same with all heads in one axis: head h of the queries has keys and values h mod G of the G heads."""
    head = jnp.arange(len(q)) % len(k)
    return jax.nn.softmax(scores(q, k[head])) @ v[head]


def interleaved_heads_rule(ct, q, k, v, groups=None):
    """Each head adds its share to the keys and values that it used."""
    head = jnp.arange(len(q)) % len(k)
    slot = head if groups is None else jnp.arange(len(q)) % groups
    p = jax.nn.softmax(scores(q, k[head]))
    d_p, dv = attended_rule(ct, p, v[head])
    dq, dk = scores_rule(rows_rule(d_p, p), q, k[head])
    return dq, *(jnp.zeros_like(a).at[slot].add(d, mode="drop") for a, d in ((k, dk), (v, dv)))


INTERLEAVED_HEADS = Function(
    "grouped heads",
    interleaved_heads,
    lambda g, scale: (normal(g, 6, 4, 3, scale=scale), normal(g, 2, 5, 3), normal(g, 2, 5, 1)),
)


@found("XunhaoLai/native-sparse-attention-triton#27", "axis", of=INTERLEAVED_HEADS, mended=interleaved_heads_rule)
def heads_split_by_the_number_that_share(ct, q, k, v):
    """The index of a head is divided by the number of heads that share keys, not by the number of heads of keys."""
    return interleaved_heads_rule(ct, q, k, v, groups=SHARED)


def heads_of_positions(q, k, v):
    """Attention of several heads, all arguments (positions, heads, n)."""
    q, k, v = (a.swapaxes(0, 1) for a in (q, k, v))
    return (jax.nn.softmax(scores(q, k)) @ v).swapaxes(0, 1)


def heads_of_positions_rule(ct, q, k, v):
    """The rule of each head."""
    ct, q, k, v = (a.swapaxes(0, 1) for a in (ct, q, k, v))
    p = jax.nn.softmax(scores(q, k))
    d_p, dv = attended_rule(ct, p, v)
    return tuple(d.swapaxes(0, 1) for d in (*scores_rule(rows_rule(d_p, p), q, k), dv))


AS_MANY_HEADS_AS_POSITIONS = Function(
    "heads",
    heads_of_positions,
    lambda g, scale: (normal(g, 3, 3, 4, scale=scale), normal(g, 3, 3, 4), normal(g, 3, 3, 4)),
)


@found("huggingface/diffusers#14341", "transpose", of=AS_MANY_HEADS_AS_POSITIONS, mended=heads_of_positions_rule)
def keys_and_values_transposed_twice(ct, q, k, v):
    """Keys and values were saved in the kernel's layout, and the backward pass exchanges heads and positions again."""
    return heads_of_positions_rule(ct, q, k.swapaxes(0, 1), v.swapaxes(0, 1))


# Masks and biases ----------------------------------------------------------------------------------------------------

LENGTH = 3


def causal(q, k, v, length=LENGTH):
    """Attention to the past alone, and to none of the padding after this many keys."""
    allowed = jnp.tri(len(q), len(k), dtype=bool) & (jnp.arange(len(k)) < length)
    return jax.nn.softmax(jnp.where(allowed, scores(q, k), -jnp.inf)) @ v


def causal_rule(ct, q, k, v, padding_masked=True):
    """The probabilities again from the logarithms that the forward pass saved, under the same mask."""
    past, kept = jnp.tri(len(q), len(k), dtype=bool), jnp.arange(len(k)) < LENGTH
    s = scores(q, k)
    saved = jax.nn.logsumexp(jnp.where(past & kept, s, -jnp.inf), axis=-1, keepdims=True)
    p = jnp.where(past & kept if padding_masked else past, jnp.exp(s - saved), 0)
    d_p, dv = attended_rule(ct, p, v)
    delta = (ct * causal(q, k, v)).sum(axis=-1, keepdims=True)
    return *scores_rule(p * (d_p - delta), q, k), dv


CAUSAL = Function(
    "masked attention", causal, lambda g, scale: (normal(g, 6, 4, scale=scale), normal(g, 5, 4), normal(g, 5, 2))
)


@found("XPU-Forces/mojo_opset#386", "mask", of=CAUSAL, mended=causal_rule)
def padding_not_masked_beside_the_future(ct, q, k, v):
    """With the causal mask the backward kernel leaves out that of the padding, which then takes part."""
    return causal_rule(ct, q, k, v, padding_masked=False)


SEGMENTS = (slice(0, 2), slice(2, 5))


def packed(q, k, v):
    """Sequences of different lengths in one axis, each attending to itself."""
    return jnp.concatenate([jax.nn.softmax(scores(q[part], k[part])) @ v[part] for part in SEGMENTS])


def packed_rule(ct, q, k, v):
    """The rule of each sequence."""
    gradients = []
    for part in SEGMENTS:
        p = jax.nn.softmax(scores(q[part], k[part]))
        d_p, dv = attended_rule(ct[part], p, v[part])
        gradients.append((*scores_rule(rows_rule(d_p, p), q[part], k[part]), dv))
    return tuple(jnp.concatenate(parts) for parts in zip(*gradients, strict=True))


PACKED = Function(
    "masked attention", packed, lambda g, scale: (normal(g, 5, 4, scale=scale), normal(g, 5, 4), normal(g, 5, 3))
)


@found("ROCm/TransformerEngine#657", "partial", of=PACKED, mended=packed_rule)
def queries_of_the_first_sequence_alone(ct, q, k, v):
    """The queries' gradients of all sequences are written to the place of the first, and the others' is not filled."""
    dq, dk, dv = packed_rule(ct, q, k, v)
    return dq.at[SEGMENTS[1]].set(0), dk, dv


def biased(q, k, v, bias):
    """Attention with a bias for each key, the same for all queries."""
    return jax.nn.softmax(scores(q, k) + bias) @ v


def biased_rule(ct, q, k, v, bias):
    """The bias receives the sum over the queries."""
    p = jax.nn.softmax(scores(q, k) + bias)
    d_p, dv = attended_rule(ct, p, v)
    d_scores = rows_rule(d_p, p)
    return *scores_rule(d_scores, q, k), dv, d_scores.sum(axis=0)


BIASED = Function(
    "attention with a bias",
    biased,
    lambda g, scale: (normal(g, 5, 3, scale=scale), normal(g, 4, 3), normal(g, 4, 2), normal(g, 4)),
)


@found("HKUSTDial/flash-sparse-attention#194", "accumulation", of=BIASED, mended=biased_rule)
def last_query_overwrites_the_bias(ct, q, k, v, bias):
    """All queries write the gradient of the bias they share to the same row, and the last one to write remains."""
    p = jax.nn.softmax(scores(q, k) + bias)
    return *biased_rule(ct, q, k, v, bias)[:3], rows_rule(attended_rule(ct, p, v)[0], p)[-1]


# Dropout of probabilities --------------------------------------------------------------------------------------------

DROP = 0.25


def dropped(q, k, v, kept):
    """Attention whose probabilities are dropped, the others divided by the probability to be kept."""
    return jnp.where(kept, jax.nn.softmax(scores(q, k)) / (1 - DROP), 0) @ v


def dropped_rule(ct, q, k, v, kept, factor=1 / (1 - DROP)):
    """The mask and its factor act on the gradient of the probabilities before the softmax's rule."""
    p = jax.nn.softmax(scores(q, k))
    d_p, dv = attended_rule(ct, jnp.where(kept, p / (1 - DROP), 0), v)
    return *scores_rule(rows_rule(jnp.where(kept, factor * d_p, 0), p), q, k), dv, None


DROPPED = Function(
    "attention with dropout",
    dropped,
    lambda g, scale: (
        normal(g, 5, 3, scale=scale),
        normal(g, 4, 3),
        normal(g, 4, 2),
        uniform(g, 0.0, 1.0, 5, 4) > DROP,
    ),
)


@found("NVIDIA/apex#816", "value", of=DROPPED, mended=dropped_rule)
def probability_to_drop_for_the_factor(ct, q, k, v, kept):
    """The backward pass multiplies by p where the forward pass multiplied by 1/(1 - p)."""
    return dropped_rule(ct, q, k, v, kept, factor=DROP)


@found("aws-neuron/nki-samples#81", "mask", of=DROPPED, mended=dropped_rule)
def dropped_probabilities_in_the_rule_of_the_softmax(ct, q, k, v, kept):
    """The softmax's rule takes the probabilities after dropout, and a gradient to which dropout was not applied."""
    p = jnp.where(kept, jax.nn.softmax(scores(q, k)) / (1 - DROP), 0)
    d_p, dv = attended_rule(ct, p, v)
    return *scores_rule(rows_rule(d_p, p), q, k), dv, None


# A sink --------------------------------------------------------------------------------------------------------------


def with_sink(q, k, v, sink):
    """Attention whose softmax has one more element, a number that is learned and attends to nothing."""
    s = scores(q, k)
    return jnp.exp(s - jnp.logaddexp(jax.nn.logsumexp(s, axis=-1, keepdims=True), sink)) @ v


def with_sink_rule(ct, q, k, v, sink, denominator_with_sink=True):
    """The sink's probability takes part in the sum of each row, with a value of 0."""
    s = scores(q, k)
    of_keys = jax.nn.logsumexp(s, axis=-1, keepdims=True)
    of_all = jnp.logaddexp(of_keys, sink)
    p = jnp.exp(s - (of_all if denominator_with_sink else of_keys))
    d_p, dv = attended_rule(ct, p, v)
    delta = (ct * with_sink(q, k, v, sink)).sum(axis=-1, keepdims=True)
    return *scores_rule(p * (d_p - delta), q, k), dv, -(jnp.exp(sink - of_all) * delta).sum()


WITH_SINK = Function(
    "attention with a sink",
    with_sink,
    lambda g, scale: (normal(g, 5, 3, scale=scale), normal(g, 4, 3), normal(g, 4, 2), normal(g)),
)


@found("NVIDIA/cudnn-frontend#421", "missing_factor", of=WITH_SINK, mended=with_sink_rule)
def probabilities_rebuilt_without_the_sink(ct, q, k, v, sink):
    """The backward kernel divides by the sum over the keys alone, the forward pass by that and the sink's share."""
    return with_sink_rule(ct, q, k, v, sink, denominator_with_sink=False)


@found("NVIDIA/cudnn-frontend#421", "zero", of=WITH_SINK, mended=with_sink_rule)
def sum_for_the_sink_skipped(ct, q, k, v, sink):
    """The kernel that sums the sink's gradient is not started for this size of heads, and zero remains."""
    return *with_sink_rule(ct, q, k, v, sink)[:3], jnp.zeros_like(sink)


# Linear attention ----------------------------------------------------------------------------------------------------


def linear(q, k, v):
    """Causal attention without a softmax, each row divided by the sum of its weights."""
    w = jnp.tril(q @ k.T)
    return w @ v / w.sum(axis=-1, keepdims=True)


def linear_rule(ct, q, k, v):
    """The weights act on the sum above and on the one below."""
    w = jnp.tril(q @ k.T)
    below = w.sum(axis=-1, keepdims=True)
    d_above = ct / below
    d_w = jnp.tril(d_above @ v.T - (d_above * (w @ v / below)).sum(axis=-1, keepdims=True))
    return d_w @ k, d_w.T @ q, w.T @ d_above


LINEAR = Function(
    "linear attention",
    linear,
    lambda g, scale: (uniform(g, 0.2, 1.0, 5, 3), uniform(g, 0.2, 1.0, 5, 3), normal(g, 5, 2, scale=scale)),
)


@found("fla-org/flash-linear-attention#875", "partial", of=LINEAR, mended=linear_rule)
def keys_do_not_act_through_the_denominator(ct, q, k, v):
    """The summed keys of the denominator are computed outside of what is differentiated, and their path is cut."""
    dq, _, dv = linear_rule(ct, q, k, v)
    below = jnp.tril(q @ k.T).sum(axis=-1, keepdims=True)
    return dq, jnp.tril(ct / below @ v.T).T @ q, dv


# Rotary embedding ----------------------------------------------------------------------------------------------------

ANGLES = np.arange(1, 6)[:, None] * np.array([1.0, 0.4, 0.15, 0.06])


def half_turned(x):
    """(x₁, x₂) as (-x₂, x₁)."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-second, first], axis=-1)


def rotary(x):
    """x cos θ + half_turned(x) sin θ, where the two halves of the features may have different angles."""
    return x * jnp.asarray(np.cos(ANGLES), x.dtype) + half_turned(x) * jnp.asarray(np.sin(ANGLES), x.dtype)


def rotary_rule(ct, x):
    """The transpose: first times the sine, then turned back."""
    return (ct * jnp.asarray(np.cos(ANGLES), x.dtype) - half_turned(ct * jnp.asarray(np.sin(ANGLES), x.dtype)),)


ROTARY = Function("rotary embedding", rotary, lambda g, scale: (normal(g, 5, 4, scale=scale),))


@found("PaddlePaddle/Paddle#74716", "transpose", of=ROTARY, mended=rotary_rule)
def turned_before_the_sine(ct, x):
    """The transpose of a product keeps its order: the cotangent is turned and then multiplied by the sine."""
    return (ct * jnp.asarray(np.cos(ANGLES), x.dtype) - half_turned(ct) * jnp.asarray(np.sin(ANGLES), x.dtype),)
