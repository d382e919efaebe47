"""S21: gradient descent, momentum, RMSProp and Adam, each at many learning rates, on a valley and on digits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxnet
from experiments import two_weights
from experiments.batch_sizes import LOSS, NETWORK, initial, training_set
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREEN, MARKERS, ORANGE, PINK

CLAIM = (
    "Each of gradient descent, momentum, RMSProp and Adam learns digits at its best learning rate, to costs within a "
    "factor of 3; in a stretched valley momentum and Adam get ten times nearer the minimum than gradient descent, and "
    "Adam at the most rates. A cost 100 times as large leaves the good rates of RMSProp and Adam where they are, and "
    "divides those of the other two by 100. Not everywhere: on digits the ranges of good rates are about equally wide, "
    "and Adam gets less near the minimum where the valley lies across the axes, which gradient descent ignores (S21)."
)

FEATURES, TUMOURS, STRETCH = ("mean texture", "mean smoothness"), 128, 10.0
VALLEY_STEPS, DIGITS_STEPS, BATCH = 100, 160, 32
SCALE = 100.0
RATES = {False: np.logspace(-5, 2, 29), True: np.logspace(-5, 2, 15)}  # by options.quick
NAMES = ("gradient descent", "momentum", "RMSProp", "Adam")
ADAPTIVE = NAMES[2:]
GOOD = {"valley": 1.1, "digits": 2.0}  # a rate is good if J is within this factor of its optimizer's least
COLOURS: dict[str, str] = dict(zip(NAMES, (BLUE, ORANGE, GREEN, PINK), strict=True))


def optimizer(name: str, rate: Any, eps: Any) -> Any:
    """The optimizer with its usual β; vmap stacks it over learning rates."""
    factories: dict[str, Callable[[], Any]] = {
        "gradient descent": lambda: jaxnet.gradient_descent(rate),
        "momentum": lambda: jaxnet.optimizers.momentum(rate),
        "RMSProp": lambda: jaxnet.optimizers.rmsprop(rate, eps=eps, eps_in_sqrt=False),
        "Adam": lambda: jaxnet.adam(rate, eps=eps),
    }
    return factories[name]()


def descend(rule: Any, gradient: Any, start: Any, batches: Array, scale: Array) -> Any:
    """A step on each of the batches of `scale` times the cost: the last parameters, and those before every step."""

    def step(carry: Any, batch: Array) -> Any:
        params, state = carry
        slope = jax.tree.map(lambda leaf: scale * leaf, gradient(params, batch))
        updates, state = rule.update(slope, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), params

    (params, _), path = jax.lax.scan(step, (start, rule.init(start)), batches)
    return params, path


@partial(jax.jit, static_argnums=0)
def sweep_valley(name: str, rates: Array, scales: Array, starts: Array, x: Array, y: Array, eps: Array) -> Any:
    """The final cost by valley, scale, rate and seed, and the path; starts (valleys, seeds, 2), x (…, m, 2)."""
    gradient, cost = two_weights.gradient(jaxnet.binary_cross_entropy), two_weights.cost(jaxnet.binary_cross_entropy)

    def one(start: Array, x: Array, y: Array, scale: Array, rate: Array) -> tuple[Array, Array]:
        steps = jnp.zeros(VALLEY_STEPS, x.dtype)
        last, path = descend(optimizer(name, rate, eps), lambda w, _: gradient(w, x, y), start, steps, scale)
        return cost(last, x, y), jnp.concatenate([path, last[None]])

    seeds = jax.vmap(one, in_axes=(0, 0, 0, None, None))
    by_rate = jax.vmap(seeds, in_axes=(None, None, None, None, 0))
    by_scale = jax.vmap(by_rate, in_axes=(None, None, None, 0, None))
    return jax.vmap(by_scale, in_axes=(0, 0, None, None, None))(starts, x, y, scales, rates)


@partial(jax.jit, static_argnums=0)
def sweep_digits(
    name: str, rates: Array, scales: Array, starts: Any, batches: Array, x: Array, y: Array, eps: Array
) -> Array:
    """The final cost of all examples by scale, rate and seed; batches (seeds, steps, B)."""
    function = jaxnet.cost_and_gradient(NETWORK, LOSS)

    def one(start: Any, batches: Array, scale: Array, rate: Array) -> Array:
        rule = optimizer(name, rate, eps)
        last, _ = descend(rule, lambda p, batch: function(p, x[batch], y[batch])[1], start, batches, scale)
        return jaxnet.cost(NETWORK, LOSS)(last, x, y)

    by_rate = jax.vmap(jax.vmap(one, in_axes=(0, 0, None, None)), in_axes=(None, None, None, 0))
    return jax.vmap(by_rate, in_axes=(None, None, 0, None))(starts, batches, scales, rates)


def valleys(options: Options) -> dict[str, Any]:
    """For each seed tumours whose first feature is stretched, a start, the minimum; the same turned by 45°."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))
    turn = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    found: dict[str, list[Any]] = {"x": [], "y": [], "start": [], "least": [], "first": [], "condition": []}
    for _ in range(options.seeds):
        x, y = two_weights.tumours(FEATURES, TUMOURS, generator)
        x = x * np.array([STRETCH, 1])
        goal = two_weights.minimum(x, y)
        start = goal + np.array([3 / STRETCH, 3]) * generator.choice([-1, 1], 2)
        cost = two_weights.cost(jaxnet.binary_cross_entropy)
        least, first = (float(cost(*map(jnp.asarray, (w, x, y)))) for w in (goal, start))
        # z = x·w is the same for x and w both turned.
        new = (np.stack([x, x @ turn]), y, np.stack([start, start @ turn]), least, first)
        for values, value in zip(found.values(), (*new, np.linalg.cond(two_weights.curvature(goal, x))), strict=True):
            values.append(value)
    return {name: np.stack(values) for name, values in found.items()}


