# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Softmax and losses: faults of kernels, criteria and course solutions written by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import at_least_float32, labels, normal, softmax_rule, uniform, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

# Softmax -------------------------------------------------------------------------------------------------------------


def softmax(z):
    """The softmax of each row."""
    return jax.nn.softmax(z)


SOFTMAX = Function("softmax", softmax, lambda g, scale: (normal(g, 5, 4, scale=scale),))


@found("deeplearning4j/libnd4j#440", "partial", of=SOFTMAX, mended=softmax_rule)
def diagonal_of_the_jacobian_alone(ct, z):
    """Only p(1 - p), the derivative of a probability by its own logit, is implemented, and no other entry."""
    p = jax.nn.softmax(z)
    return (ct * p * (1 - p),)


@found("pjreddie/darknet#96", "activation", of=SOFTMAX, mended=softmax_rule)
def cotangent_copied_through_the_softmax(ct, z):
    """The layer hands the gradient of its output on as that of its input."""
    return (ct,)


def log_softmax(z):
    """The logarithms of each row's softmax."""
    return jax.nn.log_softmax(z)


def log_softmax_rule(ct, z):
    """ct - p Σ ct."""
    return (ct - jax.nn.softmax(z) * ct.sum(axis=-1, keepdims=True),)


LOG_SOFTMAX = Function("softmax", log_softmax, lambda g, scale: (normal(g, 5, 4, scale=scale),))


@found("mlpack/mlpack#2360", "nonlinear", of=LOG_SOFTMAX, mended=log_softmax_rule)
def cotangent_and_probability_added(ct, z):
    """The cotangent stands where Kronecker's delta belongs: it is added to the probability."""
    return (ct + jax.nn.softmax(z),)


def masked_logsumexp(z, kept):
    """log Σ exp(z) of each row over the elements that are kept, one of each row at least."""
    return jax.nn.logsumexp(jnp.where(kept, z, -jnp.inf), axis=-1)


def masked_logsumexp_rule(ct, z, kept):
    """The softmax over what is kept; elsewhere the exponential is not taken."""
    return ct[:, None] * jax.nn.softmax(jnp.where(kept, z, -jnp.inf)), None


def logits_with_huge_ones_left_out(generator, scale):
    """Elements of order 1 that are kept, and elements above 100 that are not."""
    kept = ~jax.nn.one_hot(labels(generator, 4, 5), 4, dtype=bool)
    z = normal(generator, 5, 4, scale=scale)
    return jnp.where(kept, z, uniform(generator, 120.0, 150.0, 5, 4)), kept


MASKED_LOGSUMEXP = Function("softmax", masked_logsumexp, logits_with_huge_ones_left_out)


@found("jax-ml/jax#23842", "non_finite", of=MASKED_LOGSUMEXP, mended=masked_logsumexp_rule)
def exponential_taken_before_the_mask(ct, z, kept):
    """The exponential of an element left out overflows, and 0 times infinity is not a number."""
    exponentials = jnp.exp(z - masked_logsumexp(z, kept)[:, None])
    return jnp.where(kept, ct[:, None], 0) * exponentials, None


# Cross-entropy of logits ---------------------------------------------------------------------------------------------

IGNORED = -1


def surplus(z, y):
    """The softmax minus one at the label, where 1 - p is the sum of the other probabilities, which does not cancel."""
    is_label = jax.nn.one_hot(y, z.shape[-1], dtype=bool)
    others = jnp.where(is_label, 0, jax.nn.softmax(z))
    return jnp.where(is_label, -others.sum(axis=-1, keepdims=True), others)


