"""The training that tests of parallel training share: up to 100 steps, the same on any devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet
from tests.compare import random_like

HIDDEN = jaxnet.serial(jaxnet.dense(16, 16), jaxnet.elementwise(jaxnet.tanh))
NETWORK = jaxnet.serial(
    jaxnet.dense(6, 16), jaxnet.elementwise(jaxnet.tanh), jaxnet.repeat(HIDDEN, 3), jaxnet.dense(16, 3)
)
LOSS = jaxnet.softmax_cross_entropy
OPTIMIZER = jaxnet.adam(0.01)
STEPS = 100
BATCH_SIZE = 24
FORMS: dict[str, dict[str, Any]] = {
    "replicated": {"step": jaxnet.parallel_step, "shard_parameters": False},
    "sharded": {"step": jaxnet.parallel_step, "shard_parameters": True},
    "written out": {"step": jaxnet.training.all_reduce_step, "shard_parameters": False},
}


def start() -> jaxnet.training.TrainState:
    params = jax.tree.map(lambda leaf: leaf / 4, random_like(jax.eval_shape(NETWORK.init, jax.random.key(0))))
    return jaxnet.training.TrainState(params, OPTIMIZER.init(params), jax.random.key(0), jnp.zeros([], jnp.int32))


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """The batch of each step."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal((STEPS, BATCH_SIZE, 6))
    return list(zip(x, (x[..., :2] > 0).sum(-1), strict=True))


def train(
    step: Callable[..., Any], state: jaxnet.training.TrainState, data: Any
) -> tuple[jaxnet.training.TrainState, np.ndarray]:
    """The state after a step on each of the batches, and the costs."""
    traced = []

    @functools.partial(jax.jit, donate_argnums=1)
    def compiled(optimizer: Any, state: jaxnet.training.TrainState, x: jax.Array, y: jax.Array) -> Any:
        traced.append(x.shape)
        return step(NETWORK, LOSS, optimizer, state, x, y)

    costs = []
    for x, y in data:
        state, cost = compiled(OPTIMIZER, state, x, y)
        # Waits for it: simulated devices share few threads, and steps in flight may starve each other.
        costs.append(float(cost))
    assert len(traced) == 1
    return state, np.array(costs)


@functools.cache
def trained_on_one_device(steps: int) -> tuple[Any, np.ndarray]:
    """The parameters and the costs that every other training has to come to."""
    state, costs = train(jaxnet.training.train_step, start(), batches()[:steps])
    return jax.tree.map(np.asarray, state.params), costs


def train_in_parallel(form: str, mesh: jax.sharding.Mesh, data: Any) -> tuple[jaxnet.training.TrainState, np.ndarray]:
    """The same in one of the forms; `data` are the batches that this process contributes."""
    step, shard_parameters = FORMS[form]["step"], FORMS[form]["shard_parameters"]
    keywords = {"shard_parameters": True} if shard_parameters else {}
    placed = (jaxnet.place_batch(x, y, mesh) for x, y in data)
    state = jaxnet.place_state(start(), mesh, shard_parameters=shard_parameters)
    return train(functools.partial(step, mesh=mesh, **keywords), state, placed)
