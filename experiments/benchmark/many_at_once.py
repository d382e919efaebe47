"""One pass for many: the gradient norm of every example, and many networks trained side by side."""

from collections.abc import Callable, Mapping
from functools import partial
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
        NORMS: (
            jax.jit(jaxnet.readings.per_example_gradient_norms(workload.network, LOSSES[workload.loss])),
            jaxnet_params,
        ),
        EXAMPLES: (jax.jit(by_autodiff), plain_params),
        BATCH: (jax.jit(jax.value_and_grad(cost)), plain_params),
    }
    arguments = {name: (form(given), x, y) for name, (_, form) in functions.items()}
    runs = {name: Timed(lambda _, name=name: functions[name][0](*arguments[name])) for name in functions}
    lower = {name: lambda name=name: functions[name][0].lower(*arguments[name]) for name in functions}
    one, other = (np.asarray(runs[name].run(None)) for name in (NORMS, EXAMPLES))
    return Comparison(runs, float(np.max(np.abs(one - other) / other)), lower)


def networks(workload: Workload, seeds: int = 16) -> Comparison:
    """As many seeds as learning rates, every pair a network, against one network that trains as long in all.

    The many are timed as `sweep` trains them, from data to histories; the one as a compiled program alone.
    """
    given, network, loss = problem(workload), workload.network, LOSSES[workload.loss]
    x, y = (jnp.asarray(array.reshape(-1, *array.shape[2:])) for array in (given.x, given.y))
    keys = jax.random.split(jax.random.key(0), seeds)
    rates = jnp.logspace(-4, -2, seeds, dtype=jnp.float32)
    rule = jaxnet.adam if workload.adam else jaxnet.gradient_descent
    longer, shorter = workload.epochs, max(1, workload.epochs // 20)

    def together(_: Any) -> Any:
        optimizers, size = jax.vmap(rule)(rates), workload.batch
        return jaxnet.sweep(network, loss, optimizers, x, y, keys=keys, batch_size=size, epochs=shorter)[1].cost

    @partial(jax.jit, static_argnums=4)
    def alone(key: jax.Array, rate: jax.Array, x: jax.Array, y: jax.Array, epochs: int) -> jax.Array:
        optimizer = rule(rate)
        state, size = jaxnet.init_state(network, optimizer, key), workload.batch
        return jaxnet.training.train_epochs(
            network, loss, optimizer, state, x, y, epochs, batch_size=size, capacity=epochs
        )[1]

    last = (keys[-1], rates[-1], x, y)
    runs = {
        TOGETHER: Timed(together, seeds**2 * shorter * workload.batches),
        ALONE: Timed(lambda _: alone(*last, longer), longer * workload.batches),
    }
    one, other = np.asarray(alone(*last, shorter)).ravel(), np.asarray(together(None))[-1, -1]
    return Comparison(runs, float(np.abs(one - other).max() / np.abs(one).max()), {})
