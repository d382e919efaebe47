"""What the benchmark trains: networks, batches, optimizers, and how much arithmetic a step is."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import optax

import jaxnet

Weights = list[tuple[np.ndarray, np.ndarray]]  # of each layer: the weight, (n_in, n_out), and the bias

ACTIVATIONS = {"relu": jaxnet.relu, "sigmoid": jaxnet.sigmoid, "tanh": jaxnet.tanh}
LOSSES = {
    "binary": jaxnet.binary_cross_entropy,
    "classes": jaxnet.softmax_cross_entropy,
    "squares": jaxnet.squared_error,
}


class Workload(NamedTuple):
    """One network, its data and how it is trained; every contestant gets the same, in float32.

    Attributes:
        sizes: the network's sizes, inputs first; of a deep stack, of one layer.
        batch: examples a step.
        batches: how many batches there are, always in the same order; one is batch gradient descent.
        epochs: passes over the batches in a timed run of what is one compiled program.
        peer_epochs: passes in a timed run of what is a Python loop, and in the check that all train alike.
        hidden: the activation of the hidden layers; of a deep stack, of every layer.
        loss: on the linear outputs: `binary` and `classes` are cross-entropies, `squares` is ½‖z - y‖².
        adam: the optimizer, Adam or gradient descent.
        learning_rate: its α.
        depth: how many equal layers are stacked; 0 is a plain network of `sizes`.
        peers: whether the peers run it too.
    """

    sizes: tuple[int, ...]
    batch: int
    batches: int
    epochs: int
    peer_epochs: int = 1
    hidden: str = "relu"
    loss: str = "classes"
    adam: bool = True
    learning_rate: float = 1e-3
    depth: int = 0
    peers: bool = True

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """The sizes with every layer of a stack written out."""
        return self.sizes * self.depth + self.sizes[-1:] if self.depth else self.sizes

    @property
    def optimizer(self) -> Any:
        """Jaxnet's."""
        return (jaxnet.adam if self.adam else jaxnet.gradient_descent)(self.learning_rate)

    @property
    def optax(self) -> Any:
        """The same, of Optax."""
        return (optax.adam if self.adam else optax.sgd)(self.learning_rate)

    @property
    def network(self) -> jaxnet.Layer:
        """Jaxnet's."""
        hidden = ACTIVATIONS[self.hidden]
        if not self.depth:
            return jaxnet.mlp(self.sizes, hidden, dtype=np.float32)
        (width,) = self.sizes
        layer = jaxnet.serial(jaxnet.dense(width, width, dtype=np.float32), jaxnet.elementwise(hidden))
        return jaxnet.repeat(layer, self.depth)

    def flops(self) -> int:
        """Floating-point operations of a step's matrix products, an addition and a multiplication being two.

        2 m n_in n_out forward, as many for ∂J/∂W, and as many for ∂J/∂a, which the first layer does not need.
        """
        products = [n_in * n_out for n_in, n_out in pairwise(self.all_sizes)]
        return 2 * self.batch * (3 * sum(products) - products[0])


SMALL = ("2-3-2-1", "64-32-10", "64-128-10")
LARGE = "784-512-512-10"
DEEP, DEEP_ADAM = "64x512-descent", "64x512-adam"
TITLES = {DEEP: "64 layers of 512,\ngradient descent", DEEP_ADAM: "64 layers of 512,\nAdam"}

WORKLOADS = {
    "2-3-2-1": Workload((2, 3, 2, 1), 32, 32, 160, 8, hidden="sigmoid", loss="binary"),
    "64-32-10": Workload((64, 32, 10), 64, 32, 80, 8),
    "64-128-10": Workload((64, 128, 10), 64, 32, 40, 8),
    LARGE: Workload((784, 512, 512, 10), 128, 16, 2),
    "12288-3-2-1": Workload((12288, 3, 2, 1), 209, 1, 32, 16, loss="binary", adam=False),
    DEEP: Workload((512,), 64, 2, 2, hidden="tanh", loss="squares", adam=False, depth=64, peers=False),
    DEEP_ADAM: Workload((512,), 64, 2, 2, hidden="tanh", loss="squares", depth=64, learning_rate=1e-4, peers=False),
}


class Problem(NamedTuple):
    """A workload with its numbers: batches (T, m, n) and the weights that every contestant starts from."""

    workload: Workload
    x: np.ndarray
    y: np.ndarray
    weights: Weights


def problem(workload: Workload, seed: int = 0) -> Problem:
    """Normal inputs, labels and targets that follow from them, weights of the variance that suits the activation."""
    generator = np.random.default_rng(seed)
    sizes = workload.all_sizes
    x = generator.standard_normal((workload.batches, workload.batch, sizes[0]), np.float32)
    score = x @ generator.standard_normal((sizes[0], sizes[-1]), np.float32) / np.float32(np.sqrt(sizes[0]))
    y = {"binary": (score[..., 0] > 0).astype(np.float32), "classes": score.argmax(-1), "squares": score}[workload.loss]
    gain = 2.0 if workload.hidden == "relu" else 1.0
    weights = [
        (
            np.sqrt(gain / n_in, dtype=np.float32) * generator.standard_normal((n_in, n_out), np.float32),
            np.zeros(n_out, np.float32),
        )
        for n_in, n_out in pairwise(sizes)
    ]
    return Problem(workload, x, y.astype(np.int32) if workload.loss == "classes" else y, weights)
