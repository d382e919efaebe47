# ruff: noqa: N803, N806 (matrices are capital letters)
"""Right rules of losses: targets on a simplex, masks and ignored rows, chunks, marginals, sums that cancel."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import labels, normal, uniform, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right

AREA = "loss"
OPTAX = "google-deepmind/optax optax/losses/_classification.py"


def probabilities(generator, rows, classes):
    """Rows of sixteenths, which sum to 1 without rounding."""
    counts = 1 + generator.multinomial(16 - classes, [1 / classes] * classes, rows)
    return jnp.asarray(counts / 16, jnp.float32)


# Cross-entropies -----------------------------------------------------------------------------------------------------

Z_LOSS = 0.05


def cross_entropy_and_z_loss(logits, targets):
    """-Σ t log softmax(z) + c log² Z of each row, with Z the sum of the exponentials."""
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return -(targets * (logits - log_z)).sum(axis=-1) + Z_LOSS * log_z[..., 0] ** 2


@right(
    of=Function(
        AREA, cross_entropy_and_z_loss, lambda g, scale: (normal(g, 5, 4, scale=scale), probabilities(g, 5, 4))
    ),
    source="google-research/t5x t5x/losses.py",
)
def cross_entropy_and_z_loss_for_targets_that_sum_to_1(ct, logits, targets):
    """(1 + 2c log Z) p - t stands for p Σt - t, which is the same on the simplex alone."""
    top = logits.max(axis=-1, keepdims=True)
    shifted = logits - top
    total = jnp.exp(shifted).sum(axis=-1, keepdims=True)
    log_z = jnp.log(total) + top
    slope = (1 + 2 * Z_LOSS * log_z) * jnp.exp(shifted) / total - targets
    return ct[:, None] * slope, -ct[:, None] * (shifted - jnp.log(total))


def weighted_log_softmax(z, w):
    """w log softmax(z), and 0 where w is 0."""
    return jnp.where(w != 0, w * jax.nn.log_softmax(z, axis=-1), 0)


@right(
    of=Function(
        AREA,
        weighted_log_softmax,
        lambda g, scale: (normal(g, 5, 4, scale=scale), probabilities(g, 5, 4).at[1:3, 2].set(0)),
        {"argnums": 0},
    ),
    source=OPTAX,
)
def weighted_log_softmax_where_weights_are_zero(ct, z, w):
    """An element without weight gives nothing, and takes no part of the sum."""
    given = ct * w
    return given - jax.nn.softmax(z) * given.sum(axis=-1, keepdims=True), None


def kl_divergence(log_p, targets):
    """Σ t (log t - log p) of each row, with 0 log 0 = 0."""
    log_t = jnp.log(jnp.where(targets == 0, 1, targets))
    return (targets * (log_t - log_p)).sum(axis=-1)


@right(
    of=Function(
        AREA,
        kl_divergence,
        lambda g, scale: (jnp.log(probabilities(g, 5, 3)), probabilities(g, 5, 3).at[:, 0].set(0)),
        {"argnums": 0},
    ),
    source=OPTAX,
)
def kl_divergence_from_targets_of_zero(ct, log_p, targets):
    """-t; by a target of 0 the slope is infinite, and not asked for."""
    return -ct[:, None] * targets, None


def kl_divergence_of_log_targets(log_p, log_t):
    """Σ t (log t - log p) of each row, from log t."""
    return (jnp.exp(log_t) * (log_t - log_p)).sum(axis=-1)


@right(
    of=Function(
        AREA,
        kl_divergence_of_log_targets,
        lambda g, scale: (jnp.log(probabilities(g, 5, 3)), jnp.log(probabilities(g, 5, 3))),
    ),
    source=OPTAX,
)
def kl_divergence_by_log_targets(ct, log_p, log_t):
    """A target comes out of its own exponential: t (log t - log p + 1)."""
    t = ct[:, None] * jnp.exp(log_t)
    return -t, t * (log_t - log_p + 1)


def focal_loss(logits, targets):
    """-(1 - p_t)² log p_t, in logarithms throughout."""
    log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    log_miss = jnp.where(targets == 1, log_q, log_p)
    return -jnp.exp(2 * log_miss) * jnp.where(targets == 1, log_p, log_q)


@right(of=Function(AREA, focal_loss, lambda g, scale: (normal(g, 5, 3, scale=scale), labels(g, 2, 5, 3))), source=OPTAX)
def focal_loss_by_a_signed_margin(ct, logits, targets):
    """With the margin u = ±z, p = σ(u), q = σ(-u): q² (2 p log p - q), and the sign of the label."""
    sign = (2 * targets - 1).astype(ct.dtype)
    u = sign * logits
    p, q = jax.nn.sigmoid(u), jax.nn.sigmoid(-u)
    return ct * sign * q**2 * (2 * p * jax.nn.log_sigmoid(u) - q), None


def polynomial_cross_entropy(logits, targets):
    """Cross-entropy and twice 1 - p of the target."""
    p_target = (targets * jax.nn.softmax(logits)).sum(axis=-1)
    return -(targets * jax.nn.log_softmax(logits)).sum(axis=-1) + 2 * (1 - p_target)


@right(
    of=Function(
        AREA,
        polynomial_cross_entropy,
        lambda g, scale: (normal(g, 5, 4, scale=scale), jax.nn.one_hot(labels(g, 4, 5), 4, dtype=jnp.float32)),
        {"argnums": (0,)},
    ),
    source=OPTAX,
)
def polynomial_cross_entropy_for_one_hot_targets(ct, logits, targets):
    """(1 + 2 p_t)(p - t), which holds for targets of 0 and 1 alone."""
    p = jax.nn.softmax(logits)
    p_target = (targets * p).sum(axis=-1, keepdims=True)
    return ct[:, None] * (1 + 2 * p_target) * (p - targets), None


def fenchel_young(scores, targets):
    """log Σ e^s - t·s of each row."""
    return jax.nn.logsumexp(scores, axis=-1) - (targets * scores).sum(axis=-1)


@right(
    of=Function(AREA, fenchel_young, lambda g, scale: (normal(g, 5, 4, scale=scale), normal(g, 5, 4))),
    source="google-deepmind/optax optax/losses/_fenchel_young.py",
)
def fenchel_young_by_the_regularized_prediction(ct, scores, targets):
    """The maximum's gradient is the point where it is reached."""
    return ct[:, None] * (jax.nn.softmax(scores) - targets), -ct[:, None] * scores


