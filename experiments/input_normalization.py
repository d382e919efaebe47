"""S13, S14: standardized inputs make the cost round, and the training set's μ and σ serve every other set."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure

import jaxnet
from experiments import two_weights
from experiments.data import Split, breast_cancer
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREY, ORANGE

CLAIM = (
    "The breast-cancer features spread over five orders of magnitude; standardized, they saturate no sigmoid, the "
    "cost's curvature is a hundred thousand times rounder and gradient descent, each with its best learning rate, "
    "reaches a given cost in a hundredth of the steps (S13). The training set's μ and σ keep the accuracy on any test "
    "set; recomputed on it they lose it as the test set shrinks or holds one class (S14). Only where all measurements "
    "are off by a factor does recomputing help."
)

PAIR = [0, 4]  # mean radius and mean smoothness, whose standard deviations are 3.6 and 0.014
RATES = 2.0 ** np.arange(-1, 6)  # over the largest curvature at the start; 2 is where a quadratic diverges
TARGET = 0.1  # nats
REMAINING = 0.05  # of the two weights' cost above its minimum, counted as reached
SATURATED = 0.01  # of σ', whose largest value is 0.25
HIDDEN = 16
TEST_SIZES = (1, 2, 4, 8, 16, 64)
MISCALIBRATION = 1.15

Prepare = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (training x, x) -> x as the network sees it
RAW, NORMALIZED = "raw", "standardized"


def standardized(x_train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(x - μ)/σ with μ and σ of the training set."""
    return jaxnet.standardize(jaxnet.fit_standardization(x_train), x)


def curvature_at_start(x: np.ndarray) -> np.ndarray:
    """∂²J/∂(w, b)² of one neuron at 0, where ŷ(1 - ŷ) = ¼: (1/4m) Σ (x, 1)(x, 1)ᵀ."""
    with_one = np.append(x, np.ones((len(x), 1)), axis=1)
    return with_one.T @ with_one / (4 * len(x))


@partial(jax.jit, static_argnames="steps")
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def descend(x: Array, y: Array, rates: Array, steps: int) -> tuple[Array, Any]:
    """One neuron by gradient descent from 0, for every seed and rate: the costs before each step, the parameters."""
    network, loss = jaxnet.mlp((x.shape[-1], 1), initializer=jaxnet.initializers.zeros), jaxnet.binary_cross_entropy

    def from_rate(rate: Array) -> tuple[Array, Any]:
        optimizer = jaxnet.gradient_descent(rate)
        state = jaxnet.init_state(network, optimizer, jax.random.key(0))
        step = lambda state, _: jaxnet.training.train_step(network, loss, optimizer, state, x, y)  # noqa: E731
        state, costs = jax.lax.scan(step, state, length=steps)
        return costs, state.params

    return jax.vmap(from_rate)(rates)


@partial(jax.jit, static_argnames="steps")
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def descend_pair(x: Array, y: Array, rates: Array, steps: int) -> tuple[Array, Array]:
    """The same with two weights and no bias, in a plane that can be drawn: costs and weights before each step."""
    value = two_weights.cost(jaxnet.binary_cross_entropy)
    gradient = two_weights.gradient(jaxnet.binary_cross_entropy)

    def from_rate(rate: Array) -> tuple[Array, Array]:
        def step(w: Array, _: Any) -> tuple[Array, tuple[Array, Array]]:
            return w - rate * gradient(w, x, y), (value(w, x, y), w)

        return jax.lax.scan(step, jnp.zeros(2, x.dtype), length=steps)[1]

    return jax.vmap(from_rate)(rates)


def best(costs: np.ndarray, target: float) -> tuple[int, int]:
    """The rate that reaches the target first (or ends lowest), and its steps; all of them if it never does."""
    reached = costs <= target
    steps = np.where(reached.any(axis=1), reached.argmax(axis=1), costs.shape[1])
    index = min(range(len(costs)), key=lambda i: (steps[i], np.nan_to_num(costs[i, -1], nan=np.inf)))
    return index, int(steps[index])


