"""Curves for people, by Matplotlib where it is installed."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

DRAWN_IN = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # a name -> the places x (n,), and the values (networks, n)


def figure_of(curves: Curves, size: tuple[float, float] = (6.0, 3.6)) -> Any:
    """A figure of the curves by step, as wide and high as said in inches.

    Raises:
        ImportError: if Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a figure needs Matplotlib: pip install 'jaxnet-by-hand[experiments]'") from error
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for color, (name, (places, values)) in zip(("tab:blue", "tab:red"), curves.items(), strict=False):
        alpha = max(0.2, len(values) ** -0.5)  # of many networks
        marker = "." if len(places) == 1 else None
        lines = axes.plot(places, values.T, color=color, linewidth=1, marker=marker, alpha=alpha)
        lines[0].set_label(name)
    axes.set(xlabel="step", ylabel="cost")
    if all((values[np.isfinite(values)] > 0).all() for _, values in curves.values()):
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def svg_of(curves: Curves) -> str:
    """A small figure of the curves for a light or a dark page; nothing without Matplotlib."""
    page = io.StringIO()
    try:
        from matplotlib import rc_context

        with rc_context(dict.fromkeys(DRAWN_IN, "#808080")):
            figure_of(curves, (4.0, 2.2)).savefig(page, format="svg", transparent=True)
    except ImportError:
        return ""
    return page.getvalue()[page.getvalue().index("<svg") :]
