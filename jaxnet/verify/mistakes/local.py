"""Mistakes that are made at one equation: what is passed on in place of the right cotangent of its operand."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.precision import Floats, Leaves, in_float64
from jaxnet.verify.engine.program import compute
from jaxnet.verify.mistakes.surgery import Operation, Simulated, Site, acts_elementwise
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
    """

    operation: Operation
    z: Floats
    a: Floats
    others: list[Floats]
    arriving: Floats
    right: Floats
    seen: dict[Site, Any]
    point: Leaves

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


def at(operation: Operation, simulated: Simulated, point: Leaves) -> Local:
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
    )


def fitted(value: Floats, shape: tuple[int, ...]) -> Floats:
    """A cotangent summed over the axes along which an operand of this shape was broadcast."""
    value = np.asarray(value)
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


def sigmoid(z: Floats) -> Floats:
    """σ(z)."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))


# What people write in place of g'(z), where a = g(z).
SUBSTITUTES: tuple[tuple[str, Callable[[Any], Floats]], ...] = (
    ("is missing", lambda o: np.ones_like(o.z)),
    ("is applied twice", lambda o: o.slope**2),
    ("is taken at the output a instead of the input z", lambda o: o.slope_at(o.a)),
    ("is replaced by a itself", lambda o: o.a),
    ("is replaced by z itself", lambda o: o.z),
    ("is replaced by 1 - a", lambda o: 1 - o.a),
    ("is replaced by 1 - a², that of tanh", lambda o: 1 - o.a**2),
    ("is replaced by a(1 - a), that of the sigmoid", lambda o: o.a * (1 - o.a)),
    ("is replaced by 1 - z²: the a in 1 - a² is the output", lambda o: 1 - o.z**2),
    ("is replaced by z(1 - z): the a in a(1 - a) is the output", lambda o: o.z * (1 - o.z)),
    ("is replaced by 1{z > 0}, that of ReLU", lambda o: (o.z > 0).astype(float)),
    ("is replaced by 1{z < 0}", lambda o: (o.z < 0).astype(float)),
    ("is replaced by that of a leaky ReLU", lambda o: np.where(o.z > 0, 1.0, 0.01)),
    ("is replaced by the sigmoid's", lambda o: sigmoid(o.z) * sigmoid(-o.z)),
    ("is replaced by that of tanh", lambda o: 1 - np.tanh(o.z) ** 2),
    ("is replaced by the sigmoid of z", lambda o: sigmoid(o.z)),
    ("is replaced by z²", lambda o: o.z**2),
    ("is replaced by a²", lambda o: o.a**2),
    ("is inverted: it divides where it must multiply", lambda o: 1 / o.slope),
    ("is taken at -z", lambda o: o.slope_at(-o.z)),
)

# Factors that get multiplied where none belongs, as where a loss contains its activation already.
INTRUDERS: tuple[tuple[str, Callable[[Floats], Floats]], ...] = (
    ("the sigmoid's", lambda z: sigmoid(z) * sigmoid(-z)),
    ("tanh's", lambda z: 1 - np.tanh(z) ** 2),
    ("ReLU's", lambda z: (z > 0).astype(float)),
)

# What acts element by element and is no activation.
POWERS = {"integer_pow", "pow", "square", "sqrt", "rsqrt", "cbrt", "div", "abs"}
LINEAR = {"dot_general", "triangular_solve", "custom_linear_solve", "cumsum", "conv_general_dilated", "fft"}
GATHERING = {
    "gather", "dynamic_slice", "conv_general_dilated", "broadcast_in_dim", "reduce_window_max", "reduce_window_min",
    "reduce_window_sum", "reduce_window", "concatenate", "select_and_gather_add", "dot_general", "slice", "pad",
}  # fmt: skip
LARGEST_JACOBIAN = 2**16


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


def slips(here: Local, paths: list[str], activations: list[Operation]) -> Iterator[Slip]:
    """The mistakes that can be made at an operation.

    Args:
        here: the operation.
        paths: of the leaves that are differentiated.
        activations: the operations of the function that act element by element.
    """
    operation, name = here.operation, here.operation.name
    if not operation.primitive or acts_elementwise(operation.equation):
        yield from _of_activations(here, activations)
    elif operation.primitive in ("mul", "div"):
        yield from _of_products(here, paths)
    elif operation.primitive == "select_n":
        yield Slip("mask", f"the mask of `{name}` is left out: what was not selected gets a gradient", _arriving)
        yield Slip("mask", f"the mask of `{name}` is inverted", lambda o: o.arriving - o.right)
    if operation.repeats > 1:
        return
    if operation.primitive == "dot_general":
        yield from _of_matrix_products(here, paths, activations)
    if operation.primitive in LINEAR and here.z.shape == here.a.shape:
        yield Slip("transpose", f"`{name}` itself is applied where its transpose belongs", _applied_again)
    if operation.primitive in GATHERING:
        text = (
            f"contributions overwrite one another where they must be added: one element of {name}'s operand has several"
        )
        yield Slip("accumulation", f"{text} results, and gets the last one's", lambda o: _overwritten(o, -1))
        yield Slip("accumulation", f"{text} results, and gets the first one's", lambda o: _overwritten(o, 0))


def _arriving(here: Local) -> Floats:
    return here.arriving


def _of_activations(here: Local, activations: list[Operation]) -> Iterator[Slip]:
    slope = here.slope[here.arriving != 0]
    if slope.size and np.ptp(slope) <= 1e-12 * np.abs(slope).max():
        return  # a linear function has no other slope to take
    for text, substitute in SUBSTITUTES:
        said = f"the derivative of `{here.operation.name}` {text}"
        yield Slip("activation", said, lambda o, s=substitute: o.arriving * s(o), here.operation.primitive in POWERS)
    alike = [o for o in activations if o.name == here.operation.name and here.seen[o.site].shape == here.z.shape]
    place = next((i for i, o in enumerate(alike) if o.site == here.operation.site), 0)
    for other in (*alike[max(place - 1, 0) : place], *alike[place + 1 : place + 2]):
        text = f"the derivative of `{here.operation.name}` is taken at the z of another layer"
        yield Slip("activation", text, lambda o, s=other.site: o.arriving * o.slope_at(np.asarray(o.seen[s])))


def _of_matrix_products(here: Local, paths: list[str], activations: list[Operation]) -> Iterator[Slip]:
    """A product whose gradient is built with something else than the other operand."""
    for activation in activations:
        a = here.seen[activation.result]
        if a.shape != here.other.shape:
            continue
        if np.array_equal(a, here.other):
            text = "the gradient of a product is built with the activation's input z in place of its output a"
            yield Slip("activation", text, lambda o, s=activation.site: product_with(o, np.asarray(o.seen[s])))
        else:
            text = f"the gradient of a product is built with the result of another `{activation.name}`"
            yield Slip("missing_factor", text, lambda o, s=activation.result: product_with(o, np.asarray(o.seen[s])))
    for i, path in enumerate(paths):
        text = f"the gradient of a product is built with {path or 'the argument'}, not with its other factor"
        for turned in (np.asarray, np.transpose) if here.point[i].ndim == 2 else ():
            leaf, back = turned(here.point[i]), turned(np.transpose(here.point[i]))
            if leaf.shape != here.other.shape or np.array_equal(leaf, here.other):
                continue
            if np.array_equal(back, here.other):
                said = "the backward pass multiplies by W where Wᵀ belongs (or the other way round)"
                yield Slip("transpose", said, lambda o, i=i, t=turned: product_with(o, t(o.point[i])))
            else:
                yield Slip("missing_factor", text, lambda o, i=i, t=turned: product_with(o, t(o.point[i])))


def product_with(here: Local, other: Floats) -> Floats:
    """The cotangent of a product's operand, were the other operand this one."""
    operand = here.operation.operand

    def product(z: Any) -> Any:
        inputs: list[Any] = [jnp.asarray(other)] * 2
        inputs[operand] = z
        return compute(here.operation.equation, inputs)[0]

    with in_float64():
        return np.asarray(jax.vjp(product, jnp.asarray(here.z))[1](jnp.asarray(here.arriving))[0])