def on_the_simplex(z):
    """The Euclidean projection of each row onto the simplex."""
    u = jnp.sort(z, axis=-1)[..., ::-1]
    thresholds = (jnp.cumsum(u, axis=-1) - 1) / jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    count = (u > thresholds).sum(axis=-1, keepdims=True)
    return jnp.maximum(z - jnp.take_along_axis(thresholds, count - 1, axis=-1), 0)


@right(
    of=Function(AREA, on_the_simplex, lambda g, scale: (normal(g, 5, 4, scale=scale),)),
    source="google/jaxopt jaxopt/_src/projection.py",
)
def projection_on_the_simplex_by_its_support(ct, z):
    """On the support, the cotangent less its mean there; nothing outside."""
    support = (on_the_simplex(z) > 0).astype(ct.dtype)
    mean = (support * ct).sum(axis=-1, keepdims=True) / support.sum(axis=-1, keepdims=True)
    return (support * (ct - mean),)


def sparsemax_loss(z, y):
    """max over p on the simplex of p·(z - z_y) - |p|²/2 + 1/2, for each row."""
    p = on_the_simplex(z)
    margins = z - jnp.take_along_axis(z, y[:, None], axis=-1)
    return (p * margins).sum(axis=-1) + 0.5 * (1 - (p**2).sum(axis=-1))


@right(
    of=Function(AREA, sparsemax_loss, lambda g, scale: (normal(g, 5, 4, scale=scale), labels(g, 4, 5))), source=OPTAX
)
def sparsemax_loss_by_the_envelope(ct, z, y):
    """p - 1{k = y}: how p itself moves does not matter where it is the maximum."""
    return ct[:, None] * (on_the_simplex(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)), None


# Masks and ignored rows ----------------------------------------------------------------------------------------------


