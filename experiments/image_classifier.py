"""S2 to S8: pictures flattened to vectors, a small sigmoid network for yes or no, a ReLU network for ten classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxnet
from experiments.data import Split, digits, pictures
from experiments.experiment import Measurement, Options, Result, Track, at_least
from experiments.figures import COLOURS

CLAIM = (
    "Networks trained by hand-derived gradients classify pictures: 3-2-1 sigmoid neurons tell a 3 from other digits "
    "(with --data, a cat from other things) better than the most frequent answer; 64-32-10 ReLU neurons tell all ten "
    "(S2, S3, S12)."
)

SHOWN = 10


def _train(
    split: Split,
    network: jaxnet.Layer,
    loss: jaxnet.losses.Loss,
    rate: float,
    batch_size: int | None,
    epochs: int,
    key: Any,
) -> dict[str, Any]:
    """The network fitted to standardized pixels: its costs, accuracies, and what it says of the test pictures."""
    x, x_test = jaxnet.preprocessing.flatten_images(split.x), jaxnet.preprocessing.flatten_images(split.x_test)
    stats = jaxnet.fit_standardization(x)
    x, x_test = (jnp.asarray(jaxnet.standardize(stats, part), jnp.float32) for part in (x, x_test))
    state, history = jaxnet.fit(
        network, loss, jaxnet.adam(rate), x, split.y, key=key, batch_size=batch_size, epochs=epochs
    )
    if history.interrupted:
        raise KeyboardInterrupt
    predict = jax.jit(jaxnet.predict(network, loss))
    prediction = predict(state.params, x_test)
    return {
        "cost": np.asarray(history.cost).reshape(epochs, -1).mean(axis=1),
        "train_accuracy": float(jaxnet.is_correct(predict(state.params, x), split.y).mean()),
        "test_accuracy": float(jaxnet.is_correct(prediction, split.y_test).mean()),
        "prediction": np.asarray(prediction),
    }


def _wrong(split: Split, prediction: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """The wrongly classified test pictures, the surest mistakes first."""
    if prediction.shape[1] == 1:
        prediction = np.concatenate([1 - prediction, prediction], axis=1)
    said, sureness = prediction.argmax(axis=1), prediction.max(axis=1)
    wrong = np.flatnonzero(said != split.y_test)
    surest = wrong[np.argsort(-sureness[wrong], kind="stable")][:SHOWN]
    return [
        {
            "pixels": np.rint(255 * split.x_test[i]).astype(int),
            "is": names[split.y_test[i]],
            "said": names[said[i]],
            "sure": sureness[i],
        }
        for i in surest
    ]


def _all_seeds(name: str, split: Split, options: Options, track: Track, **training: Any) -> Any:
    """One network trained from every seed: the runs, their accuracies as measurements, and the median test accuracy."""
    keys = jax.random.split(options.key, options.seeds)
    runs = [_train(split, key=key, **training) for key in track(keys, name)]
    accuracies = {part: [run[f"{part}_accuracy"] for run in runs] for part in ("train", "test")}
    measurements = [
        Measurement(f"{name}: {part} accuracy, {what} of {len(runs)} seeds", float(of(accuracies[part])))
        for part, what, of in (("train", "median", np.median), ("test", "worst", min), ("test", "best", max))
    ]
    return runs, measurements, float(np.median(accuracies["test"]))


def _cats(options: Options, track: Track) -> Result:
    """The lecture's own network on pictures that the user gives."""
    assert options.data is not None
    split = pictures(options.data, options.test_data, seed=0)
    sizes = (int(np.prod(split.x.shape[1:])), 3, 2, 1)
    name = "-".join(map(str, sizes))
    epochs = 200 if options.quick else 2000
    lecture = {"network": jaxnet.mlp(sizes, jaxnet.sigmoid), "loss": jaxnet.binary_cross_entropy}
    training = {"rate": 1e-3, "batch_size": None, "epochs": epochs}
    runs, extra, accuracy = _all_seeds(name, split, options, track, **lecture, **training)
    frequent = max(split.y.mean(), 1 - split.y.mean()), max(split.y_test.mean(), 1 - split.y_test.mean())
    measurements = (
        at_least(f"{name}: train accuracy, worst seed", min(run["train_accuracy"] for run in runs), frequent[0]),
        at_least(f"{name}: test accuracy, median of {len(runs)} seeds", accuracy, frequent[1]),
        *extra,
    )
    drawn = {
        "cost": {name: [run["cost"] for run in runs]},
        "wrong": _wrong(split, runs[0]["prediction"], ["other", "cat"]),
    }
    return Result(measurements, drawn)


def run(options: Options, track: Track) -> Result:
    """Trains both networks on digits, or the lecture's on the pictures given."""
    if options.data is not None:
        return _cats(options, track)
    split = digits(seed=0)
    threes = split._replace(y=(split.y == 3).astype(int), y_test=(split.y_test == 3).astype(int))
    small = {"network": jaxnet.mlp((64, 3, 2, 1), jaxnet.sigmoid), "loss": jaxnet.binary_cross_entropy, "rate": 1e-2}
    large = {"network": jaxnet.mlp((64, 32, 10)), "loss": jaxnet.softmax_cross_entropy, "rate": 1e-3}
    training = {"batch_size": 64, "epochs": 50 if options.quick else 100}
    binary, binary_extra, binary_accuracy = _all_seeds("is it a 3?", threes, options, track, **small, **training)
    ten, ten_extra, ten_accuracy = _all_seeds("which digit?", split, options, track, **large, **training)
    measurements = (
        at_least("is it a 3?: test accuracy, median (always no: 0.9)", binary_accuracy, 0.95),
        *binary_extra,
        at_least("which digit?: test accuracy, median", ten_accuracy, 0.96),
        *ten_extra,
    )
    drawn = {
        "cost": {
            "is it a 3? 64-3-2-1 sigmoid": [run["cost"] for run in binary],
            "which digit? 64-32-10 ReLU": [run["cost"] for run in ten],
        },
        "wrong": _wrong(split, ten[0]["prediction"], [str(digit) for digit in range(10)]),
    }
    return Result(measurements, drawn)


def plot(result: Result) -> Figure:
    """The learning curves of every seed, and the pictures that the first got wrong."""
    canvas = Figure(figsize=(10, 3.6))
    halves: Any = canvas.subfigures(1, 2, width_ratios=(1, 1.25))
    left, right = halves
    curves = left.subplots()
    for (name, costs), colour in zip(result.drawn["cost"].items(), COLOURS, strict=False):
        for i, cost in enumerate(costs):
            epochs = np.arange(1, 1 + len(cost))
            curves.plot(epochs, cost, color=colour, alpha=0.7, linewidth=1, label=name if i == 0 else None)
    curves.set(title="Cost of the training set, every seed", xlabel="epoch", ylabel="J (nats)", yscale="log")
    curves.legend()
    right.suptitle("Wrongly classified test pictures, surest first", x=0.02, ha="left", fontsize=11)
    for tile, picture in zip(right.subplots(2, SHOWN // 2).flat, result.drawn["wrong"], strict=False):
        tile.imshow(picture["pixels"], cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        title = f"{picture['is']}, said {picture['said']}\n({picture['sure']:.0%} sure)"
        tile.set_title(title, fontsize=8, loc="center")
    for tile in right.axes:
        tile.set_axis_off()
    return canvas
