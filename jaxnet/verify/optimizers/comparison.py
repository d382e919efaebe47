"""Candidate and reference side by side in one setting and one precision, over every sequence of gradients."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.case import in_words
from jaxnet.verify.engine.precision import DOUBLE, Floats, Leaves, as_the_user_runs_it, in_float64, is_float, spacing
from jaxnet.verify.engine.trial import CandidateError
from jaxnet.verify.engine.truth import UNITS_IN_FLOAT64, UNITS_IN_OWN_DTYPE
from jaxnet.verify.optimizers.adapters import StepDifference
from jaxnet.verify.optimizers.conventions import Exhibit
from jaxnet.verify.optimizers.differences import Pair
from jaxnet.verify.optimizers.fields import Field, fields
from jaxnet.verify.optimizers.program import Program, Steps, called_steps, compiled_steps, traced
from jaxnet.verify.optimizers.recognition import all_parts
from jaxnet.verify.optimizers.sequences import sequences
from jaxnet.verify.optimizers.truth import Truth, called_truth, start, truth

NUMBERS_AT_ONCE = 2**22
ELEMENTS_SHOWN = 6


class Side(NamedTuple):
    """One of the two optimizers, started.

    Attributes:
        optimizer: itself.
        state: before the first step.
        fields: the leaves of its state.
        program: its step; None where JAX cannot trace it.
        array: what its arrays are made by where it is called step by step.
    """

    optimizer: Any
    state: Any
    fields: list[Field]
    program: Program | None
    array: Callable[[Any], Any]

    def computes_in(self) -> float:
        """One unit in the last place of the narrowest dtype in its program; 0 if there is none."""
        return self.program.narrowest() if self.program else 0.0

    def holds(self) -> float:
        """The same for the numbers that it closes over, such as a learning rate that is an array."""
        held = [number for part in all_parts(self.optimizer) for number in jax.tree.leaves(part.held)]
        return max((spacing(number.dtype) for number in held if is_float(number)), default=0.0)


class Comparison(NamedTuple):
    """What came of it.

    Attributes:
        updates: for each leaf of the parameters.
        states: for each pair of fields (the candidate's, the reference's) that may stand for the same.
        candidate: the fields of its state.
        reference: the fields of its state.
        exhibit: a few elements of every leaf, over all sequences side by side.
        columns: for each element of the exhibit its leaf and its number among those shown of all leaves.
        float64: whether the candidate ran in float64.
    """

    updates: list[Pair]
    states: dict[tuple[int, int], Pair]
    candidate: list[Field]
    reference: list[Field]
    exhibit: Exhibit
    columns: Floats
    float64: bool

    def wrong(self) -> list[int]:
        """The leaves whose updates differ."""
        return [leaf for leaf, pair in enumerate(self.updates) if pair.first]

    def among_the_equal(self, other: "Comparison | None") -> "Comparison":
        """Without the pairs of fields that differ in the other: what they stand for is known from there."""
        if other is None:
            return self
        return self._replace(states={at: pair for at, pair in self.states.items() if other.states[at].first is None})


class Trial(NamedTuple):
    """How the candidate is judged.

    Attributes:
        parameters: in the dtypes that it is run in.
        seed: of the gradients: the same for every setting and trial.
        steps: how many of each sequence.
        float64: whether it runs in float64, or else in the parameters' own dtypes.
        unit: one unit in the last place of what it computes in.
    """

    parameters: Any
    seed: int
    steps: int
    float64: bool
    unit: float

    @property
    def limit(self) -> float:
        """How many units of measured noise are still rounding."""
        return UNITS_IN_FLOAT64 if self.unit == DOUBLE else UNITS_IN_OWN_DTYPE


def begin(optimizer: Any, parameters: Any, array: Callable[[Any], Any] = jnp.asarray) -> Side:
    """The optimizer at the start, and its step as a program if it can be traced."""
    parameters = jax.tree.map(array, parameters)
    state = optimizer.init(parameters)
    program = _program(optimizer, parameters, state)
    if program is None and not jax.tree.leaves(state):  # it may be made in the first step
        _, made = optimizer.update(parameters, state, parameters)
        return Side(optimizer, state, fields(made, parameters), None, array)
    return Side(optimizer, state, fields(state, parameters), program, array)


def _program(optimizer: Any, parameters: Any, state: Any) -> Program | None:
    try:
        program = traced(optimizer, parameters, state, parameters)
    except Exception:  # what cannot be traced is called
        return None
    before = [(leaf.shape, leaf.dtype) for leaf in map(jnp.asarray, jax.tree.leaves(state))]
    after = [(aval.shape, aval.dtype) for aval in program.jaxpr.out_avals[program.count :]]
    return program if before == after else None  # a state that changes its dtype cannot be scanned


def compare(candidate: Side, reference: Side, own: Side | None, trial: Trial, name: str) -> Comparison:
    """Runs both over every sequence, the reference in float64.

    Args:
        candidate: started in the precision it is judged in.
        reference: started in float64.
        own: the reference started in the precision of the candidate, where that is not float64: what it loses there
            itself is no fault of the candidate's.
        trial: how the candidate is judged.
        name: of the setting.
    """
    leaves = jax.tree.leaves(trial.parameters)
    pairs = {
        (c, r): Pair(trial.unit)
        for c, one in enumerate(candidate.fields)
        for r, other in enumerate(reference.fields)
        if one.alike(other)
    }
    updates = [Pair(trial.unit) for _ in leaves]
    picked = [_picked(leaf.size) for leaf in leaves]
    rows: Leaves = []
    limits = jnp.finfo(max((leaf.dtype for leaf in leaves), key=spacing))
    adapted = any(isinstance(side.optimizer.update, StepDifference) for side in (candidate, reference))
    for number, sequence in enumerate(sequences(limits)):
        generator = np.random.default_rng([trial.seed, number])
        where = ", ".join(filter(None, (sequence.name, name)))
        gradients = sequence.draw(generator, [leaf.shape for leaf in leaves], trial.steps)
        shown: Leaves = []
        for first, found, true in _run(candidate, reference, own, trial, gradients, generator):
            for leaf, pair in enumerate(updates):
                noise = true.noise_in_updates[leaf] + trial.unit * np.abs(true.updates[leaf])
                if adapted:
                    noise = noise + trial.unit * np.abs(true.parameters[leaf])
                pair.see(where, first, found.updates[leaf], true.updates[leaf], noise, trial.limit)
            for (c, r), pair in pairs.items():
                relative = 0 if reference.fields[r].whole else trial.unit
                noise = true.noise_in_states[r] + relative * np.abs(true.states[r])
                pair.see(where, first, found.states[c], true.states[r], noise, trial.limit)
            given = [true.gradients, true.parameters, found.updates, true.updates]
            shown.append(np.stack([_shown(group, picked) for group in given]))
        rows.append(np.concatenate(shown, axis=1))
    exhibit = Exhibit(None, *np.concatenate(rows, axis=2))
    leaf_of = np.repeat(np.arange(len(picked)), [len(p) for p in picked])
    columns = np.tile(np.stack([leaf_of, np.arange(len(leaf_of))]), len(rows))
    return Comparison(updates, pairs, candidate.fields, reference.fields, exhibit, columns, trial.float64)


def _picked(size: int) -> Floats:
    return np.unique(np.linspace(0, size - 1, min(size, ELEMENTS_SHOWN)).astype(int))


def _shown(leaves: Leaves, picked: list[Floats]) -> Floats:
    return np.concatenate([leaf.reshape(len(leaf), -1)[:, p] for leaf, p in zip(leaves, picked, strict=True)], axis=1)


def _run(
    candidate: Side,
    reference: Side,
    own: Side | None,
    trial: Trial,
    gradients: Iterator[Leaves],
    generator: np.random.Generator,
) -> Iterator[tuple[int, Steps, Truth]]:
    """Stretch by stretch, so short that the trajectories fit into memory: the steps before it, and what both did."""
    leaves, treedef = jax.tree.flatten(trial.parameters)
    chunk = _chunk(sum(leaf.size for leaf in leaves) * (2 + len(reference.fields)), trial.steps)
    exact = [np.asarray(leaf, np.float64) for leaf in leaves]
    state, own_state = candidate.state, own.state if own else None
    carry: Any = None
    for first in range(0, trial.steps, chunk):
        rows = [next(gradients) for _ in range(chunk)]
        stacks = [np.stack(column) for column in zip(*rows, strict=True)]
        given = _narrowed(stacks, leaves)
        with in_float64():
            widened = [leaf.astype(np.float64) for leaf in given]
            if reference.program is not None:
                carry = carry or start(jax.tree.leaves(reference.state), exact)
                carry, true = truth(reference.program, carry, widened, generator, trial.unit, trial.limit)
            else:
                begun = (reference.optimizer, reference.array, treedef, reference.state)
                carry, true = called_truth(*begun, exact, carry, widened, generator, trial.unit)
        before = _narrowed(true.parameters, leaves)
        with in_float64() if trial.float64 else as_the_user_runs_it():
            try:
                state, found = _steps(candidate, treedef, state, given, before)
            except Exception as error:
                raise CandidateError(in_words(error)) from error
            if own:
                with jax.numpy_dtype_promotion("standard"):
                    own_state, loss = _steps(own, treedef, own_state, given, before)
                true = true.with_losses(loss)
        yield first, found, true


def _narrowed(stacks: Leaves, leaves: Leaves) -> Leaves:
    """In the dtypes of the leaves, which may not hold them."""
    with np.errstate(over="ignore"):
        return [stack.astype(leaf.dtype) for stack, leaf in zip(stacks, leaves, strict=True)]


def _steps(side: Side, treedef: Any, state: Any, gradients: Leaves, parameters: Leaves) -> tuple[Any, Steps]:
    if side.program is None:
        return called_steps(side.optimizer, side.array, treedef, state, gradients, parameters)
    leaves, tree = jax.tree.flatten(state)
    found = compiled_steps(side.program, [jnp.asarray(leaf) for leaf in leaves], gradients, parameters)
    return tree.unflatten(found.state), found


def _chunk(numbers: int, steps: int) -> int:
    most = max(NUMBERS_AT_ONCE // max(numbers, 1), 1)
    return max(divisor for divisor in range(1, steps + 1) if steps % divisor == 0 and divisor <= most)


def cast(parameters: Any, *, float64: bool) -> Any:
    """The parameters in float64, or as the user has them; then float32 where the user has float64."""

    def one(leaf: Any) -> Any:
        narrow = is_float(leaf) and not float64
        dtype = (np.float32 if leaf.dtype == np.float64 else leaf.dtype) if narrow else np.float64
        return np.asarray(leaf, dtype)

    return jax.tree.map(one, parameters)
