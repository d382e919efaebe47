"""S5, S6: backpropagation derived by hand is the gradient, to the last bits, layer by layer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

import jaxnet
from experiments.experiment import Options, Result, Table, Track, at_most
from experiments.figures import COLOURS, GREY, MARKERS

CLAIM = (
    "The gradient by the hand-derived backward pass equals that of automatic differentiation in every layer, to 1e-13 "
    "in float64 and 1e-5 in float32; in bfloat16 it is as near to the float64 truth as automatic differentiation is "
    "(S5 to S7)."
)

BATCH = 64
BOUNDS = {"float64": 1e-13, "float32": 1e-5}
BY_HAND, AUTOMATIC = "bfloat16 by hand", "bfloat16 automatic"

# name: (sizes, hidden activation, loss), from one neuron to sixteen layers.
NETWORKS = {
    "1 layer, BCE": ((20, 1), jaxnet.sigmoid, jaxnet.binary_cross_entropy),
    "3 sigmoid, BCE": ((64, 3, 2, 1), jaxnet.sigmoid, jaxnet.binary_cross_entropy),
    "2 ReLU, softmax": ((64, 32, 10), jaxnet.relu, jaxnet.softmax_cross_entropy),
    "4 GELU, squared": ((20, 30, 30, 30, 5), jaxnet.gelu, jaxnet.squared_error),
    "8 tanh, tanh output": ((20, *[16] * 7, 1), jaxnet.tanh, jaxnet.losses.squared_error_through(jaxnet.tanh)),
    "16 SiLU, softmax": ((20, *[24] * 15, 4), jaxnet.activations.silu, jaxnet.softmax_cross_entropy),
}


def _cast(tree: Any, dtype: str) -> Any:
    """The tree of NumPy arrays with every float in another dtype; class labels stay integers."""
    of = jnp.dtype(dtype)
    return jax.tree.map(lambda leaf: leaf.astype(of) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def _cases(
    network: jaxnet.Layer, sizes: tuple[int, ...], loss: jaxnet.losses.Loss, options: Options
) -> tuple[Any, Any, Any]:
    """For every seed random parameters, biases too, inputs and targets; in bfloat16, so that every dtype holds them."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal((options.seeds, *shape))

    shapes = jax.eval_shape(network.init, options.key)
    params = jax.tree.map(lambda leaf: normal(*leaf.shape) / np.sqrt(leaf.shape[-1]), shapes)
    x, y = normal(BATCH, sizes[0]), np.tanh(normal(BATCH, sizes[-1]))
    if loss is jaxnet.binary_cross_entropy:
        y = (y > 0).astype(y.dtype)
    if loss is jaxnet.softmax_cross_entropy:
        y = y.argmax(axis=-1)
    return _cast((params, x, y), "bfloat16")


def _difference(actual: Any, expected: Any) -> np.ndarray:
    """The relative difference of each dense layer's gradient, weight and bias together: (seeds, layers)."""

    def by_layer(gradient: Any) -> list[np.ndarray]:
        layers = [[np.asarray(leaf, np.float64) for leaf in layer] for layer in gradient if layer]
        return [np.concatenate([leaf.reshape(len(leaf), -1) for leaf in layer], axis=1) for layer in layers]

    pairs = zip(by_layer(actual), by_layer(expected), strict=True)
    return np.stack([np.linalg.norm(a - e, axis=1) / np.linalg.norm(e, axis=1) for a, e in pairs], axis=1)


def _errors(name: str, options: Options) -> dict[str, np.ndarray]:
    """By layer, the largest relative differences over the seeds."""
    sizes, hidden, loss = NETWORKS[name]
    network = jaxnet.mlp(sizes, hidden)
    by_hand = jax.jit(jax.vmap(jaxnet.cost_and_gradient(network, loss)))
    automatic = jax.jit(jax.vmap(jax.value_and_grad(jaxnet.cost(network, loss))))
    cases = _cases(network, sizes, loss, options)
    hand, auto = (
        {dtype: both(*_cast(cases, dtype))[1] for dtype in (*BOUNDS, "bfloat16")} for both in (by_hand, automatic)
    )
    differences = {dtype: _difference(hand[dtype], auto[dtype]) for dtype in BOUNDS}
    differences[BY_HAND] = _difference(hand["bfloat16"], auto["float64"])
    differences[AUTOMATIC] = _difference(auto["bfloat16"], auto["float64"])
    return {what: difference.max(axis=0) for what, difference in differences.items()}


def run(options: Options, track: Track) -> Result:
    """The relative difference of the two gradients for every network, dtype and layer: the largest of all seeds."""
    names = list(NETWORKS)[1:3] if options.quick else list(NETWORKS)
    with jax.enable_x64(True):
        errors = {name: _errors(name, options) for name in track(names, "networks")}
    measurements = [
        at_most(f"{dtype}: largest relative difference of a layer", max(e[dtype].max() for e in errors.values()), bound)
        for dtype, bound in BOUNDS.items()
    ]
    ratio = np.median([e[BY_HAND].mean() / e[AUTOMATIC].mean() for e in errors.values()])
    measurements.append(at_most("bfloat16: error by hand over error of autodiff, median network", ratio, 1.25))
    rows = tuple(
        (name if layer == 0 else "", str(layer + 1), *(float(error[what][layer]) for what in error))
        for name, error in errors.items()
        for layer in range(len(error["float64"]))
    )
    title = "Relative difference by layer: by hand against automatic; in bfloat16 either against the float64 truth"
    table = Table(title, ("network", "layer", *BOUNDS, BY_HAND, AUTOMATIC), rows)
    return Result(tuple(measurements), {"errors": errors}, (table,))


def plot(result: Result) -> Figure:
    """The relative difference of every layer, one panel a dtype."""
    canvas = Figure(figsize=(11, 4.2))
    errors = result.drawn["errors"]
    panels = canvas.subplots(1, 3)
    for panel, dtype in zip(panels, (*BOUNDS, "bfloat16"), strict=True):
        what = BY_HAND if dtype == "bfloat16" else dtype
        smallest = float(jnp.finfo(dtype).eps) / 8
        for (name, error), colour, marker in zip(errors.items(), COLOURS, MARKERS, strict=False):
            layers = np.arange(1, 1 + len(error[what]))
            panel.plot(layers, np.maximum(error[what], smallest), marker, color=colour, markersize=4, label=name)
            if what == BY_HAND:
                panel.plot(layers, error[AUTOMATIC], marker, color=colour, markersize=7, fillstyle="none")
        panel.set(xlabel="layer", ylabel="relative difference", yscale="log")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.yaxis.set_major_formatter(LogFormatterSciNotation())
        if what == BY_HAND:
            panel.set_title("bfloat16, against float64\nfilled: by hand, hollow: automatic")
        else:
            panel.set_title(f"{dtype}\nby hand against automatic")
            panel.axhline(BOUNDS[dtype], color=GREY, linestyle="--", linewidth=1)
            panel.annotate("claimed bound", (1, BOUNDS[dtype]), (0, -12), textcoords="offset points", color=GREY)
            panel.annotate("exactly 0", (1, smallest), (0, 5), textcoords="offset points", color=GREY)
            panel.axhline(smallest, color=GREY, linestyle=":", linewidth=1)
    handles, labels = panels[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=len(errors))
    return canvas
