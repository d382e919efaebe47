"""A run that saves after every epoch, and may die at a chosen point: FOLDER RESULT SEED [EVENT NUMBER STEP]."""

import itertools
import os
import re
import resource
import signal
import sys
from importlib import import_module
from typing import Any
from unittest import mock

import jax
import numpy as np

import jaxnet

NETWORK, LOSS, OPTIMIZER = jaxnet.mlp((4, 8, 3)), jaxnet.softmax_cross_entropy, jaxnet.adam(0.01)
EPOCHS = 10


def run(**options):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((70, 4))
    y = x[:, :3].argmax(axis=1)
    chosen: Any = {"key": jax.random.key(0), "batch_size": 16, "epochs": EPOCHS, "checkpoint_every": 1} | options
    return jaxnet.fit(NETWORK, LOSS, OPTIMIZER, x, y, **chosen)


def numbers(state, history):
    """Every number of the outcome, by name."""
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return {"cost": np.asarray(history.cost), **{f"{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}}


def before(event, number, path, act):
    """Acts before the n-th event, so named by Python's audit, in any thread, that changes a path that matches."""
    seen = itertools.count(1)

    def watch(name, arguments):
        if name == event and arguments[1] != "r" and re.match(path, str(arguments[0])) and next(seen) == number:
            act()

    sys.addaudithook(watch)


def die(event, number, checkpoint):
    """Dies before the n-th such event of a checkpoint; for "outgrow", as one of its files grows beyond n bytes."""
    if event == "outgrow":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        before("os.mkdir", 1, checkpoint, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (number, number)))
    else:
        before(event, number, checkpoint, lambda: os.kill(os.getpid(), signal.SIGKILL))


if __name__ == "__main__":
    folder, result, seed, *death = sys.argv[1:]
    if death:
        event, number, step = death
        die(event, int(number), rf"{re.escape(folder)}/{step}\b")  # complete, or under its temporary name
    training: Any = import_module("jaxnet.training.fit")  # the attribute of this name is the function
    training._run_epochs = mock.Mock(wraps=training._run_epochs)
    outcome = numbers(*run(checkpoint=folder, key=jax.random.key(int(seed))))
    np.savez(result, **outcome, epochs=np.asarray(training._run_epochs.call_count))
