"""Layers beside PyTorch's, forward and every gradient, where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import activations, layers
from tests.compare import assert_close, random_like

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.float64


def channels_first(function):
    """A function of tensors (m, n, *space) as one of (m, *space, n)."""
    return lambda a, *params: function(a.movedim(-1, 1), *params).movedim(1, -1)


def recurrent(kind):
    """A layer of PyTorch's as a function of its inputs and parameters."""

    def run(a, *params):
        module = kind(a.shape[-1], params[1].shape[1], batch_first=True, dtype=a.dtype)
        named = dict(zip(["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"], params, strict=True))
        return torch.func.functional_call(module, named, (a,))[0]

    return run


def attention(heads, kv_heads, **options):
    """PyTorch's attention between dense layers, as a function of inputs and parameters."""

    def run(a, wq, bq, wk, bk, wv, bv, wo, bo):
        def split(z, heads):
            return z.unflatten(-1, (heads, -1)).transpose(-2, -3)

        q, k, v = (split(F.linear(a, w, b), h) for w, b, h in ((wq, bq, heads), (wk, bk, kv_heads), (wv, bv, kv_heads)))
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads, **options)
        return F.linear(mixed.transpose(-2, -3).flatten(-2), wo, bo)

    return run


def out_in(weight):
    """A convolution's weight as PyTorch has it, (n_out, n_in of a group, *window)."""
    return weight.movedim(-1, 0).movedim(-1, 1)


F = torch.nn.functional
# The layer, the shape of its inputs, and the same as a function of tensors: inputs and leaves of the parameters.
BESIDE = {
    "layer norm": (layers.layer_norm(7), (5, 3, 7), lambda a, s, b: F.layer_norm(a, (7,), s, b, 1e-6)),
    "layer norm of one": (layers.layer_norm(1), (5, 1), lambda a, s, b: F.layer_norm(a, (1,), s, b, 1e-6)),
    "RMS norm": (layers.rms_norm(7), (2, 5, 7), lambda a, s: F.rms_norm(a, (7,), s, 1e-6)),
    "group norm": (
        layers.group_norm(6, 3), (5, 4, 3, 6), channels_first(lambda a, s, b: F.group_norm(a, 3, s, b, 1e-6)),
    ),
    "instance norm": (
        layers.instance_norm(3, space=1), (2, 11, 3),
        channels_first(lambda a, s, b: F.instance_norm(a, weight=s, bias=b, eps=1e-6)),
    ),
    "batch norm": (
        layers.batch_norm(3), (5, 2, 7, 3),
        channels_first(lambda a, s, b: F.batch_norm(a, None, None, s, b, training=True, eps=1e-5)),
    ),
    "conv, 1 axis": (
        layers.conv(3, 5, 4, strides=3, padding="VALID"), (2, 17, 3),
        channels_first(lambda a, w, b: F.conv1d(a, out_in(w), b, stride=3)),
    ),
    "conv, 2 axes": (
        layers.conv(4, 6, (3, 2), strides=(2, 3), padding=((2, 2), (1, 1)), dilation=(2, 1), groups=2), (2, 7, 11, 4),
        channels_first(lambda a, w, b: F.conv2d(a, out_in(w), b, (2, 3), (2, 1), (2, 1), 2)),
    ),
    "conv, 3 axes": (
        layers.conv(2, 3, (1, 3, 2), padding="VALID"), (2, 2, 5, 3, 2),
        channels_first(lambda a, w, b: F.conv3d(a, out_in(w), b)),
    ),
    "max pool": (
        layers.max_pool(3, 2, ((1, 1),)), (2, 8, 3), channels_first(lambda a: F.max_pool1d(a, 3, 2, 1)),
    ),
    "max pool that overlaps": (
        layers.max_pool((3, 2), (1, 2)), (2, 7, 5, 3), channels_first(lambda a: F.max_pool2d(a, (3, 2), (1, 2))),
    ),
    "average pool": (
        layers.average_pool((3, 2), (2, 1), ((1, 1), (0, 0))), (2, 7, 5, 3),
        channels_first(lambda a: F.avg_pool2d(a, (3, 2), (2, 1), (1, 0), count_include_pad=False)),
    ),
    "attention": (layers.attention(6, 3), (2, 7, 6), attention(3, 3)),
    "attention, causal": (
        layers.attention(8, 4, kv_heads=2, causal=True, block=3), (2, 7, 8), attention(4, 2, is_causal=True),
    ),
    "RNN": (layers.recurrent(layers.rnn_cell(3, 5)), (2, 7, 3), recurrent(torch.nn.RNN)),
    "GRU": (layers.recurrent(layers.gru_cell(3, 5)), (2, 7, 3), recurrent(torch.nn.GRU)),
    "LSTM": (layers.recurrent(layers.lstm_cell(3, 5)), (2, 7, 3), recurrent(torch.nn.LSTM)),
    "gated": (
        layers.gated(5, 11, activations.silu), (3, 2, 5),
        lambda a, wg, bg, wu, bu, wd, bd: F.linear(F.silu(F.linear(a, wg, bg)) * F.linear(a, wu, bu), wd, bd),
    ),
}  # fmt: skip


@pytest.mark.one_in(2)
@pytest.mark.parametrize("case", BESIDE.values(), ids=BESIDE)
def test_layer_is_that_of_torch(case):
    layer, shape, function = case
    shapes = jax.eval_shape(layer.init, jax.random.key(0)), jax.ShapeDtypeStruct(shape, "float64")
    params, inputs = random_like(shapes)
    outputs, cache = layer.forward(params, inputs)
    cotangent = random_like(outputs, seed=1)
    grad_inputs, gradient = layer.backward(params, cache, cotangent)

    tensors = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in (inputs, *jax.tree.leaves(params))]
    expected = function(*tensors)
    expected.backward(torch.tensor(np.asarray(cotangent)))
    assert_close(outputs, jnp.asarray(expected.detach().numpy()), 1e-12)
    found = [grad_inputs, *jax.tree.leaves(gradient)]
    size = max(float(jnp.linalg.norm(leaf)) for leaf in found)
    for leaf, tensor in zip(found, tensors, strict=True):
        assert np.linalg.norm(leaf - tensor.grad.numpy()) <= 1e-12 * max(size, 1)


def test_embedding_adds_at_repeated_tokens_as_torch_does():
    layer = layers.embedding(5, 3)
    tokens, params = jnp.asarray([[1, 4, 1], [0, 1, 4]]), layer.init(jax.random.key(0))
    outputs, cache = layer.forward(params, tokens)
    cotangent = random_like(outputs)
    none, gradient = layer.backward(params, cache, cotangent)
    weight = torch.tensor(np.asarray(params.weight), requires_grad=True)
    expected = F.embedding(torch.tensor(np.asarray(tokens)), weight)
    expected.backward(torch.tensor(np.asarray(cotangent)))
    assert none is None
    np.testing.assert_array_equal(outputs, expected.detach().numpy())
    np.testing.assert_allclose(gradient.weight, weight.grad.numpy(), rtol=1e-12)