def in_the_valley(options: Options, rates: np.ndarray, eps: float) -> dict[str, Any]:
    """The final cost of each optimizer by valley (along the axes, turned), scale, rate and seed; paths of the best."""
    problem = valleys(options)
    x, starts = (jnp.asarray(problem[name].swapaxes(0, 1)) for name in ("x", "start"))
    y, scales = jnp.asarray(problem["y"]), jnp.array([1.0, SCALE])
    span = (problem["first"] - problem["least"])[None, None, None]
    drawn: dict[str, Any] = {"cost": {}, "excess": {}, "path": {}, "condition": problem["condition"]}
    for name in NAMES:
        cost, path = sweep_valley(name, jnp.asarray(rates), scales, starts, x, y, jnp.asarray(eps))
        drawn["cost"][name] = np.asarray(cost)
        drawn["excess"][name] = (drawn["cost"][name] - problem["least"][None, None, None]) / span
        drawn["path"][name] = np.asarray(path[0, 0, _best(drawn["excess"][name][0, 0]), 0])
    value = two_weights.cost(jaxnet.binary_cross_entropy)
    goal = two_weights.minimum(problem["x"][0, 0], problem["y"][0])
    ends = np.concatenate([*drawn["path"].values(), goal[None]])
    (left, bottom), (right, top) = ends.min(axis=0), ends.max(axis=0)
    wide, high = 0.15 * (right - left), 0.15 * (top - bottom)
    limits = (left - wide, right + wide, bottom - high, top + high)
    drawn["seen"] = two_weights.seen_from_above(lambda w: value(w, x[0, 0], y[0]), limits)
    return drawn | {"minimum": goal}


def on_digits(options: Options, rates: np.ndarray, eps: float) -> dict[str, Any]:
    """The final cost of each optimizer by scale, rate and seed."""
    x, y = training_set()
    starts = initial(jax.random.split(options.key, options.seeds))
    batches = jax.random.randint(options.key, (options.seeds, DIGITS_STEPS, BATCH), 0, len(x))
    numbers = [jnp.asarray(number, jnp.float32) for number in (rates, (1, SCALE), eps)]
    costs = {name: np.asarray(sweep_digits(name, *numbers[:2], starts, batches, x, y, numbers[2])) for name in NAMES}
    return {"cost": costs}


def _best(costs: np.ndarray) -> int:
    """The rate of least median cost over the seeds; (rates, seeds)."""
    return int(np.nanargmin(_median(costs)))


def _median(costs: np.ndarray) -> np.ndarray:
    return np.median(np.where(np.isfinite(costs), costs, np.inf), axis=-1)