def cross_entropies(z, y):
    """-log softmax(z)_y of each row; 0 where the label is to be ignored."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(z), jnp.maximum(y, 0)[:, None], axis=-1)[:, 0]
    return jnp.where(y == IGNORED, 0, -picked)


def cross_entropies_rule(ct, z, y):
    """p - 1{k = y} for each row, 0 where the label is to be ignored."""
    return jnp.where((y == IGNORED)[:, None], 0, ct[:, None] * surplus(z, y)), None


def labels_some_ignored(generator, scale):
    """Logits and labels, of which the second and the fourth are to be ignored."""
    y = labels(generator, 4, 5).at[1::2].set(IGNORED)
    return normal(generator, 5, 4, scale=scale), y


CROSS_ENTROPIES = Function("cross-entropy", cross_entropies, labels_some_ignored)


@found("PaddlePaddle/Paddle#28622", "mask", of=CROSS_ENTROPIES, mended=cross_entropies_rule)
def ignored_rows_have_a_gradient(ct, z, y):
    """The loss leaves the ignored rows out; their gradient is that of rows without a label."""
    return ct[:, None] * (jax.nn.softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)), None


@found("microsoft/DirectML#740", "zero", of=CROSS_ENTROPIES, mended=cross_entropies_rule)
def no_gradient_without_a_reduction(ct, z, y):
    """For losses that are not reduced the backward pass runs, and answers zeros."""
    return jnp.zeros_like(z), None


def mean_cross_entropy(z, y):
    """The mean over the rows that are not ignored."""
    return cross_entropies(z, y).sum() / (y != IGNORED).sum()


def mean_cross_entropy_rule(ct, z, y):
    """The rows' rule for ct over the number of rows that count."""
    return cross_entropies_rule(jnp.broadcast_to(ct / (y != IGNORED).sum(), y.shape), z, y)


MEAN_CROSS_ENTROPY = Function("cross-entropy", mean_cross_entropy, labels_some_ignored)


@found("ROCm/TransformerEngine#409", "scale", of=MEAN_CROSS_ENTROPY, mended=mean_cross_entropy_rule)
def divided_by_all_rows(ct, z, y):
    """The gradient is divided by the number of all rows, those to be ignored among them."""
    return cross_entropies_rule(jnp.broadcast_to(ct / len(y), y.shape), z, y)


def linear_cross_entropies(x, W, y):
    """The cross-entropy of each row of x Wᵀ."""
    return cross_entropies(x @ W.T, y)


def linear_cross_entropies_rule(ct, x, W, y):
    """Each row has its own cotangent, which acts before the rows are summed."""
    d_logits, _ = cross_entropies_rule(ct, x @ W.T, y)
    return d_logits @ W, d_logits.T @ x, None


LINEAR_CROSS_ENTROPIES = Function(
    "cross-entropy",
    linear_cross_entropies,
    lambda g, scale: (normal(g, 5, 3), weights(g, scale, 4, 3), labels(g, 4, 5)),
)


@found("linkedin/Liger-Kernel#1298", "nonlinear", of=LINEAR_CROSS_ENTROPIES, mended=linear_cross_entropies_rule)
def weights_scaled_by_the_first_cotangent(ct, x, W, y):
    """The weight gradient was summed over the rows in the forward pass, and is multiplied by ct[0] afterwards."""
    dx, _, _ = linear_cross_entropies_rule(ct, x, W, y)
    return dx, ct[0] * linear_cross_entropies_rule(jnp.ones_like(ct), x, W, y)[1], None


@found(
    "marin-community/marin#2732",
    "dtype",
    of=LINEAR_CROSS_ENTROPIES.cast(jnp.bfloat16, "cross-entropy"),
    mended=linear_cross_entropies_rule,
)
def gradients_of_half_precision_in_single_precision(ct, x, W, y):
    """The kernel's gradients are float32 whatever the arguments are, and the next rule meets another dtype."""
    dx, dW, _ = linear_cross_entropies_rule(ct, x, W, y)
    return dx.astype(jnp.float32), dW.astype(jnp.float32), None


def confident_logits(generator, scale):
    """Logits that are larger by 11 to 17 at the label."""
    y = labels(generator, 4, 5)
    z = normal(generator, 5, 4, scale=min(scale, 1.0))
    return z + jax.nn.one_hot(y, 4, dtype=z.dtype) * uniform(generator, 11.0, 17.0, 5, 1), y


def wide_cross_entropies(z, y):
    """The same of logits in half precision, computed in single precision."""
    return cross_entropies(at_least_float32(z), y)


