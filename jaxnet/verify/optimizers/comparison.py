"""Candidate and reference side by side in one setting and one precision, over every sequence of gradients."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.case import in_words
from jaxnet.verify.engine.precision import DOUBLE, HALF, Floats, Leaves, as_the_user_runs_it, in_float64, spacing
from jaxnet.verify.engine.trial import CandidateError
from jaxnet.verify.engine.truth import limit_of
from jaxnet.verify.optimizers.adapters import StepDifference
from jaxnet.verify.optimizers.conventions import Exhibit
from jaxnet.verify.optimizers.differences import Pair
from jaxnet.verify.optimizers.program import Steps
from jaxnet.verify.optimizers.sequences import sequences
from jaxnet.verify.optimizers.sides import Side
from jaxnet.verify.optimizers.truth import Truth, called_truth, start, truth

NUMBERS_AT_ONCE = 2**22
ELEMENTS_SHOWN = 6
WHOLE = 2**10  # parameters so many are kept whole for the diagnosis, of others a few elements of each leaf


class Sides(NamedTuple):
    """What is run.

    Attributes:
        candidate: started in the precision it is judged in.
        reference: started in float64.
        own: the reference started in the precision of the candidate, where that is not float64: what it loses there
            itself is no fault of the candidate's.
    """

    candidate: Side
    reference: Side
    own: Side | None = None


class Record(NamedTuple):
    """What both did in one sequence: for each leaf of the parameters (steps, *shape), or a few of its elements.

    Attributes:
        gradients: as given.
        parameters: before each step.
        candidate: its updates.
        reference: its updates.
    """

    gradients: Leaves
    parameters: Leaves
    candidate: Leaves
    reference: Leaves


class Comparison(NamedTuple):
    """What came of it.

    Attributes:
        updates: for each leaf of the parameters.
        states: for each pair of fields (the candidate's, the reference's) that may stand for the same.
        sides: what was run.
        records: what both did, in every sequence.
        whole: whether these hold all elements.
        float64: whether the candidate ran in float64.
    """

    updates: list[Pair]
    states: dict[tuple[int, int], Pair]
    sides: Sides
    records: list[Record]
    whole: bool
    float64: bool

    def wrong(self) -> list[int]:
        """The leaves whose updates differ."""
        return [leaf for leaf, pair in enumerate(self.updates) if pair.first]

    def among_the_equal(self, other: "Comparison | None") -> "Comparison":
        """Without the pairs of fields that differ in the other: what they stand for is known from there."""
        if other is None:
            return self
        return self._replace(states={at: pair for at, pair in self.states.items() if other.states[at].first is None})

    def exhibit(self, leaves: Sequence[int]) -> Exhibit:
        """A few elements of these leaves, over all sequences side by side."""
        columns = [[_shown(part, leaves) for part in record] for record in self.records]
        return Exhibit(None, *(np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True)))


class Trial(NamedTuple):
    """How the candidate is judged.

    Attributes:
        parameters: in the dtypes that it is run in.
        seed: of the gradients: the same for every setting and trial.
        steps: how many of each sequence.
        float64: whether it runs in float64, or else in the parameters' own dtypes.
        unit: one unit in the last place of what it computes in.
        native: whether the mathematics are judged here, too, since it does not run in float64.
    """

    parameters: Any
    seed: int
    steps: int
    float64: bool
    unit: float
    native: bool = False

    @property
    def least(self) -> float:
        """Numbers that underflow: those that are narrower than float64, but for float16, have float32's range."""
        return 0.0 if self.unit == DOUBLE else float(np.finfo(np.float32).tiny)

    @property
    def limit(self) -> float:
        """How many units of measured noise are still rounding."""
        return limit_of(self.unit)


def compare(sides: Sides, trial: Trial, name: str) -> Comparison:
    """Runs both over every sequence in a setting of this name, the reference in float64."""
    leaves = jax.tree.leaves(trial.parameters)
    pairs = {
        (c, r): Pair(trial.unit)
        for c, one in enumerate(sides.candidate.fields)
        for r, other in enumerate(sides.reference.fields)
        if one.alike(other)
    }
    whole = sum(leaf.size for leaf in leaves) <= WHOLE
    found = Comparison([Pair(trial.unit) for _ in leaves], pairs, sides, [], whole, trial.float64)
    limits = jnp.finfo(max((leaf.dtype for leaf in leaves), key=spacing))
    for number, sequence in enumerate(sequences(limits)):
        generator = np.random.default_rng([trial.seed, number])
        where = ", ".join(filter(None, (sequence.name, name)))
        gradients = sequence.draw(generator, [leaf.shape for leaf in leaves], trial.steps)
        stretches = []
        for first, steps, true in _run(sides, trial, gradients, generator):
            _see(found, (where, first), steps, true, trial)
            given = true.gradients, true.parameters, steps.updates, true.updates
            stretches.append(given if whole else [list(map(_picked, part)) for part in given])
        found.records.append(Record(*(_joined(parts) for parts in zip(*stretches, strict=True))))
    return found


