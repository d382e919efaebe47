"""An optimizer as a program over leaves: one step, many steps compiled, many steps in Python where it must be so."""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.candidate import narrowings
from jaxnet.verify.interpreter import interpret, shaped
from jaxnet.verify.problem import Floats, Leaves, is_float, printed, spacing
from jaxnet.verify.reference import nudged, rounds

PERTURBATIONS = 8
SIZES = np.where(np.arange(PERTURBATIONS) % 2, 4, 1)


class Steps(NamedTuple):
    """What some steps gave.

    Attributes:
        state: its leaves after the last step.
        updates: for each leaf of the parameters, (steps, *shape).
        states: for each leaf of the state, after each step.
    """

    state: Leaves
    updates: Leaves
    states: Leaves


@dataclass(frozen=True)
class Program:
    """One step of an optimizer, traced at some shapes: equal to another with the same text.

    Attributes:
        text: the program and the numbers it closes over.
        jaxpr: leaves of (gradients, state, parameters) -> leaves of (updates, state).
        count: of leaves of the parameters.
    """

    text: str
    jaxpr: ClosedJaxpr = field(compare=False)
    count: int = field(compare=False)

    def step(self, gradients: Leaves, state: Leaves, parameters: Leaves) -> tuple[Leaves, Leaves]:
        """The updates and the state after one step."""
        results = interpret(self.jaxpr, [*gradients, *state, *parameters], lambda equation, inputs, run: run(*inputs))
        return results[: self.count], results[self.count :]

    def narrowest(self) -> float:
        """One unit in the last place of the narrowest dtype inside, other than those it was given."""
        return max(narrowings(self.jaxpr), default=0.0)


def traced(optimizer: Any, gradients: Any, state: Any, parameters: Any) -> Program:
    """The optimizer's step at these shapes; raises what JAX raises where it cannot be traced."""
    tree = jax.tree.structure((gradients, state, parameters))

    def step(*leaves: Any) -> list[Any]:
        updates, after = optimizer.update(*tree.unflatten(leaves))
        return jax.tree.leaves((updates, after))

    jaxpr = jax.make_jaxpr(step)(*jax.tree.leaves((gradients, state, parameters)))
    return Program(printed(jaxpr), jaxpr, len(jax.tree.leaves(parameters)))


@functools.lru_cache(maxsize=256)
def _compiled(program: Program) -> Callable[..., Any]:
    def run(state: Leaves, gradients: Leaves, parameters: Leaves) -> Any:
        def step(state: Leaves, given: tuple[Leaves, Leaves]) -> tuple[Leaves, tuple[Leaves, Leaves]]:
            updates, state = program.step(given[0], state, given[1])
            return state, (updates, state)

        return jax.lax.scan(step, state, (gradients, parameters))

    return jax.jit(run)


def compiled_steps(program: Program, state: Leaves, gradients: Leaves, parameters: Leaves) -> Steps:
    """Many steps in one compiled program."""
    after, (updates, states) = _compiled(program)(state, gradients, parameters)
    return Steps(after, as_numpy(updates), as_numpy(states))


def called_steps(optimizer: Any, treedef: Any, state: Any, gradients: Leaves, parameters: Leaves) -> tuple[Any, Steps]:
    """Many steps in Python, each with copies of its arguments."""
    updates, states = [], []
    for step in range(len(gradients[0])):
        update, state = optimizer.update(
            treedef.unflatten([np.array(leaf[step]) for leaf in gradients]),
            copy.deepcopy(state),
            treedef.unflatten([np.array(leaf[step]) for leaf in parameters]),
        )
        updates.append(as_numpy(jax.tree.leaves(update)))
        states.append(as_numpy(jax.tree.leaves(state)))
    return state, Steps(states[-1], _stacked(updates), _stacked(states))


def _stacked(rows: list[Leaves]) -> Leaves:
    return [np.stack(leaves) for leaves in zip(*rows, strict=True)]


def as_numpy(leaves: Sequence[Any]) -> Leaves:
    """The leaves as NumPy arrays of float64, which holds every counter; random keys as their words."""
    return [np.asarray(as_numbers(leaf)).astype(np.float64) for leaf in leaves]


def as_numbers(leaf: Any) -> Any:
    """The leaf as an array, a random key as its words."""
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


class Truth(NamedTuple):
    """What the reference does.

    Attributes:
        gradients: as they were given, (steps, *shape).
        parameters: before each step.
        updates: for each leaf.
        states: for each leaf of the state.
        noise_in_updates: how far rounding moves each.
        noise_in_states: the same; 0 for integers.
    """

    gradients: Leaves
    parameters: Leaves
    updates: Leaves
    states: Leaves
    noise_in_updates: Leaves
    noise_in_states: Leaves


class Nudged(NamedTuple):
    """A compiled reference.

    Attributes:
        run: (carry, gradients, nudges) -> as `Truth`.
        spacings: of everything that is nudged in a step.
    """

    run: Callable[..., Any]
    spacings: Floats


