"""Saves a state on one device and restores it, its parameters divided, on eight, and the other way round: FOLDER."""

import sys

import jax
import numpy as np

import jaxnet

NETWORK, OPTIMIZER = jaxnet.mlp((4, 16, 8)), jaxnet.adam(0.01)


def check(restored, expected, like):
    for leaf, value, place in zip(*map(jax.tree.leaves, (restored, expected, like)), strict=True):
        assert (leaf == value).all()
        assert leaf.sharding == place.sharding


if __name__ == "__main__":
    assert jax.device_count() == 8
    mesh = jaxnet.data_mesh()
    one, other = (jaxnet.init_state(NETWORK, OPTIMIZER, jax.random.key(seed)) for seed in (0, 1))
    divided, other_divided = (jaxnet.place_state(state, mesh, shard_parameters=True) for state in (one, other))
    for folder, saved, like in (("one", one, other_divided), ("eight", divided, other)):
        with jaxnet.training.Checkpoints(f"{sys.argv[1]}/{folder}", NETWORK) as checkpoints:
            history = jaxnet.training.History(np.zeros(0))
            checkpoints.save(saved, history)
            checkpoints.wait(saved, history)
            found = checkpoints.restore(like)
        assert found is not None
        check(found[0], one, like)
