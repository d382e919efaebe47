"""A run that saves after every epoch, for a process that is killed: FOLDER RESULT."""

import sys
from typing import Any

import jax
import numpy as np

import jaxnet

NETWORK, LOSS, OPTIMIZER = jaxnet.mlp((4, 8, 3)), jaxnet.softmax_cross_entropy, jaxnet.adam(0.01)
EPOCHS = 30


def run(**options):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((70, 4))
    y = x[:, :3].argmax(axis=1)
    chosen: Any = {"batch_size": 16, "epochs": EPOCHS, "checkpoint_every": 1} | options
    return jaxnet.fit(NETWORK, LOSS, OPTIMIZER, x, y, key=jax.random.key(0), **chosen)


def numbers(state, history):
    """Every number of the outcome, by name."""
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return {"cost": np.asarray(history.cost), **{f"{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}}


if __name__ == "__main__":
    print("started", flush=True)
    np.savez(sys.argv[2], **numbers(*run(checkpoint=sys.argv[1])))