def _aim(x: np.ndarray, y: np.ndarray, minimum: np.ndarray) -> float:
    """The cosine between the way down at w = 0, (1/m) Σ (y - ½) x, and the way to the minimum."""
    down = (y - 0.5) @ x
    return float(down @ minimum / np.linalg.norm(down) / np.linalg.norm(minimum))


def _saturated(key: Array, x: np.ndarray) -> float:
    """The share of hidden sigmoid units whose derivative is below SATURATED, in a network as it starts."""
    hidden = jaxnet.dense(x.shape[1], HIDDEN)
    z, _ = hidden.forward(hidden.init(key), jnp.asarray(x))
    return float((jaxnet.sigmoid.derivative(z) < SATURATED).mean())


def _accuracies(split: Split, params: Any, prepare: Prepare, seed: int, draws: int) -> dict[str, dict[str, np.ndarray]]:
    """Test accuracy by test-set size, for what the test set holds, with μ and σ of the training set and of its own."""
    generator, dense = np.random.default_rng(seed), params[0]
    weight, bias = np.asarray(dense.weight)[0], float(dense.bias[0])
    sets = {
        "as drawn": (split.x_test, split.y_test),
        "malignant only": (split.x_test[split.y_test == 0], split.y_test[split.y_test == 0]),
        "all features × 1.15": (MISCALIBRATION * split.x_test, split.y_test),
    }
    accuracies: dict[str, dict[str, np.ndarray]] = {}
    for name, (x, y) in sets.items():
        right: dict[str, list[float]] = {"training set's": [], "own": []}
        for size in TEST_SIZES:
            rows = generator.integers(len(x), size=(draws, size))
            own = np.stack([prepare(x[chosen], x[chosen]) for chosen in rows])
            for whose, seen in (("training set's", prepare(split.x, x)[rows]), ("own", own)):
                right[whose].append(np.mean((seen @ weight + bias > 0) == y[rows]))
        accuracies[name] = {whose: np.array(values) for whose, values in right.items()}
    return accuracies


def run(options: Options, track: Track, prepare: Prepare = standardized) -> Result:
    """Curvature, saturation and descent, raw and prepared, on splits of the data; then μ and σ on small test sets.

    Args:
        options: how to run.
        track: shows progress.
        prepare: (training x, x) -> x as the network sees it; the claim is about standardization.
    """
    steps, draws = (400, 30) if options.quick else (2000, 100)
    splits = [breast_cancer(seed) for seed in range(options.seeds)]
    keys = jax.random.split(options.key, options.seeds)
    measured: dict[str, dict[str, Any]] = {}
    params: Any = None
    with jax.enable_x64(True):
        y = jnp.asarray(np.stack([split.y for split in splits]), float)
        for name in track((RAW, NORMALIZED), "inputs"):
            inputs = [split.x if name == RAW else prepare(split.x, split.x) for split in splits]
            pairs = [x[:, PAIR] for x in inputs]
            curvatures = [np.linalg.eigvalsh(curvature_at_start(x)) for x in inputs]
            pair_curvatures = [np.linalg.eigvalsh(two_weights.curvature(np.zeros(2), x)) for x in pairs]
            rates, pair_rates = (np.outer([1 / c[-1] for c in of], RATES) for of in (curvatures, pair_curvatures))
            costs, params = jax.device_get(descend(jnp.stack(inputs), y, rates, steps))
            pair_costs, paths = jax.device_get(descend_pair(jnp.stack(pairs), y, pair_rates, steps))
            minima = [two_weights.minimum(x, split.y.astype(float)) for x, split in zip(pairs, splits, strict=True)]
            least = [
                np.logaddexp(0, (1 - 2 * split.y) * (x @ w)).mean()
                for x, w, split in zip(pairs, minima, splits, strict=True)
            ]
            bests = [best(cost, TARGET) for cost in costs]
            pair_bests = [
                best(c, low + REMAINING * (np.log(2) - low)) for c, low in zip(pair_costs, least, strict=True)
            ]
            measured[name] = {
                "spread": np.array([x.std(axis=0).max() / x.std(axis=0).min() for x in inputs]),
                "condition": np.array([c[-1] / c[0] for c in curvatures]),
                "pair condition": np.array([c[-1] / c[0] for c in pair_curvatures]),
                "saturated": np.array([_saturated(key, x) for key, x in zip(keys, inputs, strict=True)]),
                "steps": np.array([count for _, count in bests]),
                "pair steps": np.array([count for _, count in pair_bests]),
                "cost": np.stack([cost[index] for cost, (index, _) in zip(costs, bests, strict=True)]),
                "rate": np.array([rate[index] for rate, (index, _) in zip(rates, bests, strict=True)]),
                "aim": np.array([_aim(x, split.y, w) for x, split, w in zip(pairs, splits, minima, strict=True)]),
                "path": paths[0, pair_bests[0][0]],
                "minimum": minima[0],
            }
            measured[name]["contours"] = _contours(pairs[0], splits[0].y, measured[name])
            params = [jax.tree.map(lambda leaf, s=s, i=i: leaf[s, i], params) for s, (i, _) in enumerate(bests)]
        every = [_accuracies(split, params[i], prepare, i, draws) for i, split in enumerate(track(splits, "test sets"))]
    accuracy = {k: {who: np.stack([e[k][who] for e in every]) for who in every[0][k]} for k in every[0]}
    drawn = {"inputs": measured, "accuracy": accuracy, "sizes": TEST_SIZES, "steps": steps, "target": TARGET}
    return Result(_measurements(measured, accuracy, steps), drawn, _tables(measured, accuracy, steps))