def ranking_loss(scores, relevance, mask):
    """The mean over lists of -Σ r log softmax(s), of the items in the mask and the lists that have any."""
    some = mask.any(axis=-1)
    shifted = jnp.where(mask, scores, jnp.where(some[:, None], -jnp.inf, 0))
    log_p = scores - jax.nn.logsumexp(shifted, axis=-1, keepdims=True)
    losses = -jnp.where(mask, relevance * log_p, 0).sum(axis=-1)
    return jnp.where(some, losses, 0).sum() / some.sum()


def lists(generator, scale):
    """Scores, relevance, and a mask with one item, no item, and all items in its first lists."""
    mask = jnp.asarray([[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1]], bool)
    return normal(generator, 5, 4, scale=scale), uniform(generator, 0.0, 2.0, 5, 4), mask


@right(of=Function(AREA, ranking_loss, lists), source="google-deepmind/optax optax/losses/_ranking.py")
def ranking_loss_with_an_empty_list(ct, scores, relevance, mask):
    """The softmax of the items in the mask; a list without any has zeros, and is not counted."""
    some = mask.any(axis=-1, keepdims=True)
    inside = jnp.where(mask, scores, -jnp.inf)
    top = jnp.where(some, inside.max(axis=-1, keepdims=True), 0)
    e, r = jnp.exp(inside - top), jnp.where(mask, relevance, 0)
    total = jnp.where(some, e.sum(axis=-1, keepdims=True), 1)
    each = ct / some.sum()
    by_scores = each * (e / total * r.sum(axis=-1, keepdims=True) - r)
    return by_scores, jnp.where(mask, -each * (scores - top - jnp.log(total)), 0), None


IGNORED, CHUNK, SMOOTHING = -100, 2, 0.1


def linear_cross_entropy(x, W, y):
    """The mean cross-entropy of logits x Wᵀ with smoothed labels, over the rows whose label is not ignored."""
    log_p = jax.nn.log_softmax(x @ W.T)
    kept = y != IGNORED
    picked = jnp.take_along_axis(log_p, jnp.where(kept, y, 0)[:, None], axis=-1)[:, 0]
    losses = -(1 - SMOOTHING) * picked - SMOOTHING * log_p.mean(axis=-1)
    return jnp.where(kept, losses, 0).sum() / kept.sum()


def some_ignored(generator, scale):
    """Six rows, the second and the fourth without a label."""
    y = labels(generator, 5, 6).at[jnp.asarray([1, 3])].set(IGNORED)
    return normal(generator, 6, 3), weights(generator, scale, 5, 3), y


@right(
    of=Function(AREA, linear_cross_entropy, some_ignored),
    source="linkedin/Liger-Kernel src/liger_kernel/ops/fused_linear_cross_entropy.py",
)
def linear_cross_entropy_in_chunks_of_rows(ct, x, W, y):
    """The gradients of one chunk of rows after the other, which never need all logits, times ct in the end."""
    n, dW, dx = W.shape[0], jnp.zeros_like(W), []
    for start in range(0, len(x), CHUNK):
        rows, ys = x[start : start + CHUNK], y[start : start + CHUNK]
        target = (1 - SMOOTHING) * jax.nn.one_hot(ys, n, dtype=x.dtype) + SMOOTHING / n
        delta = jnp.where((ys != IGNORED)[:, None], jax.nn.softmax(rows @ W.T) - target, 0)
        dx.append(delta @ W)
        dW = dW + delta.T @ rows
    share = ct / (y != IGNORED).sum()
    return share * jnp.concatenate(dx), share * dW, None


CAP = 3.0


def capped_cross_entropy(z, y):
    """Cross-entropy of each row, of logits that a hyperbolic tangent keeps below a cap."""
    return -jnp.take_along_axis(jax.nn.log_softmax(CAP * jnp.tanh(z / CAP)), y[:, None], axis=-1)[:, 0]


