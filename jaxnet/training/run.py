"""A run: what all fronts need, once: a state to start from, Ctrl-C, checkpoints, pacing, a callback, and the history.

A front says how the state advances; the run keeps what came of it, and hands it back whatever happens.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from optax import GradientTransformation

from jaxnet.arguments import check_key, positive_integer_or_none
from jaxnet.examples import as_pytree, dtype_of
from jaxnet.layers import Layer, check_layer
from jaxnet.losses import Loss, check_loss
from jaxnet.step import TrainState, init_state
from jaxnet.training.checkpoint import Checkpoints
from jaxnet.training.history import History, Measured, Recorder, TrainingError
from jaxnet.training.nonfinite import OnNonfinite, check_on_nonfinite, own_watch
from jaxnet.training.parallel import place_state
from jaxnet.training.terminal import interruption, progress_bar

# Called after each epoch with the state and the history so far; True ends the run.
OnEpoch = Callable[[TrainState, History], bool | None]

_init_state = jax.jit(init_state, static_argnums=0)


def beginning(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    key: Array | None,
    state: TrainState | None,
    mesh: Mesh | None,
) -> tuple[GradientTransformation, TrainState]:
    """The optimizer as a pytree, and a state that the run may overwrite: fresh from the key, or a copy of the given.

    Raises:
        TypeError: for a network, loss, optimizer or key that is none.
        ValueError: for both a key and a state, which has a key of its own, or a network without parameters.
    """
    check_layer(network)
    check_loss(loss)
    optimizer = as_pytree(optimizer)
    if key is not None and state is not None:
        raise ValueError("give key= for a fresh start, or state=, which goes on with the key that it holds, not both")
    if state is None:
        check_key(key)
        begun: TrainState = _init_state(network, optimizer, key)
    else:
        begun = copied(state)
    dtype_of(begun.params)
    return optimizer, begun if mesh is None else place_state(begun, mesh)


def capacity_of_calls(most: int, on_epoch: OnEpoch | None) -> int:
    """Epochs that a compiled call has room for, and draws the order of: a callback is told of each, so one."""
    return max(1, most) if on_epoch is None else 1


@jax.jit
def copied(state: TrainState) -> TrainState:
    """A copy that outlives the donation of the state's buffers to the next step."""
    return jax.tree.map(jnp.copy, state)


@partial(jax.jit, donate_argnums=0, keep_unused=True)
def copied_over(old: TrainState, state: TrainState) -> TrainState:
    """A copy in the memory of one that is not needed any more: fresh memory takes longer than the copying."""
    return copied(state)


