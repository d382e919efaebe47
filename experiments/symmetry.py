"""S18: neurons that start equal stay equal for ever; random weights break the symmetry."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure

import jaxnet
from experiments.data import digits
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREEN, GREY, MARKERS, ORANGE, PINK

CLAIM = (
    "Neurons of a layer that start with equal weights are still equal, to the last bit, after a thousand steps of "
    "gradient descent or Adam, and the network learns what one with a single neuron a layer does; random weights "
    "make the neurons differ and the network learn (S18)."
)

WIDTH = 16  # of both hidden layers; a multiple of the vector unit's, so that every neuron's sums run in one order
ODD_WIDTH = 6
BATCH_SIZE = 120  # 1437 examples make 12 steps an epoch
EPOCHS = 84  # 1008 steps
GRADIENT_DESCENT, ADAM = jaxnet.gradient_descent(0.3), jaxnet.adam(0.005)


class Case(NamedTuple):
    """How the weights start, and what trains them; `nudge` is the standard deviation of what is added to each."""

    width: int
    equal: bool
    nudge: float
    optimizer: Any
    colour: str = GREY
    twin: bool = False  # reduced to one neuron a layer that stands for all equal ones


def twin_of(params: Any, width: int) -> Any:
    """One neuron a layer that computes what `width` equal neurons do: a sum of n equal terms is n times one."""
    first, _, second, _, third = params
    return (
        jaxnet.layers.Dense(first.weight[:1], first.bias[:1]),
        (),
        jaxnet.layers.Dense(width * second.weight[:1, :1], second.bias[:1]),
        (),
        jaxnet.layers.Dense(width * third.weight[:, :1], third.bias),
    )


def twin_descent(width: int) -> optax.GradientTransformation:
    """Gradient descent that moves the twin as the n equal neurons move.

    δ of one of n neurons is δ/n of the twin's, and the twin's weights out of a layer are n times theirs: the rates are
    α/n into the first layer and for hidden biases, α between the hidden layers, nα into the outputs.
    """
    rates = (
        jaxnet.layers.Dense(1 / width, 1 / width),
        (),
        jaxnet.layers.Dense(1.0, 1 / width),
        (),
        jaxnet.layers.Dense(width, 1.0),
    )  # pyright: ignore[reportArgumentType]
    scale = optax.stateless(lambda updates, _: jax.tree.map(lambda update, rate: rate * update, updates, rates))
    return optax.chain(GRADIENT_DESCENT, scale)


CASES = {
    "equal": Case(WIDTH, True, 0.0, GRADIENT_DESCENT, BLUE),
    "equal, Adam": Case(WIDTH, True, 0.0, ADAM, PINK),
    "its one-neuron twin": Case(WIDTH, True, 0.0, twin_descent(WIDTH), twin=True),
    "nearly equal": Case(WIDTH, True, 1e-6, GRADIENT_DESCENT, ORANGE),
    "random": Case(WIDTH, False, 0.0, GRADIENT_DESCENT, GREEN),
    f"equal, width {ODD_WIDTH}": Case(ODD_WIDTH, True, 0.0, GRADIENT_DESCENT),
}


def network_of(case: Case) -> jaxnet.Layer:
    """Two hidden layers of tanh neurons."""
    width = 1 if case.twin else case.width
    return jaxnet.mlp((64, width, width, 10), jaxnet.tanh, dtype=jnp.float32)


def start(key: Array, case: Case) -> Any:
    """The first parameters: random, or in each layer all the same number (plus the nudge)."""
    network = network_of(case._replace(twin=False))
    init_key, level_key, nudge_key = jax.random.split(key, 3)
    params = network.init(init_key)
    if not case.equal:
        return params
    leaves, structure = jax.tree.flatten(params)
    levels = jax.random.uniform(level_key, (len(leaves),), jnp.float32, 0.02, 0.2)
    keys = jax.random.split(nudge_key, len(leaves))
    nudges = [case.nudge * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    equal = [jnp.full_like(leaf, level) + nudge for leaf, level, nudge in zip(leaves, levels, nudges, strict=True)]
    params = jax.tree.unflatten(structure, equal)
    return twin_of(params, case.width) if case.twin else params


def spread(params: Any) -> Array:
    """The largest difference between two neurons of a hidden layer, in any weight into or out of them, or bias."""
    denses = [dense for dense in params if dense]
    into = [leaf for weight, bias in denses[:-1] for leaf in (weight, bias[:, None])]
    out_of = [weight.T for weight, _ in denses[1:]]
    return jnp.stack([jnp.ptp(leaf, axis=0).max() for leaf in (*into, *out_of)]).max()


@partial(jax.jit, static_argnums=(0, 1))
def train(network: jaxnet.Layer, optimizer: Any, params: Any, keys: Array, data: Any) -> dict[str, Array]:
    """From the first parameters of every seed: the spread after 0, 1, ... epochs, costs, and final accuracies."""
    return jax.lax.map(lambda seed: _train(network, optimizer, seed[0], seed[1], data), (params, keys))


def _train(network: jaxnet.Layer, optimizer: Any, params: Any, key: Array, data: Any) -> dict[str, Array]:
    loss = jaxnet.softmax_cross_entropy
    x, y, x_test, y_test = data
    state = jaxnet.init_state(network, optimizer, key)._replace(params=params)

    def epoch(state: jaxnet.training.TrainState, _: Any) -> tuple[jaxnet.training.TrainState, tuple[Array, Array]]:
        state, cost = jaxnet.training.train_epochs(
            network, loss, optimizer, state, x, y, 1, batch_size=BATCH_SIZE, capacity=1
        )
        return state, (spread(state.params), cost.mean())

    state, (spreads, cost) = jax.lax.scan(epoch, state, length=EPOCHS)
    predict = jaxnet.predict(network, loss)
    return {
        "spread": jnp.concatenate([spread(params)[None], spreads]),
        "cost": cost,
        "train": jaxnet.is_correct(predict(state.params, x), y).astype(jnp.float32).mean(),
        "test": jaxnet.is_correct(predict(state.params, x_test), y_test).astype(jnp.float32).mean(),
    }


def run(options: Options, track: Track, nudge: float = 0.0) -> Result:
    """Trains every case from every seed on the digits.

    Args:
        options: how to run.
        track: shows progress.
        nudge: what is added to the equal weights, as a standard deviation: with any, the premise is broken.
    """
    split = digits(0)
    stats = jaxnet.fit_standardization(jaxnet.preprocessing.flatten_images(split.x))
    x, x_test = (
        jaxnet.standardize(stats, jaxnet.preprocessing.flatten_images(part)) for part in (split.x, split.x_test)
    )
    x, x_test, y, y_test = *map(jnp.float32, (x, x_test)), *map(jnp.asarray, (split.y, split.y_test))
    data = x, y, x_test, y_test
    keys = jax.random.split(options.key, options.seeds)
    cases = {name: case for name, case in CASES.items() if not options.quick or name in ("equal", "random")}
    cases = {name: case._replace(nudge=nudge) if name.startswith("equal") else case for name, case in cases.items()}
    runs: dict[str, Any] = {}
    for name, case in track(cases.items(), "starts"):
        params = jax.jit(jax.vmap(partial(start, case=case)))(keys)
        runs[name] = jax.device_get(train(network_of(case), case.optimizer, params, keys, data))
    steps = EPOCHS * -(-len(x) // BATCH_SIZE)
    measurements = [
        at_most(f"{name}: largest difference between neurons, {steps} steps, {options.seeds} seeds",
                runs[name]["spread"].max(), 0)
        for name in ("equal", "equal, Adam") if name in runs
    ] + [
        at_least("random: the same at the end, smallest of the seeds", runs["random"]["spread"][:, -1].min(), 0.1),
        at_least("test accuracy, random less equal: smallest of the seeds",
                 (runs["random"]["test"] - runs["equal"]["test"]).min(), 0.2),
    ]  # fmt: skip
    if not options.quick:
        twin, odd = runs["its one-neuron twin"], runs[f"equal, width {ODD_WIDTH}"]
        measurements += [
            at_most("cost of the equal neurons against that of their one-neuron twin, largest relative difference",
                    abs(runs["equal"]["cost"] / twin["cost"] - 1).max(), 0.01),
            at_most("test accuracy of the two, largest difference of a seed",
                    abs(runs["equal"]["test"] - twin["test"]).max(), 0.02),
            Measurement(f"width {ODD_WIDTH}, no multiple of the vector unit's: largest difference",
                        float(odd["spread"].max())),
            Measurement("nearly equal (nudged by 1e-6): median difference at the end, the symmetry is unstable",
                        float(np.median(runs["nearly equal"]["spread"][:, -1]))),
        ]  # fmt: skip
    rows = tuple(
        (
            name,
            f"{np.median(of['spread'][:, -1]):.2g}",
            *(
                f"{np.median(of[part]):.3f} ({of[part].min():.3f} to {of[part].max():.3f})"
                for part in ("train", "test")
            ),
        )
        for name, of in runs.items()
    )
    columns = ("start", "difference of neurons, median", "train accuracy, median (range)", "test accuracy")
    return Result(tuple(measurements), {"runs": runs, "steps": steps}, (Table("After training", columns, rows),))


def plot(result: Result) -> Figure:
    """How far the neurons are apart by step, and the test accuracies."""
    runs, canvas = result.drawn["runs"], Figure(figsize=(10, 4))
    left, right = canvas.subplots(1, 2, width_ratios=(1.3, 1))
    steps = np.linspace(0, result.drawn["steps"], 1 + EPOCHS)
    drawn = [name for name in runs if CASES[name].colour != GREY]
    for name, marker in zip(drawn, MARKERS, strict=False):
        low, middle, high = np.quantile(runs[name]["spread"], (0, 0.5, 1), axis=0)
        colour, every = CASES[name].colour, (4 * drawn.index(name), 16)
        left.plot(steps, middle, marker=marker, markevery=every, markersize=5, color=colour, label=name)
        left.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    left.set_yscale("symlog", linthresh=1e-8, linscale=0.7)
    left.set_yticks([0, 1e-8, 1e-6, 1e-4, 1e-2, 1])
    left.set(title="Largest difference between neurons of a layer", xlabel="step", ylabel="difference of weights")
    left.set_ylim(-5e-9, 30)
    left.legend(loc="center right", bbox_to_anchor=(1, 0.33))
    names = list(runs)
    for row, name in enumerate(names):
        accuracy = runs[name]["test"]
        right.plot(accuracy, np.full(len(accuracy), row), "o", color=CASES[name].colour, markersize=6, alpha=0.7)
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.axvline(0.1, color=GREY, linestyle="--", linewidth=1)
    right.annotate("chance", (0.1, 1), (4, -4), xycoords=("data", "axes fraction"), textcoords="offset points",
                   color=GREY, va="top")  # fmt: skip
    right.set(title="Digits: test accuracy of every seed", xlabel="share of digits classified rightly", xlim=(0, 1.02))
    right.margins(y=0.2)
    return canvas