def _of_products(here: Local, paths: list[str]) -> Iterator[Slip]:
    """The product rule and the quotient rule: a factor that is missing or another."""
    name, divides = here.operation.name, here.operation.primitive == "div"
    if divides and here.operation.operand == 1:
        of = f"in the derivative of `{name}` by the denominator"
        yield Slip("missing_factor", f"the numerator is missing {of}", lambda o: -o.arriving / o.z**2)
        yield Slip("missing_factor", f"the denominator is not squared {of}", lambda o: -o.arriving * o.other / o.z)
        yield Slip("missing_factor", f"the denominator is missing {of}", lambda o: -o.arriving * o.other)
        return
    masks = not divides and bool(np.isin(here.other, (0, 1)).all() and (here.other == 0).any())
    kind: Kind = "mask" if masks else "missing_factor"
    what = "divided by the denominator" if divides else "multiplied by the other factor"
    factor = "the mask" if masks else "the denominator" if divides else "the other factor"
    yield Slip(kind, f"the gradient of a factor of `{name}` is not {what}" + ", the mask" * masks, _arriving)
    text = f"the gradient of a factor of `{name}` is multiplied by the factor itself"
    yield Slip("missing_factor", text, lambda o: o.arriving * o.z)
    power = -1.0 if divides else 1.0
    with_power = f"{factor} of `{name}` is applied twice", f"{factor} of `{name}` is applied the wrong way round"
    yield Slip(kind, with_power[0], lambda o: o.arriving * o.other ** (2 * power))
    yield Slip(kind, with_power[1], lambda o: o.arriving * o.other**-power)
    for i, path in enumerate(paths):
        if here.point[i].shape == here.other.shape:
            text = f"the gradient of a factor of `{name}` is multiplied by {path or 'the argument'}, not by the other"
            yield Slip("missing_factor", text, lambda o, i=i: o.arriving * o.point[i])


