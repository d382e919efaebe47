"""What the reference does in float64, and how far rounding moves it.

Beside the reference run copies of it in which gradients, state, parameters and every intermediate result are moved by
one unit in their last place, in every step.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxnet.verify.engine.precision import DOUBLE, Floats, Leaves, is_float, spacing
from jaxnet.verify.engine.program import interpret, shaped
from jaxnet.verify.engine.rounding import nudged, rounds
from jaxnet.verify.optimizers.program import Program, Steps, as_numbers, as_numpy, stacked

COPIES = 8
ELEMENTS = 2**14


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

    def with_losses(self, own: Steps) -> "Truth":
        """With the reference's own errors in a narrower dtype counted as rounding."""
        return self._replace(
            noise_in_updates=_or_lost(self.noise_in_updates, self.updates, own.updates),
            noise_in_states=_or_lost(self.noise_in_states, self.states, own.states),
        )


def _or_lost(noise: Leaves, exact: Leaves, own: Leaves) -> Leaves:
    """The noise, or the error where that is larger: infinite where the dtype cannot hold the number."""
    with np.errstate(all="ignore"):
        errors = [np.nan_to_num(np.abs(o - e), nan=np.inf, posinf=np.inf) for o, e in zip(own, exact, strict=True)]
    return [np.maximum(n, error) for n, error in zip(noise, errors, strict=True)]


class Nudged(NamedTuple):
    """A compiled reference.

    Attributes:
        run: (carry, gradients, nudges) -> as `Truth`.
        spacings: of everything that is nudged in a step.
        decays: how many of these are decay rates, which rounding moves alike in every step; they come first.
    """

    run: Callable[..., Any]
    spacings: Floats
    decays: int


def _decay_rates(program: Program) -> list[float]:
    """The numbers β in the program that stand there with 1 - β: what a narrow β makes of 1 - β is rounding too."""
    found: set[float] = set()

    def see(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        found.update(number for number in map(_scalar, equation.invars) if number is not None)
        return run(*inputs)

    jax.eval_shape(lambda leaves: interpret(program.jaxpr, leaves, see), program.jaxpr.in_avals)
    return sorted(beta for beta in found if 0 < beta < 1 and any(abs(1 - beta - other) < 1e-9 for other in found))


def _scalar(variable: Any) -> float | None:
    """The number that stands in an equation, if one does."""
    if isinstance(variable, Literal) and is_float(shaped(variable)):
        return float(variable.val)
    return None


def _nudged_by(value: Any, units: Any) -> Any:
    """The value moved by so many units in its own last place, all elements alike."""
    return nudged(value, 1.0, units * spacing(value.dtype))


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
    decays = _decay_rates(program)

    def one(gradients: Leaves, carry: tuple[Leaves, Leaves], nudges: Any) -> tuple[Leaves, Leaves, Leaves]:
        state, parameters = carry
        at_decays, at_inputs = nudges[: len(decays)], nudges[len(decays) :][: len(inputs)]
        position = iter(range(len(decays) + len(inputs), len(nudges)))

        def nudge(equation: JaxprEqn, values: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
            for i, number in enumerate(map(_scalar, equation.invars)):
                if number in decays:
                    values[i] = values[i] + (at_decays[decays.index(number)] * DOUBLE).astype(values[i].dtype)
            outputs = run(*values)
            if not rounds(equation):
                return outputs
            step = nudges[next(position)]
            return [_nudged_by(output, step) if is_float(output) else output for output in outputs]

        leaves = [
            _nudged_by(leaf, step) if is_float(leaf) else leaf
            for leaf, step in zip([*gradients, *state, *parameters], at_inputs, strict=True)
        ]
        results = interpret(program.jaxpr, leaves, nudge, into_loops=True)
        updates, state = results[: program.count], results[program.count :]
        parameters = [p + u.astype(p.dtype) for p, u in zip(parameters, updates, strict=True)]
        return updates, state, parameters

    def change(stack: Any) -> Any:
        if not is_float(stack):
            return jnp.zeros(as_numbers(stack).shape[1:])
        change = jnp.abs(stack[1:] - stack[:1]).astype(float)
        return jnp.max(jnp.where(jnp.isfinite(change), change, 0), axis=0)

    @jax.jit
    def run(carry: Any, gradients: Leaves, nudges: Any) -> Any:
        def step(carry: Any, given: Any) -> Any:
            updates, state, parameters = jax.vmap(one, in_axes=(None, 0, 0))(given[0], carry, given[1])
            first = [[leaf[0] for leaf in leaves] for leaves in (carry[1], updates, state)]
            return (state, parameters), (*first, list(map(change, updates)), list(map(change, state)))

        return jax.lax.scan(step, carry, (gradients, nudges))

    return Nudged(run, np.asarray([*[DOUBLE] * len(decays), *inputs, *spacings]), len(decays))


def copies(parameters: Leaves) -> int:
    """How many perturbed copies there are: fewer of many parameters, the largest of which tells as much."""
    return int(np.clip(ELEMENTS // sum(leaf.size for leaf in parameters), 2, COPIES))


def start(state: Leaves, parameters: Leaves) -> Any:
    """The carry of a reference and its perturbed copies before the first step."""
    count = 1 + copies(parameters)

    def repeated(leaves: Leaves) -> Leaves:
        return [jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))) for leaf in leaves]

    return repeated(state), repeated(parameters)


def truth(
    program: Program, carry: Any, gradients: Leaves, generator: np.random.Generator, unit: float, limit: float
) -> tuple[Any, Truth]:
    """What the reference does in float64, and what rounding to a `unit` in the last place explains; the carry first.

    Half of the perturbed copies are moved by four units, lest none sees a sign that is about to change. Decay rates
    are rounded once, not in every step: `limit` times their noise is one unit.
    """
    state, parameters = carry
    leaves = [*(leaf[0] for leaf in gradients), *(leaf[0] for leaf in state), *(leaf[0] for leaf in parameters)]
    compiled = _nudged(program, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves))
    steps, count, columns = len(gradients[0]), len(parameters[0]) - 1, len(compiled.spacings)
    signs = generator.integers(0, 2, (steps, count, columns)) * 2 - 1
    signs[:, :, : compiled.decays] = signs[:1, :, : compiled.decays]
    units = np.maximum(np.round(unit / compiled.spacings), 1)
    nudges = np.zeros((steps, 1 + count, columns), np.int64)
    nudges[:, 1:] = signs * _sizes(count)[:, None] * units
    nudges[:, 1:, : compiled.decays] = signs[:, :, : compiled.decays] * max(round(unit / DOUBLE / limit), 1)
    carry, (before, *results) = compiled.run(carry, gradients, nudges)
    return carry, Truth(gradients, as_numpy(before), *map(as_numpy, results))


