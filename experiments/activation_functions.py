"""S9, S12: slopes of the activation functions, the gradient through many layers of them, and which one learns."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jaxnet
from experiments.data import digits
from experiments.experiment import Options, Result, Table, Track, at_least, at_most
from experiments.figures import COLOURS, GREY, MARKERS

CLAIM = (
    "Sigmoid and tanh have slopes below e^-|z| and 4e^-2|z|: units pushed to large |z| saturate and the gradient "
    "through them vanishes. Through sigmoids it falls more than fourfold a layer even where none is saturated. ReLU "
    "does not saturate for z > 0 and keeps the gradient's size. Which activation learns is to be measured: on digits "
    "all three with 2 hidden layers, tanh and ReLU with 10, sigmoid not (S9, S12)."
)

ACTIVATIONS = {"sigmoid": jaxnet.sigmoid, "tanh": jaxnet.tanh, "ReLU": jaxnet.relu}
DEPTH, WIDTH, EXAMPLES = 20, 64, 128
# Weights as initialized times the first number, biases N(0, second²): what saturates units, large biases or weights.
PLAIN, PUSHED, HEAVY = "as initialized", "biases N(0, 5²)", "weights × 8"
SETTINGS = {PLAIN: (1.0, 0.0), PUSHED: (1.0, 5.0), HEAVY: (8.0, 0.0)}
SATURATED = 0.1  # a unit is saturated where its slope is below a tenth of the largest
SHALLOW, DEEP, TRAIN_WIDTH = 2, 10, 32
RATES = (0.03, 0.1)
BATCH, EPOCHS = 64, 12


def _curve(activation: jaxnet.activations.Activation, z: np.ndarray) -> dict[str, np.ndarray]:
    """Values and slopes by the library, in float64."""
    with jax.enable_x64(True):
        a = activation.value(jnp.asarray(z))
        slope = activation.derivative(a if activation.reads == "output" else jnp.asarray(z))
    return {"z": z, "value": np.asarray(a), "slope": np.asarray(slope)}


def _scale(activation: jaxnet.activations.Activation) -> int:
    """n_in Var(w) of the library's default weights: `he_normal` for ReLU, `lecun_normal` for the others."""
    return 2 if activation is jaxnet.relu else 1


def law(activation: jaxnet.activations.Activation, gain: float, bias: float) -> np.ndarray:
    """‖∂L/∂z[l]‖ over that of the last layer, for wide networks: z is normal, and every layer's factor is

    gain √(n_in Var(w) E[g'(z)²]), where Var(z[l]) = gain² n_in Var(w) E[a[l-1]²] + bias².
    """
    unit = np.linspace(-8, 8, 20001)
    weight = np.exp(-(unit**2) / 2)
    weight /= weight.sum()
    scale = gain**2 * _scale(activation)
    square, factors = 1.0, []
    for _ in range(DEPTH):
        curve = _curve(activation, unit * math.sqrt(scale * square + bias**2))
        square = weight @ curve["value"] ** 2
        factors.append(math.sqrt(scale * (weight @ curve["slope"] ** 2)))
    return np.append(np.cumprod(factors[:-1][::-1])[::-1], 1.0)


def _through(activation: jaxnet.activations.Activation, options: Options) -> dict[str, dict[str, np.ndarray]]:
    """For every setting and seed, by layer: the saturated share, and ‖∂L/∂z[l]‖ over that of the last layer.

    Inputs and the gradient that enters from above are random: what the layers do to them is asked.
    """
    linear = jaxnet.dense(WIDTH, WIDTH, dtype="float64")
    network = jaxnet.repeat(jaxnet.serial(linear, jaxnet.elementwise(activation)), DEPTH)
    largest = float(_curve(activation, np.linspace(-1, 1, 3))["slope"].max())
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))

    def normal(*shape: int) -> Array:
        return jnp.asarray(generator.standard_normal((options.seeds, *shape)))

    def one(dense: jaxnet.layers.Dense, x: Array, delta: Array, setting: Array) -> tuple[Array, Array]:
        params = (jaxnet.layers.Dense(dense.weight * setting[0], dense.bias * setting[1]), ())
        _, cache = network.forward(params, x)
        saturated = activation.derivative(cache[1]) < SATURATED * largest

        def example(cache: Any, delta: Array) -> Array:
            return network.backward(params, cache, delta)[1][0].bias  # ∂L(i)/∂b[l] = ∂L(i)/∂z[l]

        size = jnp.sqrt(jnp.square(jax.vmap(example, in_axes=(1, 0))(cache, delta)).mean(axis=(0, 2)))
        return saturated.mean(axis=(1, 2)), size / size[-1]

    weight = normal(DEPTH, WIDTH, WIDTH) * math.sqrt(_scale(activation) / WIDTH)
    dense = jaxnet.layers.Dense(weight, normal(DEPTH, WIDTH))
    every = jax.jit(jax.vmap(jax.vmap(one, in_axes=(0, 0, 0, None)), in_axes=(None, None, None, 0)))
    saturated, sizes = every(dense, normal(EXAMPLES, WIDTH), normal(EXAMPLES, WIDTH), jnp.asarray([*SETTINGS.values()]))
    return {
        name: {"saturated": np.asarray(saturated[i]), "gradient": np.asarray(sizes[i])}
        for i, name in enumerate(SETTINGS)
    }


