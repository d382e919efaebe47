"""What single kinds of layers promise beside their derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import layers
from tests.compare import WIDEST, assert_close, random_like
from tests.layer_points import at_a_point


@pytest.mark.one_in(8)
@pytest.mark.parametrize("name", layers.ALL)
def test_verifier_passes(name, key):
    point = at_a_point(layers.ALL[name], "float32", (3,))
    jn.verify_layer(point.layer, point.inputs, key=key).raise_if_failed()


NORMS = {
    "layer": (layers.layer_norm(8, 1e-5, dtype="float32"), (4, 8), -1),
    "RMS": (layers.rms_norm(8, 1e-5, dtype="float32"), (4, 8), -1),
    "batch": (layers.batch_norm(8, dtype="float32"), (16, 8), 0),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm_in_bfloat16_sums_in_float32(name, key):
    layer, shape, axis = NORMS[name]
    a = 3 + random_like(jax.ShapeDtypeStruct(shape, "bfloat16"))
    z, cache = layer.forward(layer.init(key), a)
    wide = np.asarray(a, np.float64)
    centred = wide if name == "RMS" else wide - wide.mean(axis, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis, keepdims=True) + 1e-5)
    assert z.dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(z, float), expected, rtol=2**-7, atol=1e-3)  # half a unit of z, and of h
    grad_inputs, gradient = layer.backward(layer.init(key), cache, jnp.ones_like(z))
    assert (grad_inputs.dtype, gradient.scale.dtype) == ("bfloat16", "float32")


@jax.numpy_rank_promotion("allow")
def test_batch_norm_after_training_takes_examples_one_by_one(key):
    norm = layers.batch_norm(4, dtype=WIDEST)
    network = jn.serial(jn.dense(3, 4, dtype=WIDEST), norm, jn.elementwise(jn.tanh), jn.dense(4, 2, dtype=WIDEST))
    x, params = random_like((jax.ShapeDtypeStruct((16, 3), WIDEST), jax.eval_shape(network.init, key)))
    used, found = jn.population_statistics(network, params, x)
    alone = jnp.stack([used.forward(found, one)[0] for one in x])
    assert_close(alone, network.forward(params, x)[0], 1e-12)
    with pytest.raises(ValueError, match="couples the examples"):
        jn.readings.per_example_gradient_norms(network, jn.softmax_cross_entropy)(params, x, jnp.zeros(16, int))
    with pytest.raises(ValueError, match="two examples at least"):
        network.forward(params, x[0])


def test_dropout_keeps_the_mean_and_is_the_identity_afterwards(key):
    layer = layers.dropout(0.3)
    z, mask = layer.forward((), jnp.ones(10_000, WIDEST), key=key)
    assert set(np.unique(z)) == {0, 1 / 0.7}
    assert abs(float(z.mean()) - 1) < 4 * (0.3 / 0.7 / 10_000) ** 0.5  # four standard deviations
    assert mask.dtype == bool
    assert layer.at_inference() == jn.elementwise(jn.activations.identity)
    with pytest.raises(ValueError, match="a dropout rate"):
        layers.dropout(1.0)
    with pytest.raises(ValueError, match="give forward a key"):
        layers.run(layer, (), z)


@pytest.mark.usefixtures("unchecked")
def test_number_that_is_no_token_is_seen(key):
    layer = layers.embedding(5, 3)
    z, _ = layer.forward(layer.init(key), jnp.asarray([0, 5, -1, 4]))
    np.testing.assert_array_equal(jnp.isnan(z).all(1), [False, True, True, False])
    with pytest.raises(TypeError, match="tokens, which are integers"):
        layer.forward(layer.init(key), jnp.zeros(3))


def test_tokens_are_never_cast(key):
    network = jn.readings.in_precision(jn.serial(layers.embedding(300, 4), jn.dense(4, 2)), "bfloat16")
    params = network.init(key)
    outputs, cache = network.forward(params, jnp.asarray([257]))
    _, gradient = network.backward(params, cache, jnp.ones_like(outputs))
    assert np.flatnonzero(np.abs(gradient[0].weight).sum(1)).tolist() == [257]


def test_positions_that_are_not_there_get_no_gradient(key):
    layer = layers.positions(7, 3, dtype=WIDEST)
    params, a = layer.init(key), jnp.zeros((2, 5, 3), WIDEST)
    z, cache = layer.forward(params, a)
    np.testing.assert_array_equal(z[1], params.weight[:5])
    _, gradient = layer.backward(params, cache, jnp.ones_like(z))
    np.testing.assert_array_equal(gradient.weight.sum(1), [6, 6, 6, 6, 6, 0, 0])
    with pytest.raises(ValueError, match=r"7 or less, 3\), got \(8, 3\)"):
        layer.forward(params, jnp.zeros((8, 3)))


def test_of_equal_largest_numbers_the_first_gets_the_gradient():
    layer = layers.max_pool((2, 2), 1)
    a = jnp.asarray([[1.0, 2.0, 2.0], [2.0, 2.0, 0.0]], WIDEST)[..., None]
    z, cache = layer.forward((), a)
    grad_a, _ = layer.backward((), cache, jnp.asarray([[10.0, 1.0]], WIDEST)[..., None])
    np.testing.assert_array_equal(z[..., 0], [[2, 2]])
    np.testing.assert_array_equal(grad_a[..., 0], [[0, 11, 0], [0, 0, 0]])


def test_padding_is_never_the_largest_nor_a_member():
    a = -jnp.ones((3, 1), WIDEST)
    np.testing.assert_array_equal(layers.max_pool(3, 1, "SAME").forward((), a)[0], a)
    np.testing.assert_array_equal(layers.average_pool(3, 1, "SAME").forward((), a)[0], a)


def test_convolution_is_a_dense_layer_at_every_place(key):
    layer = layers.conv(3, 4, (2, 2), dtype=WIDEST)
    params, a = layer.init(key), random_like(jax.ShapeDtypeStruct((5, 6, 3), WIDEST))
    z, _ = layer.forward(params, a)
    padded = np.pad(a, ((0, 1), (0, 1), (0, 0)))
    patch = padded[3:5, 5:7].reshape(-1)
    assert_close(z[3, 5], params.weight.reshape(-1, 4).T @ patch + params.bias, 1e-13)
    assert abs(float(params.weight.std()) * 12**0.5 - 1) < 0.5  # of variance 1/n_in, n_in being a window's


def shapes_of(layer, length):
    return jax.eval_shape(layer.init, jax.random.key(0)), jax.ShapeDtypeStruct((length, 8), "float32")


@pytest.mark.parametrize("block", [None, 2])
def test_mask_of_attention_says_what_a_position_sees(block, key):
    layer = layers.attention(4, 2, block=block, dtype=WIDEST)
    params, a = layer.init(key), random_like(jax.ShapeDtypeStruct((2, 5, 4), WIDEST))
    below = np.tril(np.ones((5, 5), bool))
    z, cache = layer.forward(params, (a, jnp.asarray(below)))
    assert_close(z, layers.attention(4, 2, causal=True, dtype=WIDEST).forward(params, a)[0], 1e-13)
    (grad_a, by_mask), _ = layer.backward(params, cache, jnp.ones_like(z))
    assert by_mask is None
    nothing = jnp.asarray(below & (np.arange(5) != 0))  # the first position sees none
    z, cache = layer.forward(params, (a, nothing))
    np.testing.assert_array_equal(z[:, 0], np.broadcast_to(params.output.bias, (2, 4)))
    (grad_a, _), gradient = layer.backward(params, cache, jnp.ones_like(z))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((grad_a, gradient)))


def test_attention_in_blocks_never_stores_all_weights():
    """What is kept grows like the length, and the memory of both passes is far below that of all weights."""

    def needed(length, block):
        layer = layers.attention(8, 2, causal=True, block=block, dtype="float32")
        shapes = shapes_of(layer, length)

        def both(params, a):
            z, cache = layer.forward(params, a)
            return layer.backward(params, cache, z)

        analysis = jax.jit(both).lower(*shapes).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert needed(1024, 64) < 0.45 * needed(1024, None)
    blocks = layers.attention(8, 2, block=64, dtype="float32")
    kept = jax.eval_shape(blocks.forward, *shapes_of(blocks, 1024))[1]
    assert max(leaf.size for leaf in jax.tree.leaves(kept)) == 1024 * 8


REFUSED = {
    "heads": (lambda: layers.attention(6, 4), "4 heads cannot share 6 numbers"),
    "pairs": (lambda: layers.attention(6, 2, rotary=True), "6/2 must be even"),
    "mask": (
        lambda: layers.attention(4, 2).forward(
            layers.attention(4, 2).init(jax.random.key(0)), (jnp.zeros((3, 4)), jnp.zeros((3, 3)))
        ),
        "a mask of booleans",
    ),
    "channels": (lambda: layers.conv(6, 4, 3, groups=3), "3 groups cannot share 6 inputs and 4 outputs evenly"),
    "strides": (lambda: layers.conv(6, 4, (3, 3), strides=(1, 2, 3)), "strides needs a number for each"),
    "padding": (lambda: layers.conv(6, 4, (3, 3), padding="FULL"), 'padding must be "SAME", "VALID" or a pair'),
    "empty window": (lambda: layers.max_pool(2, padding=((2, 0),)), "windows without an input"),
    "window": (
        lambda: layers.conv(3, 4, 5, padding="VALID").forward(
            layers.conv(3, 4, 5).init(jax.random.key(0)), jnp.zeros((4, 3))
        ),
        "does not fit into inputs of shape",
    ),
    "groups": (lambda: layers.group_norm(6, 4), "4 groups cannot share 6 channels evenly"),
    "eps": (lambda: layers.layer_norm(6, 0.0), "eps must be above 0"),
    "numbers": (lambda: layers.reshape((2, 3), (4, 2)), r"\(2, 3\) has 6, \(4, 2\) has 8"),
    "order": (lambda: layers.transpose((0, 2)), "an order of the axes 0 to 1"),
    "size": (
        lambda: layers.layer_norm(6).forward(layers.layer_norm(6).init(jax.random.key(0)), jnp.zeros((2, 5))),
        r"\(\.\.\., 6\)",
    ),
    "space": (
        lambda: layers.group_norm(6, 2).forward(layers.layer_norm(6).init(jax.random.key(0)), jnp.zeros((4, 6))),
        "2 axes of space",
    ),
    "axes": (lambda: layers.flatten(3).forward((), jnp.zeros((4, 6))), "3 axes"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call()
