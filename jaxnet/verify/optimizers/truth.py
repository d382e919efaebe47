"""What the reference does in float64, and how far rounding moves it.

Beside the reference run copies of it in which gradients, state, parameters and every intermediate result are moved by
one unit in their last place, in every step. Signs and comparisons that so small a move could turn are turned in two of
the copies, whichever way the random moves went.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxnet.verify.engine.precision import DOUBLE, Floats, Leaves, compiled, is_float, is_large
from jaxnet.verify.engine.program import inner, interpret, literal, literals
from jaxnet.verify.engine.rounding import nudged, rounds
from jaxnet.verify.engine.truth import limit_of
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
        own: what the reference does in the narrower dtype that the candidate is judged in, if it is.
    """

    gradients: Leaves
    parameters: Leaves
    updates: Leaves
    states: Leaves
    noise_in_updates: Leaves
    noise_in_states: Leaves
    own: Steps | None = None

    def with_losses(self, own: Steps) -> "Truth":
        """With the reference's own errors in a narrower dtype counted as rounding."""
        return self._replace(
            noise_in_updates=_or_lost(self.noise_in_updates, self.updates, own.updates),
            noise_in_states=_or_lost(self.noise_in_states, self.states, own.states),
            own=own,
        )


def _or_lost(noise: Leaves, exact: Leaves, own: Leaves) -> Leaves:
    """The noise, or the leaf's largest error in the step where that is larger; infinite where no number is held."""
    lost = []
    for least, right, found in zip(noise, exact, own, strict=True):
        with np.errstate(all="ignore"):
            error = np.abs(found - right)
        finite = np.isfinite(error)
        largest = np.max(error, axis=tuple(range(1, error.ndim)), keepdims=True, initial=0, where=finite)
        lost.append(np.where(finite, np.maximum(least, largest), np.inf))
    return lost


class Nudged(NamedTuple):
    """A compiled reference.

    Attributes:
        run: (carry, gradients, nudges, limit) -> as `Truth`.
        decays: how many of the nudges are for decay rates, which rounding moves alike in every step; they come first.
        count: of all nudges in a step.
    """

    run: Callable[..., Any]
    decays: int
    count: int


def _decay_rates(program: Program) -> list[float]:
    """The numbers β in the program that stand there with 1 - β: what a narrow β makes of 1 - β is rounding too."""
    found = set(literals(program.jaxpr))
    return sorted(beta for beta in found if 0 < beta < 1 and any(abs(1 - beta - other) < 1e-9 for other in found))


