"""Sweeps: every network equals what `fit` makes of it, whatever the tiles; interruption, the bar, and bad input."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import adam, fit, mlp, softmax_cross_entropy, sweep
from tests.compare import assert_close

M, N, CLASSES = 50, 4, 3
NETWORK = mlp((N, 6, CLASSES))
RATES = jnp.array([0.001, 0.01, 0.1])
KEYS = jax.random.split(jax.random.key(3), 4)


@pytest.fixture(scope="module")
def data():
    x = jnp.asarray(np.random.default_rng(7).standard_normal((M, N)))
    return x, jnp.argmax(x[:, :CLASSES], axis=1)


def train(data, optimizers=None, **options):
    options = {"keys": KEYS, "batch_size": 16, "epochs": 3} | options
    return sweep(NETWORK, softmax_cross_entropy, optimizers or jax.vmap(adam)(RATES), *data, **options)


def assert_members_equal_fit(state, history, data, optimizers, keys, **options):
    assert history.cost.shape[:2] == (len(optimizers), len(keys))
    options = {"batch_size": 16, "epochs": 3} | options
    for i, optimizer in enumerate(optimizers):
        for j, key in enumerate(keys):
            alone, measured = fit(NETWORK, softmax_cross_entropy, optimizer, *data, key=key, **options)
            assert_close(history.cost[i, j], measured.cost, 1e-12)
            member = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], state)
            assert_close(
                (member.params, member.opt_state, member.step), (alone.params, alone.opt_state, alone.step), 1e-12
            )
            assert member.key == alone.key


@pytest.mark.parametrize("chunk", [None, 1, 2, 8, 100])
def test_every_network_is_what_fit_makes_of_it(data, chunk):
    state, history = train(data, chunk=chunk)
    assert not history.interrupted
    assert_members_equal_fit(state, history, data, [adam(rate) for rate in RATES], KEYS)
