"""S11: with identity activations a network of any depth is one affine map; with ReLU the same sizes are not."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import jaxnet
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREEN, GREY, ORANGE

CLAIM = (
    "A network whose activations are all the identity equals one affine map at any depth, to rounding, and so cannot "
    "classify more than 2/3 of two rings or of XOR, the most a straight line can; the same sizes with ReLU can (S11)."
)

DEPTHS = (2, 3, 5, 10, 20, 50)
WIDTH = 16
BOUNDS = {"float64": 1e-13, "float32": 1e-5}
SIZES = (2, WIDTH, WIDTH, WIDTH, 1)
EXAMPLES = 400
RATE, STEPS = 0.01, 500
# A line leaves the inner ring, of half the radius, and arccos(1/2)/π = 1/3 of the outer one on its two sides; the lines
# x1 + x2 = ±2/3 are as good on the four quadrants of a square.
BEST_LINE = 2 / 3
CEILING = 0.67  # the test points are a grid, so 2/3 but for the points on the line
RINGS, XOR = "two rings", "XOR"
SIDE = 1.2


def affine_map(params: Any) -> tuple[np.ndarray, np.ndarray]:
    """W[L] ⋯ W[1] and W[L] ⋯ W[2] b[1] + ⋯ + W[L] b[L-1] + b[L] of an mlp's parameters, for every seed, in float64."""
    (weight, bias), *later = [[np.asarray(leaf, np.float64) for leaf in layer] for layer in params if layer]
    matrix, offset = weight, bias[..., None]
    for weight, bias in later:
        matrix, offset = weight @ matrix, weight @ offset + bias[..., None]
    return matrix, offset


def _differences(depth: int, hidden: jaxnet.activations.Activation, dtype: str, options: Options) -> np.ndarray:
    """For every seed max |network(x) - (W x + b)| over the largest |W x + b|; weights, biases and x are random."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))
    network = jaxnet.mlp((2, *[WIDTH] * (depth - 1), 2), hidden, dtype=dtype)

    def normal(*shape: int) -> Array:
        return jnp.asarray(generator.standard_normal((options.seeds, *shape)), dtype)

    shapes = jax.eval_shape(network.init, options.key)
    params = jax.tree.map(lambda leaf: normal(*leaf.shape) / leaf.shape[-1] ** 0.5, shapes)
    x = normal(64, 2)
    outputs, _ = jax.jit(jax.vmap(network.forward))(params, x)
    matrix, offset = affine_map(params)
    expected = (matrix @ np.asarray(x, np.float64).transpose(0, 2, 1) + offset).transpose(0, 2, 1)
    return np.abs(np.asarray(outputs, np.float64) - expected).max(axis=(1, 2)) / np.abs(expected).max(axis=(1, 2))


def rings(turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of two rings at these turns, the inner of half the radius; 1 is the inner one."""
    ring = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
    return np.concatenate([0.5 * ring, ring]), np.repeat([1, 0], len(turns))