@right(
    of=Function(AREA, capped_cross_entropy, lambda g, scale: (normal(g, 5, 4, scale=scale), labels(g, 4, 5))),
    source="linkedin/Liger-Kernel src/liger_kernel/ops/fused_linear_cross_entropy.py",
)
def cross_entropy_of_capped_logits(ct, z, y):
    """The cap's derivative comes from the capped logits, 1 - (capped/cap)²."""
    capped = CAP * jnp.tanh(z / CAP)
    delta = jax.nn.softmax(capped) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
    return ct[:, None] * delta * (1 - (capped / CAP) ** 2), None


def losses_of_positions(logits, y):
    """-log softmax(z)_y at each position of each sequence."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], axis=-1)[..., 0]


@right(
    of=Function(AREA, losses_of_positions, lambda g, scale: (normal(g, 2, 3, 5, scale=scale), labels(g, 5, 2, 3))),
    source="karpathy/llm.c train_gpt2.c",
)
def cross_entropy_of_positions_by_a_scatter(ct, logits, y):
    """The probabilities, from which 1 is taken at the label in place, times each position's cotangent."""
    p = jax.nn.softmax(logits)
    first, second = jnp.indices(y.shape)
    return p.at[first, second, y].add(-1) * ct[..., None], None


# Invariance and cancellation -----------------------------------------------------------------------------------------


def shifted_log_softmax(z, shift):
    """log softmax of z - shift, with one shift for each row."""
    moved = z - shift
    return moved - jnp.log(jnp.exp(moved).sum(axis=-1, keepdims=True))


@right(
    of=Function(AREA, shifted_log_softmax, lambda g, scale: (normal(g, 5, 4, scale=scale), normal(g, 5, 1))),
    source="jax-ml/jax jax/_src/nn/functions.py",
)
def shift_of_a_log_softmax_without_gradient(ct, z, shift):
    """The softmax does not see the shift: exactly zero."""
    return ct - jax.nn.softmax(z) * ct.sum(axis=-1, keepdims=True), None


def binary_losses(z, y):
    """max(z, 0) + log(1 + e^-|z|) - z y."""
    return jnp.clip(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z))) - z * y


def logits_at_zero(generator, scale):
    """One example of four outputs, with two logits of exactly 0, and targets between 0 and 1."""
    z = normal(generator, 1, 4, scale=scale).at[:, ::2].set(0)
    return z, uniform(generator, 0.0, 1.0, 1, 4)


@right(of=Function(AREA, binary_losses, logits_at_zero), source="pyro-ppl/numpyro numpyro/distributions/util.py")
def binary_losses_where_two_kinks_cancel(ct, z, y):
    """At 0 the kinks of the maximum and of the absolute value make up a smooth function."""
    return ct * (jax.nn.sigmoid(z) - y), -ct * z


def logistic_regression(x, w, b, y):
    """The mean loss of z = x w + b."""
    return jnp.mean(binary_losses(x @ w + b, y))


def balanced(generator, scale):
    """As many labels of 1 as of 0, weights of 1e-4 and no bias, so that all z are about 0."""
    y = jnp.asarray([1, 0, 1, 0, 0, 1], jnp.float32)
    return normal(generator, 6, 4), 1e-4 * normal(generator, 4, scale=scale), jnp.zeros((), jnp.float32), y


@right(of=Function(AREA, logistic_regression, balanced), source="pyro-ppl/numpyro numpyro/distributions/util.py")
def bias_of_balanced_labels_that_cancels(ct, x, w, b, y):
    """The bias gradient is a sum of numbers of 1/2 and -1/2 that leaves almost nothing; targets are differentiated."""
    z = x @ w + b
    delta = ct * (jax.nn.sigmoid(z) * (1 - y) - jax.nn.sigmoid(-z) * y) / len(y)
    return jnp.outer(delta, w), x.T @ delta, delta.sum(), -ct * z / len(y)


def cosine_similarity(a, b):
    """The cosine of the angle between each row of a and the vector b."""
    return (a / jnp.linalg.norm(a, axis=-1, keepdims=True)) @ (b / jnp.linalg.norm(b))


