"""One pass for many: the gradient norm of every example, and many networks trained side by side."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet
from experiments.benchmark.contestants import jaxnet_params, plain_cost, plain_params
from experiments.benchmark.timing import Timed
from experiments.benchmark.workloads import LARGE, LOSSES, WORKLOADS, Workload, problem

ALONE, TOGETHER = "one network alone", "networks at once"
PER_EXAMPLE = WORKLOADS[LARGE]._replace(batch=256, batches=1)
NORMS, EXAMPLES, BATCH = "jaxnet, norms", "vmap(grad), norms", "one batch gradient"


class Comparison(NamedTuple):
    """Runs to be timed against each other, how far apart their results are, and programs to be compiled."""

    runs: dict[str, Timed]
    apart: float
    lower: Mapping[str, Callable[[], Any]]


def norms(workload: Workload = PER_EXAMPLE) -> Comparison:
    """‖∂L(i)/∂params‖ of every example, by one backward pass and by autodiff of each; and one batch gradient."""
    given = problem(workload)
    x, y = jnp.asarray(given.x[0]), jnp.asarray(given.y[0])
    cost = plain_cost(workload)

    def by_autodiff(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        gradients = jax.vmap(jax.grad(cost), in_axes=(None, 0, 0))(params, x, y)
        return jnp.sqrt(sum(jnp.square(leaf).reshape(len(x), -1).sum(1) for leaf in jax.tree.leaves(gradients)))

    functions = {
        NORMS: (jax.jit(jaxnet.per_example_gradient_norms(workload.network, LOSSES[workload.loss])), jaxnet_params),
        EXAMPLES: (jax.jit(by_autodiff), plain_params),
        BATCH: (jax.jit(jax.value_and_grad(cost)), plain_params),
    }
    arguments = {name: (form(given), x, y) for name, (_, form) in functions.items()}
    runs = {name: Timed(lambda _, name=name: functions[name][0](*arguments[name])) for name in functions}
    lower = {name: lambda name=name: functions[name][0].lower(*arguments[name]) for name in functions}
    one, other = (np.asarray(runs[name].run(None)) for name in (NORMS, EXAMPLES))
    return Comparison(runs, float(np.max(np.abs(one - other) / other)), lower)


def train_together(
    workload: Workload, keys: jax.Array, rates: jax.Array, x: jax.Array, y: jax.Array, epochs: int
) -> Any:
    """A network for each key and learning rate, all in one compiled program; returns their costs."""
    return jax.vmap(lambda key, rate: train_alone(workload, key, rate, x, y, epochs))(keys, rates)


def train_alone(workload: Workload, key: jax.Array, rate: Any, x: jax.Array, y: jax.Array, epochs: int) -> Any:
    """One network by the same training, for comparison; the costs, (epochs, steps)."""
    network, loss = workload.network, LOSSES[workload.loss]
    optimizer = (jaxnet.adam if workload.adam else jaxnet.gradient_descent)(rate)
    state = jaxnet.init_state(network, optimizer, key)
    return jaxnet.train_epochs(
        network, loss, optimizer, state, x, y, epochs, batch_size=workload.batch, capacity=epochs
    )[1]


def networks(workload: Workload, seeds: int = 16) -> Comparison:
    """As many seeds as learning rates, every pair a network, against one network that trains as long in all."""
    given = problem(workload)
    x, y = (jnp.asarray(array.reshape(-1, *array.shape[2:])) for array in (given.x, given.y))
    keys = jnp.repeat(jax.random.split(jax.random.key(0), seeds), seeds)
    rates = jnp.tile(jnp.logspace(-4, -2, seeds, dtype=jnp.float32), seeds)
    longer, epochs = workload.epochs, max(1, workload.epochs // 20)
    together = jax.jit(lambda keys, rates, x, y: train_together(workload, keys, rates, x, y, epochs))
    alone = jax.jit(lambda key, rate, x, y, epochs: train_alone(workload, key, rate, x, y, epochs), static_argnums=4)
    last = (keys[-1], rates[-1], x, y)
    runs = {
        TOGETHER: Timed(lambda _: together(keys, rates, x, y), seeds**2 * epochs * workload.batches),
        ALONE: Timed(lambda _: alone(*last, longer), longer * workload.batches),
    }
    one, other = np.asarray(alone(*last, epochs)), np.asarray(together(keys, rates, x, y))[-1]
    apart = float(np.abs(one - other).max() / np.abs(one).max())
    lower = {
        TOGETHER: lambda: together.lower(keys, rates, x, y),
        ALONE: lambda: alone.lower(*last, epochs),
    }
    return Comparison(runs, apart, lower)
