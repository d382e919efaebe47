"""The benchmark's peers: each library used the way its own documentation shows, as fast as that way is.

Each trains from the weights of the problem on its batches, and keeps the costs where they are until the run ends.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.contestants import Contestant, loop, plain_loss
from experiments.benchmark.workloads import Problem


def flax_nnx(problem: Problem) -> Contestant:
    """A module, `nnx.Optimizer` and an `nnx.jit` step in a Python loop."""
    from flax import nnx

    workload = problem.workload
    # One object for all runs: another would be another program to nnx.jit.
    activation, rule = getattr(jax.nn, workload.hidden), workload.optax

    class Network(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.layers = nnx.List([nnx.Linear(*weight.shape, rngs=rngs) for weight, _ in problem.weights])
            for layer, (weight, bias) in zip(self.layers, problem.weights, strict=True):
                layer.kernel, layer.bias = nnx.Param(jnp.asarray(weight)), nnx.Param(jnp.asarray(bias))

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = activation(layer(x))
            return self.layers[-1](x)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        cost, gradient = nnx.value_and_grad(lambda model: plain_loss(workload, model(x), y))(model)
        optimizer.update(model, gradient)
        return cost

    batches = _on_device(problem)

    def prepare() -> Any:
        model = Network()
        return model, nnx.Optimizer(model, rule, wrt=nnx.Param)

    def train(start: Any, epochs: int) -> Any:
        model, optimizer = start
        costs = [step(model, optimizer, x, y) for _ in range(epochs) for x, y in batches]
        return model, costs

    def read(end: Any) -> Any:
        layers = end[0].layers
        return np.array(end[1]), [(np.asarray(a.kernel.get_value()), np.asarray(a.bias.get_value())) for a in layers]

    return Contestant(prepare, train, read)


def equinox(problem: Problem) -> Contestant:
    """A module and an `eqx.filter_jit` step in a Python loop."""
    import equinox as eqx

    workload = problem.workload
    activation, optimizer = getattr(jax.nn, workload.hidden), workload.optax

    class Network(eqx.Module):
        layers: list

        def __init__(self) -> None:
            blank = [
                eqx.nn.Linear(weight.shape[0], weight.shape[1], key=jax.random.key(0)) for weight, _ in problem.weights
            ]
            self.layers = [
                eqx.tree_at(lambda a: (a.weight, a.bias), layer, (jnp.asarray(weight.T), jnp.asarray(bias)))
                for layer, (weight, bias) in zip(blank, problem.weights, strict=True)
            ]

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = activation(layer(x))
            return self.layers[-1](x)

    @eqx.filter_value_and_grad
    def cost_and_gradient(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return plain_loss(workload, jax.vmap(model)(x), y)

    @eqx.filter_jit
    def step(model: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        cost, gradient = cost_and_gradient(model, x, y)
        updates, state = optimizer.update(gradient, state, model)
        return eqx.apply_updates(model, updates), state, cost

    batches = _on_device(problem)

    def prepare() -> Any:
        model = Network()
        return model, optimizer.init(eqx.filter(model, eqx.is_array))

    def train(start: Any, epochs: int) -> Any:
        (model, state), costs = start, []
        for _ in range(epochs):
            for batch in batches:
                model, state, cost = step(model, state, *batch)
                costs.append(cost)
        return model, costs

    def read(end: Any) -> Any:
        return np.array(end[1]), [(np.asarray(a.weight.T), np.asarray(a.bias)) for a in end[0].layers]

    return Contestant(prepare, train, read)


def pytorch(problem: Problem) -> Contestant:
    """`torch.nn.Sequential` and `torch.optim` in the usual loop, on all cores."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    workload, nn = problem.workload, torch.nn
    activation = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[workload.hidden]
    cost_of = nn.CrossEntropyLoss() if workload.loss == "classes" else nn.BCEWithLogitsLoss()
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    batches = list(zip(x, y.long() if workload.loss == "classes" else y[..., None], strict=True))
    rule = torch.optim.Adam if workload.adam else torch.optim.SGD

    def prepare() -> Any:
        layers = []
        for weight, bias in problem.weights:
            layer = nn.Linear(*weight.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(weight.T))
                layer.bias.copy_(torch.tensor(bias))
            layers += [layer, activation()]
        model = nn.Sequential(*layers[:-1])
        return model, rule(model.parameters(), lr=workload.learning_rate)

    def train(start: Any, epochs: int) -> Any:
        (model, optimizer), costs = start, []
        for _ in range(epochs):
            for inputs, targets in batches:
                optimizer.zero_grad()
                cost = cost_of(model(inputs), targets)
                cost.backward()
                optimizer.step()
                costs.append(cost.detach())
        return model, costs

    def read(end: Any) -> Any:
        layers = [layer for layer in end[0] if isinstance(layer, nn.Linear)]
        weights = [(a.weight.detach().numpy().T, a.bias.detach().numpy()) for a in layers]
        return np.array([cost.item() for cost in end[1]]), weights

    return Contestant(prepare, train, read)


def scikit_learn(problem: Problem) -> Contestant:
    """`MLPClassifier.partial_fit`, one call a step. Its ε is added before the bias correction: nearly Adam."""
    from sklearn.neural_network import MLPClassifier

    workload = problem.workload
    classes = np.arange(max(2, workload.sizes[-1]))
    batches = list(zip(problem.x, problem.y.astype(int), strict=True))

    def prepare() -> Any:
        model = MLPClassifier(
            workload.sizes[1:-1],
            activation="logistic" if workload.hidden == "sigmoid" else workload.hidden,  # pyright: ignore
            solver="adam" if workload.adam else "sgd",
            alpha=0.0,
            batch_size=workload.batch,  # pyright: ignore[reportArgumentType]
            learning_rate_init=workload.learning_rate,
            momentum=0.0,
            shuffle=False,
        )
        # The first call makes what the later ones change; it then starts again from the given weights.
        model.partial_fit(*batches[0], classes=classes)
        model.coefs_ = [weight.copy() for weight, _ in problem.weights]
        model.intercepts_ = [bias.copy() for _, bias in problem.weights]
        del model._optimizer
        return model

    def train(model: Any, epochs: int) -> Any:
        costs = []
        for _ in range(epochs):
            for x, y in batches:
                model.partial_fit(x, y)
                costs.append(model.loss_)
        return model, costs

    def read(end: Any) -> Any:
        return np.array(end[1]), list(zip(end[0].coefs_, end[0].intercepts_, strict=True))

    return Contestant(prepare, train, read)


def _on_device(problem: Problem) -> Sequence[tuple[jax.Array, jax.Array]]:
    return [(jnp.asarray(x), jnp.asarray(y)) for x, y in zip(problem.x, problem.y, strict=True)]


class Peer(NamedTuple):
    """How a peer is named, what it needs to import, and its contestant."""

    title: str
    module: str
    contestant: Callable[[Problem], Contestant]


PEERS = {
    "flax": Peer("Flax NNX", "flax", flax_nnx),
    "equinox": Peer("Equinox", "equinox", equinox),
    "pytorch": Peer("PyTorch", "torch", pytorch),
    "scikit-learn": Peer("scikit-learn", "sklearn", scikit_learn),
    "loop": Peer("JAX loop", "jax", loop),
}


def importable(name: str) -> bool:
    """Whether the peer is installed."""
    return importlib.util.find_spec(PEERS[name].module) is not None
