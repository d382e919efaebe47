"""S10: the output activation follows the target: sigmoid for a probability, ReLU for a quantity, tanh for a reward."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes

import jaxnet
from experiments.data import breast_cancer, california_housing
from experiments.experiment import DataError, Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREY, ORANGE

CLAIM = (
    "An output activation with the range of the target predicts nothing impossible, on the test set or far from it: "
    "sigmoid for a probability, ReLU for a quantity in [0, ∞), tanh for a signed reward. Its error is no larger than "
    "a linear output's, which leaves the range where targets lie at its edge, and hardly where they do not; but a ReLU "
    "output can cost some accuracy where most targets are 0: examples that switch it off pass no gradient (S10)."
)

HIDDEN = 16
RATE, STEPS = 0.003, 400
STARTS = 256
FAR = 3.0  # inputs so many times as far from the mean as those of the test set


class Task(NamedTuple):
    """A target of some range, with data for every seed.

    Attributes:
        output: the name of the activation with that range.
        low, high: the range.
        unit: of the target.
        loss: of the network with that output activation; it contains the activation.
        x, y: the training set of every seed, (seeds, m, n) and (seeds, m).
        x_test: the test inputs.
        truth: what to predict for them: the outcome, or its expectation where that is known.
    """

    output: str
    low: float
    high: float
    unit: str
    loss: jaxnet.losses.Loss
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    truth: np.ndarray


def tumours(seeds: list[int]) -> Task:
    """The probability that a tumour of the breast-cancer data is benign."""
    splits = [_standardized(*breast_cancer(seed)) for seed in seeds]
    return Task("sigmoid", 0, 1, "probability", jaxnet.binary_cross_entropy, *map(np.stack, zip(*splits, strict=True)))


def diabetes(seeds: list[int], over: float = 0.0) -> Task:
    """Disease progression after a year, 25 to 346 in scikit-learn's diabetes data: its excess over so much."""
    x, y = map(np.asarray, load_diabetes(return_X_y=True))
    return _quantity("progression (hundreds)", x, np.maximum(y - over, 0) / 100, seeds)


def california(seeds: list[int]) -> Task:
    """The median house value of a district, in hundreds of thousands of dollars."""
    return _quantity("value (100 000 $)", *california_housing(), seeds)


