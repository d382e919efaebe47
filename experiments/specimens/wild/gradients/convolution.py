"""Convolutions in one dimension, with stride, dilation and groups, and their transposes."""

import jax.numpy as jnp
import numpy as np

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

STRIDE, DILATION = 3, 2
UPSAMPLING = 2
GROUPS = 2


def taps(steps, size, stride, dilation):
    """The positions that each step of a kernel reads: stride t + dilation k for step t and tap k."""
    return stride * np.arange(steps)[:, None] + dilation * np.arange(size)[None, :]


def steps_within(length, size, stride, dilation):
    """How many steps of a kernel fit into the length."""
    return (length - dilation * (size - 1) - 1) // stride + 1


# Convolution with stride and dilation --------------------------------------------------------------------------------


def convolution(x, w, b):
    """z[n, o, t] = b[o] + Σ w[o, c, k] x[n, c, 3t + 2k]."""
    read = taps(steps_within(x.shape[-1], w.shape[-1], STRIDE, DILATION), w.shape[-1], STRIDE, DILATION)
    return jnp.einsum("nctk,ock->not", x[:, :, read], w) + b[:, None]


def convolution_rule(ct, x, w, b):
    """The cotangent spread through the kernel, the cotangent correlated with the input, and the cotangent's sum."""
    read = taps(ct.shape[-1], w.shape[-1], STRIDE, DILATION)
    dx = jnp.zeros_like(x).at[:, :, read].add(jnp.einsum("not,ock->nctk", ct, w))
    return dx, jnp.einsum("not,nctk->ock", ct, x[:, :, read]), ct.sum(axis=(0, 2))


CONVOLUTION = Function(
    "convolution", convolution, lambda g, scale: (normal(g, 2, 3, 12), weights(g, scale, 4, 3, 3), normal(g, 4))
)


@found("iree-org/iree-turbine#1223", "value", of=CONVOLUTION, mended=convolution_rule)
def weight_gradient_with_stride_and_dilation_exchanged(ct, x, w, b):
    """The weight gradient is a convolution whose stride is the dilation and whose dilation is the stride, but its own
    numbers are handed over in the forward order.
    """
    dx, _, db = convolution_rule(ct, x, w, b)
    read = taps(ct.shape[-1], w.shape[-1], DILATION, STRIDE)
    return dx, jnp.einsum("not,nctk->ock", ct, x[:, :, read]), db


@found("sebgao/cTensor#3", "scale", of=CONVOLUTION, mended=convolution_rule)
def weight_gradient_averaged_over_batch_and_positions(ct, x, w, b):
    """The weight gradient is divided by the number of examples and positions although the output is not."""
    dx, dw, db = convolution_rule(ct, x, w, b)
    return dx, dw / (ct.shape[0] * ct.shape[2]), db


@found("Kulbear/deep-learning-coursera#34", "value", of=CONVOLUTION, mended=convolution_rule)
def backward_windows_without_the_stride(ct, x, w, b):
    """The windows of the backward pass start at t where those of the forward pass start at the stride times t."""
    read = taps(ct.shape[-1], w.shape[-1], 1, DILATION)
    dx = jnp.zeros_like(x).at[:, :, read].add(jnp.einsum("not,ock->nctk", ct, w))
    return dx, jnp.einsum("not,nctk->ock", ct, x[:, :, read]), ct.sum(axis=(0, 2))


# Transposed convolution ----------------------------------------------------------------------------------------------


def transposed_convolution(x, w):
    """z[n, o, 2t + k] = Σ w[c, o, k] x[n, c, t], the transpose of a convolution with stride 2."""
    written = taps(x.shape[-1], w.shape[-1], UPSAMPLING, 1)
    z = jnp.zeros((x.shape[0], w.shape[1], int(written[-1, -1]) + 1), x.dtype)
    return z.at[:, :, written].add(jnp.einsum("nct,cok->notk", x, w))