def good_rates(costs: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    """For each optimizer, scale, rate and seed, whether J is within a factor of the least of all rates."""
    return {name: cost <= factor * np.nanmin(cost, axis=1, keepdims=True) for name, cost in costs.items()}


def _centre(good: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The mean log10 of each seed's good rates."""
    return (good * np.log10(rates)[:, None]).sum(axis=0) / good.sum(axis=0)


def run(options: Options, track: Track, eps: float = 1e-8) -> Result:
    """Sweeps the learning rate of each optimizer; `eps` of RMSProp and Adam, if large, undoes their scaling."""
    rates = RATES[options.quick]
    parts = {"valley": in_the_valley, "digits": on_digits}
    drawn: dict[str, Any] = {"rates": rates}
    for part in track(parts, "problems"):
        with jax.enable_x64(part == "valley"):
            drawn[part] = parts[part](options, rates, eps)
    costs = {
        "valley": {name: cost[0] for name, cost in drawn["valley"]["cost"].items()},
        "digits": drawn["digits"]["cost"],
    }
    drawn["good"] = {part: good_rates(costs[part], GOOD[part]) for part in parts}
    measurements = _moves(drawn["good"], rates) + _at_the_best(costs["digits"], drawn["valley"]["excess"])
    width = {part: _widths(good, rates) for part, good in drawn["good"].items()}
    in_valley, of_digits = ({name: np.median(w) for name, w in width[part].items()} for part in parts)
    widest = max(in_valley[name] for name in NAMES if name != "Adam")
    measurements += [
        at_least("valley: Adam's range of good rates over the widest other", in_valley["Adam"] / widest, 1),
        at_most("digits: widest range over narrowest", max(of_digits.values()) / min(of_digits.values()), 3),
        Measurement("valley: condition number, median", float(np.median(drawn["valley"]["condition"]))),
    ]
    columns = ("problem", "optimizer", "best rate", "J, median", "J, least", "J, most", "good, decades", "by seed")
    rows = []
    for part in parts:
        for name in NAMES:
            best, widths = _best(costs[part][name][0]), width[part][name]
            final = costs[part][name][0][best]
            numbers = (float(np.median(final)), float(final.min()), float(final.max()), float(np.median(widths)))
            rows.append((part, name, f"{rates[best]:.2g}", *numbers, f"{widths.min():.2f} to {widths.max():.2f}"))
    factors = " or ".join(f"{factor:g} ({part})" for part, factor in GOOD.items())
    title = f"Each at its best rate; good rates: J within {factors} times the optimizer's least"
    return Result(tuple(measurements), drawn, (Table(title, columns, tuple(rows)),))


def _widths(good: dict[str, np.ndarray], rates: np.ndarray) -> dict[str, np.ndarray]:
    """The decades of good rates of each seed."""
    return {name: ok[0].sum(axis=0) * np.log10(rates[1] / rates[0]) for name, ok in good.items()}


def _moves(good: dict[str, dict[str, np.ndarray]], rates: np.ndarray) -> list[Measurement]:
    """How far the good rates lie, after scaling the cost, from where they should."""
    measurements = []
    for part, by_name in good.items():
        for name, ok in by_name.items():
            move = np.median(_centre(ok[1], rates) - _centre(ok[0], rates))
            expected = 0 if name in ADAPTIVE else -np.log10(SCALE)
            what = f"{part}, {name}: move of the good rates for {SCALE:g} J, from {expected:+g}, in decades"
            measurements.append(at_most(what, abs(move - expected), 0.3))
    return measurements


def _at_the_best(digits: dict[str, np.ndarray], excess: dict[str, np.ndarray]) -> list[Measurement]:
    """What each reaches at its best rate: the cost of digits, and the excess in the valley, as it lies and turned."""
    least = {name: _median(cost[0]).min() for name, cost in digits.items()}
    reached = {name: _median(values[0, 0]).min() for name, values in excess.items()}
    turned = {name: np.nanmin(v[1, 0], axis=0) / np.nanmin(v[0, 0], axis=0) for name, v in excess.items()}
    descent = reached["gradient descent"]
    measurements = [
        at_most("digits: worst over best of the four, each at its best", max(least.values()) / min(least.values()), 3),
        at_least("valley: excess of gradient descent over momentum's", descent / reached["momentum"], 10),
        at_least("valley: excess of gradient descent over Adam's", descent / reached["Adam"], 10),
    ]
    for name, ratio in turned.items():
        what = f"valley turned by 45°, {name}: excess over that along the axes"
        middle = float(np.median(ratio))
        if name == "RMSProp":  # it hovers, so that its last step is a matter of luck
            measurements.append(Measurement(what, middle))
        else:
            measurements.append(at_least(what, middle, 1) if name == "Adam" else at_most(what, middle, 1.001))
    return measurements


def plot(result: Result) -> Figure:
    """The valley from above, the sweeps on both problems, and the good rates before and after scaling the cost."""
    drawn, canvas = result.drawn, Figure(figsize=(11, 8))
    panels: Any = canvas.subplots(2, 2)
    _draw_paths(panels[0, 0], drawn["valley"])
    excess = {name: values[:, 0] for name, values in drawn["valley"]["excess"].items()}
    _draw_sweep(panels[0, 1], drawn["rates"], excess, (1e-5, 3))
    panels[0, 1].set_title(f"Valley, {VALLEY_STEPS} steps: solid along the axes, dashed turned by 45°")
    panels[0, 1].set_ylabel("J above the minimum, of the start's")
    _draw_sweep(panels[1, 0], drawn["rates"], drawn["digits"]["cost"], (0.02, 5))
    panels[1, 0].set_title(f"Digits, {DIGITS_STEPS} steps: solid J, dashed {SCALE:g} J")
    panels[1, 0].set_ylabel("J of all examples (nats)")
    _draw_good(panels[1, 1], drawn)
    handles, labels = panels[1, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=len(NAMES))
    return canvas


def _draw_paths(panel: Axes, drawn: dict[str, Any]) -> None:
    two_weights.draw_contours(panel, drawn["seen"])
    for (name, path), marker in reversed(list(zip(drawn["path"].items(), MARKERS, strict=False))):
        panel.plot(*path.T, color=COLOURS[name], marker=marker, markersize=2.5, linewidth=1)
    panel.plot(*drawn["minimum"], "+", color="black", markersize=10)
    panel.annotate("minimum", drawn["minimum"], (8, -4), textcoords="offset points")
    panel.set(xlim=drawn["seen"]["w_1"][[0, -1]], ylim=drawn["seen"]["w_2"][[0, -1]])
    panel.set_title(f"The valley from above, {VALLEY_STEPS} steps at the best rate")
    panel.grid(False)


def _draw_sweep(panel: Axes, rates: np.ndarray, costs: dict[str, np.ndarray], limits: tuple[float, float]) -> None:
    """The median of the seeds, solid for the first of two cases with the range of the seeds, dashed for the second."""
    for (name, cost), marker in zip(costs.items(), MARKERS, strict=False):
        shown = np.clip(np.where(np.isfinite(cost), cost, np.inf), None, 1e3)
        panel.plot(rates, np.median(shown[0], axis=-1), color=COLOURS[name], marker=marker, markersize=3, label=name)
        panel.fill_between(
            rates, shown[0].min(axis=-1), shown[0].max(axis=-1), color=COLOURS[name], alpha=0.15, linewidth=0
        )
        panel.plot(rates, np.median(shown[1], axis=-1), color=COLOURS[name], linestyle="--", linewidth=1)
    panel.set(xlabel="learning rate α", xscale="log", yscale="log", ylim=limits)


def _draw_good(panel: Axes, drawn: dict[str, Any]) -> None:
    """A bar over the rates that are good for more than half of the seeds, for each problem, scale and optimizer."""
    rates, ticks = drawn["rates"], {}
    half = np.sqrt(rates[1] / rates[0])
    row = 0.0
    for part, good in drawn["good"].items():
        for scale, what in enumerate(("J", f"{SCALE:g} J")):
            ticks[row + 1.5] = f"{part}\n{what}"
            for name, ok in good.items():
                for rate in rates[ok[scale].mean(axis=-1) > 0.5]:
                    panel.barh(row, rate * half - rate / half, left=rate / half, color=COLOURS[name], height=0.8)
                row += 1
            row += 1
    panel.set(xlabel="learning rate α", xscale="log", xlim=(rates[0], rates[-1]))
    panel.set_yticks(list(ticks), list(ticks.values()))
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.set_title("Good rates, of most seeds")