def signals(options: Options, track: Track, activations: dict[str, jaxnet.activations.Activation]) -> Result:
    """Slopes, saturated shares and gradients of networks as they start."""
    curves = {name: _curve(activation, np.linspace(-12, 12, 481)) for name, activation in activations.items()}
    with jax.enable_x64(True):  # the squares of what is left of some gradients underflow in float32
        through = {
            name: _through(activation, options)
            for name, activation in track(list(activations.items()), "layers as they start")
        }
    laws = {name: {what: law(g, *SETTINGS[what]) for what in SETTINGS} for name, g in activations.items()}
    a_layer = {
        (name, what): measured["gradient"][:, 0] ** (1 / (DEPTH - 1))
        for name, settings in through.items()
        for what, measured in settings.items()
    }
    share = {(name, what): through[name][what]["saturated"].mean(axis=1) for name, what in a_layer}
    z = np.abs(curves["tanh"]["z"])
    measurements = [
        at_most("sigmoid: largest slope over e^-|z|", (curves["sigmoid"]["slope"] * np.exp(z)).max(), 1),
        at_most("tanh: largest slope over 4e^-2|z|", (curves["tanh"]["slope"] * np.exp(2 * z) / 4).max(), 1),
        at_most("sigmoid: gradient's factor a layer, largest of the seeds", a_layer["sigmoid", PLAIN].max(), 0.25),
        at_most("sigmoid: saturated share then, largest", share["sigmoid", PLAIN].max(), 0.01),
        at_least("ReLU: gradient's factor a layer, median", np.median(a_layer["ReLU", PLAIN]), 0.9),
        at_most("ReLU: gradient's factor a layer, median", np.median(a_layer["ReLU", PLAIN]), 1.1),
        at_least(f"ReLU: factor with {PUSHED}, median", np.median(a_layer["ReLU", PUSHED]), 0.9),
    ]
    for name in ("sigmoid", "tanh"):
        pushed, plain = np.median(a_layer[name, PUSHED]), np.median(a_layer[name, PLAIN])
        measurements += [
            at_least(f"{name}: saturated share with {PUSHED}, smallest", share[name, PUSHED].min(), 0.4),
            at_most(f"{name}: gradient's factor a layer with {PUSHED}, over that without", pushed / plain, 0.6),
        ]
    errors = {
        (name, what): np.median(a) / laws[name][what][0] ** (1 / (DEPTH - 1)) for (name, what), a in a_layer.items()
    }
    off = max(abs(error - 1) for (_, what), error in errors.items() if what == PLAIN)
    measurements.append(
        at_most(f"factors a layer {PLAIN}: largest relative difference to the law of wide networks", off, 0.05)
    )
    rows = tuple(
        (
            name,
            what,
            float(np.median(share[name, what])),
            *(float(f(a)) for f in (np.median, np.min, np.max)),
            float(laws[name][what][0] ** (1 / (DEPTH - 1))),
        )
        for (name, what), a in a_layer.items()
    )
    columns = ("activation", "layers", "saturated share", "factor a layer", "least seed", "largest seed", "law")
    title = f"Share of slopes below a tenth of the largest, and gradient's factor a layer: {DEPTH} × {WIDTH} units"
    return Result(
        tuple(measurements), {"curves": curves, "through": through, "law": laws}, (Table(title, columns, rows),)
    )


