"""Activations and dropout: faults of derivatives written by hand."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, preactivations, uniform, with_zeros
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

# Rectifiers ----------------------------------------------------------------------------------------------------------

SLOPE = 0.3


def leaky(z):
    """z, times a slope where it is negative."""
    return jnp.where(z > 0, z, SLOPE * z)


def leaky_rule(ct, z):
    """1 or the slope."""
    return (jnp.where(z > 0, ct, SLOPE * ct),)


LEAKY = Function("leaky rectifier", leaky, preactivations)


@found("deeplearning4j/deeplearning4j#8178", "value", of=LEAKY, mended=leaky_rule)
def slope_of_the_forward_pass_not_used(ct, z):
    """The backward operation does not take the slope as a parameter, and has one of its own."""
    return (jnp.where(z > 0, ct, 0.01 * ct),)


def rectified(z):
    """A leaky rectifier whose slope is 0."""
    return jnp.where(z > 0, z, 0 * z)


def rectified_rule(ct, z):
    """1 or 0."""
    return (jnp.where(z > 0, ct, 0),)


WITHOUT_SLOPE = Function("leaky rectifier", rectified, preactivations)


@found("chainer/chainer#5898", "activation", of=WITHOUT_SLOPE, mended=rectified_rule)
def sign_read_off_an_output_that_has_none(ct, z):
    """The output tells where the input was negative, but with a slope of 0 it is 0 there, and all gradients pass."""
    return (jnp.where(rectified(z) >= 0, ct, 0),)


def parametric(z, slopes):
    """A leaky rectifier with a slope to be learned for each channel; z is (examples, channels, positions)."""
    return jnp.where(z > 0, z, slopes[:, None] * z)


def parametric_rule(ct, z, slopes):
    """1 or the slope for z; the sum of z where it is negative for the slope of a channel."""
    d_slopes = jnp.where(z > 0, 0, ct * z).sum(axis=(0, 2))
    return jnp.where(z > 0, ct, slopes[:, None] * ct), d_slopes


PARAMETRIC = Function(
    "parametric rectifier",
    parametric,
    lambda g, scale: (normal(g, 2, 3, 4, scale=scale), jnp.asarray([0.4, -0.6, 0.3], jnp.float32)),
)
SQUARE_PARAMETRIC = PARAMETRIC._replace(
    arguments=lambda g, scale: (normal(g, 2, 3, 3, scale=scale), jnp.asarray([0.4, 0.6, 0.2], jnp.float32))
)


@found("apache/mxnet#3277", "mask", of=PARAMETRIC, mended=parametric_rule)
def side_taken_from_the_output(ct, z, slopes):
    """The sign of the output decides, which is not the input's once a learned slope has become negative."""
    positive = parametric(z, slopes) > 0
    _, d_slopes = parametric_rule(ct, z, slopes)
    return jnp.where(positive, ct, slopes[:, None] * ct), d_slopes


@found("flagos-ai/FlagGems#4992", "axis", of=SQUARE_PARAMETRIC, mended=parametric_rule)
def slopes_indexed_by_the_last_axis(ct, z, slopes):
    """The kernel takes a slope for each position, where there is one for each channel."""
    _, d_slopes = parametric_rule(ct, z, slopes)
    return jnp.where(z > 0, ct, slopes * ct), d_slopes


# Exponential units ---------------------------------------------------------------------------------------------------

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def selu(z):
    """A scaled exponential unit."""
    return SELU_SCALE * jnp.where(z > 0, z, SELU_ALPHA * jnp.expm1(jnp.minimum(z, 0)))


def selu_rule(ct, z):
    """The scale, times α e^z where z is negative."""
    return (ct * SELU_SCALE * jnp.where(z > 0, 1, SELU_ALPHA * jnp.exp(jnp.minimum(z, 0))),)


SELU = Function("exponential unit", selu, preactivations)


@found("RubixML/ML#427", "value", of=SELU, mended=selu_rule)
def scale_applied_to_an_output_that_has_it(ct, z):
    """The derivative is the output plus scale times α; α is added alone, and the sum is scaled once more."""
    return (ct * jnp.where(z > 0, SELU_SCALE, SELU_SCALE * (selu(z) + SELU_ALPHA)),)


