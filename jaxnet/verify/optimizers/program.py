"""An optimizer as a program over leaves: one step, many steps compiled, many steps in Python where it must be so."""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxnet.verify.engine.lifting import lifted
from jaxnet.verify.engine.precision import Leaves, compiled, is_float, is_large
from jaxnet.verify.engine.program import narrowings, plain, signature


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

    text: Any
    jaxpr: ClosedJaxpr = field(compare=False)
    count: int = field(compare=False)

    def step(self, gradients: Leaves, state: Leaves, parameters: Leaves) -> tuple[Leaves, Leaves]:
        """The updates and the state after one step."""
        results = plain(self.jaxpr, [*gradients, *state, *parameters])
        return results[: self.count], results[self.count :]

    def lifted(self) -> "Program":
        """The same step with every float in float64, also where it casts to narrower dtypes."""
        given = [
            jax.ShapeDtypeStruct(aval.shape, np.float64 if is_float(aval) else aval.dtype)
            for aval in self.jaxpr.in_avals
        ]
        jaxpr = jax.make_jaxpr(lambda *leaves: lifted(self.jaxpr, leaves))(*given)
        return Program(signature(jaxpr), jaxpr, self.count)

    def keeps_its_state(self) -> bool:
        """Whether the state has the same shapes and dtypes after a step as before it: then steps can be scanned."""
        before = self.jaxpr.in_avals[self.count : len(self.jaxpr.in_avals) - self.count]
        after = self.jaxpr.out_avals[self.count :]
        return [(aval.shape, aval.dtype) for aval in before] == [(aval.shape, aval.dtype) for aval in after]

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
    return Program(signature(jaxpr), jaxpr, len(jax.tree.leaves(parameters)))


@functools.lru_cache(maxsize=256)
def _compiled(program: Program, large: bool) -> Callable[..., Any]:
    def run(state: Leaves, gradients: Leaves, parameters: Leaves) -> Any:
        def step(state: Leaves, given: tuple[Leaves, Leaves]) -> tuple[Leaves, tuple[Leaves, Leaves]]:
            updates, state = program.step(given[0], state, given[1])
            return state, (updates, state)

        return jax.lax.scan(step, state, (gradients, parameters))

    return compiled(run, large=large)


def compiled_steps(program: Program, state: Leaves, gradients: Leaves, parameters: Leaves) -> Steps:
    """Many steps in one compiled program."""
    after, (updates, states) = _compiled(program, is_large(gradients))(state, gradients, parameters)
    return Steps(after, as_numpy(updates), as_numpy(states))


def called_steps(
    optimizer: Any, array: Callable[[Any], Any], treedef: Any, state: Any, gradients: Leaves, parameters: Leaves
) -> tuple[Any, Steps]:
    """Many steps in Python, each with copies of its arguments as such arrays."""
    updates, states = [], []
    for step in range(len(gradients[0])):
        update, state = optimizer.update(
            treedef.unflatten([array(leaf[step]) for leaf in gradients]),
            copy.deepcopy(state),
            treedef.unflatten([array(leaf[step]) for leaf in parameters]),
        )
        updates.append(as_numpy(jax.tree.leaves(update)))
        states.append(as_numpy(jax.tree.leaves(state)))
    return state, Steps(states[-1], stacked(updates), stacked(states))


def stacked(rows: list[Leaves]) -> Leaves:
    """The leaves of all rows, one a step."""
    return [np.stack(leaves) for leaves in zip(*rows, strict=True)]


def as_numpy(leaves: Sequence[Any]) -> Leaves:
    """The leaves as NumPy arrays of float64, which holds every counter; random keys as their words."""
    return [np.asarray(as_numbers(leaf)).astype(np.float64) for leaf in leaves]


def as_numbers(leaf: Any) -> Any:
    """The leaf as an array, a random key as its words."""
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
