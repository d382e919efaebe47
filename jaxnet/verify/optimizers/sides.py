"""Candidate and reference as they are run: how each takes its arrays, its state, its step as a program, many steps."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.numbers import widen
from jaxnet.verify.engine.precision import Leaves, as_the_user_runs_it, is_float, spacing
from jaxnet.verify.optimizers.adapters import with_cost
from jaxnet.verify.optimizers.fields import Field, fields
from jaxnet.verify.optimizers.program import Program, Steps, called_steps, compiled_steps, traced
from jaxnet.verify.optimizers.recognition import all_parts


class Way(NamedTuple):
    """How an optimizer wants to be called.

    Attributes:
        array: what its arrays are made by: `jax.numpy.asarray`, or `numpy.array` where it takes no others.
        cost: whether it asks for the cost.
    """

    array: Callable[[Any], Any] = jnp.asarray
    cost: bool = False

    def made(self, optimizer: Any) -> Any:
        """The optimizer as a pair of functions of Optax's plain form."""
        return with_cost(optimizer) if self.cost else optimizer


WAYS = (Way(), Way(np.array), Way(cost=True), Way(np.array, cost=True))


def way_of(optimizer: Any, parameters: Any) -> Way:
    """The first way in which the optimizer takes a step.

    Raises:
        Exception: what it raises in the plainest way, if there is none.
    """
    raised: Exception | None = None
    for way in WAYS:
        try:
            given, made = jax.tree.map(way.array, parameters), way.made(optimizer)
            made.update(jax.tree.map(way.array, parameters), made.init(given), given)
        except Exception as error:  # whatever it is, it is what the user sees, unless another way avoids it
            raised = raised or error
        else:
            return way
    raise raised or AssertionError("there is a way")


class Side(NamedTuple):
    """One of the two optimizers, started.

    Attributes:
        optimizer: itself.
        state: before the first step.
        fields: the leaves of its state.
        program: its step; None where it must be called step by step.
        array: what its arrays are made by where it is called.
        narrow: one unit in the last place of the narrowest float that it holds or computes; 0 if there is none.
    """

    optimizer: Any
    state: Any
    fields: list[Field]
    program: Program | None
    array: Callable[[Any], Any]
    narrow: float

    def run(self, treedef: Any, state: Any, gradients: Leaves, parameters: Leaves) -> tuple[Any, Steps]:
        """The state after some steps from this one, and what they gave."""
        if self.program is None:
            return called_steps(self.optimizer, self.array, treedef, state, gradients, parameters)
        leaves, tree = jax.tree.flatten(state)
        found = compiled_steps(self.program, [jnp.asarray(leaf) for leaf in leaves], gradients, parameters)
        return tree.unflatten(found.state), found


def begin(optimizer: Any, parameters: Any, way: Way, *, exact: bool) -> Side:
    """The optimizer at the start, and its step as a program if it can be traced; with its casts lifted where exact."""
    optimizer, parameters = way.made(optimizer), jax.tree.map(way.array, parameters)
    state = optimizer.init(parameters)
    narrow = list(_held(optimizer))
    program = None
    if exact:
        # Numbers in Python take the dtype of what they meet, so that the state is widened before the step is traced.
        wide = jax.tree.map(widen, state)
        program = _program(optimizer, parameters, wide)
        state = wide if program is not None else state
    program = program or _program(optimizer, parameters, state)
    if program is not None and exact:
        narrow.append(program.narrowest())
        state, program = jax.tree.map(widen, state), _lifted(program)
    if program is not None and program.keeps_its_state():
        return Side(optimizer, state, fields(state, parameters), program, way.array, max(narrow))
    state = optimizer.init(parameters)
    shown = state
    if not jax.tree.leaves(state):  # it may be made in the first step
        _, shown = optimizer.update(parameters, state, parameters)
    narrow += (spacing(leaf.dtype) for leaf in jax.tree.leaves(shown) if is_float(leaf))
    return Side(optimizer, state, fields(shown, parameters), None, way.array, max(narrow))


def _program(optimizer: Any, parameters: Any, state: Any) -> Program | None:
    try:
        return traced(optimizer, parameters, state, parameters)
    except Exception:  # what cannot be traced is called
        return None


def _lifted(program: Program) -> Program:
    try:
        return program.lifted()
    except Exception:  # operations that are made for one dtype only stay in it
        return program


def _held(optimizer: Any) -> Iterator[float]:
    """The spacings of the floats that it closes over, such as a learning rate that is an array."""
    yield 0.0
    for value in (value for part in all_parts(optimizer) for value in part.held.values()):
        try:
            numbers = jax.tree.leaves(value)
        except Exception:  # what cannot be flattened is no number
            continue
        for number in numbers:
            if isinstance(number, jax.Array | np.ndarray | np.generic) and is_float(number):
                yield spacing(number.dtype)


def cast(parameters: Any, *, float64: bool) -> Any:
    """The parameters in float64, or as the user has them; then float32 where the user has float64."""

    def one(leaf: Any) -> Any:
        narrow = is_float(leaf) and not float64
        dtype = (np.float32 if leaf.dtype == np.float64 else leaf.dtype) if narrow else np.float64
        return np.asarray(leaf, dtype)

    return jax.tree.map(one, parameters)


def dtypes_of_updates(optimizer: Any, parameters: Any, way: Way) -> list[Any]:
    """The dtypes of its updates in the parameters' own dtypes; none where it does not run in them."""
    with as_the_user_runs_it(), jax.numpy_dtype_promotion("standard"):
        try:
            given, made = jax.tree.map(way.array, parameters), way.made(optimizer)
            updates, _ = made.update(given, made.init(given), given)
            return [leaf.dtype for leaf in jax.tree.leaves(updates)]
        except Exception:  # then there is nothing to compare with
            return []