def xor(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of the square (-1, 1)²; 1 where the signs of their coordinates differ."""
    return points, (points.prod(axis=1) < 0).astype(int)


def _problems(key: Array) -> dict[str, tuple[np.ndarray, ...]]:
    """Random training points and a grid of test points for each problem: (x, y, x_test, y_test)."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    line = (np.arange(30) + 0.5) / 15 - 1
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return {
        RINGS: (*rings(generator.random(EXAMPLES // 2)), *rings(np.arange(600) / 600)),
        XOR: (*xor(generator.uniform(-1, 1, (EXAMPLES, 2))), *xor(grid)),
    }


@partial(jax.jit, static_argnames=("network", "steps"))
def _train(
    network: jaxnet.Layer, states: jaxnet.training.TrainState, x: Array, y: Array, *, steps: int
) -> tuple[jaxnet.training.TrainState, Array]:
    """Every seed's network trained on all examples, and the cost of every step."""

    def one(state: jaxnet.training.TrainState) -> tuple[jaxnet.training.TrainState, Array]:
        loss, optimizer = jaxnet.binary_cross_entropy, jaxnet.adam(RATE)
        return jaxnet.training.train_epochs(
            network, loss, optimizer, state, x, y, steps, batch_size=None, capacity=steps
        )

    return jax.vmap(one)(states)


def _learn(
    hidden: jaxnet.activations.Activation, problem: tuple[np.ndarray, ...], keys: Array, steps: int
) -> dict[str, Any]:
    """Test accuracies and last costs of every seed, and the probabilities that the first one gives a grid of points."""
    network = jaxnet.mlp(SIZES, hidden, dtype=jnp.float32)
    x, y, x_test, y_test = (jnp.asarray(part, jnp.float32) for part in problem)
    # Random numbers are drawn outside the compiled training, which would take longer to compile than to run.
    states = jax.vmap(partial(jaxnet.init_state, network, jaxnet.adam(RATE)))(keys)
    (params, *_), cost = _train(network, states, x, y, steps=steps)
    predict = jax.jit(jax.vmap(jaxnet.predict(network, jaxnet.binary_cross_entropy), in_axes=(0, None)))
    correct = jax.vmap(jaxnet.is_correct, in_axes=(0, None))(predict(params, x_test), y_test)
    line = np.linspace(-SIDE, SIDE, 81, dtype=np.float32)
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2))
    first = jax.tree.map(lambda leaf: leaf[:1], params)
    return {
        "accuracy": np.asarray(correct).mean(axis=1),
        "cost": np.asarray(cost[:, -1, 0]),
        "probability": np.asarray(predict(first, grid)).reshape(len(line), -1),
    }


def run(options: Options, track: Track, hidden: jaxnet.activations.Activation = jaxnet.activations.identity) -> Result:
    """Compares networks with their affine maps, then trains the same sizes with `hidden` and with ReLU."""
    keys = jax.random.split(options.key, options.seeds)
    depths = DEPTHS[1:3] if options.quick else DEPTHS
    names = {"float64": hidden, "float32": hidden, "ReLU": jaxnet.relu}
    with jax.enable_x64(True):
        differences = {
            name: np.array(
                [
                    _differences(depth, activation, name if name in BOUNDS else "float64", options)
                    for depth in track(depths, f"affine map, {name}")
                ]
            )
            for name, activation in names.items()
        }
    problems = _problems(options.key)
    steps = STEPS // 2 if options.quick else STEPS
    learned = {
        name: {
            kind: _learn(activation, problem, keys, steps)
            for kind, activation in (("identity", hidden), ("ReLU", jaxnet.relu))
        }
        for name, problem in track(list(problems.items()), "rings and XOR")
    }
    measurements = [
        at_most(f"{dtype}: largest relative difference to one affine map", differences[dtype].max(), bound)
        for dtype, bound in BOUNDS.items()
    ]
    for name, kinds in learned.items():
        line, relu = kinds["identity"], kinds["ReLU"]
        measurements += [
            at_most(f"{name}: accuracy with identity, best of {options.seeds} seeds", line["accuracy"].max(), CEILING),
            at_least(f"{name}: accuracy with ReLU, median", np.median(relu["accuracy"]), 0.97),
            Measurement(f"{name}: accuracy with ReLU, worst seed", float(relu["accuracy"].min())),
            Measurement(
                f"{name}: cost with identity over log 2 (that of a coin), median",
                float(np.median(line["cost"]) / np.log(2)),
            ),
        ]
    rows = tuple(
        (str(depth), *(float(np.max(difference[i])) for difference in differences.values()))
        for i, depth in enumerate(depths)
    )
    columns = ("layers", "identity, float64", "identity, float32", "ReLU, float64")
    table = Table("Largest relative difference to the affine map of the same weights", columns, rows)
    points = {name: {"x": x[:400], "y": y[:400]} for name, (x, y, *_) in problems.items()}
    drawn = {"depths": list(depths), "differences": differences, "learned": learned, "points": points}
    return Result(tuple(measurements), drawn, (table,))


def plot(result: Result) -> Figure:
    """The differences by depth, and the decision regions of the first seed."""
    drawn, canvas = result.drawn, Figure(figsize=(10, 5.4))
    halves: Any = canvas.subfigures(1, 2, width_ratios=(1, 1.15))
    panel = halves[0].subplots()
    styles = {
        "ReLU": (GREEN, "^", "ReLU"),
        "float32": (ORANGE, "s", "identity, float32"),
        "float64": (BLUE, "o", "identity, float64"),
    }
    for name, (colour, marker, label) in styles.items():
        difference = drawn["differences"][name]
        panel.fill_between(drawn["depths"], difference.min(axis=1), difference.max(axis=1), color=colour, alpha=0.2)
        panel.plot(drawn["depths"], np.median(difference, axis=1), color=colour, marker=marker, markersize=5)
        panel.annotate(
            label, (drawn["depths"][1], np.median(difference[1])), (0, 14), textcoords="offset points", color=colour
        )
    for dtype, bound in BOUNDS.items():
        panel.axhline(bound, color=GREY, linestyle="--", linewidth=1)
        panel.annotate(
            f"claimed for {dtype}",
            (drawn["depths"][-1], bound),
            (0, 3),
            textcoords="offset points",
            color=GREY,
            ha="right",
        )
    panel.set(
        title="Distance from one affine map\n(median and range of the seeds)",
        xlabel="layers",
        ylabel="largest relative difference",
        xscale="log",
        yscale="log",
        ylim=(3e-17, 30),
    )
    panel.set_xticks(drawn["depths"], [str(depth) for depth in drawn["depths"]])
    panel.minorticks_off()
    tiles = halves[1].subplots(2, 2)
    regions = ListedColormap(["#BFDDF0", "#FBE3B0"])
    for row, (name, kinds) in zip(tiles, drawn["learned"].items(), strict=True):
        x, y = drawn["points"][name]["x"], drawn["points"][name]["y"]
        for tile, (kind, learned) in zip(row, kinds.items(), strict=True):
            line = np.linspace(-SIDE, SIDE, len(learned["probability"]))
            tile.contourf(line, line, learned["probability"], levels=(-1, 0.5, 2), cmap=regions)
            for label, colour, marker in ((0, BLUE, "o"), (1, "#A66A00", "^")):
                tile.plot(*x[y == label].T, marker, color=colour, markersize=2.2)
            tile.set_title(f"{name}, {kind}:\n{learned['accuracy'][0]:.0%} right")
            tile.set(xlabel="x₁", ylabel="x₂", aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            tile.grid(False)
    return canvas