@functools.lru_cache(maxsize=64)
def _nudged(program: Program, shapes: tuple[Any, ...], large: bool) -> Nudged:
    """The reference and, beside it, copies in which every result of every step is moved by a relative unit."""
    outside = set(map(id, _outside_loops(program.jaxpr)))
    rounded = sum(map(rounds, _equations_run(program.jaxpr)))
    decays = _decay_rates(program)
    inputs = len(shapes)

    def one(gradients: Leaves, carry: tuple[Leaves, Leaves], nudges: Any, limit: Any) -> tuple[Leaves, Leaves, Leaves]:
        state, parameters = carry
        at_decays, at_inputs = nudges[: len(decays)], nudges[len(decays) :][:inputs]
        position = iter(range(len(decays) + inputs, len(nudges)))

        def nudge(equation: JaxprEqn, values: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
            for i, number in enumerate(map(literal, equation.invars)):
                if number in decays:
                    values[i] = values[i] + at_decays[decays.index(number)].astype(values[i].dtype)
            outputs = run(*values)
            if id(equation) in outside and equation.primitive.name in DECISIONS and is_float(values[0]):
                return [_turned(equation.primitive.name, values, outputs[0], limit)]
            if not rounds(equation):
                return outputs
            step = nudges[next(position)]
            return [nudged(output, 1.0, step) if is_float(output) else output for output in outputs]

        leaves = [
            nudged(leaf, 1.0, step) if is_float(leaf) else leaf
            for leaf, step in zip([*gradients, *state, *parameters], at_inputs, strict=True)
        ]
        results = interpret(program.jaxpr, leaves, nudge, into_loops=True)
        updates, state = results[: program.count], results[program.count :]
        parameters = [p + u.astype(p.dtype) for p, u in zip(parameters, updates, strict=True)]
        return updates, state, parameters

    def run(carry: Any, gradients: Leaves, nudges: Any, limit: Any) -> Any:
        def step(carry: Any, given: Any) -> Any:
            mapped = jax.vmap(one, in_axes=(None, 0, 0, None), axis_name=COPY)
            updates, state, parameters = mapped(given[0], carry, given[1], limit)
            first = [[leaf[0] for leaf in leaves] for leaves in (carry[1], updates, state)]
            return (state, parameters), (*first, list(map(_change, updates)), list(map(_change, state)))

        return jax.lax.scan(step, carry, (gradients, nudges))

    return Nudged(compiled(run, large=large), len(decays), len(decays) + inputs + rounded)


def _change(stack: Any) -> Any:
    """The largest change of any copy, for each element."""
    if not is_float(stack):
        return jnp.zeros(as_numbers(stack).shape[1:])
    change = jnp.abs(stack[1:] - stack[:1]).astype(float)
    return jnp.max(jnp.where(jnp.isfinite(change), change, 0), axis=0)


# What is decided by the sign of a number, and what it is where the number is positive and where it is negative.
DECISIONS: dict[str, tuple[Any, Any]] = {
    "sign": (1, -1),
    "gt": (True, False),
    "ge": (True, False),
    "lt": (False, True),
    "le": (False, True),
}
COPY = "copy"


def _turned(name: str, values: list[Any], output: Any, limit: Any) -> Any:
    """A decision that moves of a few units could turn, taken one way in one copy and the other way in another."""
    distance = values[0] if name == "sign" else values[0] - values[1]
    exact = jax.lax.all_gather(distance, COPY)[0]
    moved = jax.lax.pmax(jnp.abs(distance - exact), COPY)
    in_doubt = (moved > 0) & (jnp.abs(exact) <= limit * moved)
    number = jax.lax.axis_index(COPY)
    positive, negative = (jnp.asarray(result, output.dtype) for result in DECISIONS[name])
    return jnp.where(in_doubt & (number == 1), positive, jnp.where(in_doubt & (number == 2), negative, output))


def _outside_loops(program: Any) -> Iterator[JaxprEqn]:
    """The equations of a program and of the calls in it, but of no loop or branch: a loop could run for ever."""
    for equation in getattr(program, "jaxpr", program).eqns:
        inside = inner(equation)
        yield from _outside_loops(inside) if inside is not None else [equation]


def _equations_run(program: ClosedJaxpr) -> list[JaxprEqn]:
    """The equations in the order in which they are interpreted, as often as they are."""
    found: list[JaxprEqn] = []

    def see(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        outputs = run(*inputs)
        found.append(equation)
        return outputs

    jax.eval_shape(lambda leaves: interpret(program, leaves, see, into_loops=True), list(program.in_avals))
    return found


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
    program: Program, carry: Any, gradients: Leaves, generator: np.random.Generator, unit: float
) -> tuple[Any, Truth]:
    """What the reference does in float64, and what rounding to a `unit` in the last place explains; the carry first.

    Decay rates are rounded once, not in every step: the limit's many times their noise is one unit.
    """
    limit = limit_of(unit)
    state, parameters = carry
    leaves = [*(leaf[0] for leaf in gradients), *(leaf[0] for leaf in state), *(leaf[0] for leaf in parameters)]
    shapes = tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
    reference = _nudged(program, shapes, is_large(gradients))
    steps, count = len(gradients[0]), len(parameters[0]) - 1
    signs = generator.integers(0, 2, (steps, count, reference.count)) * 2.0 - 1
    once = signs[:1, :, : reference.decays]
    nudges = np.zeros((steps, 1 + count, reference.count))
    nudges[:, 1:] = signs * unit
    nudges[:, 1:, : reference.decays] = once * max(unit / limit, DOUBLE)
    carry, results = reference.run(carry, gradients, nudges, limit)
    before, updates, states, of_updates, of_states = map(as_numpy, results)
    return carry, Truth(gradients, before, updates, states, of_updates, of_states)


def called_truth(
    reference: Any, treedef: Any, carry: Any, gradients: Leaves, generator: np.random.Generator, unit: float
) -> tuple[Any, Truth]:
    """The same for a reference that is called step by step: gradients and state are moved, in two copies."""
    after, runs = [], []
    for size, (state, parameters) in zip((0, unit, unit), carry, strict=True):
        rows = []
        for step in range(len(gradients[0])):
            moved = [leaf[step] * (1 + size * generator.choice((-1, 1), leaf[step].shape)) for leaf in gradients]
            given = treedef.unflatten(map(reference.array, moved))
            at = treedef.unflatten(map(reference.array, parameters))
            if size:
                state = jax.tree.map(functools.partial(_moved, size=size, generator=generator), state)
            updates, state = reference.optimizer.update(given, copy.deepcopy(state), at)
            updates = as_numpy(jax.tree.leaves(updates))
            rows.append([*parameters, *updates, *as_numpy(jax.tree.leaves(state))])
            parameters = [p + u for p, u in zip(parameters, updates, strict=True)]
        after.append((state, parameters))
        runs.append(stacked(rows))
    count = len(gradients)
    exact, *perturbed = runs
    noise = [_noise(leaf, others) for leaf, *others in zip(exact, *perturbed, strict=True)]
    updates, states = slice(count, 2 * count), slice(2 * count, None)
    return after, Truth(gradients, exact[:count], exact[updates], exact[states], noise[updates], noise[states])


def _moved(leaf: Any, size: float, generator: np.random.Generator) -> Any:
    """A leaf of a state, its floats moved; whole numbers may count something, and stay."""
    array = np.asarray(as_numbers(leaf))
    if not is_float(array):
        return leaf
    moved = np.where(array == np.round(array), array, array * (1 + size * generator.choice((-1, 1), array.shape)))
    moved = moved.astype(array.dtype)
    if isinstance(leaf, jax.Array):
        return jnp.asarray(moved)
    return moved if isinstance(leaf, np.ndarray) else type(leaf)(moved)


def _noise(leaf: Floats, others: list[Floats]) -> Floats:
    with np.errstate(all="ignore"):
        changes = np.abs(np.stack(others) - leaf)
    return np.where(np.isfinite(changes), changes, 0).max(axis=0)
