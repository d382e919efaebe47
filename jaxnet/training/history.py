"""What a training run leaves behind: its history, and the error that carries all of it when a run cannot go on."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxnet.readings.observe import Diagnostics
from jaxnet.step import TrainState
from jaxnet.training.curve import figure_of, svg_of


class Best(NamedTuple):
    """The parameters whose cost on the validation data was the lowest.

    Attributes:
        cost: that cost; infinite before the first epoch has ended.
        step: the finished steps when they were reached.
        params: the parameters.
    """

    cost: Float[Array, "..."]
    step: Array
    params: Any


class History(NamedTuple):
    """What a training run measured.

    Attributes:
        cost: J of every finished step's mini-batch, before that step's update.
        interrupted: whether Ctrl-C ended the run before all epochs were done.
        diagnostics: of the observed steps, on a leading axis; None if none was to be.
        nonfinite: which step, layer and quantity ended the run by a number that is not finite; None if none did.
        validation: after each epoch, the "cost" on the validation data and each metric by its name.
        best: the parameters whose cost on the validation data was the lowest; None without.
    """

    cost: Float[Array | np.ndarray, "... steps"]
    interrupted: bool = False
    diagnostics: Diagnostics | None = None
    nonfinite: str | None = None
    validation: Mapping[str, Float[Array | np.ndarray, "... epochs"]] = {}
    best: Best | None = None

    def __repr__(self) -> str:
        """The steps, the first and the last cost, and how the run ended."""
        cost = np.asarray(self.cost)
        parts = [f"{cost.shape[-1]} steps"]
        if cost.ndim > 1:
            parts = [f"{' × '.join(map(str, cost.shape[:-1]))} networks", *parts]
        elif cost.size:
            parts.append(f"cost {cost[0]:.4g} → {cost[-1]:.4g}")
        for name, values in self.validation.items():
            if np.ndim(values) == 1 and np.size(values):
                parts.append(f"validation {name} {values[-1]:.4g}")
        parts += ["interrupted"] * self.interrupted + [self.nonfinite] * (self.nonfinite is not None)
        return f"History({', '.join(map(str, parts))})"

    def plot(self) -> Any:
        """A Matplotlib figure of the cost by step, and of the cost on the validation data by epoch.

        Raises:
            ImportError: if Matplotlib is not installed.
        """
        return figure_of(self._curves())

    def _repr_html_(self) -> str:
        """The line, and a small curve of the cost."""
        return f"<div>{escape(repr(self))}</div>{svg_of(self._curves())}"

    def _curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Costs by step, one row a network."""
        cost = _rows(self.cost)
        steps = cost.shape[-1]
        curves = {"cost": (np.arange(steps), cost)}
        if self.validation:
            values = _rows(self.validation["cost"])
            epochs = values.shape[-1]
            curves["validation cost"] = (steps / max(epochs, 1) * np.arange(1, epochs + 1), values)
        return curves


def _rows(values: Any) -> np.ndarray:
    """One row a network."""
    *networks, length = np.shape(values)
    return np.reshape(values, (math.prod(networks), length))


class TrainingError(Exception):
    """A run that cannot go on; nothing of it is lost.

    Attributes:
        state: the last good state.
        history: what was measured until then.
    """

    def __init__(self, message: str, state: TrainState, history: History):
        super().__init__(message)
        self.state = state
        self.history = history


class Measured(NamedTuple):
    """What a piece of a run measured, in the order of the steps.

    Attributes:
        cost: J of every step.
        diagnostics: of the observed steps, if any were to be.
        validation: after each epoch, the cost and the metrics on the validation data, if there are any.
        best: so far.
    """

    cost: Any
    diagnostics: Diagnostics | None = None
    validation: Mapping[str, Any] | None = None
    best: Best | None = None


class Recorder:
    """The pieces that a run measured, as one history at any time.

    Rows are kept in arrays that double when they are full: a history after every epoch is a view, not another copy of
    all that came before.
    """

    def __init__(self) -> None:
        self._columns: Any = {}
        self.best: Best | None = None

    def extend(self, measured: Measured) -> None:
        """Another piece, whose arrays have the steps or epochs on their first axis."""
        for name in ("cost", "diagnostics", "validation"):
            piece = getattr(measured, name)
            if piece is None or (name == "cost" and not len(piece)):  # an empty one may be of another dtype
                continue
            if name not in self._columns:
                self._columns[name] = jax.tree.map(_Column, piece)
            if name == "validation" and set(piece) != set(self._columns[name]):
                raise ValueError(
                    f"the run measured {sorted(self._columns[name])} on validation data until now, and {sorted(piece)} "
                    "here: resume it with the same metrics"
                )
            jax.tree.map(_Column.extend, self._columns[name], piece)
        self.best = measured.best if measured.best is not None else self.best

    @property
    def steps(self) -> int:
        """How many have been measured."""
        return self._columns["cost"].length if "cost" in self._columns else 0

    def history(self, **ending: Any) -> History:
        """What was measured so far, in arrays that cannot be written to."""
        found = jax.tree.map(_Column.rows, self._columns)
        cost = found.get("cost", np.zeros(0))
        return History(
            cost, diagnostics=found.get("diagnostics"), validation=found.get("validation", {}), best=self.best, **ending
        )


class _Column:
    """Rows that come piece by piece, as one array."""

    def __init__(self, like: Any) -> None:
        self.length, self._room = 0, np.empty((0, *np.shape(like)[1:]), like.dtype)

    def extend(self, rows: Any) -> None:
        """Rows more."""
        length = self.length + len(rows)
        if length > len(self._room):
            room = np.empty((max(length, 2 * len(self._room)), *self._room.shape[1:]), self._room.dtype)
            room[: self.length] = self._room[: self.length]
            self._room = room
        self._room[self.length : length] = rows
        self.length = length

    def rows(self) -> np.ndarray:
        """All of them."""
        view = self._room[: self.length]
        view.flags.writeable = False
        return view
