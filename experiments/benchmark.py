"""Speed: what `fit` costs beside a bare scan of autodiff and Optax, compile time by depth, import, verification."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet
from experiments.data import digits
from experiments.experiment import Measurement, Options, Result, Track, at_most
from experiments.figures import BLUE, ORANGE

CLAIM = (
    "Shuffled mini-batches, checks and hand-derived gradients through `fit` cost at most 1.3 times a bare jitted scan "
    "of jax.value_and_grad and optax.adam; 1000 repeated layers compile in at most 1.3 times what 10 take; importing "
    "jaxnet adds at most 0.8 s to importing jax and optax; the first verification in a process takes at most 5 s for a "
    "dense layer and 30 s for a network of 784-256-256-10 on a batch of 64, compilation included."
)

SIZES, BATCH, EPOCHS = (64, 32, 10), 64, 100
DEPTHS = (10, 100, 1000)


def _fit(x: jax.Array, y: jax.Array, epochs: int) -> Callable[[], Any]:
    """Training through `fit`, from data to history."""

    def run() -> Any:
        network, optimizer = jaxnet.mlp(SIZES), jaxnet.adam(1e-3)
        return jaxnet.fit(
            network,
            jaxnet.softmax_cross_entropy,
            optimizer,
            x,
            y,
            key=jax.random.key(0),
            batch_size=BATCH,
            epochs=epochs,
        )

    return run


def _bare_scan(x: jax.Array, y: jax.Array, epochs: int) -> Callable[[], Any]:
    """As many steps on the same network as an expert writes them in plain JAX, on fixed batches in a fixed order."""
    steps = -(-len(x) // BATCH)
    batches = jax.tree.map(lambda a: jnp.resize(a, (steps, BATCH, *a.shape[1:])), (x, y))
    params = [(leaf.weight.T, leaf.bias) for leaf in jaxnet.mlp(SIZES).init(jax.random.key(0)) if leaf]
    optimizer = optax.adam(1e-3)

    def cost(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        for weight, bias in params[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        weight, bias = params[-1]
        return optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, y).mean()

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(cost)(params, *batch)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def train(params: Any, batches: Any) -> Any:
        def epoch(carry: Any, _: None) -> Any:
            return jax.lax.scan(step, carry, batches)

        return jax.lax.scan(epoch, (params, optimizer.init(params)), length=epochs)

    return lambda: train(params, batches)


def _interleaved(runs: dict[str, Callable[[], Any]], rounds: Iterable[Any]) -> dict[str, np.ndarray]:
    """Seconds of each run in each round, after one that does not count."""
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in rounds:
        for name, run in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(times) for name, times in seconds.items()}


def _compile_seconds(depth: int) -> float:
    """To trace and compile the cost and gradient of a stack of `depth` equal hidden layers."""
    hidden = jaxnet.serial(jaxnet.dense(32, 32), jaxnet.elementwise(jaxnet.tanh))
    network = jaxnet.serial(jaxnet.dense(64, 32), jaxnet.repeat(hidden, depth), jaxnet.dense(32, 10))
    params = jax.eval_shape(network.init, jax.random.key(0))
    x, y = jax.ShapeDtypeStruct((BATCH, 64), jnp.float32), jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    jax.clear_caches()
    started = time.perf_counter()
    jax.jit(jaxnet.cost_and_gradient(network, jaxnet.softmax_cross_entropy)).lower(params, x, y).compile()
    return time.perf_counter() - started


def _import_seconds() -> float:
    """What `import jaxnet` adds to `import jax, optax`, in a process of its own."""
    program = "import jax, optax, time; t = time.perf_counter(); import jaxnet; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


VERIFICATION = """
import time, jax, jaxnet
key, x, y = jax.random.key(0), jax.random.normal(jax.random.key(1), (64, 784)), jax.numpy.arange(64) % 10
started = time.perf_counter()
jaxnet.verify_layer(jaxnet.dense(64, 32), x[:, :64], key=key).raise_if_failed()
layer = time.perf_counter() - started
network = jaxnet.mlp((784, *{hidden}, 10))
jaxnet.verify_network(network, jaxnet.softmax_cross_entropy, x, y, key=key).raise_if_failed()
print(layer, time.perf_counter() - started - layer)
"""


def _verification_seconds(hidden: tuple[int, ...]) -> list[float]:
    """The first `verify_layer` and the first `verify_network` in a process of their own."""
    program = VERIFICATION.format(hidden=hidden)
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return [float(number) for number in printed.split()]


def run(options: Options, track: Track) -> Result:
    """All of them, as medians; ratios are medians of the ratios of neighbours in time."""
    rounds, epochs = (3, 10) if options.quick else (15, EPOCHS)
    split = digits(seed=0)
    images, labels = (np.concatenate(parts) for parts in ((split.x, split.x_test), (split.y, split.y_test)))
    x, y = jnp.asarray(jaxnet.flatten_images(images), jnp.float32), jnp.asarray(labels)
    runs = {"fit": _fit(x, y, epochs), "bare scan": _bare_scan(x, y, epochs)}
    seconds = _interleaved(runs, track(range(rounds), "training"))
    imports = [_import_seconds() for _ in track(range(5), "import")]
    compiles = [[_compile_seconds(depth) for depth in DEPTHS] for _ in track(range(1 + rounds // 3), "compilation")][1:]
    hidden = (16,) if options.quick else (256, 256)
    verifications = [_verification_seconds(hidden) for _ in track(range(1 if options.quick else 3), "verification")]
    of_layer, of_network = np.median(verifications, axis=0)
    steps = epochs * -(-len(x) // BATCH)
    per_step = {name: 1e6 * times / steps for name, times in seconds.items()}
    by_depth = np.array(compiles)
    measurements = (
        at_most("fit over bare scan, 64-32-10, batch 64", np.median(seconds["fit"] / seconds["bare scan"]), 1.3),
        *(Measurement(f"{name}: microseconds a step", float(np.median(times))) for name, times in per_step.items()),
        at_most("compiling 1000 layers over 10", np.median(by_depth[:, -1] / by_depth[:, 0]), 1.3),
        at_most("import jaxnet: seconds on top of jax and optax", statistics.median(imports), 0.8),
        at_most("verify_layer, dense 64→32, batch 64: seconds, first in a process", of_layer, 5),
        at_most(f"verify_network, 784-{'-'.join(map(str, hidden))}-10, batch 64: seconds", of_network, 30),
    )
    return Result(measurements, {"microseconds": per_step, "depths": DEPTHS, "compile_seconds": by_depth})


def plot(result: Result) -> Figure:
    """Every round of both, and compile time by depth."""
    canvas = Figure()
    left, right = canvas.subplots(1, 2)
    for i, (times, colour) in enumerate(zip(result.drawn["microseconds"].values(), (BLUE, ORANGE), strict=True)):
        left.plot(i + np.linspace(-0.15, 0.15, len(times)), times, "o", color=colour, markersize=4)
        left.hlines(np.median(times), i - 0.25, i + 0.25, color=colour)
        left.annotate(f"{np.median(times):.1f}", (i + 0.27, np.median(times)), va="center")
    left.set(
        title="A training step, every round and the median", ylabel="microseconds", xlim=(-0.6, 1.6), ylim=(0, None)
    )
    left.set_xticks([0, 1], list(result.drawn["microseconds"]))
    depths, seconds = result.drawn["depths"], np.asarray(result.drawn["compile_seconds"])
    right.plot(depths, seconds.T, "o", color=BLUE, markersize=4)
    right.plot(depths, np.median(seconds, axis=0), color=BLUE)
    right.set(
        title="Compiling a stack of equal layers", xlabel="layers", ylabel="seconds", xscale="log", ylim=(0, None)
    )
    return canvas