@dataclass
class Run:
    """One run of training, a context manager; what its fronts document, they get from here.

    Attributes:
        network: without what `init` alone reads.
        state: the newest, which is the last good one, in the form in which the front carries it.
        unit: the steps from one call of `advance` to the next at least: those of an epoch, or one.
        total: how many units there are to be; None if nobody knows.
        on_nonfinite, progress, on_epoch, checkpoint, checkpoint_every, keep: as for `fit`, intervals in units.
        observed: whether diagnostics are among what is measured.
    """

    network: Layer
    state: Any
    unit: int
    total: int | None
    on_nonfinite: OnNonfinite = "ignore"
    progress: bool = False
    on_epoch: OnEpoch | None = None
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int | None = None
    keep: int = 3
    observed: bool = False
    stopped: bool = field(default=False, init=False)
    nonfinite: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Checks the words and numbers."""
        check_on_nonfinite(self.on_nonfinite)
        self.checkpoint_every = positive_integer_or_none("checkpoint_every", self.checkpoint_every)
        if self.on_epoch is not None and not callable(self.on_epoch):
            raise TypeError(f"on_epoch must be a function of (state, history), got {self.on_epoch!r:.80}")
        self._chunk, self._saved, self._recorder = 1, None, Recorder()

    def __enter__(self) -> "Run":
        """Goes on from the newest checkpoint, if there is one."""
        with ExitStack() as stack:
            stack.enter_context(own_watch(self.on_nonfinite, observed=self.observed))
            if self.checkpoint is not None:
                self._saved = stack.enter_context(Checkpoints(self.checkpoint, self.network, keep=self.keep))
            self.interrupted = stack.enter_context(interruption())
            self.show = stack.enter_context(progress_bar(self.progress, self.total or 0))
            if self._saved is not None and (resumed := self._saved.restore(self.whole())) is not None:
                self.resume(*resumed)
                if self.done:
                    self.epoch_ended()
            self._stack = stack.pop_all()
        return self

    def resume(self, state: TrainState, history: History) -> None:
        """Goes on from what was saved."""
        steps = len(history.cost)
        if steps % self.unit:
            raise ValueError(
                f"the checkpoint was saved after {steps} steps, which are no whole epochs of {self.unit} steps: "
                "resume with the same number of examples and batch size"
            )
        self.state = self.carried(state)
        self._recorder.extend(Measured(history.cost, None, history.validation or None, history.best))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Saves the end, and waits until everything is written."""
        if error is not None:
            return self._stack.__exit__(kind, error, traceback)
        with self._stack:
            if self._saved is not None:
                if self._recorder.steps and self.nonfinite is None:
                    self._saved.save(self.whole(), self.recorded())
                self._saved.wait(self.whole(), self.recorded())
        return None

    # What a front carries, where it is no state -----------------------------------------------------------------------

    def whole(self) -> TrainState:
        """The state, of what the front carries from call to call."""
        return self.state

    def carried(self, state: TrainState) -> Any:
        """What the front carries, of a state."""
        return state

    def recorded(self, **ending: Any) -> History:
        """What was measured so far, with the steps or epochs on the first axis."""
        return self._recorder.history(**ending)

    def shown(self, history: History) -> History:
        """The history as the front documents it."""
        return history

    # From the front ---------------------------------------------------------------------------------------------------

    @property
    def done(self) -> int:
        """The finished units."""
        return self._recorder.steps // self.unit

    @property
    def watching(self) -> bool:
        """Whether a number that is not finite ends the run."""
        return self.on_nonfinite != "ignore"

    @property
    def best(self) -> Any:
        """The best so far by the validation data, if it was measured."""
        return self._recorder.best

    def goes_on(self) -> bool:
        """Whether there is more to do, and nothing that ends the run."""
        unfinished = self.total is None or self.done < self.total
        return unfinished and not self.stopped and self.nonfinite is None and not self.interrupted()

    def next_chunk(self) -> int:
        """How many units the next call may do; 0 if the run has ended."""
        if not self.goes_on():
            return 0
        chunk = 1 if self.on_epoch is not None else self._chunk
        if self._saved is not None and self.checkpoint_every is not None:
            chunk = min(chunk, self.checkpoint_every - self.done % self.checkpoint_every)
        return chunk if self.total is None else min(chunk, self.total - self.done)

    def pace(self, chunk: int, took: float, wanted: float, most: int) -> None:
        """The next calls are to take so many seconds, as one of this chunk took others, and do no more than so much."""
        self._chunk = max(1, min(int(chunk * wanted / took), most))

    def advance(self, state: Any, measured: Measured) -> None:
        """Keeps a state and what was measured on the way to it, and saves both when it is time."""
        self.state = state
        self._recorder.extend(measured)
        self.show(self.done, float(np.fmin.reduce(np.ravel(measured.cost[-1]))))
        if self._saved is not None and self._saved.is_due(self.done, self.checkpoint_every):
            self._saved.save(self.whole(), self.recorded())

    def epoch_ended(self) -> None:
        """Tells the callback."""
        if self.on_epoch is None:
            return
        try:
            said: Any = self.on_epoch(copied(self.whole()), self.history())
            truth = isinstance(said, bool) or getattr(said, "dtype", None) == np.dtype(bool)
            self.stopped = truth and bool(said)  # what a logger returns means nothing
        except Exception as error:
            message = f"on_epoch raised {type(error).__name__}: {error}; the error's `state` is the one it was given"
            raise TrainingError(message, self.whole(), self.history()) from error

    def fail(self, what: str, state: TrainState, measured: Measured) -> None:
        """Ends the run, by a number that is not finite, at the last good state."""
        self.nonfinite, self.state = what, state
        self._recorder.extend(measured)

    # To the caller ----------------------------------------------------------------------------------------------------

    def history(self) -> History:
        """What was measured so far."""
        unfinished = self.total is None or self.done < self.total
        interrupted = self.interrupted() and unfinished and self.nonfinite is None
        return self.shown(self.recorded(interrupted=interrupted, nonfinite=self.nonfinite))

    def result(self) -> tuple[TrainState, History]:
        """The last good state and the history.

        Raises:
            TrainingError: for a number that is not finite, if it was to be raised.
        """
        state, history = self.whole(), self.history()
        if self.nonfinite is not None and self.on_nonfinite == "raise":
            raise TrainingError(f"{self.nonfinite}; the error's `state` is the last good one", state, history)
        return state, history
