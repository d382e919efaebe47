"""A million steps; prints the memory that the process holds, in bytes, after a tenth of them and at the end."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnet

STEPS, EPOCH_STEPS, BATCH_SIZE = 1_000_000, 10, 64


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    held = []
    training: Any = import_module("jaxnet.training.fit")  # the attribute of this name is the function
    original = training._run_epochs

    def watched(task, optimizer, state, examples, epochs, *others):
        result = original(task, optimizer, state, examples, epochs, *others)
        held.append((epochs * EPOCH_STEPS, resident()))
        return result

    training._run_epochs = watched
    x = np.random.default_rng(0).standard_normal((BATCH_SIZE * EPOCH_STEPS, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    jaxnet.fit(
        jaxnet.mlp((4, 8, 2)),
        jaxnet.softmax_cross_entropy,
        jaxnet.adam(1e-3),
        x,
        y,
        key=jax.random.key(0),
        batch_size=BATCH_SIZE,
        epochs=STEPS // EPOCH_STEPS,
    )
    steps, memory = np.cumsum([taken for taken, _ in held]), [bytes_held for _, bytes_held in held]
    assert steps[-1] == STEPS
    print(memory[np.searchsorted(steps, STEPS // 10)], memory[-1])