def _contours(x: np.ndarray, y: np.ndarray, of: dict[str, Any]) -> dict[str, Any]:
    """The cost around the minimum and the start, both in sight."""
    stretched = of["pair condition"][0] > 100  # then each weight has a scale of its own
    right, top = 1.6 * np.abs(of["minimum"]) if stretched else np.full(2, 1.6 * np.abs(of["minimum"]).max())
    value = two_weights.cost(jaxnet.binary_cross_entropy)
    return two_weights.seen_from_above(
        lambda w: value(w, jnp.asarray(x), jnp.asarray(y, float)), (-right, right, -top, top)
    )


def _measurements(measured: dict[str, Any], accuracy: dict[str, Any], steps: int) -> tuple[Measurement, ...]:
    raw, normal = measured[RAW], measured[NORMALIZED]
    kept, own = ({k: np.median(of[whose], axis=0) for k, of in accuracy.items()} for whose in ("training set's", "own"))
    return (
        at_least("S13, raw: largest σ of a feature over the smallest", np.median(raw["spread"]), 1e5),
        at_least("S13: condition number of the curvature, raw over standardized, smallest of the seeds",
                 (raw["condition"] / normal["condition"]).min(), 1e5),
        Measurement("S13, standardized: condition number that the features' correlation leaves, median",
                    float(np.median(normal["condition"]))),
        at_least("S13, two weights, standardized: cosine between the first step and the way to the minimum, smallest",
                 normal["aim"].min(), 0.9),
        at_most("S13, two weights, raw: the same, largest", raw["aim"].max(), 0.1),
        Measurement("S13, raw: hidden sigmoid units saturated at the start, median share",
                    float(np.median(raw["saturated"]))),
        at_most("S13, standardized: the same, largest of the seeds", normal["saturated"].max(), 0.05),
        at_least("S13: the same, raw less standardized, smallest of the seeds",
                 (raw["saturated"] - normal["saturated"]).min(), 0.5),
        at_least(f"S13: steps to {TARGET} nats by the best rate, raw (at most {steps} tried) over standardized",
                 np.median(raw["steps"] / normal["steps"]), 100),
        at_most("S14, training set's μ, σ: accuracy lost from 64 test examples to 1",
                kept["as drawn"][-1] - kept["as drawn"][0], 0.03),
        at_least("S14, own μ, σ: accuracy lost from 64 test examples to 1",
                 own["as drawn"][-1] - own["as drawn"][0], 0.1),
        at_least("S14, malignant only, 64 examples: accuracy, training set's less own",
                 kept["malignant only"][-1] - own["malignant only"][-1], 0.2),
        Measurement("S14, all features × 1.15, 64 examples: accuracy, training set's less own: here recomputing helps",
                    float(kept["all features × 1.15"][-1] - own["all features × 1.15"][-1])),
    )  # fmt: skip


