"""Optimizers to be written by hand, in plain JAX, right or wrong.

An optimizer is written as the rule of one array, in the symbols of its equation and as functions of what it names among
g, t, alpha, theta, the slots of the state and the hyperparameters; it returns the update and the new slots. A subject
knows what it is to be compared with, and makes a factory of it that has Optax's argument names:

    @catalogue.planted("convention", "inside the square root", of=ADAM)
    def eps_inside_the_root(g, m, v, t, alpha, b1, b2, eps):
        \"\"\"√(v̂ + ε).\"\"\"
        ...
"""

import collections
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from jaxnet import optimizers
from jaxnet.verify import Report, verify_optimizer

Rule = Callable[..., tuple[Any, ...]]  # symbols -> (update, *slots)
Factory = Callable[..., GradientTransformation]  # learning_rate -> optimizer

PARAMETERS = {"weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}


class OptimizerPair(NamedTuple):
    """Two optimizers, of which the first is judged.

    Attributes:
        candidate: learning_rate -> optimizer with Optax's argument names, or a finished optimizer.
        reference: the same.
        params: to run them on.
    """

    candidate: Any
    reference: Any
    params: Any = PARAMETERS

    def verify(self, key: Any, scale: float = 1.0) -> Report:
        """The report; parameters have no scale."""
        return verify_optimizer(self.candidate, self.reference, self.params, key=key)


class Family(NamedTuple):
    """An optimizer to be written by hand.

    Attributes:
        area: the name of the family.
        reference: what it is compared with.
        slots: the symbol of each slot in the rules, and its name in the state, which is Optax's.
        numbers: the hyperparameters by Optax's names, with Optax's defaults.
        starts: what a slot holds before the first step, by its symbol, if not 0.
        counted_in: the dtype of the counter.
        kept_in: the dtype of the slots; None is the parameter's.
        params: to run it on.
    """

    area: str
    reference: Any
    slots: Mapping[str, str]
    numbers: Mapping[str, float]
    starts: Mapping[str, float] = {}
    counted_in: Any = jnp.int32
    kept_in: Any = None
    params: Any = PARAMETERS

    def with_defaults(self, **numbers: float) -> "Family":
        """The family with defaults that are not Optax's."""
        return self._replace(numbers={**self.numbers, **numbers})

    def case(self, rule: Rule) -> OptimizerPair:
        """The rule beside the reference, to be judged."""
        return OptimizerPair(self.factory(rule), self.reference, self.params)

    def factory(self, rule: Rule) -> Factory:
        """A function (learning_rate, *numbers) -> optimizer that follows the rule."""

        def make(*arguments: Any, **keywords: Any) -> GradientTransformation:
            bound = make.__signature__.bind(*arguments, **keywords)  # pyright: ignore[reportFunctionMemberAccess]
            bound.apply_defaults()
            return self.optimizer(rule, **bound.arguments)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind, default=value) for name, value in self.numbers.items()]
        make.__signature__ = inspect.Signature([inspect.Parameter("learning_rate", kind), *parameters])  # pyright: ignore[reportFunctionMemberAccess]
        make.__name__ = rule.__name__
        return make

    def optimizer(self, rule: Rule, learning_rate: Any, **numbers: Any) -> GradientTransformation:
        """The optimizer at one choice of its numbers."""
        names = inspect.signature(rule).parameters
        state_of = collections.namedtuple("State", ["count", *self.slots.values()])

        def init(params: Any) -> Any:
            starts = [self.starts.get(symbol, 0) for symbol in self.slots]
            slots = [jax.tree.map(lambda p, x=x: jnp.full(p.shape, x, self.kept_in or p.dtype), params) for x in starts]
            return state_of(jnp.zeros([], self.counted_in), *slots)

        def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            count = state[0] + jnp.ones([], self.counted_in)
            alpha = learning_rate(state[0]) if callable(learning_rate) else learning_rate

            def one(g: Any, theta: Any, *slots: Any) -> list[Any]:
                dtype = jnp.promote_types(g.dtype, jnp.float32)
                arrays = {"g": g, "theta": theta, "t": count} | dict(zip(self.slots, slots, strict=True))
                symbols = {symbol: jnp.asarray(array, dtype) for symbol, array in arrays.items()}
                symbols |= {"alpha": jnp.asarray(alpha, dtype), **numbers}
                update, *new = rule(**{name: symbols[name] for name in names})
                return [update.astype(g.dtype), *(x.astype(old.dtype) for x, old in zip(new, slots, strict=True))]

            leaves, tree = jax.tree.flatten(gradients)
            columns = [jax.tree.leaves(part) for part in (params, *state[1:])]
            rows = [one(*row) for row in zip(leaves, *columns, strict=True)]
            updates, *slots = (tree.unflatten(column) for column in zip(*rows, strict=True))
            return updates, state_of(count, *slots)

        return GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


