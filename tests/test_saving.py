"""Parameters in a file: they come back bit for bit, and what is another network's or damaged is named."""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

BLOCK = jn.residual(jn.dense(4, 4, dtype="bfloat16"), jn.elementwise(jn.tanh))
NETWORKS = {
    "mlp": jn.mlp((4, 8, 3)),
    "repeated, bfloat16": jn.serial(jn.repeat(BLOCK, 3), jn.dense(4, 2, dtype="bfloat16")),
    "a leaf": jn.dense(3, 2),
    "nothing": jn.elementwise(jn.tanh),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_parameters_come_back_bit_for_bit(tmp_path, network):
    params = network.init(jax.random.key(3))
    jn.save_parameters(tmp_path / "it.safetensors", network, params)
    found = jn.load_parameters(tmp_path / "it.safetensors", network)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert os.listdir(tmp_path) == ["it.safetensors"]


def test_other_programs_read_the_file(tmp_path):
    from safetensors import safe_open

    network = NETWORKS["mlp"]
    params = network.init(jax.random.key(0))
    jn.save_parameters(os.fspath(tmp_path / "it"), network, params)
    with safe_open(tmp_path / "it", framework="numpy") as file:
        assert sorted(file.keys()) == ["0/bias", "0/weight", "2/bias", "2/weight"]
        np.testing.assert_array_equal(file.get_tensor("2/weight"), params[2].weight)
        assert file.metadata() == {"network": '["[0] dense 4\\u21928", "[1] relu", "[2] dense 8\\u21923"]'}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (jn.mlp((4, 9, 3)), r"0/weight is F\d+\[8, 4\] there and F\d+\[9, 4\] in the network"),
        (jn.mlp((4, 8, 3), dtype="bfloat16"), r"0/weight is F\d+\[8, 4\] there and BF16\[8, 4\] in the network"),
        (jn.mlp((4, 8, 3, 3)), r"4/weight is nothing there and F\d+\[3, 3\] in the network"),
    ],
)
def test_parameters_of_another_network_are_refused(tmp_path, other, difference):
    network = NETWORKS["mlp"]
    jn.save_parameters(tmp_path / "it", network, network.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=f"holds the parameters of another network than .*: {difference}"):
        jn.load_parameters(tmp_path / "it", other)
    with pytest.raises(ValueError, match="the parameters are not those of"):
        jn.save_parameters(tmp_path / "it", other, network.init(jax.random.key(0)))


@pytest.mark.parametrize("damage", [lambda content: content[:-5], lambda content: b"{}" + content, lambda content: b""])
def test_damaged_file_is_named(tmp_path, damage):
    network = NETWORKS["mlp"]
    jn.save_parameters(tmp_path / "it", network, network.init(jax.random.key(0)))
    (tmp_path / "it").write_bytes(damage((tmp_path / "it").read_bytes()))
    with pytest.raises(ValueError, match="it is damaged, or no file of safetensors"):
        jn.load_parameters(tmp_path / "it", network)


def test_a_write_that_fails_leaves_the_older_file(tmp_path):
    network, path = NETWORKS["mlp"], tmp_path / "it"
    params = network.init(jax.random.key(0))
    jn.save_parameters(path, network, params)
    before = path.read_bytes()
    path.with_name(f"it.partial-{os.getpid()}").mkdir()
    with pytest.raises(OSError, match="partial"):
        jn.save_parameters(path, network, jax.tree.map(jnp.zeros_like, params))
    assert path.read_bytes() == before


def test_saving_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"needs safetensors: pip install 'jaxnet-by-hand\[checkpoint\]'"):
        jn.load_parameters(tmp_path, NETWORKS["mlp"])