def wide_cross_entropies_rule(ct, z, y):
    """p - 1{k = y} in single precision, rounded once."""
    return cross_entropies_rule(ct, at_least_float32(z), y)[0].astype(z.dtype), None


CONFIDENT = Function("cross-entropy", wide_cross_entropies, confident_logits).cast(jnp.bfloat16, "cross-entropy")


@found("linkedin/Liger-Kernel#1341", "precision", of=CONFIDENT, mended=wide_cross_entropies_rule)
def probability_rounded_before_one_is_subtracted(ct, z, y):
    """The probability is stored in the logits' dtype before 1 is subtracted: where it rounds to 1, nothing remains."""
    p = jax.nn.softmax(at_least_float32(z)).astype(z.dtype)
    return (ct[:, None] * (p - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype))).astype(z.dtype), None


def soft_cross_entropies(z, targets):
    """-Σ t log softmax(z) of each row, for targets that need not add up to 1."""
    return -(targets * jax.nn.log_softmax(z)).sum(axis=-1)


def soft_cross_entropies_rule(ct, z, targets):
    """p Σ t - t for the logits and -log p for the targets."""
    d_z = jax.nn.softmax(z) * targets.sum(axis=-1, keepdims=True) - targets
    return ct[:, None] * d_z, -ct[:, None] * jax.nn.log_softmax(z)


SOFT_CROSS_ENTROPIES = Function(
    "cross-entropy", soft_cross_entropies, lambda g, scale: (normal(g, 5, 4, scale=scale), uniform(g, 0.0, 1.0, 5, 4))
)


@found("kvark/meganeura#102", "missing_factor", of=SOFT_CROSS_ENTROPIES, mended=soft_cross_entropies_rule)
def targets_taken_for_probabilities(ct, z, targets):
    """p - t is right for targets that add up to 1, and these are weights: the softmax misses their sum."""
    return ct[:, None] * (jax.nn.softmax(z) - targets), -ct[:, None] * jax.nn.log_softmax(z)


FOCUS = 2.0


def focal(z, y):
    """-(1 - p)^γ log p of each row's label, summed."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=-1)
    return -((1 - jnp.exp(log_p)) ** FOCUS * log_p).sum()


def focal_rule(ct, z, y):
    """p ∂/∂p of the loss, which is γ(1 - p)^(γ-1) p log p - (1 - p)^γ, times 1{k = y} - p_k."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=-1)
    p = jnp.exp(log_p)
    slope = FOCUS * (1 - p) ** (FOCUS - 1) * p * log_p - (1 - p) ** FOCUS
    return -ct * slope * surplus(z, y), None


FOCAL = Function("cross-entropy", focal, lambda g, scale: (normal(g, 5, 4, scale=scale), labels(g, 4, 5)))


@found("zimenglan-sysu-512/Focal-Loss#2", "sign", of=FOCAL, mended=focal_rule)
def sign_lost_in_one_of_two_terms(ct, z, y):
    """The term of the logarithm's derivative comes with the opposite sign, the term of the power's with its own."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=-1)
    p = jnp.exp(log_p)
    slope = FOCUS * (1 - p) ** (FOCUS - 1) * p * log_p + (1 - p) ** FOCUS
    return -ct * slope * surplus(z, y), None


# Connectionist temporal classification -------------------------------------------------------------------------------

TIMES, SYMBOLS, BLANK = 4, 3, 0


def collapsed(path):
    """A path without repetitions, then without blanks."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != BLANK)


PATHS = np.array([path for path in itertools.product(range(SYMBOLS), repeat=TIMES) if collapsed(path) == (1, 2)])


def path_scores(log_p):
    """The summed logarithms along each path that collapses to the target, (examples, paths)."""
    return log_p[:, np.arange(TIMES), PATHS].sum(axis=-1)


def occupancies(log_p):
    """How likely each symbol is at each time, given the target."""
    posterior = jax.nn.softmax(path_scores(log_p))
    return jnp.einsum("ep,pts->ets", posterior, jax.nn.one_hot(PATHS, SYMBOLS, dtype=log_p.dtype))