def _deep(activation: jaxnet.activations.Activation, depth: int) -> jaxnet.Layer:
    """64 inputs, equal hidden layers in one scan, 10 linear outputs; float32."""
    initializer = jaxnet.initializers.he_normal if activation is jaxnet.relu else jaxnet.initializers.lecun_normal
    dense = partial(jaxnet.dense, initializer=initializer, dtype=jnp.float32)
    g = jaxnet.elementwise(activation)
    hidden = jaxnet.repeat(jaxnet.serial(dense(TRAIN_WIDTH, TRAIN_WIDTH), g), depth - 1)
    return jaxnet.serial(dense(64, TRAIN_WIDTH), g, hidden, dense(TRAIN_WIDTH, 10))


@partial(jax.jit, static_argnames=("network", "epochs"))
def _train(network: jaxnet.Layer, states: Any, rates: Array, x: Array, y: Array, *, epochs: int) -> Any:
    """Trains every seed with every learning rate; the parameters and the mean cost of every epoch."""

    def one(state: jaxnet.training.TrainState, rate: Array) -> Any:
        optimizer = jaxnet.optimizers.heavy_ball(rate, 0.9)
        state, cost = jaxnet.training.train_epochs(
            network, jaxnet.softmax_cross_entropy, optimizer, state, x, y, epochs, batch_size=BATCH, capacity=epochs
        )
        return state.params, cost.mean(axis=1)

    return jax.vmap(jax.vmap(one, in_axes=(0, None)), in_axes=(None, 0))(states, rates)


def learning(options: Options, track: Track, activations: dict[str, jaxnet.activations.Activation]) -> Result:
    """Digits learned with few hidden layers (not in a quick run) and with many, by the best learning rate of each."""
    split = digits(seed=0)
    x, x_test = jaxnet.preprocessing.flatten_images(split.x), jaxnet.preprocessing.flatten_images(split.x_test)
    stats = jaxnet.fit_standardization(x)
    x, x_test = (jnp.asarray(jaxnet.standardize(stats, part), jnp.float32) for part in (x, x_test))
    whole = len(x) - len(x) % BATCH  # a last batch of another size would double the time to compile
    x, y = x[:whole], jnp.asarray(split.y[:whole], jnp.int32)
    keys, rates = jax.random.split(options.key, options.seeds), jnp.asarray(RATES, jnp.float32)
    depths = (DEEP,) if options.quick else (SHALLOW, DEEP)
    cases = [(name, depth) for depth in depths for name in activations]
    learned: dict[str, dict[str, Any]] = {str(depth): {} for depth in depths}
    for name, depth in track(cases, "training on digits"):
        network = _deep(activations[name], depth)
        states = jax.vmap(partial(jaxnet.init_state, network, jaxnet.optimizers.heavy_ball(0.1, 0.9)))(keys)
        params, costs = _train(network, states, rates, x, y, epochs=EPOCHS)
        costs = np.asarray(costs)
        best = int(np.argmin(np.nan_to_num(np.median(costs[:, :, -1], axis=1), nan=np.inf)))
        predict = jax.jit(jax.vmap(jaxnet.predict(network, jaxnet.softmax_cross_entropy), in_axes=(0, None)))
        prediction = np.asarray(predict(jax.tree.map(lambda leaf, best=best: leaf[best], params), x_test))
        accuracy = (prediction.argmax(axis=-1) == split.y_test).mean(axis=1)
        learned[str(depth)][name] = {"rate": RATES[best], "cost": costs[best], "accuracy": accuracy}
    measurements, rows = [], []
    for depth, kinds in learned.items():
        for name, kind in kinds.items():
            low, middle, high = np.quantile(kind["accuracy"], (0, 0.5, 1))
            what = f"digits, {depth} hidden layers, {name}: test accuracy"
            if (name, depth) == ("sigmoid", str(DEEP)):
                measurements.append(at_most(f"{what}, best of {options.seeds} seeds", high, 0.3))
            else:
                measurements.append(at_least(f"{what}, median", middle, 0.85))
            rows.append((depth, name, f"{kind['rate']:g}", *map(float, (middle, low, high)), *_last(kind["cost"])))
    columns = (
        "hidden layers",
        "activation",
        "best rate",
        "test accuracy",
        "worst",
        "best",
        "last cost",
        "worst",
        "best",
    )
    title = f"Digits after {EPOCHS} epochs of momentum 0.9, best of the rates {', '.join(map(str, RATES))}"
    return Result(tuple(measurements), {"learned": learned}, (Table(title, columns, tuple(rows)),))


