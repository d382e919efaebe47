"""Normalization by mean, variance, mean square or norm: faults of kernels and layers written by hand."""

import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

EPS = 1e-2

# RMS norm ------------------------------------------------------------------------------------------------------------


def rms_norm(x, gain):
    """x / √(mean of x² over the features + ε), times the gain."""
    return x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * gain


def rms_norm_rule(ct, x, gain):
    """(g - h mean(g h)) / r for each row, with h = x / r and g = ct ⊙ gain."""
    r = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS)
    h, g = x / r, ct * gain
    return (g - h * (g * h).mean(axis=-1, keepdims=True)) / r, (ct * h).sum(axis=0)


RMS_NORM = Function("RMS norm", rms_norm, lambda g, scale: (normal(g, 5, 4, scale=scale), normal(g, 4)))


@found("karpathy/llm.c#763", "missing_factor", of=RMS_NORM, mended=rms_norm_rule)
def gain_forgotten_in_the_input_gradient(ct, x, gain):
    """The input's gradient is that of a norm without a gain: the cotangent is nowhere multiplied by it."""
    r = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS)
    h = x / r
    return (ct - h * (ct * h).mean(axis=-1, keepdims=True)) / r, (ct * h).sum(axis=0)


@found("NVIDIA/Megatron-LM#6859", "unknown", of=RMS_NORM, mended=rms_norm_rule)
def gain_applied_twice_in_the_term_of_the_mean_square(ct, x, gain):
    """The sum over g h holds the gain already, and its term is multiplied by the gain of each feature once more."""
    r = jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS)
    h, g = x / r, ct * gain
    return (g - gain * h * (g * h).mean(axis=-1, keepdims=True)) / r, (ct * h).sum(axis=0)


@found("unslothai/unsloth#4533", "zero", of=RMS_NORM, mended=rms_norm_rule)
def no_gradient_for_the_gain(ct, x, gain):
    """The backward pass answers nothing for the gain, which then stays as it is in a full fine-tuning."""
    return rms_norm_rule(ct, x, gain)[0], None


def pre_norm(x, residual, gain):
    """The normalized sum of a layer's output and the residual, and the sum itself, which goes on past the layer."""
    total = x + residual
    return rms_norm(total, gain), total


def pre_norm_rule(ct, x, residual, gain):
    """The sum receives its own cotangent and what comes back through the norm."""
    through_norm, d_gain = rms_norm_rule(ct[0], x + residual, gain)
    return through_norm + ct[1], through_norm + ct[1], d_gain


PRE_NORM = Function(
    "RMS norm",
    pre_norm,
    lambda g, scale: (normal(g, 5, 4, scale=scale), normal(g, 5, 4, scale=scale), normal(g, 4)),
)


@found("Dao-AILab/quack#53", "unknown", of=PRE_NORM, mended=pre_norm_rule)
def residual_cotangent_sent_through_the_norm(ct, x, residual, gain):
    """The cotangent of the sum is added before the norm's derivative, where it belongs after it."""
    through_norm, _ = rms_norm_rule(ct[0] + ct[1], x + residual, gain)
    return through_norm, through_norm, rms_norm_rule(ct[0], x + residual, gain)[1]


# Layer norm ----------------------------------------------------------------------------------------------------------


def standardized(x, axis):
    """(x - mean) / √(variance + ε) along these axes, and the root."""
    centered = x - x.mean(axis=axis, keepdims=True)
    deviation = jnp.sqrt((centered**2).mean(axis=axis, keepdims=True) + EPS)
    return centered / deviation, deviation


def standardized_rule(g, x, axis):
    """(g - mean(g) - x̂ mean(g x̂)) / deviation."""
    x_hat, deviation = standardized(x, axis)
    means = g.mean(axis=axis, keepdims=True) + x_hat * (g * x_hat).mean(axis=axis, keepdims=True)
    return (g - means) / deviation


