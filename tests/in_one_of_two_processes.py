"""Half of a training on two hosts: `python -m tests.in_one_of_two_processes 0 127.0.0.1:PORT FILE`, and again with 1.

Each process contributes half of every batch. The first writes all final parameters and costs to the file.
"""

import sys

import jax
import numpy as np

import jaxnet
from tests.parallel_training import BATCH_SIZE, FORMS, batches, train_in_parallel

STEPS = 20


def main(process: int, coordinator: str, path: str) -> None:
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(coordinator, num_processes=2, process_id=process)
    mesh = jaxnet.data_mesh()
    assert (jax.process_count(), mesh.size, len(mesh.local_devices)) == (2, 2, 1)

    half = slice(process * BATCH_SIZE // 2, (process + 1) * BATCH_SIZE // 2)
    arrays = {}
    for form in FORMS:
        data = [(x[half], y[half]) for x, y in batches()[:STEPS]]
        state, arrays[f"{form}: costs"] = train_in_parallel(form, mesh, data)
        for place, leaf in enumerate(jax.tree.leaves(jaxnet.place_state(state, mesh).params)):
            arrays[f"{form}: {place}"] = np.asarray(leaf)
    if process == 0:
        np.savez(path, **arrays)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
