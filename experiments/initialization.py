"""S16, S17: the variance of z and of the gradient through fifty layers, for each initialization and activation."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from matplotlib.figure import Figure

import jaxnet
from experiments.data import digits
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREY, MARKERS, ORANGE, PINK
from jaxnet import initializers
from jaxnet.layers import Reading

CLAIM = (
    "One neuron's z has n times the variance of its weights (S16). Through fifty layers variances follow their theory; "
    "He's 2/n keeps both z and gradient for ReLU, LeCun's 1/n nearly for tanh, Glorot's 2/(n_in + n_out) stands "
    "between forward and backward; other scales vanish or explode. A ReLU network trains best from He's, a tanh "
    "network from LeCun's and He's; a deep sigmoid network loses its gradient under either and trains under neither "
    "(S17)."
)

DEPTH, WIDTH, EXAMPLES = 50, 128, 16
FAN_INS = (1, 16, 256)
SHAPE = (64, 256)  # of the single layer whose two directions differ: (n_out, n_in)
TRAINED_DEPTH, TRAINED_WIDTH, BATCH_SIZE = 12, 32, 32
RATES = (0.03, 0.1, 0.3)
ACTIVATIONS = {"sigmoid": jaxnet.sigmoid, "tanh": jaxnet.tanh, "ReLU": jaxnet.relu}


@functools.cache
def normal(deviation: float) -> initializers.Initializer:
    """N(0, deviation²), whatever the layer's size."""

    def initializer(key: Array, shape: tuple[int, int], dtype: DTypeLike = float) -> Array:
        return deviation * jax.random.normal(key, shape, dtype)

    return initializer


SMALL, LARGE = "N(0, 0.01²)", "N(0, 1)"
SCHEMES = {
    SMALL: normal(0.01),
    "LeCun": jaxnet.initializers.lecun_normal,
    "He": jaxnet.initializers.he_normal,
    LARGE: normal(1.0),
}
COLOURS = dict(zip(SCHEMES, (GREY, BLUE, ORANGE, PINK), strict=True))


def variance(scheme: str, n_in: int, n_out: int) -> float:
    """Var(w) of a scheme, in closed form."""
    return {SMALL: 1e-4, "LeCun": 1 / n_in, "He": 2 / n_in, LARGE: 1.0, "Glorot": 2 / (n_in + n_out)}[scheme]


# Measured and expected ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observing(Reading):
    """The leaf whose backward returns the mean squares of z and δ instead of the gradient."""

    def backward(self, params: Any, cache: Any, grad_outputs: Array) -> tuple[Array, Any]:
        """∂L/∂a, and of a dense leaf both."""
        grad_inputs, gradient = self.layer.backward(params, cache, grad_outputs)
        if not isinstance(params, jaxnet.layers.Dense):
            return grad_inputs, gradient
        z, _ = self.layer.forward(params, cache)
        return grad_inputs, (jnp.square(z).mean(), jnp.square(grad_outputs).mean())


def deep(
    activation: jaxnet.activations.Activation, initializer: Any = jaxnet.initializers.lecun_normal
) -> jaxnet.Layer:
    """Fifty equal layers; their parameters start alike whatever the activation."""
    return jaxnet.repeat(jaxnet.serial(jaxnet.dense(WIDTH, WIDTH, initializer), jaxnet.elementwise(activation)), DEPTH)


@functools.partial(jax.jit, static_argnums=0)
def mean_squares(activation: jaxnet.activations.Activation, params: Any, keys: Array) -> tuple[Array, Array]:
    """The mean squares of z and of δ in every layer, (seeds, layers); random inputs, and a random δ from above."""
    network = jaxnet.layers.map_layers(Observing, deep(activation))

    def one(seed: tuple[Any, Array]) -> tuple[Array, Array]:
        params, (x_key, delta_key) = seed[0], jax.random.split(jax.random.fold_in(seed[1], 1))
        outputs, cache = network.forward(params, jax.random.normal(x_key, (EXAMPLES, WIDTH)))
        _, (squares, _) = network.backward(params, cache, jax.random.normal(delta_key, outputs.shape))
        return squares

    return jax.lax.map(one, (params, keys))


