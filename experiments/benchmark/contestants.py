"""The benchmark's contestants that are one compiled program: jaxnet, and plain JAX as an expert writes it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet
from experiments.benchmark.workloads import LOSSES, Problem, Weights, Workload
from jaxnet.readings.update import fastest_step


class Contestant(NamedTuple):
    """Something that trains.

    Attributes:
        prepare: () -> where every run begins: what is made once and never timed.
        train: (start, epochs) -> what the training ends with; this is what is timed.
        read: that -> (J of every step, final weights), or None where nothing can be compared.
        lower: epochs -> the same program, to be compiled, for its compile time and its memory; None if it is not one.
    """

    prepare: Callable[[], Any]
    train: Callable[[Any, int], Any]
    read: Callable[[Any], tuple[np.ndarray, Weights]] | None
    lower: Callable[[int], Any] | None = None


def plain_cost(workload: Workload) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """J as an expert writes it: a list of layers, or a scan over the stacked layers of a deep network."""
    activation = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}[workload.hidden]

    def cost(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        if workload.depth:
            x, _ = jax.lax.scan(lambda a, layer: (activation(a @ layer[0] + layer[1]), None), x, params)
        else:
            for weight, bias in params[:-1]:
                x = activation(x @ weight + bias)
            x = x @ params[-1][0] + params[-1][1]
        return plain_loss(workload, x, y)

    return cost


def plain_loss(workload: Workload, outputs: jax.Array, y: jax.Array) -> jax.Array:
    """The mean loss by Optax's functions, which every peer that runs on JAX uses."""
    if workload.loss == "classes":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()
    if workload.loss == "binary":
        return optax.sigmoid_binary_cross_entropy(outputs[..., 0], y).mean()
    return optax.l2_loss(outputs, y).sum(-1).mean()


def plain_params(problem: Problem) -> Any:
    """A list of (weight, bias), or one such pair stacked."""
    if problem.workload.depth:
        return tuple(jnp.stack(leaves) for leaves in zip(*problem.weights, strict=True))
    return jax.tree.map(jnp.asarray, problem.weights)


def read_plain(workload: Workload, params: Any) -> Weights:
    """The inverse of `plain_params`."""
    layers = zip(*params, strict=True) if workload.depth else params
    return [(np.asarray(weight), np.asarray(bias)) for weight, bias in layers]


def jaxnet_params(problem: Problem) -> Any:
    """The same weights, in jaxnet's form."""
    weights = plain_params(problem)
    if problem.workload.depth:
        return jaxnet.layers.Dense(weights[0].swapaxes(1, 2), weights[1]), ()
    layers = [part for weight, bias in weights for part in (jaxnet.layers.Dense(weight.T, bias), ())]
    return tuple(layers[:-1])


def read_jaxnet(workload: Workload, params: Any) -> Weights:
    """The inverse of `jaxnet_params`."""
    if workload.depth:
        return read_plain(workload, (params[0].weight.swapaxes(1, 2), params[0].bias))
    return [(np.asarray(layer.weight.T), np.asarray(layer.bias)) for layer in params if layer]


def scanned(step: Callable[[Any, Any], Any], start: Any, batches: Any, epochs: int) -> Any:
    """So many passes over the batches; a single batch is not cut out of an array of one in each step."""
    if len(batches[0]) == 1:
        batch = jax.tree.map(lambda a: a.reshape(a.shape[1:]), batches)
        return jax.lax.scan(lambda carry, _: step(carry, batch), start, length=epochs)
    return jax.lax.scan(lambda carry, _: jax.lax.scan(step, carry, batches), start, length=epochs)


def _scan(problem: Problem, step: Callable[[Any, Any], Any], start: Any, read: Callable[[Any], Weights]) -> Contestant:
    """One compiled program from the first weights to the last; nothing is shuffled."""
    batches = (jnp.asarray(problem.x), jnp.asarray(problem.y))

    def program(start: Any, batches: Any, epochs: int) -> Any:
        return scanned(step, start, batches, epochs)

    train = jax.jit(program, static_argnums=2)
    return Contestant(
        prepare=lambda: start,
        train=lambda start, epochs: train(start, batches, epochs),
        read=lambda end: (np.asarray(end[1]).ravel(), read(end[0])),
        lower=lambda epochs: train.lower(start, batches, epochs),
    )


def expert(problem: Problem) -> Contestant:
    """Expert JAX: `jax.value_and_grad` and Optax in one jitted `lax.scan`."""
    cost, optimizer = plain_cost(problem.workload), problem.workload.optax

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(cost)(params, *batch)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    params = plain_params(problem)
    return _scan(problem, step, (params, optimizer.init(params)), lambda end: read_plain(problem.workload, end[0]))


def one_step(
    workload: Workload, state: jaxnet.training.TrainState, batch: Any
) -> tuple[jaxnet.training.TrainState, jax.Array]:
    """The training step that `fit` takes."""
    network, optimizer = workload.network, workload.optimizer
    return fastest_step(network, optimizer)(network, LOSSES[workload.loss], optimizer, state, *batch)


def jaxnet_start(problem: Problem) -> jaxnet.training.TrainState:
    """The state from which jaxnet begins."""
    params = jaxnet_params(problem)
    opt_state = problem.workload.optimizer.init(params)
    return jaxnet.training.TrainState(params, opt_state, jax.random.key(0), jnp.zeros([], jnp.int32))


def ours(problem: Problem) -> Contestant:
    """jaxnet's training step in the same scan over the same batches."""
    workload = problem.workload
    step = partial(one_step, workload)
    return _scan(problem, step, jaxnet_start(problem), lambda end: read_jaxnet(workload, end.params))


def ours_fit(problem: Problem) -> Contestant:
    """`jaxnet.fit` from data to history: checks, shuffling, costs on the host.

    Another order of the examples is other training; without mini-batches it is the same.
    """
    workload = problem.workload
    x, y = (array.reshape(-1, *array.shape[2:]) for array in (problem.x, problem.y))
    data, batch_size = (jnp.asarray(x), jnp.asarray(y)), None if workload.batches == 1 else workload.batch

    def train(start: jaxnet.training.TrainState, epochs: int) -> Any:
        return jaxnet.fit(
            workload.network,
            LOSSES[workload.loss],
            workload.optimizer,
            *data,
            batch_size=batch_size,
            epochs=epochs,
            state=start,
        )

    def read(end: Any) -> tuple[np.ndarray, Weights]:
        return np.asarray(end[1].cost), read_jaxnet(workload, end[0].params)

    start = jaxnet_start(problem)
    return Contestant(lambda: start, train, read if batch_size is None else None)


def loop(problem: Problem) -> Contestant:
    """Plain JAX in a Python loop over a jitted step, as tutorials have it; the old weights are given away."""
    cost, optimizer = plain_cost(problem.workload), problem.workload.optax
    batches = [(jnp.asarray(x), jnp.asarray(y)) for x, y in zip(problem.x, problem.y, strict=True)]

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(cost)(params, x, y)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    def prepare() -> Any:
        params = jax.tree.map(jnp.copy, plain_params(problem))
        return params, optimizer.init(params)

    def train(start: Any, epochs: int) -> Any:
        (params, state), costs = start, []
        for _ in range(epochs):
            for batch in batches:
                params, state, value = step(params, state, *batch)
                costs.append(value)
        return params, costs

    return Contestant(prepare, train, lambda end: (np.array(end[1]), read_plain(problem.workload, end[0])))