def transposed_convolution_rule(ct, x, w):
    """The input's cotangent is a convolution of stride 2 with the same kernel."""
    written = taps(x.shape[-1], w.shape[-1], UPSAMPLING, 1)
    return jnp.einsum("notk,cok->nct", ct[:, :, written], w), jnp.einsum("notk,nct->cok", ct[:, :, written], x)


def transposed_arguments(size):
    """Two examples of three channels and four positions, and a kernel of this size for two channels."""
    return lambda g, scale: (normal(g, 2, 3, 4), weights(g, scale, 3, 2, size))


TRANSPOSED_CONVOLUTION = Function("convolution", transposed_convolution, transposed_arguments(3))
TRANSPOSED_POINTWISE = Function("convolution", transposed_convolution, transposed_arguments(1))


@found("huggingface/candle#2337", "shape", of=TRANSPOSED_CONVOLUTION, mended=transposed_convolution_rule)
def transposed_input_gradient_with_stride_and_dilation_exchanged(ct, x, w):
    """The convolution that gives the input's cotangent takes the stride for the dilation, and with stride 2 the result
    has another length than the input.
    """
    size = w.shape[-1]
    read = taps(steps_within(ct.shape[-1], size, 1, UPSAMPLING), size, 1, UPSAMPLING)
    return jnp.einsum("notk,cok->nct", ct[:, :, read], w), transposed_convolution_rule(ct, x, w)[1]


@found("pytorch/pytorch#63314", "value", of=TRANSPOSED_POINTWISE, mended=transposed_convolution_rule)
def transposed_pointwise_reads_neighbouring_cotangents(ct, x, w):
    """For a kernel of one tap the cotangents are read one after another, where they lie the stride apart."""
    read = ct[:, :, : x.shape[-1]]
    return jnp.einsum("not,cok->nct", read, w), jnp.einsum("not,nct->co", read, x)[:, :, None]


# Grouped convolution -------------------------------------------------------------------------------------------------


def grouped_convolution(x, w):
    """The channels in two groups, each convolved with stride 2 by kernels of its own."""
    groups = x.reshape(x.shape[0], GROUPS, -1, x.shape[-1])
    kernels = w.reshape(GROUPS, -1, *w.shape[1:])
    read = taps(steps_within(x.shape[-1], w.shape[-1], 2, 1), w.shape[-1], 2, 1)
    z = jnp.einsum("ngctk,gock->ngot", groups[..., read], kernels)
    return z.reshape(x.shape[0], w.shape[0], -1)


def grouped_back(ct, x, kernels, w):
    """Both cotangents, the input's through these kernels, which are (group, output, input, tap)."""
    groups = x.reshape(x.shape[0], GROUPS, -1, x.shape[-1])
    d_groups = ct.reshape(ct.shape[0], GROUPS, -1, ct.shape[-1])
    read = taps(ct.shape[-1], w.shape[-1], 2, 1)
    dx = jnp.zeros_like(groups).at[..., read].add(jnp.einsum("ngot,gock->ngctk", d_groups, kernels))
    return dx.reshape(x.shape), jnp.einsum("ngot,ngctk->gock", d_groups, groups[..., read]).reshape(w.shape)


def grouped_convolution_rule(ct, x, w):
    """The convolution's rule for each group."""
    return grouped_back(ct, x, w.reshape(GROUPS, -1, *w.shape[1:]), w)


GROUPED_CONVOLUTION = Function(
    "convolution", grouped_convolution, lambda g, scale: (normal(g, 3, 4, 9), weights(g, scale, 6, 2, 3))
)


@found("ml-explore/mlx#3800", "axis", of=GROUPED_CONVOLUTION, mended=grouped_convolution_rule)
def grouped_input_gradient_by_a_kernel_without_groups(ct, x, w):
    """With stride the input's cotangent is computed by code that knows no groups, and all of them go through the
    kernels of the first.
    """
    kernels = w.reshape(GROUPS, -1, *w.shape[1:])
    return grouped_back(ct, x, jnp.broadcast_to(kernels[:1], kernels.shape), w)