def _quantity(unit: str, x: np.ndarray, y: np.ndarray, seeds: list[int]) -> Task:
    """A target in [0, ∞); 30% of the examples to test on."""
    splits = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(x))
        test, train = np.split(order, [len(x) * 3 // 10])
        splits.append(_standardized(x[train], y[train], x[test], y[test]))
    loss = jaxnet.losses.squared_error_through(jaxnet.relu)
    return Task("ReLU", 0, np.inf, unit, loss, *map(np.stack, zip(*splits, strict=True)))


def bandit(seeds: list[int]) -> Task:
    """A simulated bandit: x is a context of two numbers and an action, the reward +1 or -1 for won or lost.

    Won with probability (1 + r)/2: the expected reward r = tanh(4 sin(2 x1 + action) + 2 x2) is what is to be learned.
    """
    splits = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        x = np.concatenate([generator.uniform(-1, 1, (2000, 2)), generator.integers(-1, 2, (2000, 1))], axis=1)
        expected = np.tanh(4 * np.sin(2 * x[:, 0] + x[:, 2]) + 2 * x[:, 1])
        reward = np.where(generator.random(2000) < (1 + expected) / 2, 1.0, -1.0)
        splits.append((x[:1000], reward[:1000], x[1000:], expected[1000:]))
    loss = jaxnet.losses.squared_error_through(jaxnet.tanh)
    return Task("tanh", -1, 1, "reward", loss, *map(np.stack, zip(*splits, strict=True)))


def _standardized(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> tuple[np.ndarray, ...]:
    stats = jaxnet.fit_standardization(x)
    return jaxnet.standardize(stats, x), y, jaxnet.standardize(stats, x_test), y_test


MOSTLY_ZERO = "progression over 150"
TASKS = {
    "tumour is benign": tumours,
    "diabetes progression": diabetes,
    MOSTLY_ZERO: partial(diabetes, over=150.0),
    "reward of an action": bandit,
}
CALIFORNIA = {"house value": california} | {name: task for name, task in TASKS.items() if task is not diabetes}
AT_THE_EDGE = {"tumour is benign", MOSTLY_ZERO, "reward of an action"}  # of the range lie many targets
LINEAR, MATCHED = "linear", "matched"


@partial(jax.jit, static_argnames=("network", "loss", "steps"))
def _train(network: jaxnet.Layer, loss: jaxnet.losses.Loss, states: Any, x: Array, y: Array, *, steps: int) -> Any:
    """The parameters of every seed trained on its own data."""

    def one(state: jaxnet.training.TrainState, x: Array, y: Array) -> Any:
        optimizer = jaxnet.adam(RATE)
        return jaxnet.training.train_epochs(
            network, loss, optimizer, state, x, y, steps, batch_size=None, capacity=steps
        )[0]

    return jax.vmap(one)(states, x, y).params


def _predictions(task: Task, loss: jaxnet.losses.Loss, keys: Array, steps: int) -> dict[str, np.ndarray]:
    """For every seed the predictions for the test inputs, and for inputs far from the data."""
    network = jaxnet.mlp((task.x.shape[-1], HIDDEN, 1), dtype=jnp.float32)
    x, y, x_test = (jnp.asarray(part, jnp.float32) for part in (task.x, task.y, task.x_test))
    states = jax.vmap(partial(jaxnet.init_state, network, jaxnet.adam(RATE)))(keys)
    params = _train(network, loss, states, x, y, steps=steps)
    predict = jax.jit(jax.vmap(jaxnet.predict(network, loss)))
    return {
        name: np.asarray(predict(params, inputs))[..., 0] for name, inputs in (("test", x_test), ("far", FAR * x_test))
    }


def _outside(task: Task, prediction: np.ndarray) -> np.ndarray:
    """The share of each seed's predictions that are outside the range of the target, or NaN."""
    return 1 - ((prediction >= task.low) & (prediction <= task.high)).mean(axis=1)


def judge(name: str, task: Task, keys: Array, steps: int) -> tuple[list[Measurement], dict[str, Any], tuple[Any, ...]]:
    """Trains the task's network and a linear one: what decides the claim, what is drawn, and a row of the table."""
    losses = {LINEAR: jaxnet.squared_error, MATCHED: task.loss}
    predictions = {kind: _predictions(task, loss, keys, steps) for kind, loss in losses.items()}
    errors = {kind: np.sqrt(((p["test"] - task.truth) ** 2).mean(axis=1)) for kind, p in predictions.items()}
    cut = np.sqrt(((predictions[LINEAR]["test"].clip(task.low, task.high) - task.truth) ** 2).mean(axis=1))
    outside = {kind: {where: _outside(task, q) for where, q in p.items()} for kind, p in predictions.items()}
    ratio = errors[MATCHED] / errors[LINEAR]
    impossible = max(share.max() for share in outside[MATCHED].values())
    measurements = [
        at_most(f"{name}: share outside the range, {task.output}, test and far, worst seed", impossible, 0),
        at_most(
            f"{name}: error with {task.output} over error with linear, median",
            np.median(ratio),
            1.25 if name == MOSTLY_ZERO else 1.05,
        ),
    ]
    left = float(np.median(outside[LINEAR]["test"]))
    what = f"{name}: share outside the range, linear, test, median"
    measurements.append(at_least(what, left, 0.1) if name in AT_THE_EDGE else at_most(what, left, 0.05))
    drawn = {
        "output": task.output,
        "unit": task.unit,
        "range": [task.low, task.high],
        "truth": np.sort(task.truth[0]),
        "sorted": {kind: {where: np.sort(q[0]) for where, q in p.items()} for kind, p in predictions.items()},
        "error": errors,
        "ratio": ratio,
        "outside": outside,
    }
    medians = [float(np.median(error)) for error in (errors[LINEAR], cut, errors[MATCHED])]
    spread = [float(f(ratio)) for f in (np.median, np.min, np.max)]
    far = float(np.median(outside[LINEAR]["far"]))
    return measurements, drawn, (name, task.output, *medians, *spread, left, far)


def _silent_starts(task: Task, key: Array) -> tuple[float, float]:
    """The share of random starts whose linear output is below 0 for every example, where a ReLU output would be dead.

    And the mean share of examples for which it is.
    """
    network = jaxnet.mlp((task.x.shape[-1], HIDDEN, 1), dtype=jnp.float32)
    params = jax.vmap(network.init)(jax.random.split(key, STARTS))
    outputs, _ = jax.jit(jax.vmap(network.forward, in_axes=(0, None)))(params, jnp.asarray(task.x[0], jnp.float32))
    off = np.asarray(outputs)[..., 0] <= 0
    return float(off.all(axis=1).mean()), float(off.mean())


def run(options: Options, track: Track) -> Result:
    """Every task with the output activation of its range and with a linear output.

    With `--data california` house values take the place of the progression of diabetes.

    Raises:
        DataError: for other data, or if California housing cannot be had.
    """
    if options.data is not None and options.data.name != "california":
        raise DataError(f"output_activations takes --data california, got {options.data}")
    tasks = TASKS if options.data is None else CALIFORNIA
    keys = jax.random.split(options.key, options.seeds)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))
    seeds = generator.integers(1 << 31, size=options.seeds).tolist()
    steps = STEPS // 2 if options.quick else STEPS
    measurements, drawn, rows = [], {}, []
    for name, task in track(list(tasks.items()), "tasks"):
        measured, drawn[name], row = judge(name, task(seeds), keys, steps)
        measurements += measured
        rows.append(row)
    zero = TASKS[MOSTLY_ZERO](seeds)
    soft = _predictions(zero, jaxnet.losses.squared_error_through(jaxnet.activations.softplus), keys, steps)["test"]
    softplus = np.sqrt(((soft - zero.truth) ** 2).mean(axis=1)) / drawn[MOSTLY_ZERO]["error"][LINEAR]
    dead, off = _silent_starts(diabetes(seeds[:1]), options.key)
    measurements += [
        Measurement(f"{MOSTLY_ZERO}: error with softplus over error with linear, median", float(np.median(softplus))),
        Measurement("ReLU output: random starts that are 0 for every example, and so never learn, share", dead),
        Measurement("ReLU output: examples without a gradient at a random start, mean share", off),
    ]
    columns = (
        "target",
        "output",
        "linear",
        "linear, cut",
        "with it",
        "with it/linear",
        "least",
        "most",
        "out",
        "out, far",
    )
    title = f"Root mean squared errors, medians of {options.seeds} seeds, and shares of linear outputs out of range"
    return Result(tuple(measurements), {"tasks": drawn}, (Table(title, columns, tuple(rows)),))


def plot(result: Result) -> Figure:
    """For each task the sorted predictions of the first seed; then errors, and shares outside the range, of all."""
    tasks, canvas = result.drawn["tasks"], Figure(figsize=(11, 6.8))
    *panels, ratios, shares = canvas.subplots(2, 3).flat
    for panel, (name, task) in zip(panels, tasks.items(), strict=True):
        low, high = task["range"]
        share = np.linspace(0, 100, len(task["truth"]))
        panel.plot(share, task["truth"], color=GREY, linewidth=4, alpha=0.35, label="truth")
        for kind, colour in ((LINEAR, ORANGE), (MATCHED, BLUE)):
            label = "linear output" if kind == LINEAR else "output activation of the target's range"
            panel.plot(share, task["sorted"][kind]["test"], color=colour, label=label)
            far = task["sorted"][kind]["far"]
            panel.plot(share, far, color=colour, linestyle="--", linewidth=1, label=f"{label}, inputs × {FAR:g}")
        ends = min(task["truth"].min(), low), task["truth"].max()
        margin = 0.5 * (ends[1] - ends[0])
        limits = ends[0] - margin, ends[1] + margin
        for start, end in ((limits[0], low), (high, limits[1])):
            if start < end < np.inf or (start < end and np.isfinite(start)):
                panel.axhspan(start, min(end, limits[1]), color="#EEEEEE", zorder=0)
        panel.annotate("impossible", (50, limits[0]), (0, 4), textcoords="offset points", color=GREY, ha="center")
        panel.set(
            title=f"{name}: {task['output']}", xlabel="test examples, sorted (%)", ylabel=task["unit"], ylim=limits
        )
    for i, task in enumerate(tasks.values()):
        ratio = task["ratio"]
        ratios.plot(ratio, np.full(len(ratio), i), "o", color=BLUE, fillstyle="none")
        ratios.plot(np.median(ratio), i, "|", color=BLUE, markersize=18, markeredgewidth=2)
        for kind, colour, offset in ((LINEAR, ORANGE, -0.2), (MATCHED, BLUE, 0.2)):
            for where, hatch, shift in (("test", "", 0), ("far", "////", 0.17)):
                share = 100 * np.median(task["outside"][kind][where])
                place = i + offset + shift - 0.085
                shares.barh(place, share, 0.15, color=colour if not hatch else "white", edgecolor=colour, hatch=hatch)
                shares.annotate(f"{share:.0f}", (share, place), (3, -3), textcoords="offset points", fontsize=8)
    ratios.axvline(1, color=GREY, linestyle="--", linewidth=1)
    ratios.set(title="Error over that of a linear output\n(every seed; bar: median)", xlabel="ratio", xlim=(0, 1.3))
    shares.set(title="Predictions outside the range\n(medians; hatched: inputs × 3)", xlabel="%", xlim=(0, 100))
    for panel in (ratios, shares):
        panel.set_yticks(range(len(tasks)), [name.replace(" ", "\n", 1) for name in tasks])
        panel.set_ylim(len(tasks) - 0.5, -0.5)
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return canvas