def layer_norm(x, gain, shift):
    """Each row standardized over its features, times the gain, plus the shift."""
    return standardized(x, -1)[0] * gain + shift


def layer_norm_rule(ct, x, gain, shift):
    """The standardization's rule for ct ⊙ gain, and sums over all rows for the parameters."""
    rows = tuple(range(ct.ndim - 1))
    x_hat, _ = standardized(x, -1)
    return standardized_rule(ct * gain, x, -1), (ct * x_hat).sum(axis=rows), ct.sum(axis=rows)


LAYER_NORM = Function(
    "layer norm", layer_norm, lambda g, scale: (normal(g, 5, 6, scale=scale), normal(g, 6), normal(g, 6))
)
LAYER_NORM_OF_SEQUENCES = LAYER_NORM._replace(
    arguments=lambda g, scale: (normal(g, 2, 3, 4, scale=scale), normal(g, 4), normal(g, 4))
)


@found("tenstorrent/tt-metal#53204", "extra_term", of=LAYER_NORM, mended=layer_norm_rule)
def mean_subtracted_twice(ct, x, gain, shift):
    """A register that still holds the mean of g is accumulated into, so that the mean is subtracted twice."""
    dx, d_gain, d_shift = layer_norm_rule(ct, x, gain, shift)
    _, deviation = standardized(x, -1)
    return dx - (ct * gain).mean(axis=-1, keepdims=True) / deviation, d_gain, d_shift


@found("tenstorrent/tt-metal#53204", "accumulation", of=LAYER_NORM, mended=layer_norm_rule)
def sum_keeps_the_last_block_of_features_alone(ct, x, gain, shift):
    """The running sum of g x̂ is lost whenever a block of features begins: the last block's share is all of it."""
    x_hat, deviation = standardized(x, -1)
    g = ct * gain
    projection = (g * x_hat)[..., 3:].sum(axis=-1, keepdims=True) / x.shape[-1]
    dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * projection) / deviation
    return dx, (ct * x_hat).sum(axis=0), ct.sum(axis=0)


@found("deepspeedai/DeepSpeed#692", "axis", of=LAYER_NORM, mended=layer_norm_rule)
def parameters_of_another_index_invert_the_output(ct, x, gain, shift):
    """x̂ is recovered from the output by the gain and the shift at the index of the row, not at that of the feature."""
    output = layer_norm(x, gain, shift)
    index = jnp.arange(len(x)) % x.shape[-1]
    x_hat = (output - shift[index][:, None]) / gain[index][:, None]
    dx, _, d_shift = layer_norm_rule(ct, x, gain, shift)
    return dx, (ct * x_hat).sum(axis=0), d_shift


@found("Oneflow-Inc/oneflow#6149", "structure", of=LAYER_NORM, mended=layer_norm_rule)
def gradients_of_gain_and_shift_exchanged(ct, x, gain, shift):
    """The gain receives the gradient of the shift, and the shift that of the gain."""
    dx, d_gain, d_shift = layer_norm_rule(ct, x, gain, shift)
    return dx, d_shift, d_gain


@found("flagos-ai/FlagGems#5392", "axis", of=LAYER_NORM_OF_SEQUENCES, mended=layer_norm_rule)
def all_axes_but_the_first_taken_for_features(ct, x, gain, shift):
    """The backward pass takes the input for a matrix and the means over positions and features, not features alone."""
    _, d_gain, d_shift = layer_norm_rule(ct, x, gain, shift)
    x_hat, deviation = standardized(x, -1)
    g = ct * gain
    means = g.mean(axis=(1, 2), keepdims=True) + x_hat * (g * x_hat).mean(axis=(1, 2), keepdims=True)
    return (g - means) / deviation, d_gain, d_shift


def plane_norm(x, gain, shift):
    """Layer norm over two axes, with a gain and a shift for every element of the plane."""
    return standardized(x, (-2, -1))[0] * gain + shift


