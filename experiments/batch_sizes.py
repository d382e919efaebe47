"""S19: batch, mini-batch and stochastic gradient descent: noise, steps, examples and time for batch sizes 1 to m."""

import time
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

import jaxnet
from experiments import two_weights
from experiments.data import digits
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, COLOURS, GREY, MARKERS, ORANGE, PINK

CLAIM = (
    "The smaller the batch, the noisier and the cheaper the step: the variance of the gradient falls like 1/B if the "
    "examples are drawn independently (drawn without replacement faster, by (m - B)/(m - 1); drawn from one class a "
    "batch, not), seen from above the path of all examples is straight and that of one wanders; a small batch needs "
    "the fewest examples, all of them the fewest steps, and the least time lies between (S19)."
)

EXAMPLES = 1024  # m
SIZES = (1, 8, 64, 256, EXAMPLES)
QUICK_SIZES = (1, 64, EXAMPLES)
EPOCHS = {1: 2, 8: 2, 64: 5, 256: 10, EXAMPLES: 30}
RATES = {
    1: (0.01, 0.02, 0.04),
    8: (0.1, 0.2, 0.4),
    64: (0.4, 0.8, 1.6),
    256: (0.8, 1.6, 3.2),
    EXAMPLES: (0.8, 1.6, 3.2),
}
TARGET = 0.25  # nats
EVERY = 256  # examples between two looks at the cost of all
DRAWS = 256  # batches of each size
NETWORK, LOSS = jaxnet.mlp((64, 16, 10)), jaxnet.softmax_cross_entropy
FEATURES, PATH_RATE, PATH_STEPS, TUMOURS = ("mean texture", "mean smoothness"), 1.0, 150, 512
INDEPENDENT, WITHOUT, ONE_CLASS = "with replacement", "without replacement", "one class a batch"


def training_set() -> tuple[Array, Array]:
    """m standardized digits (m, 64) and their labels."""
    split = digits(seed=0)
    x = jaxnet.preprocessing.flatten_images(split.x)[:EXAMPLES]
    x = jaxnet.standardize(jaxnet.fit_standardization(x), x)
    return jnp.asarray(x, jnp.float32), jnp.asarray(split.y[:EXAMPLES])


@jax.jit
def initial(keys: Array) -> Any:
    """Fresh parameters from each key."""
    params = jax.vmap(NETWORK.init)(keys)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


# The noise of the gradient --------------------------------------------------------------------------------------------


