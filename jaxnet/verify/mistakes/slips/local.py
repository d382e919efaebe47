"""What is known at one equation, and a mistake that is made there."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.precision import Floats, Leaves, in_float64
from jaxnet.verify.engine.program import compute
from jaxnet.verify.mistakes.surgery import Operation, Simulated, Site, Surgery
from jaxnet.verify.report import Kind


class Local(NamedTuple):
    """What is known at an operation.

    Attributes:
        operation: which it is.
        z: the operand.
        a: the result.
        others: all operands.
        arriving: the cotangent of the result.
        right: the cotangent of the operand, as it should be.
        seen: the values at all places.
        point: the leaves that are differentiated.
        paths: their names.
        activations: the operations of the function that act element by element.
    """

    operation: Operation
    z: Floats
    a: Floats
    others: list[Floats]
    arriving: Floats
    right: Floats
    seen: dict[Site, Any]
    point: Leaves
    paths: list[str]
    activations: list[Operation]

    @property
    def other(self) -> Floats:
        """The other operand of two."""
        return self.others[1 - self.operation.operand]

    def slope_at(self, z: Floats) -> Floats:
        """g' at another point; NaN, so that it explains nothing, for a chain of equations."""
        return slope_at(self.operation, z)

    @property
    def slope(self) -> Floats:
        """g'(z) of an operation that acts element by element, 0 where nothing arrives."""
        with np.errstate(all="ignore"):
            return np.where(self.arriving == 0, 0, self.right / np.where(self.arriving == 0, 1, self.arriving))


def at(operation: Operation, surgery: Surgery, simulated: Simulated, point: Leaves) -> Local:
    """What a simulation shows at an operation."""
    _, arriving, seen = simulated
    return Local(
        operation,
        np.asarray(seen[operation.site]),
        np.asarray(seen[operation.result]),
        [np.asarray(seen[operation.number, i]) for i in range(len(operation.equation.invars))],
        np.asarray(arriving[operation.result]),
        np.asarray(arriving[operation.site]),
        seen,
        point,
        surgery.case.paths,
        surgery.activations,
    )


def fitted(value: Floats, shape: tuple[int, ...]) -> Floats:
    """A cotangent summed over the axes along which an operand of this shape was broadcast, which a scalar may lack."""
    value = np.asarray(value)
    value = value.sum(axis=tuple(range(value.ndim - len(shape))))
    axes = tuple(i for i, (a, b) in enumerate(zip(value.shape, shape, strict=True)) if b == 1 < a)
    return np.broadcast_to(value.sum(axis=axes, keepdims=True), shape) if value.shape != shape else value


class Slip(NamedTuple):
    """A mistake at an operation.

    Attributes:
        kind: how a finding calls it.
        text: what is wrong, in a sentence.
        passes_on: what is passed on in place of the right cotangent of the operand.
        roundabout: whether another mistake that explains as much is the simpler one to name.
    """

    kind: Kind
    text: str
    passes_on: Callable[[Local], Floats]
    roundabout: bool = False


def slope_at(operation: Operation, z: Floats) -> Floats:
    """g' of a single equation at another point; NaN, so that it explains nothing, where there is a chain of them."""
    if not operation.primitive:
        return np.full_like(z, np.nan)
    equation = operation.equation
    literals = [getattr(variable, "val", None) for variable in equation.invars]

    def g(z: Any) -> Any:
        inputs = [z if i == operation.operand else value for i, value in enumerate(literals)]
        return compute(equation, inputs)[0]

    with in_float64(), np.errstate(all="ignore"):
        return np.asarray(jax.jvp(g, (jnp.asarray(z),), (jnp.ones_like(z),))[1])


def product_with(here: Local, other: Floats) -> Floats:
    """The cotangent of a product's operand, were the other operand this one."""
    operand = here.operation.operand

    def product(z: Any) -> Any:
        inputs: list[Any] = [jnp.asarray(other)] * 2
        inputs[operand] = z
        return compute(here.operation.equation, inputs)[0]

    with in_float64():
        return np.asarray(jax.vjp(product, jnp.asarray(here.z))[1](jnp.asarray(here.arriving))[0])


class Slips(NamedTuple):
    """A family of mistakes that are made at one operation.

    Attributes:
        kinds: that its findings may have.
        made: the mistakes that can be made at an operation; empty for one of another sort.
    """

    kinds: tuple[Kind, ...]
    made: Callable[[Local], Iterable[Slip]]


def handed_on(here: Local) -> Floats:
    """The cotangent that arrives, as it is."""
    return here.arriving