def elu(z, alpha=1.0):
    """z, or α(e^z - 1) where it is negative."""
    return jnp.where(z > 0, z, alpha * jnp.expm1(jnp.minimum(z, 0)))


def elu_rule(ct, z, alpha=1.0):
    """1, or α e^z where z is negative."""
    return (ct * jnp.where(z > 0, 1, alpha * jnp.exp(jnp.minimum(z, 0))),)


FALLING_ELU = Function("exponential unit", lambda z: elu(z, -2.0), preactivations)
FAR_BELOW = Function("exponential unit", elu, lambda g, scale: (uniform(g, -18.0, -8.0, 5, 3),))


def falling_elu_rule(ct, z):
    """The rule for α = -2."""
    return elu_rule(ct, z, -2.0)


@found("pytorch/pytorch#47671", "activation", of=FALLING_ELU, mended=falling_elu_rule)
def branch_chosen_by_the_output(ct, z):
    """The output is positive everywhere when α is negative, and the derivative 1 is taken for negative inputs, too."""
    output = elu(z, -2.0)
    return (ct * jnp.where(output > 0, 1, output - 2),)


@found("tensorflow/tensorflow#124833", "precision", of=FAR_BELOW, mended=elu_rule)
def derivative_from_an_output_near_minus_one(ct, z):
    """e^z is recovered as the output plus 1, which cancels where the output has been rounded to nearly -1."""
    return (ct * jnp.where(z > 0, 1, elu(z) + 1),)


# Softplus ------------------------------------------------------------------------------------------------------------


def softplus(z):
    """log(1 + e^z)."""
    return jax.nn.softplus(z)


def softplus_rule(ct, z):
    """The logistic function."""
    return (ct * jax.nn.sigmoid(z),)


SOFTPLUS_AT_ZERO = Function("softplus", softplus, with_zeros)
SOFTPLUS_FAR_ABOVE = Function("softplus", softplus, lambda g, scale: (uniform(g, 85.0, 100.0, 5, 3),))


@found("jax-ml/jax#2107", "kink", of=SOFTPLUS_AT_ZERO, mended=softplus_rule)
def derivative_of_the_absolute_value_at_zero(ct, z):
    """max(z, 0) + log(1 + e^-|z|) is differentiated part by part: at 0 the parts have kinks, and the sum has not."""
    tail = jnp.exp(-jnp.abs(z))
    return (ct * (jnp.heaviside(z, 0) - jnp.sign(z) * tail / (1 + tail)),)


@found("tenstorrent/tt-metal#56397", "non_finite", of=SOFTPLUS_FAR_ABOVE, mended=softplus_rule)
def quotient_of_overflown_exponentials(ct, z):
    """e^z times the reciprocal of 1 + e^z is infinity times 0 once the exponential overflows."""
    exponential = jnp.exp(z)
    return (ct * exponential * (1 / (1 + exponential)),)


# Units of the form z g(z) --------------------------------------------------------------------------------------------


def silu(z):
    """z σ(z)."""
    return z * jax.nn.sigmoid(z)


def silu_rule(ct, z):
    """σ(1 + z(1 - σ))."""
    s = jax.nn.sigmoid(z)
    return (ct * s * (1 + z * (1 - s)),)


SILU = Function("SiLU", silu, preactivations)
SILU_AT_ZERO = Function("SiLU", silu, with_zeros)


@found("chelsea0x3b/dfdx#915", "activation", of=SILU, mended=silu_rule)
def parentheses_of_the_numerator_missing(ct, z):
    """Of (1 + e^-z + z e^-z)/(1 + e^-z)² only the last term is divided."""
    e = jnp.exp(-z)
    return (ct * (1 + e + z * e / (1 + e) ** 2),)


@found("PaddlePaddle/Paddle#56280", "non_finite", of=SILU_AT_ZERO, mended=silu_rule)
def logistic_function_as_a_quotient_by_the_input(ct, z):
    """σ is recovered as the output over the input, to save an exponential: at an input of 0 it is 0/0."""
    s = silu(z) / z
    return (ct * s * (1 + z * (1 - s)),)


def mish(z):
    """z tanh(softplus(z))."""
    return z * jnp.tanh(jax.nn.softplus(z))