# Subjects and their right rules --------------------------------------------------------------------------------------


def heavy_ball(learning_rate: Any, momentum: float = 0.9) -> GradientTransformation:
    """Optax's sgd with its momentum on."""
    return optax.sgd(learning_rate, momentum)


def nesterov(learning_rate: Any, momentum: float = 0.9) -> GradientTransformation:
    """Optax's sgd with Nesterov's momentum."""
    return optax.sgd(learning_rate, momentum, nesterov=True)


def rmsprop_with_momentum(learning_rate: Any) -> GradientTransformation:
    """Optax's RMSProp with a velocity."""
    return optax.rmsprop(learning_rate, momentum=0.9)


MOMENTS = {"m": "mu", "v": "nu"}
ADAM_NUMBERS = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
ADAM = Family("adam", optax.adam, MOMENTS, ADAM_NUMBERS)
ADAMW = Family("adamw", optax.adamw, MOMENTS, {**ADAM_NUMBERS, "weight_decay": 1e-4})
NADAM = Family("nadam", optax.nadam, MOMENTS, ADAM_NUMBERS)
AMSGRAD = Family("amsgrad", optax.amsgrad, {**MOMENTS, "v_max": "nu_max"}, ADAM_NUMBERS)
ADAMAX = Family("adamax", optax.adamax, MOMENTS, ADAM_NUMBERS)
LION = Family("lion", optax.lion, {"m": "mu"}, {"b1": 0.9, "b2": 0.99, "weight_decay": 1e-3})
RMSPROP = Family("rmsprop", optax.rmsprop, {"s": "nu"}, {"decay": 0.9, "eps": 1e-8})
RMSPROP_WITH_MOMENTUM = Family(
    "rmsprop with momentum",
    rmsprop_with_momentum,
    {"s": "nu", "u": "trace"},
    {"decay": 0.9, "eps": 1e-8, "momentum": 0.9},
)
ADAGRAD = Family("adagrad", optax.adagrad, {"s": "sum_of_squares"}, {"eps": 1e-7}, {"s": 0.1})
MOMENTUM = Family("momentum", optimizers.momentum, {"v": "velocity"}, {"momentum": 0.9})
HEAVY_BALL = Family("heavy ball", heavy_ball, {"v": "trace"}, {"momentum": 0.9})
NESTEROV = Family("nesterov", nesterov, {"v": "trace"}, {"momentum": 0.9})
DESCENT = Family("gradient descent", optax.sgd, {}, {})


def averages(g: Any, m: Any, v: Any, b1: Any, b2: Any) -> tuple[Any, Any]:
    """Adam's moments after a step."""
    return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2


def corrected(m: Any, v: Any, t: Any, b1: Any, b2: Any) -> tuple[Any, Any]:
    """Adam's moments, corrected for bias."""
    return m / (1 - b1**t), v / (1 - b2**t)


def adam(g, m, v, t, alpha, b1, b2, eps):
    """-α m̂/(√v̂ + ε)."""
    m, v = averages(g, m, v, b1, b2)
    m_hat, v_hat = corrected(m, v, t, b1, b2)
    return -alpha * m_hat / (jnp.sqrt(v_hat) + eps), m, v