def ctc(log_p):
    """-log of the summed probability of all paths, for logarithms of probabilities, one number for each example."""
    return -jax.nn.logsumexp(path_scores(log_p), axis=-1)


def ctc_rule(ct, log_p):
    """Minus the occupancies."""
    return (-ct[:, None, None] * occupancies(log_p),)


def ctc_of_logits(z):
    """The same of logits."""
    return ctc(jax.nn.log_softmax(z))


def ctc_of_logits_rule(ct, z):
    """The softmax minus the occupancies."""
    return (ct[:, None, None] * (jax.nn.softmax(z) - occupancies(jax.nn.log_softmax(z))),)


CTC = Function("CTC", ctc, lambda g, scale: (jax.nn.log_softmax(normal(g, 2, TIMES, SYMBOLS, scale=scale)),))
CTC_OF_LOGITS = Function("CTC", ctc_of_logits, lambda g, scale: (normal(g, 2, TIMES, SYMBOLS, scale=scale),))


@found("pytorch/pytorch#52241", "extra_term", of=CTC, mended=ctc_rule)
def derivative_of_the_log_softmax_included(ct, log_p):
    """The gradient for the logarithms has the term exp(log p), which only the softmax before them would bring in."""
    return (ct[:, None, None] * (jnp.exp(log_p) - occupancies(log_p)),)


@found("pytorch/pytorch#11750", "nonlinear", of=CTC_OF_LOGITS, mended=ctc_of_logits_rule)
def cotangent_on_one_of_two_terms(ct, z):
    """The occupancies are multiplied by the cotangent, and the probabilities are not."""
    return (jax.nn.softmax(z) - ct[:, None, None] * occupancies(jax.nn.log_softmax(z)),)


# Losses of differences -----------------------------------------------------------------------------------------------


def mean_square(a, y):
    """The mean over the examples of the summed squares."""
    return ((a - y) ** 2).sum() / len(y)


def mean_square_rule(ct, a, y):
    """2(a - y)/m and its negative."""
    delta = 2 * ct * (a - y) / len(y)
    return delta, -delta


MEAN_SQUARE = Function("difference", mean_square, lambda g, scale: (normal(g, 5, 2, scale=scale), normal(g, 5, 2)))


@found("davisking/dlib#1169", "scale", of=MEAN_SQUARE, mended=mean_square_rule)
def two_left_out_of_the_gradient_alone(ct, a, y):
    """The loss is the square without a half, and its gradient is that of half the square."""
    delta = ct * (a - y) / len(y)
    return delta, -delta


KNEE = 0.8


def huber(a, y):
    """Huber's loss of each example, summed over the outputs."""
    r = a - y
    return jnp.where(jnp.abs(r) <= KNEE, 0.5 * r**2, KNEE * (jnp.abs(r) - 0.5 * KNEE)).sum(axis=-1)


def huber_rule(ct, a, y):
    """The difference, cut off at the knee."""
    delta = ct[:, None] * jnp.clip(a - y, -KNEE, KNEE)
    return delta, -delta


HUBER = Function("difference", huber, lambda g, scale: (normal(g, 5, 3, scale=scale), normal(g, 5, 3)))


@found("chainer/chainer#1178", "nonlinear", of=HUBER, mended=huber_rule)
def cotangent_of_the_loss_ignored(ct, a, y):
    """The gradient is that of the summed losses, whatever their cotangent is."""
    delta = jnp.clip(a - y, -KNEE, KNEE)
    return delta, -delta


MARGIN = 3.0


def contrastive(a, b, same):
    """½ mean of |a - b|² for equal pairs, and of max(margin - |a - b|², 0) for the others."""
    distance = ((a - b) ** 2).sum(axis=-1)
    return jnp.where(same == 1, distance, jnp.maximum(MARGIN - distance, 0)).sum() / (2 * len(a))


