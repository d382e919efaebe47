"""S1: logistic regression is a network of one neuron."""

from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

import jaxnet
from experiments.data import breast_cancer
from experiments.experiment import Options, Result, Track, at_least, at_most
from experiments.figures import BLUE, ORANGE

CLAIM = (
    "A network of one sigmoid neuron, trained by hand-derived gradients, is logistic regression: on the breast-cancer "
    "data its weights and cost are those of scikit-learn (S1, S4, S8)."
)

INVERSE_PENALTY = 1.0  # scikit-learn's C: its objective is C Σ L(i) + ½‖w‖²
STEPS = 6000


def _one_neuron(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights and bias of the one-neuron network fitted to (x, y), and the cost of every step."""
    network = jaxnet.mlp((x.shape[1], 1), initializer=jaxnet.initializers.zeros)
    weights_only: Any = (jaxnet.layers.Dense(True, False),)  # pyright: ignore[reportArgumentType]
    optimizer = optax.chain(
        optax.add_decayed_weights(1 / (INVERSE_PENALTY * len(x)), weights_only),
        jaxnet.optimizers.nesterov(learning_rate=0.2, momentum=0.98),
    )
    state, history = jaxnet.fit(
        network, jaxnet.binary_cross_entropy, optimizer, x, y, key=jax.random.key(0), batch_size=None, epochs=STEPS
    )
    if history.interrupted:
        raise KeyboardInterrupt
    (dense,) = state.params
    return np.append(dense.weight[0], dense.bias), np.asarray(history.cost)


def _scikit_learn(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights and bias of scikit-learn's logistic regression, and its cost without the penalty."""
    model = LogisticRegression(C=INVERSE_PENALTY, tol=1e-12, solver="newton-cholesky", max_iter=1000).fit(x, y)
    cost = np.mean(np.logaddexp(0, (1 - 2 * y) * model.decision_function(x)))
    return np.append(model.coef_[0], model.intercept_), float(cost)


def run(options: Options, track: Track) -> Result:
    """Trains both on the same splits, in float64, and compares what they learned."""
    weight_errors, cost_errors, accuracies, disagreements = [], [], [], []
    drawn: dict[str, Any] = {}
    with jax.enable_x64(True):
        for seed in track(range(options.seeds), "splits"):
            split = breast_cancer(seed)
            stats = jaxnet.fit_standardization(split.x)
            x, x_test = jaxnet.standardize(stats, split.x), jaxnet.standardize(stats, split.x_test)
            ours, costs = _one_neuron(x, split.y)
            theirs, cost = _scikit_learn(x, split.y)
            weight_errors.append(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
            cost_errors.append(abs(costs[-1] / cost - 1))
            said, they_said = (x_test @ weights[:-1] + weights[-1] > 0 for weights in (ours, theirs))
            accuracies.append(np.mean(said == split.y_test))
            disagreements.append(np.sum(said != they_said))
            if not drawn:
                drawn = {"cost": costs, "reference_cost": cost, "weights": ours, "reference_weights": theirs}
    measurements = (
        at_most("weights and bias: largest relative difference to scikit-learn", max(weight_errors), 1e-5),
        at_most("cost: largest relative difference to scikit-learn", max(cost_errors), 1e-5),
        at_most("test tumours that the two judge differently", sum(disagreements), 0),
        at_least(f"test accuracy, median of {options.seeds} splits", np.median(accuracies), 0.95),
    )
    return Result(measurements, drawn)


def plot(result: Result) -> Figure:
    """The cost on its way to scikit-learn's, and the weights of both."""
    drawn, canvas = result.drawn, Figure()
    left, right = canvas.subplots(1, 2)
    left.plot(np.arange(1, 1 + len(drawn["cost"])), drawn["cost"], color=BLUE, label="one neuron")
    left.axhline(drawn["reference_cost"], color=ORANGE, linestyle="--", label="scikit-learn's minimum")
    left.set(title="Cost of the training set", xlabel="step", ylabel="J (nats)", xscale="log", ylim=(0, None))
    left.legend()
    ends = [drawn["reference_weights"].min(), drawn["reference_weights"].max()]
    right.plot(ends, ends, color=ORANGE, linestyle="--", label="equal")
    right.plot(
        drawn["reference_weights"], drawn["weights"], "o", color=BLUE, markersize=4, label="a weight, or the bias"
    )
    right.set(title="Weights of the 30 features, and the bias", xlabel="scikit-learn", ylabel="one neuron")
    right.legend()
    return canvas