def plane_norm_rule(ct, x, gain, shift):
    """The parameters' gradients are sums over the examples alone."""
    x_hat, _ = standardized(x, (-2, -1))
    return standardized_rule(ct * gain, x, (-2, -1)), (ct * x_hat).sum(axis=0), ct.sum(axis=0)


PLANE_NORM = Function(
    "layer norm", plane_norm, lambda g, scale: (normal(g, 5, 2, 3, scale=scale), normal(g, 2, 3), normal(g, 2, 3))
)


@found("pytorch/pytorch#192016", "shape", of=PLANE_NORM, mended=plane_norm_rule)
def parameter_gradients_of_the_last_axis_alone(ct, x, gain, shift):
    """The buffers of the partial sums are as long as the last normalized axis, and so are the gradients."""
    dx, d_gain, d_shift = plane_norm_rule(ct, x, gain, shift)
    return dx, d_gain.sum(axis=0), d_shift.sum(axis=0)


# Batch norm ----------------------------------------------------------------------------------------------------------


def batch_norm(x, gain, shift):
    """Each feature standardized over the batch, times the gain, plus the shift."""
    return standardized(x, 0)[0] * gain + shift


def batch_norm_rule(ct, x, gain, shift):
    """The standardization's rule for ct ⊙ gain; sums over the batch for the parameters."""
    x_hat, _ = standardized(x, 0)
    return standardized_rule(ct * gain, x, 0), (ct * x_hat).sum(axis=0), ct.sum(axis=0)


BATCH_NORM = Function(
    "batch norm", batch_norm, lambda g, scale: (normal(g, 5, 3, scale=scale), normal(g, 3), normal(g, 3))
)


@found("denizyuret/Knet.jl#288", "missing_factor", of=BATCH_NORM, mended=batch_norm_rule)
def scaled_cotangent_computed_and_not_used(ct, x, gain, shift):
    """The product of cotangent and gain is formed, but the input's gradient goes on with the bare cotangent."""
    _, d_gain, d_shift = batch_norm_rule(ct, x, gain, shift)
    return standardized_rule(ct, x, 0), d_gain, d_shift


@found("ROCm/MIOpen#104", "missing_factor", of=BATCH_NORM, mended=batch_norm_rule)
def gain_missing_in_one_of_three_terms(ct, x, gain, shift):
    """The direct term is N times the cotangent without the gain, while both means have it."""
    x_hat, deviation = standardized(x, 0)
    g = ct * gain
    dx = (ct - g.mean(axis=0) - x_hat * (g * x_hat).mean(axis=0)) / deviation
    return dx, (ct * x_hat).sum(axis=0), ct.sum(axis=0)


@found("flagos-ai/FlagGems#5222", "value", of=BATCH_NORM, mended=batch_norm_rule)
def saved_inverse_deviation_taken_for_a_variance(ct, x, gain, shift):
    """What the forward pass saved is 1/deviation already, and the backward pass takes 1/√(· + ε) of it again."""
    _, deviation = standardized(x, 0)
    inverse = 1 / jnp.sqrt(1 / deviation + EPS)
    x_hat, g = (x - x.mean(axis=0)) * inverse, ct * gain
    dx = (g - g.mean(axis=0) - x_hat * (g * x_hat).mean(axis=0)) * inverse
    return dx, (ct * x_hat).sum(axis=0), ct.sum(axis=0)


# Group norm ----------------------------------------------------------------------------------------------------------

GROUPS = 2