def contrastive_rule(ct, a, b, same):
    """±(a - b)/m, nothing where the others are far apart."""
    difference = a - b
    near = ((difference**2).sum(axis=-1) < MARGIN).astype(a.dtype)[:, None]
    delta = jnp.where(same[:, None] == 1, difference, -near * difference)
    return ct * delta / len(a), -ct * delta / len(a), None


CONTRASTIVE = Function(
    "difference",
    contrastive,
    lambda g, scale: (
        normal(g, 5, 3, scale=min(scale, 0.5)),
        normal(g, 5, 3, scale=0.5),
        jnp.asarray([0, 1, 0, 0, 1], jnp.int32),
    ),
)


@found("BVLC/caffe#7100", "missing_factor", of=CONTRASTIVE, mended=contrastive_rule)
def difference_missing_for_unequal_pairs(ct, a, b, same):
    """The kernel writes the coefficient alone where the processor's code multiplies it by the difference."""
    difference = a - b
    near = ((difference**2).sum(axis=-1) < MARGIN).astype(a.dtype)[:, None]
    delta = jnp.where(same[:, None] == 1, difference, -near * jnp.ones_like(difference))
    return ct * delta / len(a), -ct * delta / len(a), None


def ranking(first, second, order):
    """Σ max(0, margin - order (first - second)), where the order is 1 or -1."""
    return jnp.maximum(0, MARGIN - order * (first - second)).sum()


def ranking_rule(ct, first, second, order):
    """Where the loss is positive, ∓order for the two, and minus their difference for the order."""
    positive = order * (first - second) < MARGIN
    d_first = jnp.where(positive, -ct * order, 0)
    return d_first, -d_first, jnp.where(positive, -ct * (first - second), 0)


RANKING = Function(
    "difference",
    ranking,
    lambda g, scale: (normal(g, 5, scale=min(scale, 1.0)), normal(g, 5), jnp.asarray([1, -1, 1, 1, -1], jnp.float32)),
)


@found("mlpack/mlpack#3144", "missing_factor", of=RANKING, mended=ranking_rule)
def derivative_by_the_order_for_the_scores(ct, first, second, order):
    """Both scores receive the derivative by the order, the difference, where the order itself belongs."""
    positive = order * (first - second) < MARGIN
    d_order = jnp.where(positive, -ct * (first - second), 0)
    return d_order, -d_order, d_order


# A linear classifier of the course -----------------------------------------------------------------------------------

PENALTY = 0.3


def support_vectors(W, x, y):
    """The mean of Σ max(0, s_k - s_y + 1) over the examples, plus the penalty λ ΣW²."""
    scores = x @ W.T
    excess = scores - jnp.take_along_axis(scores, y[:, None], axis=-1) + 1
    violations = jnp.where(jax.nn.one_hot(y, len(W), dtype=bool), 0, jnp.maximum(excess, 0))
    return violations.sum() / len(y) + PENALTY * (W**2).sum()


def support_vectors_rule(ct, W, x, y, slope=2.0):
    """Each violation pushes its own class and pulls the label's; the penalty adds 2λW."""
    scores, is_label = x @ W.T, jax.nn.one_hot(y, len(W), dtype=bool)
    excess = scores - jnp.take_along_axis(scores, y[:, None], axis=-1) + 1
    violated = jnp.where(is_label, 0, excess > 0).astype(W.dtype)
    d_scores = ct * jnp.where(is_label, -violated.sum(axis=-1, keepdims=True), violated) / len(y)
    return d_scores.T @ x + slope * PENALTY * ct * W, d_scores @ W, None


SUPPORT_VECTORS = Function(
    "hinge", support_vectors, lambda g, scale: (weights(g, scale, 3, 4), normal(g, 5, 4), labels(g, 3, 5))
)


@found("jingtinghuang/CS231n-Spring-2017#3", "value", of=SUPPORT_VECTORS, mended=support_vectors_rule)
def two_missing_in_the_gradient_of_the_penalty(ct, W, x, y):
    """The penalty is λΣW², and its gradient is written as λW."""
    return support_vectors_rule(ct, W, x, y, slope=1.0)
