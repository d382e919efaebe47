"""The benchmark's figure: every ratio on one scale, where 1 is expert JAX."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.benchmark.judgement import NO_SLOWER, OVER_EXPERT
from experiments.benchmark.many_at_once import ALONE, BATCH, EXAMPLES, NORMS, TOGETHER
from experiments.benchmark.measured import EXPERT, FIT, STEP
from experiments.benchmark.workloads import TITLES
from experiments.experiment import Result
from experiments.figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

LOOKS = {
    STEP: (BLUE, "o"),
    FIT: (SKY, "s"),
    "JAX loop": (GREY, "X"),
    "Equinox": (ORANGE, "D"),
    "Flax NNX": (RED, "^"),
    "PyTorch": (PINK, "v"),
    "scikit-learn": (GREEN, "P"),
}
OFFSET = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 9}
NORMS_ROWS = (
    (NORMS, BATCH, "256 gradient norms: jaxnet", BLUE),
    (EXAMPLES, BATCH, "256 gradient norms: vmap(grad)", GREY),
)


def plot(result: Result) -> Figure:
    """Medians and middle halves of the rounds' ratios: a step and a compiled program of each network over expert JAX's;
    norms over one batch gradient and a network among 256 over one alone; compile time by the depth of `repeat`.
    """
    drawn = result.drawn
    panels: dict[str, Callable[[Axes, Any], None]] = {"many": _many, "depth": _depth}
    below = [name for name in panels if name in drawn]
    rows: list[Any] = [["training", "training", "programs"]] if "training" in drawn else []
    rows += [[below[0], below[0], below[-1]]] if below else []
    if not rows:
        return Figure(figsize=(1, 1))
    tall = [0.9 + 0.62 * len(drawn["training"])] if "training" in drawn else []
    tall += [2.6] if below else []
    canvas = Figure(figsize=(11, 0.6 + sum(tall)))
    axes = canvas.subplot_mosaic(rows, height_ratios=tall)
    if "training" in drawn:
        _training(axes["training"], drawn["training"])
        _programs(axes["programs"], drawn["training"])
        canvas.legend(*axes["training"].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    for name in below:
        panels[name](axes[name], drawn[name])
    return canvas


def _dot(axes: Axes, ratios: np.ndarray, y: float, colour: str, marker: str) -> float:
    """The median on a line over the middle half; returns the median."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    axes.hlines(y, low, high, color=colour, linewidth=1.5)
    axes.plot(middle, y, marker, color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.5)
    return float(middle)


def _rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color="#E5E5E5", linewidth=0.8)


def _times_over(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _training(axes: Axes, training: dict[str, Any]) -> None:
    for row, (workload, one) in enumerate(training.items()):
        seconds = {name: np.asarray(times) for name, times in one["seconds"].items()}
        present = [name for name in LOOKS if name in seconds]
        axes.vlines(
            OVER_EXPERT.get(workload, NO_SLOWER), row - 0.45, row + 0.45, color=BLUE, linewidth=1, linestyle=":"
        )
        for y, name in zip(np.linspace(-0.32, 0.32, len(present)), present, strict=True):
            _dot(axes, seconds[name] / seconds[EXPERT], row + y, *LOOKS[name])
    for name, (colour, marker) in LOOKS.items():
        if any(name in one["seconds"] for one in training.values()):
            axes.plot([], [], marker, color=colour, label=name)
    axes.axvline(1, color="black", linewidth=1, label=EXPERT)
    axes.plot([], [], color=BLUE, linewidth=1, linestyle=":", label="claimed of a step")
    axes.set(title="Time of a step, times expert JAX's")
    _times_over(axes)
    _rows(axes, [TITLES.get(name, name) for name in training])


def _programs(axes: Axes, training: dict[str, Any]) -> None:
    for row, one in enumerate(training.values()):
        compiled = np.asarray(one["compile"][STEP]) / np.asarray(one["compile"][EXPERT])
        _dot(axes, compiled, row + 0.14, ORANGE, "D")
        _dot(axes, np.array([one["temporary"][STEP] / one["temporary"][EXPERT]]), row - 0.14, GREEN, "s")
    axes.plot([], [], "s", color=GREEN, label="temporary memory")
    axes.plot([], [], "D", color=ORANGE, label="compile time")
    axes.axvline(1, color="black", linewidth=1)
    axes.set(title="Compiled step, times expert JAX's", xlim=(0, max(1.5, axes.get_xlim()[1])))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.05), ncols=2, fontsize=8, handletextpad=0, columnspacing=1)
    _rows(axes, [""] * len(training))


def _many(axes: Axes, many: dict[str, Any]) -> None:
    names = []
    for name, one in many.items():
        together = f"a network among {name.replace('x', ' of ')}"
        for of, over, title, colour in NORMS_ROWS if name == "norms" else ((TOGETHER, ALONE, together, BLUE),):
            ratios = np.asarray(one["seconds"][of]) / np.asarray(one["seconds"][over])
            middle = _dot(axes, ratios, len(names), colour, "o")
            axes.annotate(f"{middle:.3g}", (middle, len(names)), **OFFSET)
            names.append(title)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(title="Many at once, times one batch gradient or one network alone")
    _times_over(axes)
    _rows(axes, names)
    axes.set_ylim(len(names) - 0.4, -0.7)


def _depth(axes: Axes, seconds: dict[str, Any]) -> None:
    depths = [int(depth) for depth in seconds]
    times = np.array([seconds[str(depth)] for depth in depths])
    axes.plot(depths, times, "o", color=BLUE, markersize=3, alpha=0.5)
    axes.plot(depths, np.median(times, axis=1), color=BLUE)
    axes.set(title="Compiling repeat, seconds", xlabel="layers", xscale="log", ylim=(0, None))