def _sizes(count: int) -> Floats:
    return np.where(np.arange(count) % 2, 4, 1)


def called_truth(
    optimizer: Any,
    array: Callable[[Any], Any],
    treedef: Any,
    state: Any,
    parameters: Leaves,
    carry: Any,
    gradients: Leaves,
    generator: np.random.Generator,
    unit: float,
) -> tuple[Any, Truth]:
    """The same for a reference that JAX cannot trace: the gradients alone are moved, in two copies."""
    carry = carry or [(copy.deepcopy(state), parameters) for _ in range(3)]
    sizes = unit * np.array([0, *_sizes(len(carry) - 1)])
    runs = []
    for number, (state, parameters) in enumerate(carry):
        rows = []
        for step in range(len(gradients[0])):
            moved = [
                leaf[step] * (1 + sizes[number] * generator.choice((-1, 1), leaf[step].shape)) for leaf in gradients
            ]
            updates, state = optimizer.update(
                treedef.unflatten(map(array, moved)), copy.deepcopy(state), treedef.unflatten(map(array, parameters))
            )
            updates = as_numpy(jax.tree.leaves(updates))
            rows.append([*parameters, *updates, *as_numpy(jax.tree.leaves(state))])
            parameters = [p + u for p, u in zip(parameters, updates, strict=True)]
        carry[number] = state, parameters
        runs.append(stacked(rows))
    count = len(gradients)
    exact, *perturbed = runs
    noise = [_noise(leaf, others) for leaf, *others in zip(exact, *perturbed, strict=True)]
    split = slice(count), slice(count, 2 * count), slice(2 * count, None)
    return carry, Truth(gradients, *(exact[part] for part in split), *(noise[part] for part in split[1:]))


def _noise(leaf: Floats, others: list[Floats]) -> Floats:
    with np.errstate(all="ignore"):
        changes = np.abs(np.stack(others) - leaf)
    return np.where(np.isfinite(changes), changes, 0).max(axis=0)