def drawn_batches(how: str, count: int, size: int, y: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The examples of `count` batches: (count, size)."""
    m = len(y)
    if how == WITHOUT:
        return generator.permuted(np.tile(np.arange(m), (count, 1)), axis=1)[:, :size]
    if how == ONE_CLASS:
        members = [np.flatnonzero(y == label) for label in np.unique(y)]
        chosen = generator.choice(len(members), count, p=[len(part) / m for part in members])
        return np.stack([generator.choice(members[label], size) for label in chosen])
    return generator.integers(0, m, (count, size))


@jax.jit
def gradients_of_examples(params: Any, x: Array, y: Array) -> Array:
    """∂L(i)/∂params of every example, all parameters in a row: (seeds, m, parameters)."""

    def one_seed(params: Any) -> Array:
        leaves = jax.tree.leaves(jaxnet.readings.per_example_gradients(NETWORK, LOSS)(params, x, y))
        return jnp.concatenate([leaf.reshape(len(x), -1) for leaf in leaves], axis=1)

    return jax.vmap(one_seed)(params)


@jax.jit
def squared_deviation(gradients: Array, shares: Array) -> Array:
    """The mean over the batches of ‖g_B - g‖²; each batch is the share of every example: (ways, seeds, batches, m).

    The derivative is linear: the gradient of a batch's cost is the mean of its examples' gradients.
    """
    centred = gradients - gradients.mean(axis=1, keepdims=True)
    difference = jnp.einsum("wsbm,smp->wsbp", shares, centred, precision="highest")
    return jnp.square(difference).sum(axis=-1).mean(axis=-1)


def noise(options: Options, sizes: np.ndarray, x: Array, y: Array, how: str = INDEPENDENT) -> dict[str, Any]:
    """The measured variance by size and seed for each way of drawing, `how` the claim's; and the closed forms."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))
    gradients = gradients_of_examples(initial(jax.random.split(options.key, options.seeds)), x, y)
    one = np.asarray(gradients.var(axis=1).sum(axis=1))
    labels, ways = np.asarray(y), (how, WITHOUT, ONE_CLASS)
    variance = np.empty((len(ways), len(sizes), options.seeds))
    for i, size in enumerate(sizes):
        batches = [drawn_batches(way, options.seeds * DRAWS, size, labels, generator) for way in ways]
        shares = [[np.bincount(batch, minlength=len(x)) / size for batch in of_way] for of_way in batches]
        shares = np.reshape(shares, (len(ways), options.seeds, DRAWS, len(x)))
        variance[:, i] = squared_deviation(gradients, jnp.asarray(shares, jnp.float32))
    slopes = np.polyfit(np.log(sizes), np.log(variance[0]), 1)[0]
    return {
        "measured": dict(zip((INDEPENDENT, WITHOUT, ONE_CLASS), variance, strict=True)),
        "one": one,
        "closed form": one / sizes[:, None],
        "finite population": (len(x) - sizes[:, None]) / (len(x) - 1) * one / sizes[:, None],
        "slopes": slopes,
        "one class, slopes": np.polyfit(np.log(sizes), np.log(variance[2]), 1)[0],
    }


# Training -------------------------------------------------------------------------------------------------------------


@jax.jit
def orders(keys: Array) -> Array:
    """For each seed the order of the examples in each epoch of the longest training: (seeds, epochs, m)."""

    def one(key: Array) -> Array:
        return jaxnet.preprocessing.minibatches(key, jnp.arange(EXAMPLES), 1)[0].ravel()

    return jax.vmap(lambda key: jax.vmap(one)(jax.random.split(key, max(EPOCHS.values()))))(keys)


@jax.jit
def train(rates: Array, params: Any, batches: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Gradient descent on the batches (seeds, looks, steps a look, B), from each seed's parameters at each rate.

    Returns the cost of all examples after each look, (rates, seeds, looks), and of each step's batch, (…, steps).
    """

    def one(rate: Array, params: Any, batches: Array) -> tuple[Array, Array]:
        optimizer = jaxnet.gradient_descent(rate)
        state = jaxnet.training.TrainState(params, optimizer.init(params), jnp.zeros([]), jnp.zeros([], jnp.int32))

        def step(state: Any, batch: Array) -> Any:
            return jaxnet.training.train_step(NETWORK, LOSS, optimizer, state, x[batch], y[batch])

        def look(state: Any, batches: Array) -> Any:
            state, costs = jax.lax.scan(step, state, batches)
            return state, (jaxnet.cost(NETWORK, LOSS)(state.params, x, y), costs)

        _, (costs, batch_costs) = jax.lax.scan(look, state, batches)
        return costs, batch_costs.ravel()

    return jax.vmap(jax.vmap(one, in_axes=(None, 0, 0)), in_axes=(0, None, None))(rates, params, batches)


@jax.jit
def take_steps(state: jaxnet.training.TrainState, batches: Array, x: Array, y: Array) -> Any:
    """One step of gradient descent on each of the batches (steps, B), nothing else: what is timed."""
    optimizer = jaxnet.gradient_descent(0.01)

    def step(state: Any, batch: Array) -> Any:
        return jaxnet.training.train_step(NETWORK, LOSS, optimizer, state, x[batch], y[batch])

    return jax.lax.scan(step, state, batches)


def seconds_per_step(params: Any, order: Array, size: int, x: Array, y: Array, repetitions: int) -> float:
    """The median time of a compiled pass over batches of this size, by its number of steps."""
    batches = jnp.tile(order, 4).reshape(-1, size)
    optimizer = jaxnet.gradient_descent(0.01)
    state = jaxnet.training.TrainState(params, optimizer.init(params), jnp.zeros([]), jnp.zeros([], jnp.int32))
    seconds = []
    for _ in range(1 + repetitions):
        started = time.perf_counter()
        jax.block_until_ready(take_steps(state, batches, x, y))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:])) / len(batches)


def _curves(options: Options, x: Array, y: Array, size: int) -> dict[str, Any]:
    """The cost against steps at the best of three learning rates, and what it took to reach the target, by seed."""
    rates, keys = jnp.asarray(RATES[size], jnp.float32), jax.random.split(options.key, options.seeds)
    per_look = max(1, EVERY // size)
    order, params = orders(keys), initial(keys)
    batches = order[:, : EPOCHS[size]].reshape(options.seeds, -1, per_look, size)
    costs, batch_costs = (np.asarray(part) for part in train(rates, params, batches, x, y))
    looks = np.where((costs <= TARGET).any(axis=2), 1 + (costs <= TARGET).argmax(axis=2), np.inf)
    best = int(np.median(looks, axis=1).argmin())
    costs, batch_costs = costs[best], batch_costs[best]
    tail = np.diff(np.log(batch_costs[:, -max(8, len(batch_costs[0]) // 4) :]), axis=1)
    one = jax.tree.map(lambda leaf: leaf[0], params)
    return {
        "rate": RATES[size][best],
        "steps": np.arange(1, 1 + costs.shape[1]) * per_look,
        "cost": costs,
        "steps to target": looks[best] * per_look,
        "roughness": np.sqrt(np.square(tail).mean(axis=1)),
        "seconds a step": seconds_per_step(one, order[0, 0], size, x, y, 5 if options.quick else 15),
    }


# Two weights seen from above ------------------------------------------------------------------------------------------


@jax.jit
def walk(batches: Array, x: Array, y: Array) -> Array:
    """The two weights from (2, 2) after each step of gradient descent on these batches: (steps + 1, 2)."""
    gradient, optimizer = two_weights.gradient(jaxnet.binary_cross_entropy), jaxnet.gradient_descent(PATH_RATE)

    def step(carry: Any, batch: Array) -> Any:
        w, state = carry
        updates, state = optimizer.update(gradient(w, x[batch], y[batch]), state, w)
        return (w + updates, state), w

    start = jnp.full(2, 2.0, x.dtype)
    (last, _), path = jax.lax.scan(step, (start, optimizer.init(start)), batches)
    return jnp.concatenate([path, last[None]])


def _paths(options: Options) -> dict[str, Any]:
    """For each batch size the paths of every seed, and their length over that of all examples' path."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))
    x, y = (jnp.asarray(part, jnp.float32) for part in two_weights.tumours(FEATURES, TUMOURS, generator))
    paths: dict[str, Any] = {}
    for size in (1, 16, TUMOURS):
        shape = (options.seeds, PATH_STEPS, size)
        batches = generator.integers(0, TUMOURS, shape) if size < TUMOURS else np.broadcast_to(np.arange(size), shape)
        paths[str(size)] = np.asarray(jax.vmap(walk, in_axes=(0, None, None))(jnp.asarray(batches), x, y))
    lengths = {size: np.linalg.norm(np.diff(path, axis=1), axis=2).sum(axis=1) for size, path in paths.items()}
    cost = two_weights.cost(jaxnet.binary_cross_entropy)
    whole = paths[str(TUMOURS)][0]
    return {
        "paths": {size: path[0] for size, path in paths.items()},
        "wander": {size: length / np.linalg.norm(whole[-1] - whole[0]) for size, length in lengths.items()},
        "seen": two_weights.seen_from_above(lambda w: cost(w.astype(x.dtype), x, y), (-3.6, 2.6, -3.4, 3.6)),
    }


def run(options: Options, track: Track, how: str = INDEPENDENT) -> Result:
    """Measures noise, training and paths; `how` is the way of drawing whose variance must fall like 1/B."""
    x, y = training_set()
    sizes = np.array(QUICK_SIZES if options.quick else SIZES)
    parts: dict[Any, Any] = {"noise": lambda: noise(options, sizes, x, y, how), "paths": lambda: _paths(options)}
    parts |= {str(size): partial(_curves, options, x, y, int(size)) for size in sizes}
    drawn = {name: parts[name]() for name in track(parts, "batch sizes")}
    curves = {size: drawn.pop(str(size)) for size in sizes}
    drawn |= {"sizes": sizes, "curves": {str(size): curve for size, curve in curves.items()}}
    measured, slopes = drawn["noise"], drawn["noise"]["slopes"]
    spread = student.ppf(0.975, len(slopes) - 1) * slopes.std(ddof=1) / np.sqrt(len(slopes)) if len(slopes) > 1 else 0
    low, high = slopes.mean() - spread, slopes.mean() + spread
    to_closed_form = np.mean(measured["measured"][INDEPENDENT] / measured["closed form"], axis=1)
    population = measured["finite population"][:-1]
    to_population = np.mean(measured["measured"][WITHOUT][:-1] / population, axis=1)
    steps, seconds = (
        np.array([np.median(curve[what]) for curve in curves.values()])
        for what in ("steps to target", "seconds a step")
    )
    roughness = [float(np.median(curve["roughness"])) for curve in curves.values()]
    examples, times = steps * sizes, steps * seconds
    wander = {size: float(np.median(ratio)) for size, ratio in drawn["paths"]["wander"].items()}
    drawn["to target"] = {"steps": steps, "examples": examples, "seconds": times}
    measurements = (
        Measurement(f"variance of the gradient: slope against B, mean of {options.seeds} seeds", float(slopes.mean())),
        at_least("its 95 % interval: lower end", low, -1.1),
        at_most("its 95 % interval: upper end", high, -0.9),
        at_most("variance over closed form: largest |ratio - 1| of a size", np.abs(to_closed_form - 1).max(), 0.2),
        at_most("the same without replacement, by (m - B)/(m - 1)", np.abs(to_population - 1).max(), 0.2),
        Measurement("slope where every batch is of one class", float(np.mean(measured["one class, slopes"]))),
        at_most("roughness of the cost curve: largest ratio to the next smaller batch", _largest_ratio(roughness), 1),
        at_most(f"from above: path of all {TUMOURS} over the straight line", wander[str(TUMOURS)], 1.2),
        at_least("from above: path of one example a step over the straight line", wander["1"], 3),
        at_least("seconds a step on this machine: all over one", seconds[-1] / seconds[0], 2),
        at_least(f"steps to J = {TARGET:g}: one example a step over all", steps[0] / steps[-1], 10),
        at_least(f"examples to J = {TARGET:g}: all over one a step", examples[-1] / examples[0], 2),
        at_least(
            f"seconds to J = {TARGET:g} on this machine: one over the best between", times[0] / times[1:-1].min(), 1
        ),
        at_least(
            f"seconds to J = {TARGET:g} on this machine: all over the best between", times[-1] / times[1:-1].min(), 1
        ),
    )
    columns = ("batch size", "rate", "steps", "examples", "ms on this machine", "µs a step", "roughness")
    columns_of = zip(sizes, curves.values(), steps, examples, times, seconds, roughness, strict=True)
    rows = tuple(
        (str(size), curve["rate"], f"{s:g}", f"{e:g}", 1e3 * t, 1e6 * each, rough)
        for size, curve, s, e, t, each, rough in columns_of
    )
    title = f"To J = {TARGET:g} at the best of three learning rates: medians of the seeds, time by the median step"
    return Result(measurements, drawn, (Table(title, columns, rows),))


def _largest_ratio(values: list[float]) -> float:
    return max(after / before for before, after in pairwise(values))


def plot(result: Result) -> Figure:
    """The cost against steps, examples and time; the noise; what the target took; the paths from above."""
    drawn, canvas = result.drawn, Figure(figsize=(12, 7.6))
    panels: Any = canvas.subplots(2, 3)
    for panel, (unit, title) in zip(
        panels[0],
        (("steps", "in steps"), ("examples seen", "in examples"), ("ms", "in time on this machine")),
        strict=True,
    ):
        _draw_curves(panel, drawn, unit)
        panel.set_title(f"Cost {title}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    panels[0, 0].legend(handles, labels, title="batch size", ncols=2, loc="upper right", fontsize=9)
    _draw_noise(panels[1, 0], drawn)
    _draw_target(panels[1, 1], drawn)
    _draw_above(panels[1, 2], drawn["paths"])
    return canvas


def _draw_curves(panel: Axes, drawn: dict[str, Any], unit: str) -> None:
    """The median of the seeds with its range."""
    for (size, curve), colour in zip(drawn["curves"].items(), COLOURS, strict=False):
        scale = {"steps": 1, "examples seen": int(size), "ms": 1e3 * curve["seconds a step"]}[unit]
        steps, cost = curve["steps"] * scale, curve["cost"]
        panel.plot(steps, np.median(cost, axis=0), color=colour, linewidth=1.2, label=size)
        panel.fill_between(steps, cost.min(axis=0), cost.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    panel.axhline(TARGET, color=GREY, linestyle=":", linewidth=1)
    panel.set(xlabel=unit, ylabel="J of all examples (nats)", xscale="log", yscale="log", ylim=(0.02, 3.5))


def _draw_noise(panel: Axes, drawn: dict[str, Any]) -> None:
    measured, sizes = drawn["noise"], drawn["sizes"]
    for (way, variance), colour, marker in zip(
        measured["measured"].items(), (BLUE, ORANGE, PINK), MARKERS, strict=False
    ):
        shown = np.where(variance > 1e-6, variance, np.nan)
        panel.plot(sizes, shown, marker, color=colour, markersize=4, fillstyle="none")
        panel.plot([], [], marker, color=colour, fillstyle="none", label=way)
    panel.plot(sizes, np.median(measured["closed form"], axis=1), color=GREY, linewidth=1, label="closed form, 1/B")
    finite = np.median(measured["finite population"], axis=1)[:-1]
    panel.plot(sizes[:-1], finite, color=GREY, linewidth=1, linestyle="--", label="(m - B)/(m - 1) of it")
    panel.set(xlabel="batch size B", ylabel="variance of the gradient", xscale="log", yscale="log")
    panel.set_title("Noise of the gradient, every seed")
    panel.legend(loc="lower left", fontsize=9)


def _draw_target(panel: Axes, drawn: dict[str, Any]) -> None:
    for (what, values), colour, marker in zip(drawn["to target"].items(), COLOURS, MARKERS, strict=False):
        panel.plot(drawn["sizes"], values / values.min(), color=colour, marker=marker, markersize=4, label=what)
    panel.set(xlabel="batch size B", ylabel="times the least of all sizes", xscale="log", yscale="log")
    panel.set_title(f"What J = {TARGET:g} takes")
    panel.legend(loc="upper center", fontsize=9)


def _draw_above(panel: Axes, drawn: dict[str, Any]) -> None:
    two_weights.draw_contours(panel, drawn["seen"])
    for (size, path), colour in zip(drawn["paths"].items(), (PINK, ORANGE, BLUE), strict=True):
        label = f"all {size}" if size == str(TUMOURS) else size
        panel.plot(*path.T, color=colour, linewidth=1.8 if size == str(TUMOURS) else 0.8, label=label)
    panel.set_title(f"{PATH_STEPS} steps seen from above")
    panel.grid(False)
    panel.legend(title="batch size", loc="upper left", fontsize=9, ncols=3)
