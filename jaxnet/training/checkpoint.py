"""Checkpoints of a training run: saved by Orbax beside the training, verified when they are read, bit for bit.

A checkpoint holds the state, what all steps so far measured (but for diagnostics), a description of the network, and a
digest of all these. It appears under its name only when it is complete, so that a run that is killed while it saves
leaves those before.
"""

import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnet.arguments import positive_integer
from jaxnet.examples import dtype_of
from jaxnet.layers import Layer
from jaxnet.readings.observe import layer_names
from jaxnet.step import TrainState
from jaxnet.training.history import Best, History, TrainingError

SECONDS = 60  # between two checkpoints of a run that was not told how often to save

# What Orbax, JSON and the digests raise for files that are truncated or altered.
_DAMAGE = (AttributeError, LookupError, OSError, TypeError, ValueError)


class CheckpointError(OSError):
    """A folder of checkpoints that cannot be written or read."""


class Checkpoints:
    """The newest checkpoints of one training run in a folder; a context manager that waits for the last to be written.

    Args:
        folder: made if it does not exist.
        network: whose run it is. A checkpoint of another is refused.
        keep: how many of the newest to keep.

    Raises:
        ImportError: if Orbax, of the extra `checkpoint`, is not installed.
        CheckpointError: if the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], network: Layer, *, keep: int = 3):
        try:
            import orbax.checkpoint as orbax
        except ImportError as error:
            raise ImportError("checkpoints need Orbax: pip install 'jaxnet-by-hand[checkpoint]'") from error
        self.folder = Path(folder).absolute()
        self._network = layer_names(network)
        self._orbax: Any = orbax
        self._saved_at = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = orbax.CheckpointManager(
                self.folder, options=orbax.CheckpointManagerOptions(max_to_keep=positive_integer("keep", keep))
            )
        except OSError as error:
            raise CheckpointError(f"checkpoints cannot be kept in {self.folder}: {_reason(error)}") from error

    def __enter__(self) -> "Checkpoints":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits until everything is written; raises `CheckpointError` if it cannot be, unless something else failed."""
        try:
            self._manager.close()
        except Exception as unsaved:
            if error is None:
                raise CheckpointError(self._not_saved(unsaved)) from unsaved

    def _not_saved(self, error: Exception) -> str:
        return f"a checkpoint could not be saved in {self.folder}; those before it are kept: {_reason(error)}"

    @property
    def steps(self) -> tuple[int, ...]:
        """The finished steps of the checkpoints that are there, in rising order."""
        return tuple(sorted(self._manager.all_steps()))

    def is_due(self, done: int, every: int | None) -> bool:
        """Whether to save after so many epochs or steps: every so many, or, for None, about once a minute."""
        return time.monotonic() - self._saved_at > SECONDS if every is None else done % every == 0

    def save(self, state: TrainState, history: History) -> None:
        """Copies the state and what all steps so far measured; they are written while training goes on.

        Nothing is done if the checkpoint of this step is there.

        Raises:
            TrainingError: if this checkpoint or the one before it cannot be written; those before that stay. It holds
                both arguments.
        """
        step = int(np.ravel(state.step)[0])
        if step in self.steps:
            return
        measured = [np.asarray(values) for values in (history.cost, *history.validation.values())]
        arrays = [*map(_copied, [*_numbers(state), *jax.tree.leaves(history.best)]), *measured]
        description = {
            "network": list(self._network),
            "leaves": _described(state),
            "measured": [[list(values.shape), str(values.dtype)] for values in measured],
            "validation": list(history.validation),
            "best": history.best is not None,
            "arrays": _digest(*arrays),
        }
        content = {"description": description, "digest": _digest(json.dumps(description).encode())}
        # Orbax writes no empty arrays.
        named = {f"{i}": array for i, array in enumerate(arrays) if array.size}
        args = self._orbax.args
        items = args.Composite(arrays=args.StandardSave(named), content=args.JsonSave(content))
        with self._saving(state, history):
            self._manager.save(step, args=items, force=True)
        self._saved_at = time.monotonic()

    def wait(self, state: TrainState, history: History) -> None:
        """Returns when everything is written.

        Raises:
            TrainingError: if it cannot be. It holds both arguments.
        """
        with self._saving(state, history):
            self._manager.wait_until_finished()

    @contextmanager
    def _saving(self, state: TrainState, history: History) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise TrainingError(self._not_saved(error), state, history) from error

    def restore(self, like: TrainState) -> tuple[TrainState, History] | None:
        """The state and the history of the newest checkpoint that is whole; None if there are none.

        One that is damaged is set aside under another name, with a warning, and the one before it is read.

        Args:
            like: a state of the same network and optimizer. What is restored lies on the devices where this one lies,
                whatever their number.

        Raises:
            ValueError: if the checkpoint is of another network or optimizer; the message names what differs.
            CheckpointError: if there are checkpoints, and all are damaged.
        """
        steps = self.steps
        for step in reversed(steps):
            try:
                description = self._description(step)
            except _DAMAGE as error:
                self._set_aside(step, error)
                continue
            self._check_same(step, description, like)
            try:
                return self._arrays(step, description, like)
            except _DAMAGE as error:
                self._set_aside(step, error)
        if steps:
            raise CheckpointError(f"all checkpoints in {self.folder} are damaged: name another folder to begin afresh")
        return None

    def _description(self, step: int) -> Any:
        content = self._read(step, content=self._orbax.args.JsonRestore())
        if content["digest"] != _digest(json.dumps(content["description"]).encode()):
            raise ValueError("its description is not the one that was saved")
        return content["description"]

    def _arrays(self, step: int, description: Any, like: TrainState) -> tuple[TrainState, History]:
        """What was saved, each array on the devices of its like."""
        best = Best(like.step.astype(dtype_of(like.params)), like.step, like.params) if description["best"] else None
        numbers, of_best = _numbers(like), jax.tree.leaves(best)
        measured = [np.zeros(shape, dtype) for shape, dtype in description["measured"]]
        empty: list[Any] = [*numbers, *of_best, *measured]
        places = {
            f"{i}": jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            if isinstance(leaf, Array)
            else leaf
            for i, leaf in enumerate(empty)
            if leaf.size
        }
        named = self._read(step, arrays=self._orbax.args.StandardRestore(places))
        found = [named.get(f"{i}", leaf) for i, leaf in enumerate(empty)]
        if description["arrays"] != _digest(*map(_copied, found)):
            raise ValueError("its numbers are not those that were saved")
        state, rest = _with_numbers(like, found[: len(numbers)]), found[len(numbers) :]
        best = jax.tree.unflatten(jax.tree.structure(best), rest[: len(of_best)])
        cost, *validation = map(np.asarray, rest[len(of_best) :])
        judged = dict(zip(description["validation"], validation, strict=True))
        return state, History(cost, validation=judged, best=best)

    def _read(self, step: int, **item: Any) -> Any:
        (name,) = item
        return self._manager.restore(step, args=self._orbax.args.Composite(**item))[name]

    def _check_same(self, step: int, description: Any, like: TrainState) -> None:
        """Raises ValueError, naming the difference, unless the checkpoint is of this network and optimizer."""
        if "measured" not in description:
            raise ValueError(
                f"the checkpoint of step {step} in {self.folder} is of jaxnet 0.1: finish the run with that"
            )
        layers = (
            {f"layer {i}": name for i, name in enumerate(names)} for names in (description["network"], self._network)
        )
        for saved, here in (tuple(layers), (description["leaves"], _described(like))):
            for place in dict.fromkeys([*saved, *here]):
                if saved.get(place) != here.get(place):
                    raise ValueError(
                        f"the checkpoint of step {step} in {self.folder} is of another network or optimizer: "
                        f"{place} is {saved.get(place, 'nothing')} there and {here.get(place, 'nothing')} here"
                    )

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self.folder / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / str(step)).rename(aside)
        self._manager.reload()
        warnings.warn(
            f"the checkpoint of step {step} in {self.folder} is damaged and was renamed {aside.name}: {_reason(error)}",
            stacklevel=4,
        )


def _reason(error: Exception) -> str:
    """What an error says, in a part of a line: of one that was passed on through many layers, what the system said."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    system = re.search(r"[^:]+(?= \[os_error_code)", said)
    return f"{system.group().strip() if system else said:.200}"


def _numbers(state: TrainState) -> list[Any]:
    """The leaves, random keys as the integers they are made of."""
    return [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(state)]


def _with_numbers(like: TrainState, numbers: list[Any]) -> TrainState:
    """The state with these numbers for its leaves."""
    leaves, structure = jax.tree.flatten(like)
    wrapped = [
        jax.random.wrap_key_data(number, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else number
        for leaf, number in zip(leaves, numbers, strict=True)
    ]
    return structure.unflatten(wrapped)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _described(state: TrainState) -> dict[str, str]:
    """Type and shape of every leaf by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _copied(leaf: Any) -> Any:
    """A copy on the host, which the next step cannot overwrite; an array of several hosts stays where it is."""
    return leaf if isinstance(leaf, Array) and not leaf.is_fully_addressable else np.array(leaf)


def _digest(*parts: Any) -> str:
    """SHA-256 of the bytes of arrays in their order; of arrays of several hosts there is none."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, Array):
            digest.update(part.tobytes() if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()
