"""One visual style for every figure: colours that colour-blind readers can tell apart, quiet axes, vector output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

# Okabe and Ito (2008).
BLUE, ORANGE, GREEN, PINK, SKY, RED = COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
GREY = "#666666"
MARKERS = ("o", "s", "^", "D", "v", "P")

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "figure.figsize": (9, 3.8),
    "font.size": 10,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxnet",
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def save(plot: Callable[[], Figure], path: Path) -> None:
    """Draws in this style and writes SVG; the same figure gives the same bytes."""
    with mpl.rc_context(STYLE):
        plot().savefig(path, format="svg", metadata={"Date": None})