def expected(activation: jaxnet.activations.Activation, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The same in the limit of wide layers, where `scale` is n Var(w).

    Var(z[l]) = scale · E[g(z[l-1])²] from inputs of variance 1, and E[δ[l]²] = scale · E[δ[l+1]²] · E[g'(z[l])²], each
    mean being over a normal z of the layer's variance.
    """
    u = np.linspace(-9, 9, 2000)  # an even number of points, so that none falls on ReLU's kink
    weight = np.exp(-(u**2) / 2)
    weight = weight / weight.sum()
    q, slopes = [scale], []
    for _ in range(DEPTH):
        z = jnp.asarray(np.sqrt(q[-1]) * u)
        a = activation.value(z)
        slopes.append(float(weight @ np.square(activation.derivative(a if activation.reads == "output" else z))))
        q.append(scale * float(weight @ np.square(a)))
    delta = [slopes[-1]]
    for slope in slopes[-2::-1]:
        delta.append(scale * delta[-1] * slope)
    return np.array(q[:-1]), np.array(delta[::-1])


def one_layer(initializer: Any, shape: tuple[int, int], keys: Array) -> tuple[np.ndarray, np.ndarray]:
    """Of one linear layer, E[z²]/E[a²] and E[(∂L/∂a)²]/E[δ²] of every seed."""
    n_out, n_in = shape
    params = jax.vmap(jaxnet.dense(n_in, n_out, initializer).init)(keys)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(keys)).ravel())
    a, delta = (jnp.asarray(generator.standard_normal((len(keys), 16, n))) for n in (n_in, n_out))
    return jax.device_get(_ratios(shape, params, a, delta))


@functools.partial(jax.jit, static_argnums=0)
def _ratios(shape: tuple[int, int], params: Any, a: Array, delta: Array) -> tuple[Array, Array]:
    layer = jaxnet.dense(shape[1], shape[0])

    def one(params: Any, a: Array, delta: Array) -> tuple[Array, Array]:
        z, cache = layer.forward(params, a)
        grad_a, _ = layer.backward(params, cache, delta)
        return jnp.square(z).mean() / jnp.square(a).mean(), jnp.square(grad_a).mean() / jnp.square(delta).mean()

    return jax.vmap(one)(params, a, delta)


# Training -------------------------------------------------------------------------------------------------------------


def _classifier(
    activation: jaxnet.activations.Activation, initializer: Any = jaxnet.initializers.lecun_normal
) -> jaxnet.Layer:
    dense = functools.partial(jaxnet.dense, initializer=initializer, dtype=jnp.float32)
    elementwise = jaxnet.elementwise(activation)
    hidden = jaxnet.serial(dense(TRAINED_WIDTH, TRAINED_WIDTH), elementwise)
    deep = jaxnet.repeat(hidden, TRAINED_DEPTH - 2)
    return jaxnet.serial(dense(64, TRAINED_WIDTH), elementwise, deep, dense(TRAINED_WIDTH, 10))


def trained(
    initializer: Any, activation: jaxnet.activations.Activation, epochs: int, keys: Array, data: Any
) -> np.ndarray:
    """The accuracy on the training digits for every seed and learning rate, (seeds, rates)."""
    params = jax.vmap(_classifier(activation, initializer).init)(keys)
    return np.asarray(_accuracy(activation, epochs, params, keys, data))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _accuracy(activation: jaxnet.activations.Activation, epochs: int, params: Any, keys: Array, data: Any) -> Array:
    network, loss = _classifier(activation), jaxnet.softmax_cross_entropy
    x, y = data

    def one(params: Any, key: Array, rate: Array) -> Array:
        optimizer = jaxnet.gradient_descent(rate)
        state = jaxnet.init_state(network, optimizer, key)._replace(params=params)
        state, _ = jaxnet.training.train_epochs(
            network, loss, optimizer, state, x, y, epochs, batch_size=BATCH_SIZE, capacity=epochs
        )
        return jaxnet.is_correct(jaxnet.predict(network, loss)(state.params, x), y).astype(jnp.float32).mean()

    by_rate = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(by_rate, in_axes=(0, 0, None))(params, keys, jnp.asarray(RATES, jnp.float32))


# The run --------------------------------------------------------------------------------------------------------------


class Signals(NamedTuple):
    """Variances by activation and scheme, measured and expected; of single neurons; and of one layer both ways."""

    variances: dict[str, dict[str, dict[str, np.ndarray]]]
    neuron: dict[str, list[float]]
    layer: dict[str, tuple[np.ndarray, np.ndarray]]


def signals(options: Options, track: Track, schemes: dict[str, Any] = SCHEMES) -> Signals:
    """The variances of one neuron, one layer and fifty.

    Args:
        options: how to run.
        track: shows progress.
        schemes: the initializer by name; the claim is about those of their names.
    """
    keys, many = (jax.random.split(options.key, n * options.seeds) for n in (1, 16))
    variances: dict[str, Any] = {name: {} for name in ACTIVATIONS}
    with jax.enable_x64(True):
        neuron = {
            name: [one_layer(schemes[name], (16, n), many)[0].mean() for n in FAN_INS] for name in ("LeCun", LARGE)
        }
        every = schemes | {"Glorot": jaxnet.initializers.glorot_normal}
        layer = {name: one_layer(scheme, SHAPE, keys) for name, scheme in every.items()}
        for scheme, initializer in track(schemes.items(), "fifty layers"):
            params = jax.vmap(deep(jaxnet.tanh, initializer).init)(keys)
            for name, activation in ACTIVATIONS.items():
                z, delta = jax.device_get(mean_squares(activation, params, keys))
                theory = expected(activation, WIDTH * variance(scheme, WIDTH, WIDTH))
                variances[name][scheme] = {"z": z, "delta": delta, "z, theory": theory[0], "delta, theory": theory[1]}
    return Signals(variances, neuron, layer)


def accuracies(options: Options, track: Track) -> dict[str, dict[str, np.ndarray]]:
    """What every seed reaches at the scheme's best learning rate, by activation and scheme."""
    split, keys = digits(0), jax.random.split(options.key, options.seeds)
    x = jaxnet.preprocessing.flatten_images(split.x)
    whole = len(x) - len(x) % BATCH_SIZE  # a last batch of another size would double the time to compile
    x, y = jaxnet.standardize(jaxnet.fit_standardization(x), x)[:whole], split.y[:whole]
    data = jnp.asarray(x, jnp.float32), jnp.asarray(y)
    best: dict[str, dict[str, np.ndarray]] = {name: {} for name in ACTIVATIONS}
    for name, scheme in track([(name, scheme) for name in ACTIVATIONS for scheme in SCHEMES], "training"):
        reached = trained(SCHEMES[scheme], ACTIVATIONS[name], 4 if options.quick else 8, keys, data)
        best[name][scheme] = reached[:, np.median(reached, axis=0).argmax()]
    return best


def run(options: Options, track: Track) -> Result:
    """The variances, and what trains."""
    measured, accuracy = signals(options, track), accuracies(options, track)
    drawn = {"neuron": measured.neuron, "fan_ins": FAN_INS, "variances": measured.variances, "accuracy": accuracy}
    return Result((*judge(measured), *_judge_training(accuracy)), drawn, _tables(measured, accuracy))


def _growth(squares: np.ndarray) -> float:
    """The factor a layer, from the first of fifty to the last: the median over seeds."""
    ends = np.atleast_2d(squares)[:, [0, -1]]
    return float(np.median((ends[:, 1] / ends[:, 0]) ** (1 / (DEPTH - 1))))


def _off(of: dict[str, np.ndarray]) -> float:
    """How far the growth of z or δ a layer is from its theory, relative."""
    return max(abs(_growth(of[what]) / _growth(of[f"{what}, theory"]) - 1) for what in ("z", "delta"))


def _single_theory(scheme: str) -> tuple[float, float]:
    """n_in Var(w) forward and n_out Var(w) backward."""
    n_out, n_in = SHAPE
    return n_in * variance(scheme, n_in, n_out), n_out * variance(scheme, n_in, n_out)


def judge(measured: Signals) -> list[Measurement]:
    """Whether the variances follow their theory."""
    variances, neuron, single = measured
    from_theory = max(
        abs(value / (n * variance(scheme, n, 1)) - 1)
        for scheme, values in neuron.items()
        for n, value in zip(FAN_INS, values, strict=True)
    )
    from_single = max(
        abs(np.mean(ratio) / theory - 1)
        for scheme, ratios in single.items()
        for ratio, theory in zip(ratios, _single_theory(scheme), strict=True)
    )
    sized = max(_off(of) for by_scheme in variances.values() for scheme, of in by_scheme.items() if scheme != LARGE)
    large = max(_off(by_scheme[LARGE]) for by_scheme in variances.values())

    def across(activation: str, scheme: str, what: str) -> float:
        squares = np.median(variances[activation][scheme][what], axis=0)
        return float(squares[-1] / squares[0] if what == "z" else squares[0] / squares[-1])

    measurements = [
        at_most("S16: variance of one neuron's z against n Var(w), n = 1 to 256, largest relative difference",
                from_theory, 0.1),
        at_most("S17: one layer 256→64 against n_in Var(w) forward and n_out Var(w) backward, the same",
                from_single, 0.1),
        at_most("S17: growth a layer of z and δ through 50 layers against theory, largest relative difference",
                sized, 0.05),
        Measurement("S17: the same for N(0, 1), where finite width shows", large),
    ]  # fmt: skip
    for activation, scheme, bound in (("ReLU", "He", 10), ("tanh", "LeCun", 1000), ("tanh", "He", 1000)):
        for what, symbol in (("z", "z"), ("delta", "δ")):
            ratio, name = across(activation, scheme, what), f"S17, {scheme}, {activation}: variance of {symbol} changes"
            measurements.append(at_most(f"{name} by a factor of", max(ratio, 1 / ratio), bound))
    return [
        *measurements,
        at_most("S17, LeCun, ReLU: variance of z, last layer over first", across("ReLU", "LeCun", "z"), 1e-10),
        at_most("S17, sigmoid: variance of δ, first layer over last, LeCun or He",
                max(across("sigmoid", scheme, "delta") for scheme in ("LeCun", "He")), 1e-40),
    ]  # fmt: skip


def _judge_training(accuracy: dict[str, dict[str, np.ndarray]]) -> list[Measurement]:
    """Whether those networks train that should."""
    median = {
        name: {scheme: float(np.median(of)) for scheme, of in by_scheme.items()} for name, by_scheme in accuracy.items()
    }
    return [
        at_least(f"S17, {TRAINED_DEPTH} ReLU layers: accuracy, He less the best of the others, medians",
                 median["ReLU"]["He"] - max(of for scheme, of in median["ReLU"].items() if scheme != "He"), 0.05),
        at_least(f"S17, {TRAINED_DEPTH} tanh layers: accuracy, the worse of LeCun and He",
                 min(median["tanh"]["LeCun"], median["tanh"]["He"]), 0.9),
        at_most(f"S17, {TRAINED_DEPTH} tanh layers: accuracy, the better of N(0, 0.01²) and N(0, 1)",
                max(median["tanh"][SMALL], median["tanh"][LARGE]), 0.5),
        at_most(f"S17, {TRAINED_DEPTH} sigmoid layers: accuracy, the best of N(0, 0.01²), LeCun and He",
                max(median["sigmoid"][scheme] for scheme in (SMALL, "LeCun", "He")), 0.2),
        Measurement(f"S17, {TRAINED_DEPTH} sigmoid layers: accuracy from N(0, 1)", median["sigmoid"][LARGE]),
    ]  # fmt: skip


def _tables(measured: Signals, accuracy: dict[str, dict[str, np.ndarray]]) -> tuple[Table, ...]:
    growth = tuple(
        (name, scheme, *(f"{_growth(of[what]):.3f}" for what in ("z", "z, theory")),
         *(f"{1 / _growth(of[what]):.3f}" for what in ("delta", "delta, theory")),
         f"{np.median(accuracy[name][scheme]):.3f} ({accuracy[name][scheme].min():.3f} "
         f"to {accuracy[name][scheme].max():.3f})")
        for name, by_scheme in measured.variances.items()
        for scheme, of in by_scheme.items()
    )  # fmt: skip
    columns = ("activation", "scheme", "z", "theory", "δ", "theory", f"accuracy of {TRAINED_DEPTH} layers, median")
    layer = tuple(
        (scheme, *(f"{number:.3f}" for pair in zip(map(np.mean, ratios), _single_theory(scheme), strict=True)
                   for number in pair))
        for scheme, ratios in measured.layer.items()
    )  # fmt: skip
    return (
        Table("Growth of the variance a layer, through 50 layers; and the best rate's accuracy", columns, growth),
        Table("One linear layer 256→64", ("scheme", "z over a", "theory", "∂L/∂a over δ", "theory"), layer),
    )


def plot(result: Result) -> Figure:
    """The variances of z and of δ by layer, measured over theory; one neuron; and what trains."""
    drawn, canvas = result.drawn, Figure(figsize=(13, 7))
    panels, layers = canvas.subplots(2, 4), np.arange(1, 1 + DEPTH)
    for column, (name, by_scheme) in enumerate(drawn["variances"].items()):
        for panel, what, symbol in zip(panels[:, column], ("z", "delta"), ("z", "δ = ∂L/∂z"), strict=True):
            for (scheme, of), marker in zip(by_scheme.items(), MARKERS, strict=False):
                low, middle, high = np.quantile(of[what], (0, 0.5, 1), axis=0)
                panel.plot(layers, of[f"{what}, theory"], color=COLOURS[scheme], linewidth=1)
                panel.plot(layers[::7], middle[::7], marker, color=COLOURS[scheme], markersize=5, label=scheme)
                panel.fill_between(layers, low, high, color=COLOURS[scheme], alpha=0.25, linewidth=0)
            panel.set(title=f"{name}: {symbol}", yscale="log", ylim=(1e-24, 1e18), xlabel="layer")
            panel.set_yticks([1e-20, 1e-10, 1, 1e10])
            panel.minorticks_off()
    for row, symbol in enumerate("zδ"):
        panels[row, 0].set_ylabel(f"variance of {symbol}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    canvas.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), title="markers: measured; lines: theory"
    )

    panel, fan_ins = panels[0, 3], np.array(drawn["fan_ins"])
    for scheme, values in drawn["neuron"].items():
        marker = MARKERS[list(COLOURS).index(scheme)]
        panel.plot(fan_ins, fan_ins * [variance(scheme, n, 1) for n in fan_ins], color=COLOURS[scheme], linewidth=1)
        panel.plot(fan_ins, values, marker, color=COLOURS[scheme], markersize=5)
    panel.annotate("Var(w) = 1: n", (64, 64), (-8, 8), textcoords="offset points", ha="right", color=COLOURS[LARGE])
    panel.annotate(
        "Var(w) = 1/n: 1", (64, 1), (0, -16), textcoords="offset points", ha="center", color=COLOURS["LeCun"]
    )
    panel.set(title="S16: one neuron's z", xlabel="inputs n", ylabel="variance of z", xscale="log", yscale="log")
    panel.set_ylim(0.2, 2000)

    panel = panels[1, 3]
    for row, by_scheme in enumerate(drawn["accuracy"].values()):
        for place, (scheme, values) in enumerate(by_scheme.items()):
            heights = np.full(len(values), row + 0.18 * (place - 1.5))
            panel.plot(values, heights, MARKERS[place], color=COLOURS[scheme], markersize=5, alpha=0.8)
    panel.axvline(0.1, color=GREY, linestyle="--", linewidth=1)
    panel.set_yticks(range(len(ACTIVATIONS)), list(ACTIVATIONS))
    panel.invert_yaxis()
    panel.set(title=f"{TRAINED_DEPTH} layers trained on digits", xlabel="accuracy of every seed", xlim=(-0.03, 1.03))
    return canvas