def _see(comparison: Comparison, at: tuple[str, int], found: Steps, true: Truth, trial: Trial) -> None:
    """Compare a stretch of steps, which begins so many steps into a sequence."""
    sides = comparison.sides
    adapted = any(isinstance(side.optimizer.update, StepDifference) for side in (sides.candidate, sides.reference))
    own = true.own if trial.native and trial.unit > HALF and not adapted else None
    for leaf, pair in enumerate(comparison.updates):
        noise = true.noise_in_updates[leaf] + trial.unit * np.abs(true.updates[leaf])
        if adapted:  # the difference of two parameters has their rounding
            noise = noise + trial.unit * np.abs(true.parameters[leaf])
        pair.see(*at, found.updates[leaf], true.updates[leaf], noise, trial.limit)
        if own:
            pair.lean(*at, found.updates[leaf], true.updates[leaf], own.updates[leaf])
    for (c, r), pair in comparison.states.items():
        whole = sides.reference.fields[r].whole
        noise = true.noise_in_states[r] + (0 if whole else trial.unit) * np.abs(true.states[r]) + trial.least
        pair.see(*at, found.states[c], true.states[r], noise, trial.limit)
        if own and not whole:
            pair.lean(*at, found.states[c], true.states[r], own.states[r])


def _joined(stretches: Sequence[Leaves]) -> Leaves:
    return [np.concatenate(leaves) for leaves in zip(*stretches, strict=True)]


def _picked(leaf: Floats) -> Floats:
    """A few elements of every step: (steps, elements)."""
    rows = leaf.reshape(len(leaf), -1)
    size = rows.shape[1]
    return rows[:, np.unique(np.linspace(0, size - 1, min(size, ELEMENTS_SHOWN)).astype(int))]


def _shown(part: Leaves, leaves: Sequence[int]) -> Floats:
    return np.concatenate([np.empty((len(part[0]), 0)), *(_picked(part[leaf]) for leaf in leaves)], axis=1)


def _run(
    sides: Sides, trial: Trial, gradients: Iterator[Leaves], generator: np.random.Generator
) -> Iterator[tuple[int, Steps, Truth]]:
    """Stretch by stretch, so short that the trajectories fit into memory: the steps before it, and what both did."""
    candidate, reference, own = sides
    leaves, treedef = jax.tree.flatten(trial.parameters)
    chunk = _chunk(sum(leaf.size for leaf in leaves) * (2 + len(reference.fields)), trial.steps)
    exact = [np.asarray(leaf, np.float64) for leaf in leaves]
    state, own_state = candidate.state, own.state if own else None
    carry: Any = None
    for first in range(0, trial.steps, chunk):
        rows = [next(gradients) for _ in range(chunk)]
        given = _narrowed([np.stack(column) for column in zip(*rows, strict=True)], leaves)
        with in_float64():
            widened = [leaf.astype(np.float64) for leaf in given]
            if reference.program is not None:
                carry = carry or start(jax.tree.leaves(reference.state), exact)
                carry, true = truth(reference.program, carry, widened, generator, trial.unit)
            else:
                carry = carry or [(reference.state, exact)] * 3
                carry, true = called_truth(reference, treedef, carry, widened, generator, trial.unit)
        before = _narrowed(true.parameters, leaves)
        with in_float64() if trial.float64 else as_the_user_runs_it():
            try:
                state, found = candidate.run(treedef, state, given, before)
            except Exception as error:
                raise CandidateError(in_words(error)) from error
            if own:
                with jax.numpy_dtype_promotion("standard"):
                    own_state, loss = own.run(treedef, own_state, given, before)
                true = true.with_losses(loss)
        yield first, found, true


def _narrowed(stacks: Leaves, leaves: Leaves) -> Leaves:
    """In the dtypes of the leaves, which may not hold them."""
    with np.errstate(over="ignore"):
        return [stack.astype(leaf.dtype) for stack, leaf in zip(stacks, leaves, strict=True)]


def _chunk(numbers: int, steps: int) -> int:
    most = max(NUMBERS_AT_ONCE // max(numbers, 1), 1)
    return max(divisor for divisor in range(1, steps + 1) if steps % divisor == 0 and divisor <= most)