def _tables(measured: dict[str, Any], accuracy: dict[str, Any], steps: int) -> tuple[Table, ...]:
    def show(values: np.ndarray, tried: bool = False) -> str:
        low, middle, high = np.quantile(values, (0, 0.5, 1))
        if tried and low >= steps:
            return f"not in {steps}"
        return f"{middle:.3g} ({low:.3g} to {high:.3g})"

    rows = tuple(
        (what, *(show(measured[name][what], what.endswith("steps")) for name in (RAW, NORMALIZED)))
        for what in ("spread", "condition", "pair condition", "aim", "saturated", "rate", "steps", "pair steps")
    )
    by_size = tuple(
        (what, whose, *(f"{middle:.3f}" for middle in np.median(values, axis=0)))
        for what, of in accuracy.items()
        for whose, values in of.items()
    )
    return (
        Table("S13: median (range) over the splits", ("", RAW, NORMALIZED), rows),
        Table("S14: test accuracy by test-set size, median", ("test set", "μ, σ", *map(str, TEST_SIZES)), by_size),
    )


def plot(result: Result) -> Figure:
    """The cost of two weights before and after, the cost by step, and test accuracy by the size of the test set."""
    drawn, canvas = result.drawn, Figure(figsize=(10.5, 8))
    above, below = canvas.subplots(2, 2)
    colours = {RAW: ORANGE, NORMALIZED: BLUE}
    for panel, name in zip(above, (RAW, NORMALIZED), strict=True):
        of = drawn["inputs"][name]
        two_weights.draw_contours(panel, of["contours"])
        condition = float(f"{of['pair condition'][0]:.2g}")
        panel.plot(*of["path"].T, color=colours[name], linewidth=1.5)
        panel.plot(*of["path"][:: max(1, len(of["path"]) // 2000)][:200].T, ".", color=colours[name], markersize=3)
        panel.plot(0, 0, "o", color=colours[name], markersize=6)
        panel.plot(*of["minimum"], "P", color="black", markersize=9)
        panel.annotate("minimum", of["minimum"], (8, 6), textcoords="offset points")
        panel.annotate("start", (0, 0), (6, -12), textcoords="offset points", color=colours[name])
        panel.set_title(f"S13, {name}: the cost of two weights, κ = {condition:,.7g}")
        panel.set(xlabel="weight of mean radius", ylabel="weight of mean smoothness")
    left, right = below
    steps = np.arange(1, 1 + drawn["steps"])
    for name, colour in colours.items():
        low, middle, high = np.quantile(drawn["inputs"][name]["cost"], (0, 0.5, 1), axis=0)
        left.plot(steps, middle, color=colour)
        left.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        left.annotate(
            name,
            (steps[-1], high[-1] if name == NORMALIZED else middle[-1]),
            (-4, 10),
            textcoords="offset points",
            color=colour,
            ha="right",
        )
    left.axhline(drawn["target"], color=GREY, linestyle="--", linewidth=1)
    left.annotate("target", (1, drawn["target"]), (0, -13), textcoords="offset points", color=GREY)
    left.set(
        title="S13: all 30 features, each at its best rate",
        xlabel="step",
        ylabel="J (nats)",
        xscale="log",
        yscale="log",
    )
    left.yaxis.set_major_formatter("{x:g}")
    looks = {"as drawn": ("-", "o"), "malignant only": ("--", "s"), "all features × 1.15": (":", "^")}
    for what, (line, marker) in looks.items():
        for whose, colour in (("training set's", BLUE), ("own", ORANGE)):
            low, middle, high = np.quantile(drawn["accuracy"][what][whose], (0, 0.5, 1), axis=0)
            right.plot(
                drawn["sizes"], middle, line, marker=marker, color=colour, markersize=5, label=f"{whose}, {what}"
            )
    right.set(
        title="S14: accuracy by whose μ and σ are used", xlabel="test examples", ylabel="share classified rightly"
    )
    right.set_xscale("log", base=2)
    right.set_xticks(drawn["sizes"], [str(size) for size in drawn["sizes"]])
    right.set_ylim(0, 1.03)
    right.legend(fontsize=8.5)
    return canvas
