"""What `fit` pays for watching: for numbers that are not finite, and what happens in every layer."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxnet
from experiments.benchmark.timing import Timed
from experiments.benchmark.workloads import LOSSES, WORKLOADS, Workload, problem

UNWATCHED, NONFINITE, TWENTIETH = "fit, unwatched", "fit, on_nonfinite", "fit, observe_every=20"
OPTIONS: dict[str, dict[str, Any]] = {
    UNWATCHED: {"on_nonfinite": "ignore"},
    NONFINITE: {"on_nonfinite": "raise"},
    TWENTIETH: {"on_nonfinite": "ignore", "observe_every": 20},
}


def runs(workload: Workload = WORKLOADS["64-32-10"], longer: int = 8) -> dict[str, Timed]:
    """The same training, from data to history, so many times as long as the workload tells: seconds are compared."""
    given = problem(workload)
    x, y = (jnp.asarray(array.reshape(-1, *array.shape[2:])) for array in (given.x, given.y))

    def trained(**options: Any) -> Any:
        return jaxnet.fit(
            workload.network,
            LOSSES[workload.loss],
            workload.optimizer,
            x,
            y,
            key=jax.random.key(0),
            batch_size=workload.batch,
            epochs=longer * workload.epochs,
            **options,
        )

    steps = longer * workload.epochs * workload.batches
    return {name: Timed(lambda _, name=name: trained(**OPTIONS[name])[0], steps) for name in OPTIONS}
