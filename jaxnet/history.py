"""What a training run leaves behind: its history, and the error that carries all of it when a run cannot go on."""

from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float

from jaxnet.readings.observe import Diagnostics
from jaxnet.step import TrainState


class History(NamedTuple):
    """What a training run measured.

    Attributes:
        cost: J of every finished step's mini-batch, before that step's update.
        interrupted: whether Ctrl-C ended the run before all epochs were done.
        diagnostics: of the observed steps, on a leading axis; None if none was to be.
        nonfinite: which step, layer and quantity ended the run by a number that is not finite; None if none did.
    """

    cost: Float[Array | np.ndarray, " steps"]
    interrupted: bool = False
    diagnostics: Diagnostics | None = None
    nonfinite: str | None = None


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