def mish_rule(ct, z):
    """The product rule: tanh(s) + z(1 - tanh²(s)) σ(z), with s = softplus(z)."""
    t = jnp.tanh(jax.nn.softplus(z))
    return (ct * (t + z * (1 - t**2) * jax.nn.sigmoid(z)),)


MISH = Function("Mish", mish, preactivations)


@found("explosion/thinc#578", "activation", of=MISH, mended=mish_rule)
def power_missing_in_the_numerator(ct, z):
    """Written in powers of e^z, the numerator of the derivative lacks e^(3z)."""
    e = jnp.exp(z)
    numerator = 4 * (z + 1) + 4 * e**2 + e * (4 * z + 6)
    return (ct * e * numerator / (2 * e + e**2 + 2) ** 2,)


# Sigmoids ------------------------------------------------------------------------------------------------------------


def hard_sigmoid(z):
    """z/6 + 1/2 between 0 and 1."""
    return jnp.clip(z / 6 + 0.5, 0, 1)


def hard_sigmoid_rule(ct, z):
    """1/6 between -3 and 3."""
    return (jnp.where(jnp.abs(z) < 3, ct / 6, 0),)


HARD_SIGMOID = Function("sigmoid", hard_sigmoid, lambda g, scale: (uniform(g, -6.0, 6.0, 5, 3),))


@found("pytorch/pytorch#51438", "activation", of=HARD_SIGMOID, mended=hard_sigmoid_rule)
def slope_beyond_the_bounds(ct, z):
    """The derivative is 1/6 also where the output is 0 or 1."""
    return (ct / 6,)


def tanh(z):
    """The hyperbolic tangent."""
    return jnp.tanh(z)


def tanh_rule(ct, z):
    """1 - a²."""
    return (ct * (1 - jnp.tanh(z) ** 2),)


TANH = Function("sigmoid", tanh, preactivations)


@found("yizt/numpy_neural_network#6", "nonlinear", of=TANH, mended=tanh_rule)
def derivative_at_the_cotangent(ct, z):
    """The derivative is taken at the gradient that comes from the next layer, and the input is not used at all."""
    return (1 - jnp.tanh(ct) ** 2,)


@found("davidrmiller/neural2d#40", "activation", of=TANH, mended=tanh_rule)
def derivative_at_the_output(ct, z):
    """The derivative is written for the input and called with the output, so that the tangent is taken twice."""
    return (ct * (1 - jnp.tanh(jnp.tanh(z)) ** 2),)


@found("andersbll/nnet#4", "activation", of=TANH, mended=tanh_rule)
def function_in_the_place_of_its_derivative(ct, z):
    """What is called the derivative is (e^2z - 1)/(e^2z + 1), the tangent itself."""
    e = jnp.exp(2 * z)
    return (ct * (e - 1) / (e + 1),)


# Dropout -------------------------------------------------------------------------------------------------------------

KEEP = 0.8


def dropout(a, kept):
    """The kept elements over the probability to be kept, zeros elsewhere."""
    return jnp.where(kept, a / KEEP, 0)


def dropout_rule(ct, a, kept):
    """The same mask and the same factor."""
    return jnp.where(kept, ct / KEEP, 0), None


def kept_elements(generator, shape):
    """A mask that keeps each element with the probability to be kept."""
    return uniform(generator, 0.0, 1.0, *shape) < KEEP


DROPOUT = Function("dropout", dropout, lambda g, scale: (normal(g, 6, 5, scale=scale), kept_elements(g, (6, 5))))
DROPOUT_OF_RECTIFIED = DROPOUT._replace(
    arguments=lambda g, scale: (jnp.maximum(normal(g, 6, 5, scale=scale), 0), kept_elements(g, (6, 5)))
)


@found("ddbourgin/numpy-ml#94", "mask", of=DROPOUT, mended=dropout_rule)
def mask_of_the_forward_pass_not_applied(ct, a, kept):
    """The wrapper divides the gradient by the probability to be kept, but does not apply the mask."""
    return ct / KEEP, None


@found("kaldi-asr/kaldi#3890", "mask", of=DROPOUT_OF_RECTIFIED, mended=dropout_rule)
def factor_as_a_quotient_of_output_and_input(ct, a, kept):
    """No mask is kept: the factor is output over input, and 1 where the input is 0, dropped or not."""
    return ct * jnp.where(a == 0, 1, dropout(a, kept) / jnp.where(a == 0, 1, a)), None
