"""The language model beside Hugging Face's GPT-2 with the same numbers, and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import layers
from tests.compare import WIDEST, assert_close, random_like

CONFIG = (11, 8, 12, 3, 2)  # tokens, the longest text, numbers of a position, heads, blocks


def a_text(shape=(2, 7)):
    return jnp.asarray(np.random.default_rng(0).integers(0, CONFIG[0], shape))


def random_parameters(network):
    return jax.tree.map(lambda leaf: leaf / 3, random_like(jax.eval_shape(network.init, jax.random.key(0))))


def named(parameters):
    """The parameters by the names of GPT-2, whose weights are (n_in, n_out) and whose Q, K and V are one."""
    (places, blocks, norm), tokens = parameters
    found = {
        "wte.weight": tokens.weight,
        "wpe.weight": places.weight,
        "ln_f.weight": norm.scale,
        "ln_f.bias": norm.shift,
    }
    for i in range(CONFIG[-1]):
        (norm_1, attend), (norm_2, up, _, down) = jax.tree.map(lambda leaf, i=i: leaf[i], blocks)
        inputs = attend.query, attend.key, attend.value
        found |= {
            f"h.{i}.ln_1.weight": norm_1.scale,
            f"h.{i}.ln_1.bias": norm_1.shift,
            f"h.{i}.ln_2.weight": norm_2.scale,
            f"h.{i}.ln_2.bias": norm_2.shift,
            f"h.{i}.attn.c_attn.weight": jnp.concatenate([part.weight.T for part in inputs], 1),
            f"h.{i}.attn.c_attn.bias": jnp.concatenate([part.bias for part in inputs]),
            f"h.{i}.attn.c_proj.weight": attend.output.weight.T,
            f"h.{i}.attn.c_proj.bias": attend.output.bias,
            f"h.{i}.mlp.c_fc.weight": up.weight.T,
            f"h.{i}.mlp.c_fc.bias": up.bias,
            f"h.{i}.mlp.c_proj.weight": down.weight.T,
            f"h.{i}.mlp.c_proj.bias": down.bias,
        }
    return {f"transformer.{name}": np.asarray(value) for name, value in found.items()}


@pytest.mark.float64
def test_it_is_gpt_2():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    network = layers.gpt(*CONFIG, dtype=WIDEST)
    params, tokens = random_parameters(network), a_text()
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    theirs = transformers.GPT2LMHeadModel(config).double()
    state = {name: torch.tensor(value) for name, value in named(params).items()}
    assert set(dict(theirs.named_parameters())) == set(state)
    theirs.load_state_dict(state, strict=False)  # but for the head, which is the embedding
    theirs.tie_weights()
    logits, cache = network.forward(params, tokens)
    expected = theirs(torch.tensor(np.asarray(tokens))).logits
    assert_close(logits, jnp.asarray(expected.detach().numpy()), 1e-10)
    cotangent = random_like(logits, seed=1)
    expected.backward(torch.tensor(np.asarray(cotangent)))
    gradient = named(network.backward(params, cache, cotangent)[1])
    for name, parameter in theirs.named_parameters():
        other = parameter.grad.numpy()
        assert np.linalg.norm(gradient[name] - other) <= 1e-10 * np.linalg.norm(other), name


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"block": 3}], ids=str)
def test_gradient_is_that_of_autodiff_and_does_not_depend_on_blocks(options):
    network, plain = (layers.gpt(*CONFIG, dtype=WIDEST, **more) for more in (options, options | {"block": None}))
    params, tokens, loss = random_parameters(network), a_text(), jn.softmax_cross_entropy
    found = jax.jit(jn.cost_and_gradient(network, loss))(params, tokens, tokens[:, ::-1])
    expected = jax.jit(jax.value_and_grad(jn.cost(plain, loss)))(params, tokens, tokens[:, ::-1])
    size = max(float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(expected))
    for ours, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert float(jnp.linalg.norm(ours - other)) <= 1e-13 * size  # that by the keys' bias is 0


def test_it_learns_to_repeat_a_text(key):
    text = jnp.arange(64) % 7
    x, y = (jnp.stack([text[i + shift : i + shift + 8] for i in range(0, 48)]) for shift in (0, 1))
    _, history = jn.fit(
        layers.gpt(*CONFIG, dtype=WIDEST),
        jn.softmax_cross_entropy,
        jn.adam(0.01),
        x,
        y,
        key=key,
        batch_size=16,
        epochs=20,
    )
    assert history.cost[-1] < 0.2 < 1.5 < history.cost[0]