def grouped(x):
    """(examples, channels, length) as (examples, groups, channels of a group, length)."""
    return x.reshape(x.shape[0], GROUPS, x.shape[1] // GROUPS, x.shape[2])


def group_norm(x, gain, shift):
    """Each group of channels standardized for itself, then a gain and a shift for each channel."""
    x_hat = standardized(grouped(x), (2, 3))[0].reshape(x.shape)
    return x_hat * gain[:, None] + shift[:, None]


def group_norm_rule(ct, x, gain, shift):
    """The standardization's rule in each group; sums over examples and positions for the channels."""
    x_hat = standardized(grouped(x), (2, 3))[0].reshape(x.shape)
    dx = standardized_rule(grouped(ct * gain[:, None]), grouped(x), (2, 3)).reshape(x.shape)
    return dx, (ct * x_hat).sum(axis=(0, 2)), ct.sum(axis=(0, 2))


GROUP_NORM = Function(
    "group norm", group_norm, lambda g, scale: (normal(g, 3, 4, 5, scale=scale), normal(g, 4), normal(g, 4))
)


@found("tenstorrent/tt-metal#56202", "axis", of=GROUP_NORM, mended=group_norm_rule)
def group_of_a_channel_by_the_remainder(ct, x, gain, shift):
    """The gain's gradient takes mean and deviation of group c mod G, where channel c belongs to group c/(C/G)."""
    dx, _, d_shift = group_norm_rule(ct, x, gain, shift)
    _, deviation = standardized(grouped(x), (2, 3))
    group = jnp.arange(x.shape[1]) % GROUPS
    mean = grouped(x).mean(axis=(2, 3))[:, group, None]
    x_hat = (x - mean) / deviation[:, group, 0]
    return dx, (ct * x_hat).sum(axis=(0, 2)), d_shift


@found("pytorch/pytorch#178872", "missing_reduction", of=GROUP_NORM, mended=group_norm_rule)
def neighbouring_channels_summed_together(ct, x, gain, shift):
    """The reduction is twice as wide as a channel, and two neighbours both receive the sum of the two."""
    dx, d_gain, d_shift = group_norm_rule(ct, x, gain, shift)

    def paired(sums):
        return jnp.repeat(sums.reshape(-1, 2).sum(axis=1), 2)

    return dx, paired(d_gain), paired(d_shift)


# Rows divided by their norm ------------------------------------------------------------------------------------------


def unit_rows(x):
    """Each row divided by its norm plus ε."""
    return x / (jnp.sqrt((x**2).sum(axis=-1, keepdims=True)) + EPS)


def unit_rows_rule(ct, x):
    """(ct - x Σ ct x / (n(n + ε)))/(n + ε), with the norm n."""
    norm = jnp.sqrt((x**2).sum(axis=-1, keepdims=True))
    return ((ct - x * (ct * x).sum(axis=-1, keepdims=True) / (norm * (norm + EPS))) / (norm + EPS),)


UNIT_ROWS = Function("norm of rows", unit_rows, lambda g, scale: (normal(g, 5, 4, scale=scale),))


@found("chainer/chainer#4190", "value", of=UNIT_ROWS, mended=unit_rows_rule)
def epsilon_added_to_a_norm_without_it(ct, x):
    """The derivative of the norm divides by the norm plus ε, where it is x over the norm itself."""
    norm = jnp.sqrt((x**2).sum(axis=-1, keepdims=True)) + EPS
    return ((ct - x * (ct * x).sum(axis=-1, keepdims=True) / norm**2) / norm,)


def absolute_norm(x):
    """Each row divided by the sum of its absolute values."""
    return x / jnp.abs(x).sum(axis=-1, keepdims=True)


def absolute_norm_rule(ct, x):
    """(ct - sign(x) Σ ct y) / Σ|x|."""
    total = jnp.abs(x).sum(axis=-1, keepdims=True)
    return ((ct - jnp.sign(x) * (ct * x / total).sum(axis=-1, keepdims=True)) / total,)


ABSOLUTE_NORM = Function("norm of rows", absolute_norm, lambda g, scale: (weights(g, scale, 5, 4),))


@found("happynear/caffe-windows#205", "activation", of=ABSOLUTE_NORM, mended=absolute_norm_rule)
def square_where_the_sign_belongs(ct, x):
    """The derivative of |x| is written as x², which the branch for the other norm had at hand."""
    total = jnp.abs(x).sum(axis=-1, keepdims=True)
    return ((ct - x**2 * (ct * x / total).sum(axis=-1, keepdims=True)) / total,)
