"""The rules that the mistakes start from, and the library's activations."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import (
    AFFINE,
    ATTENTION,
    BINARY_CROSS_ENTROPY,
    CLASSIFIER,
    DENSE,
    GATED,
    LAYER_NORM,
    LOG_SIGMOID,
    LOG_SOFTMAX,
    PLAIN_SIGMOID_NEAR_20,
    RECTIFIERS,
    REGRESSOR,
    RESIDUAL,
    ROW_OFFSETS,
    SCALED_TANH,
    SIGMOID_LAYER,
    SOFTMAX,
    SOFTMAX_CROSS_ENTROPY,
    SQUARE_DENSE,
    SQUARED_ERROR,
    TANH,
    TANH_LAYER,
    TEMPERED,
    TEXTBOOK_CROSS_ENTROPY,
    TIED,
    affine_rule,
    attention_rule,
    binary_cross_entropy_rule,
    classifier_rule,
    dense_rule,
    gated_rule,
    layer,
    layer_norm_rule,
    m,
    n_hidden,
    n_in,
    normal,
    preactivations,
    rectifiers_rule,
    regressor_rule,
    residual_rule,
    row_offsets_rule,
    sigmoid_layer_rule,
    softmax_cross_entropy_rule,
    softmax_rule,
    squared_error_rule,
    tanh_layer_rule,
    tempered_rule,
    textbook_cross_entropy_rule,
    tied_rule,
    uniform,
)
from experiments.specimens.specimen import Catalogue
from jaxnet import activations
from jaxnet.activations import tanh

catalogue = Catalogue()
right = catalogue.right

# Rules that the mistakes start from -----------------------------------------------------------------------------------

for subject, what, rule in (
    (DENSE, "a batch", dense_rule),
    (SQUARE_DENSE, "as many outputs as inputs", dense_rule),
    (DENSE._replace(arguments=lambda g, scale: (normal(g, 1, n_in), *layer(g, scale, 3, n_in))), "one row", dense_rule),
    (DENSE.cast(jnp.bfloat16), "dense in bfloat16", dense_rule),
    (DENSE.cast(jnp.float16), "dense in float16", dense_rule),
    (TANH_LAYER, "tanh layer", tanh_layer_rule),
    (SIGMOID_LAYER, "sigmoid layer", sigmoid_layer_rule),
    (AFFINE, "gain and shift", affine_rule),
    (ROW_OFFSETS, "offsets of the examples", row_offsets_rule),
    (TEMPERED, "temperature", tempered_rule),
    (SOFTMAX, "softmax", softmax_rule),
    (SQUARED_ERROR, "squared error", squared_error_rule),
    (TEXTBOOK_CROSS_ENTROPY, "cross-entropy of probabilities", textbook_cross_entropy_rule),
    (BINARY_CROSS_ENTROPY, "binary cross-entropy of logits", binary_cross_entropy_rule),
    (SOFTMAX_CROSS_ENTROPY, "softmax cross-entropy of logits", softmax_cross_entropy_rule),
    (LAYER_NORM, "layer normalization", layer_norm_rule),
    (GATED, "gated linear unit", gated_rule),
    (TIED, "tied weights", tied_rule),
    (RESIDUAL, "residual connection", residual_rule),
    (ATTENTION, "attention", attention_rule),
    (REGRESSOR, "two layers and the squared error", regressor_rule),
    (CLASSIFIER, "two layers and the cross-entropy", classifier_rule),
    (RECTIFIERS, "three layers with rectifiers", rectifiers_rule),
):
    right(of=subject, what=what)(rule)


# Activations ----------------------------------------------------------------------------------------------------------


def enter_activation(activation: activations.Activation) -> None:
    """Enter an activation of the library with its derivative."""

    def rule(ct, z):
        return (ct * activation.derivative(z if activation.reads == "input" else activation.value(z)),)

    right(of=Function("activation", activation.value, preactivations), what=activation.name)(rule)


for activation in (
    activations.sigmoid,
    activations.tanh,
    activations.relu,
    activations.identity,
    activations.softplus,
    activations.silu,
    activations.gelu,
    activations.gelu_tanh,
    activations.leaky_relu,
    activations.elu,
):
    enter_activation(activation)


@right(of=SCALED_TANH)
def scaled_tanh(ct, z):
    """The chain rule's inner factor included."""
    return (ct * (1.7159 * 2 / 3) * tanh.derivative(2 / 3 * z),)


@right(of=PLAIN_SIGMOID_NEAR_20)
def sigmoid_derivative_without_cancellation(ct, z):
    """e/(1 + e)² with e = exp(-|z|)."""
    e = jnp.exp(-jnp.abs(z))
    return (ct * e / (1 + e) ** 2,)


@right(of=LOG_SIGMOID._replace(arguments=lambda g, scale: (uniform(g, -1000.0, 1000.0, m, n_hidden),)))
def log_sigmoid_of_large_arguments(ct, z):
    """1 - σ(z) = σ(-z)."""
    return (ct * jax.nn.sigmoid(-z),)


@right(of=LOG_SOFTMAX._replace(arguments=lambda g, scale: (uniform(g, 100.0, 1000.0, m, n_hidden),)))
def log_softmax_of_large_logits(ct, z):
    """ct - p Σ ct, with the maximum of each row taken off before the exponentials."""
    e = jnp.exp(z - z.max(axis=-1, keepdims=True))
    return (ct - e / e.sum(axis=-1, keepdims=True) * ct.sum(axis=-1, keepdims=True),)


ORDINARY_TANH = TANH._replace(arguments=lambda g, scale: (uniform(g, -1.0, 1.0, m, n_hidden),))


@right(of=ORDINARY_TANH)
def tanh_from_its_output(ct, z):
    """1 - a², for z between -1 and 1, where nothing cancels."""
    a = jnp.tanh(z)
    return (ct * (1 - a * a),)


right(of=ORDINARY_TANH.cast(jnp.bfloat16), what="tanh from its output in bfloat16")(tanh_from_its_output)
right(of=ORDINARY_TANH.cast(jnp.float16), what="tanh from its output in float16")(tanh_from_its_output)