@right(
    of=Function(AREA, cosine_similarity, lambda g, scale: (normal(g, 5, 4), weights(g, scale, 4))),
    source="google-deepmind/optax optax/losses/_regression.py",
)
def cosine_similarity_by_unit_vectors(ct, a, b):
    """The other unit vector without its part along this one, over this one's length."""
    na, nb = jnp.linalg.norm(a, axis=-1, keepdims=True), jnp.linalg.norm(b)
    ua, ub = a / na, b / nb
    cos = ua @ ub
    return ct[:, None] * (ub - cos[:, None] * ua) / na, ct @ (ua - cos[:, None] * ub) / nb


def log_cosh_loss(a, y):
    """log cosh(a - y), by the log-sum-exp of both signs."""
    error = a - y
    return jnp.logaddexp(error, -error) - jnp.log(jnp.full((), 2, error.dtype))


@right(
    of=Function(AREA, log_cosh_loss, lambda g, scale: (normal(g, 5, 3, scale=scale), normal(g, 3))),
    source="google-deepmind/optax optax/losses/_regression.py",
)
def log_cosh_loss_against_shared_targets(ct, a, y):
    """tanh of the error; one row of targets for all examples."""
    slope = ct * jnp.tanh(a - y)
    return slope, -slope.sum(axis=0)


# Distributions -------------------------------------------------------------------------------------------------------


def von_mises(x, kappa):
    """The log density of the von Mises distribution."""
    return kappa * (jnp.cos(x) - 1) - jnp.log(2 * jnp.pi * jax.scipy.special.i0e(kappa))


@right(
    of=Function(AREA, von_mises, lambda g, scale: (normal(g, 5, 4), uniform(g, 0.5, 30.0, 4))),
    source="jax-ml/jax jax/_src/scipy/stats/vonmises.py",
)
def von_mises_density_by_scaled_bessel_functions(ct, x, kappa):
    """I₁/I₀ from the scaled functions, which do not overflow."""
    ratio = jax.scipy.special.i1e(kappa) / jax.scipy.special.i0e(kappa)
    return -ct * kappa * jnp.sin(x), (ct * (jnp.cos(x) - ratio)).sum(axis=0)


EXTENDED, MAY_SKIP = (0, 1, 0, 2, 0), (False, False, False, True, False)


def logsumexp_of_paths(*paths):
    """The log-sum-exp of arrays where all of them may be -∞."""
    paths = jnp.stack(paths)
    top = jnp.maximum(paths.max(axis=0), jnp.finfo(paths.dtype).min)
    total = jnp.exp(paths - top).sum(axis=0)
    return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1)), -jnp.inf)


def forward_variables(scores):
    """log α of connectionist temporal classification, from the scores of blank, label, blank, label, blank."""
    never = jnp.full(2, -jnp.inf, scores.dtype)
    rows = [jnp.where(jnp.arange(5) < 2, scores[0], -jnp.inf)]
    for score in scores[1:]:
        behind = jnp.concatenate([never, rows[-1]])
        rows.append(
            score
            + logsumexp_of_paths(behind[2:], behind[1:-1], jnp.where(jnp.asarray(MAY_SKIP), behind[:-2], -jnp.inf))
        )
    return jnp.stack(rows)


def ctc_loss(log_probs):
    """-log of the probability of all alignments of the labels 1 and 2 to the steps."""
    return -jnp.logaddexp(*forward_variables(log_probs[:, jnp.asarray(EXTENDED)])[-1, -2:])


@right(
    of=Function(
        AREA,
        ctc_loss,
        lambda g, scale: (jax.nn.log_softmax(normal(g, 6, 3, scale=scale)),),
        # log α and log β are long sums, whose rounding the exponential makes relative: autodiff has no such sums.
        {"allow": ("precision",)},
    ),
    source="pytorch/pytorch tools/autograd/derivatives.yaml",
)
def alignment_loss_by_forward_and_backward_variables(ct, log_probs):
    """Minus the posterior of each symbol at each step; α is saved, and β is the α of the mirror image."""
    scores = log_probs[:, jnp.asarray(EXTENDED)]
    alpha, beta = forward_variables(scores), forward_variables(scores[::-1, ::-1])[::-1, ::-1]
    posterior = jnp.exp(alpha + beta - scores + ctc_loss(log_probs))
    return (-ct * posterior @ jax.nn.one_hot(jnp.asarray(EXTENDED), log_probs.shape[-1], dtype=ct.dtype),)