@functools.lru_cache(maxsize=64)
def _nudged(program: Program, shapes: tuple[Any, ...]) -> Nudged:
    """The reference and, beside it, copies in which every result of every step is moved by so many units."""
    spacings: list[float] = []

    def count(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        if rounds(equation):
            spacings.append(max(spacing(shaped(v).dtype) for v in equation.outvars if is_float(shaped(v))))
        return run(*inputs)

    given = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    jax.eval_shape(lambda leaves: interpret(program.jaxpr, leaves, count, into_loops=True), given)
    inputs = [spacing(leaf.dtype) if is_float(leaf) else 1.0 for leaf in given]

    def moved(leaves: Leaves, steps: Any) -> Leaves:
        return [nudged(leaf, step) if is_float(leaf) else leaf for leaf, step in zip(leaves, steps, strict=True)]

    def one(gradients: Leaves, carry: tuple[Leaves, Leaves], nudges: Any) -> tuple[Leaves, Leaves, Leaves]:
        state, parameters = carry
        position = iter(range(len(inputs), len(inputs) + len(spacings)))

        def nudge(equation: JaxprEqn, values: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
            outputs = run(*values)
            if not rounds(equation):
                return outputs
            step = nudges[next(position)]
            return [nudged(output, step) if is_float(output) else output for output in outputs]

        leaves = moved([*gradients, *state, *parameters], nudges[: len(inputs)])
        results = interpret(program.jaxpr, leaves, nudge, into_loops=True)
        updates, state = results[: program.count], results[program.count :]
        parameters = [p + u.astype(p.dtype) for p, u in zip(parameters, updates, strict=True)]
        return updates, state, parameters

    def change(stack: Any) -> Any:
        if not is_float(stack):
            return jnp.zeros(stack.shape[1:])
        change = jnp.abs(stack[1:] - stack[:1]).astype(float)
        return jnp.max(jnp.where(jnp.isfinite(change), change, 0), axis=0)

    @jax.jit
    def run(carry: Any, gradients: Leaves, nudges: Any) -> Any:
        def step(carry: Any, given: Any) -> Any:
            updates, state, parameters = jax.vmap(one, in_axes=(None, 0, 0))(given[0], carry, given[1])
            first = [[leaf[0] for leaf in leaves] for leaves in (carry[1], updates, state)]
            return (state, parameters), (*first, list(map(change, updates)), list(map(change, state)))

        return jax.lax.scan(step, carry, (gradients, nudges))

    return Nudged(run, np.asarray([*inputs, *spacings]))


def start(state: Leaves, parameters: Leaves) -> Any:
    """The carry of a reference and its perturbed copies before the first step."""

    def copies(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return jnp.broadcast_to(leaf, (1 + PERTURBATIONS, *leaf.shape))

    return [copies(leaf) for leaf in state], [copies(leaf) for leaf in parameters]


def truth(
    program: Program, carry: Any, gradients: Leaves, generator: np.random.Generator, unit: float
) -> tuple[Any, Truth]:
    """What the reference does in float64, and what rounding to a `unit` in the last place explains; the carry first.

    Half of the perturbed copies are moved by four units, lest none sees a sign that is about to change.
    """
    state, parameters = carry
    leaves = [*(leaf[0] for leaf in gradients), *(leaf[0] for leaf in state), *(leaf[0] for leaf in parameters)]
    compiled = _nudged(program, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves))
    shape = (len(gradients[0]), PERTURBATIONS, len(compiled.spacings))
    signs = generator.integers(0, 2, shape, np.int8) * 2 - 1
    sizes = SIZES[:, None] * np.maximum(np.round(unit / compiled.spacings), 1)
    nudges = np.concatenate([np.zeros((shape[0], 1, shape[2]), np.int64), (signs * sizes).astype(np.int64)], axis=1)
    carry, (before, *results) = compiled.run(carry, gradients, nudges)
    return carry, Truth(gradients, as_numpy(before), *map(as_numpy, results))


def called_truth(
    optimizer: Any,
    treedef: Any,
    state: Any,
    parameters: Leaves,
    carry: Any,
    gradients: Leaves,
    generator: np.random.Generator,
    unit: float,
) -> tuple[Any, Truth]:
    """The same for a reference that JAX cannot trace: in its copies the gradients alone are moved."""
    carry = carry or [(copy.deepcopy(state), parameters) for _ in range(1 + PERTURBATIONS)]
    runs = []
    for number, (state, parameters) in enumerate(carry):
        size = unit * SIZES[number - 1] if number else 0.0
        rows = []
        for step in range(len(gradients[0])):
            moved = [leaf[step] * (1 + size * generator.choice((-1, 1), leaf[step].shape)) for leaf in gradients]
            updates, state = optimizer.update(
                treedef.unflatten(moved), copy.deepcopy(state), treedef.unflatten(map(np.array, parameters))
            )
            updates = as_numpy(jax.tree.leaves(updates))
            rows.append([*parameters, *updates, *as_numpy(jax.tree.leaves(state))])
            parameters = [p + u for p, u in zip(parameters, updates, strict=True)]
        carry[number] = state, parameters
        runs.append(_stacked(rows))
    count = len(gradients)
    exact, *copies = runs
    noise = [_noise(leaf, others) for leaf, *others in zip(exact, *copies, strict=True)]
    split = slice(count), slice(count, 2 * count), slice(2 * count, None)
    return carry, Truth(gradients, *(exact[part] for part in split), *(noise[part] for part in split[1:]))


def _noise(leaf: Floats, others: list[Floats]) -> Floats:
    with np.errstate(all="ignore"):
        changes = np.abs(np.stack(others) - leaf)
    return np.where(np.isfinite(changes), changes, 0).max(axis=0)
