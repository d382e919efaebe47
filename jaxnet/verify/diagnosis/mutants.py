"""Simulates the mistakes that people make in a chain rule, by making them in autodiff.

The function is run equation by equation. At each one the value stays what it is and the derivative is changed: a
factor g' is left out, doubled or taken of the wrong argument; a path is cut; a matrix is transposed. Differentiating
that gives the gradient that somebody gets who makes the mistake. Every change hangs on one number of a vector θ, so
that all of them are compiled once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import JaxprEqn, Literal, jaxprs_in_params
from jax.lax import stop_gradient

from jaxnet.verify.comparison import Comparison
from jaxnet.verify.interpreter import compute, inner, interpret, shaped
from jaxnet.verify.problem import Floats, Leaves, Problem, Rule, in_float64, is_float, widened
from jaxnet.verify.reference import described, memoized
from jaxnet.verify.report import Kind

NONLINEAR = {
    "tanh", "logistic", "exp", "exp2", "expm1", "log1p", "sin", "cos", "max", "min", "erf", "erfc", "abs",
    "custom_jvp_call", "custom_vjp_call", "jit", "pjit", "clamp",
}  # fmt: skip

# What people write in place of g'(z), where a = g(z).
SUBSTITUTES: tuple[tuple[str, Callable[[Array, Array, Callable[[Array], Array]], Array]], ...] = (
    ("is missing", lambda z, a, slope: jnp.ones_like(z)),
    ("is applied twice", lambda z, a, slope: slope(z) ** 2),
    ("is taken at the output a instead of the input z", lambda z, a, slope: slope(a)),
    ("is replaced by a itself", lambda z, a, slope: a),
    ("is replaced by 1 - a", lambda z, a, slope: 1 - a),
    ("is replaced by 1 - a², that of tanh", lambda z, a, slope: 1 - a**2),
    ("is replaced by a(1 - a), that of the sigmoid", lambda z, a, slope: a * (1 - a)),
    ("is replaced by 1 - z²: the a in 1 - a² is the output", lambda z, a, slope: 1 - z**2),
    ("is replaced by z(1 - z): the a in a(1 - a) is the output", lambda z, a, slope: z * (1 - z)),
    ("is replaced by 1{z > 0}, that of ReLU", lambda z, a, slope: (z > 0).astype(z.dtype)),
    ("is replaced by 1{z < 0}", lambda z, a, slope: (z < 0).astype(z.dtype)),
    ("is replaced by that of a leaky ReLU", lambda z, a, slope: jnp.where(z > 0, 1.0, 0.01)),
    ("is replaced by the sigmoid's", lambda z, a, slope: jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)),
    ("is replaced by that of tanh", lambda z, a, slope: 1 - jnp.tanh(z) ** 2),
)

# Factors that get multiplied where none belongs, as where a loss contains its activation already.
INTRUDERS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("the sigmoid's", lambda z: jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)),
    ("tanh's", lambda z: 1 - jnp.tanh(z) ** 2),
    ("ReLU's", lambda z: (z > 0).astype(z.dtype)),
)


class Mutant(NamedTuple):
    """A mistake that can be simulated.

    Attributes:
        kind: how a finding calls it.
        explanation: what is wrong, in a sentence.
        slot: which number of θ switches it on.
        value: to what.
    """

    kind: Kind
    explanation: str
    slot: int
    value: float


class Mutants(NamedTuple):
    """All mistakes that can be made in a function.

    Attributes:
        mutants: the mistakes.
        usual: θ without any of them. Its first numbers, one for each leaf, are the learning rates of updates that are
            made before the backward pass has used the leaf.
        gradient: (point, fixed, cotangent, updates, θ) -> the gradient that they give.
    """

    mutants: tuple[Mutant, ...]
    usual: Floats
    gradient: Callable[..., Leaves]


class _Slots:
    """Hands out the numbers of θ in the order in which the equations ask for them."""

    def __init__(self, theta: Any = None) -> None:
        self.theta = theta
        self.usual: list[float] = []
        self.mutants: list[Mutant] = []

    def take(self, usual: float, *changes: tuple[Kind, str, float]) -> Any:
        slot = len(self.usual)
        self.usual.append(usual)
        self.mutants += [Mutant(kind, text, slot, value) for kind, text, value in changes]
        return usual if self.theta is None else self.theta[slot]


def _scaled(value: Array, factor: Any) -> Array:
    """The value, with its derivative multiplied by a factor."""
    return value + (factor - 1) * (value - stop_gradient(value))


class _Surgeon:
    """Runs the equations of a function with the derivative changed as θ says."""

    def __init__(self, slots: _Slots, inputs_of_activations: list[Array], updates: list[tuple[Array, Array]]) -> None:
        self.slots = slots
        # The parameters and what an update would take off them.
        self.updates = [(leaf, slots.take(0.0) * update) for leaf, update in updates]
        # The z of every activation in the function, computed beforehand.
        self.inputs_of_activations = inputs_of_activations
        # The outputs of activations with their inputs; kept alive, since they are found by identity.
        self.activations: list[tuple[Array, Array]] = []

    def visit(self, equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        name = equation.params.get("name", equation.primitive.name)
        changing = _changing(equation)
        originals = list(inputs)
        if len(changing) > 1 and inner(equation) is None:
            for i in changing:
                text = f"one path of the chain rule is missing: through operand {i + 1} of `{name}`"
                inputs[i] = _scaled(inputs[i], self.slots.take(1.0, ("partial", text, 0.0)))
        outputs = run(*inputs)
        if equation.primitive.name == "transpose":
            self.updates += [
                (outputs[0], compute(equation, [update])[0]) for leaf, update in self.updates if leaf is originals[0]
            ]
        if not changing or not all(is_float(shaped(v)) for v in equation.outvars):
            return outputs
        activates = _is_activation(equation)
        if activates:
            outputs = [self._activation(equation, inputs, changing[0], outputs[0], name)]
        elif equation.primitive.name == "dot_general":
            outputs = [self._product(equation, inputs, originals, outputs[0])]
        if inner(equation) is None and equation.primitive.name not in ("broadcast_in_dim", "transpose", "reshape"):
            outputs = [self._signed(output, name) for output in outputs]
        if equation.primitive.name in ("dot_general", "add", "add_any"):
            outputs = [self._intruded(output) for output in outputs]
        if activates:
            self.activations.append((outputs[0], originals[changing[0]]))
        return outputs

    def _activation(self, equation: JaxprEqn, inputs: list[Any], which: int, a: Array, name: str) -> Array:
        z = inputs[which]

        def g(z: Array) -> Array:
            # A visitor of its own, so that no slots are taken while the slope is computed.
            others = [*inputs[:which], z, *inputs[which + 1 :]]
            inside = inner(equation)
            return compute(equation, others)[0] if inside is None else plain(inside, others)[0]

        def slope(z: Array) -> Array:
            return jax.jvp(g, (z,), (jnp.ones_like(z),))[1]

        here = stop_gradient(z), stop_gradient(a)
        right = slope(here[0])
        step = z - stop_gradient(z)
        for text, substitute in SUBSTITUTES:
            amount = self.slots.take(0.0, ("activation", f"the derivative of `{name}` {text}", 1.0))
            a = a + amount * (substitute(*here, slope) - right) * step
        for other in self.inputs_of_activations:
            if other.shape == z.shape:
                text = f"the derivative of `{name}` is taken at the z of another layer"
                a = a + self.slots.take(0.0, ("activation", text, 1.0)) * (slope(stop_gradient(other)) - right) * step
        return a

    def _product(self, equation: JaxprEqn, inputs: list[Any], originals: list[Any], output: Array) -> Array:
        """A matrix product whose backward pass uses the transpose, or z in place of a."""
        for i in (0, 1):
            one, other = inputs[i], originals[1 - i]
            step = one - stop_gradient(one)
            if other.ndim == 2 and other.shape[0] == other.shape[1]:
                amount = self.slots.take(
                    0.0,
                    ("transpose", "the backward pass multiplies by W where Wᵀ belongs (or the other way round)", 1.0),
                )
                turned = stop_gradient(other.T - other)
                change = compute(equation, (step, turned) if i == 0 else (turned, step))[0]
                output = output + amount * change
            for leaf, update in self.updates:
                if other is leaf:
                    stale = stop_gradient(-update)
                    output = output + compute(equation, (step, stale) if i == 0 else (stale, step))[0]
            for activated, z in self.activations:
                if other is activated:
                    text = "the gradient of a product is built with the activation's input z in place of its output a"
                    amount = self.slots.take(0.0, ("activation", text, 1.0))
                    swapped = stop_gradient(z - other)
                    change = compute(equation, (step, swapped) if i == 0 else (swapped, step))[0]
                    output = output + amount * change
        return output

    def _signed(self, output: Array, name: str) -> Array:
        factor = self.slots.take(
            1.0,
            ("partial", f"one path of the chain rule is missing: through `{name}`", 0.0),
            ("sign", f"the sign of one path is wrong: the one through `{name}`", -1.0),
            ("scale", f"one path counts twice: the one through `{name}`", 2.0),
            ("scale", f"one path counts half: the one through `{name}`", 0.5),
        )
        output = _scaled(output, factor)
        if output.ndim < 1 or len(output) < 2:
            return output
        for which, row in (("last", len(output) - 1), ("first", 0)):
            text = f"the {which} row of `{name}`, an example perhaps, is left out of the gradient"
            mask = jnp.expand_dims(jnp.arange(len(output)) == row, range(1, output.ndim)).astype(output.dtype)
            output = _scaled(output, 1 - self.slots.take(0.0, ("partial", text, 1.0)) * mask)
        return output

    def _intruded(self, output: Array) -> Array:
        for text, factor in INTRUDERS:
            said = f"a factor g'(z) stands where none belongs: {text} derivative, which the rest contains already"
            amount = self.slots.take(0.0, ("activation", said, 1.0))
            output = _scaled(output, 1 + amount * (factor(stop_gradient(output)) - 1))
        return output


def _changing(equation: JaxprEqn) -> list[int]:
    """Which operands carry a derivative."""
    return [i for i, v in enumerate(equation.invars) if not isinstance(v, Literal) and is_float(shaped(v))]


def _is_activation(equation: JaxprEqn) -> bool:
    """Whether the equation may be an activation: one operand, one result of the same shape, not linear."""
    changing = _changing(equation)
    if equation.primitive.name not in NONLINEAR or len(changing) != 1 or len(equation.outvars) != 1:
        return False
    if str(equation.params.get("name", "")).startswith("_") or any(map(_mixes, jaxprs_in_params(equation.params))):
        return False
    before, after = (shaped(v) for v in (equation.invars[changing[0]], equation.outvars[0]))
    return (before.shape, before.dtype) == (after.shape, after.dtype)


def _mixes(program: Any) -> bool:
    """Whether a program does more than act element by element."""
    return any(
        equation.primitive.name.startswith(("reduce", "dot", "conv", "cum", "gather", "scatter", "sort", "argm"))
        or any(map(_mixes, jaxprs_in_params(equation.params)))
        for equation in program.eqns
    )


def _operate(program: Any, slots: _Slots, leaves: list[Any], updates: list[Any]) -> list[Any]:
    """Runs the function twice: to see what its activations act on, and with its derivative changed."""
    seen: list[Array] = []

    def look(equation: JaxprEqn, inputs: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
        if _is_activation(equation):
            seen.append(stop_gradient(inputs[_changing(equation)[0]]))
        return run(*inputs)

    interpret(program, leaves, look)
    return interpret(program, leaves, _Surgeon(slots, seen, list(zip(leaves, updates, strict=False))).visit)


def plain(program: Any, inputs: list[Any]) -> list[Any]:
    """What a program computes."""
    return interpret(program, inputs, lambda equation, values, run: run(*values))


@memoized
def _mutants(rule: Rule, differentiated: tuple[Any, ...], fixed: tuple[Any, ...]) -> Mutants:
    shapes = [[jax.ShapeDtypeStruct(*shape) for shape in group] for group in (differentiated, fixed)]
    traced = jax.make_jaxpr(rule.outputs)(*shapes)
    slots = _Slots()
    jax.eval_shape(lambda *leaves: _operate(traced, slots, jax.tree.leaves(leaves), leaves[0]), *shapes)

    @jax.jit
    def gradient(point: Leaves, fixed: Leaves, cotangent: Leaves, updates: Leaves, theta: Array) -> Leaves:
        def outputs(point: Leaves) -> Leaves:
            return _operate(traced, _Slots(theta), [*point, *fixed], updates)

        values, pull = jax.vjp(outputs, point)
        return pull([c.astype(v.dtype) for c, v in zip(cotangent, values, strict=True)])[0]

    return Mutants(tuple(slots.mutants), np.asarray(slots.usual), gradient)


def simulations(problem: Problem) -> tuple[tuple[Mutant, ...], Callable[[int, float, Comparison], Leaves]]:
    """The mistakes that can be made in a function, and the gradient at a place with one number of θ set."""
    with in_float64():
        fixed = widened(problem.fixed)
        shapes = described(widened(problem.differentiated)), described(fixed)
        mutants = _mutants(problem.rule.function_alone, *shapes)

    def gradient(slot: int, value: float, where: Comparison) -> Leaves:
        theta = mutants.usual.copy()
        theta[slot] = value
        with in_float64(), np.errstate(all="ignore"):
            point, cotangent = where.place.point, where.place.cotangent
            return widened(mutants.gradient(point, fixed, cotangent, where.truth.gradient, theta))

    return mutants.mutants, gradient