def _last(cost: np.ndarray) -> tuple[float, float, float]:
    """Median, largest and smallest cost of the last epoch."""
    return float(np.median(cost[:, -1])), float(cost[:, -1].max()), float(cost[:, -1].min())


def run(options: Options, track: Track) -> Result:
    """What the activations do to signals, and what networks learn with them."""
    parts = [part(options, track, ACTIVATIONS) for part in (signals, learning)]
    measurements = tuple(measurement for part in parts for measurement in part.measurements)
    return Result(measurements, parts[0].drawn | parts[1].drawn, parts[0].tables + parts[1].tables)


def plot(result: Result) -> Figure:
    """Values, slopes, saturated shares, gradients by layer, training curves and accuracies."""
    drawn, canvas = result.drawn, Figure(figsize=(11, 7.2))
    values, slopes, shares, gradients, curves, accuracies = canvas.subplots(2, 3).flat
    layers = np.arange(1, 1 + DEPTH)
    for i, (name, colour, marker) in enumerate(zip(drawn["curves"], COLOURS, MARKERS, strict=False)):
        curve = drawn["curves"][name]
        values.plot(curve["z"], curve["value"], color=colour, label=name)
        slopes.plot(curve["z"], np.where(curve["slope"] > 0, curve["slope"], np.nan), color=colour)
        for what, style in ((PLAIN, "-"), (PUSHED, "--")):
            measured = drawn["through"][name][what]
            for panel, of in ((shares, "saturated"), (gradients, "gradient")):
                low, middle, high = np.quantile(measured[of], (0, 0.5, 1), axis=0)
                panel.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
                panel.plot(layers, middle, style, color=colour, marker=marker, markersize=3.5)
            gradients.plot(layers, drawn["law"][name][what], ":", color="black", linewidth=1)
        for j, (depth, kinds) in enumerate(drawn["learned"].items()):
            kind = kinds[name]
            low, middle, high = np.quantile(kind["accuracy"], (0, 0.5, 1))
            accuracies.errorbar(
                j + 0.12 * (i - 1), middle, [[middle - low], [high - middle]], fmt=marker, color=colour, capsize=4
            )
            if depth == str(DEEP):
                epochs = np.arange(1, 1 + kind["cost"].shape[1])
                curves.fill_between(epochs, kind["cost"].min(axis=0), kind["cost"].max(axis=0), color=colour, alpha=0.2)
                curves.plot(epochs, np.median(kind["cost"], axis=0), color=colour, marker=marker, markersize=3.5)
    values.set(title="Values", xlabel="z", ylabel="a = g(z)", xlim=(-4, 4), ylim=(-1.2, 2.2))
    slopes.set(title="Slopes (ReLU: 0 for z ≤ 0)", xlabel="z", ylabel="g'(z)", yscale="log", ylim=(1e-10, 5))
    title = "Saturated (ReLU: switched-off) units\n(dashed: with biases N(0, 5²))"
    shares.set(title=title, xlabel="layer", ylabel="share of the units", ylim=(-0.03, 1.03))
    title = "Gradient by layer, over the last layer's\n(dashed: so too; dotted: law, wide nets)"
    gradients.set(title=title, xlabel="layer", ylabel="‖∂L/∂z[l]‖ relative", yscale="log")
    title = f"Digits, {DEEP} hidden layers\n(median and range of the seeds)"
    curves.set(title=title, xlabel="epoch", ylabel="J (nats)", yscale="log")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.axhline(math.log(10), color=GREY, linestyle="--", linewidth=1)
    curves.annotate("chance", (8, math.log(10)), (0, -14), textcoords="offset points", color=GREY)
    accuracies.set(title="Digits, best rate of each\n(median and range of the seeds)", xlabel="hidden layers")
    accuracies.set(ylabel="test accuracy", ylim=(0, 1.03), xlim=(-0.5, len(drawn["learned"]) - 0.5))
    accuracies.set_xticks(range(len(drawn["learned"])), list(drawn["learned"]))
    for panel in (shares, gradients):
        panel.set_xticks([1, 5, 10, 15, 20])
    canvas.legend(*values.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return canvas