def _applied_again(here: Local) -> Floats:
    """The operation applied to the cotangent that arrives, which is right for symmetric maps alone."""
    equation, operand = here.operation.equation, here.operation.operand
    inputs = [here.arriving if i == operand else value for i, value in enumerate(here.others)]
    with in_float64():
        return np.asarray(compute(equation, [jnp.asarray(value) for value in inputs])[0])


def _overwritten(here: Local, which: int) -> Floats:
    """For each element of the operand the contribution of one result alone, the first or the last of several."""
    jacobian = _jacobian(here)
    if jacobian is None:
        return np.full_like(here.right, np.nan)
    reached = jacobian * here.arriving.reshape(-1, 1) != 0
    order = np.argmax(reached, axis=0) if which == 0 else len(reached) - 1 - np.argmax(reached[::-1], axis=0)
    columns = np.arange(reached.shape[1])
    chosen = jacobian[order, columns] * here.arriving.ravel()[order]
    return np.where(reached.any(axis=0), chosen, 0).reshape(here.z.shape)


def _jacobian(here: Local) -> Floats | None:
    """∂results/∂operand of one equation, (results, elements); None if it is too large."""
    if here.z.size * here.a.size > LARGEST_JACOBIAN:
        return None
    equation, operand = here.operation.equation, here.operation.operand

    def result(z: Any) -> Any:
        return compute(equation, [z if i == operand else value for i, value in enumerate(here.others)])[0]

    with in_float64():
        jacobian = jax.jacrev(result)(jnp.asarray(here.z))
    return np.asarray(jacobian).reshape(here.a.size, here.z.size)
