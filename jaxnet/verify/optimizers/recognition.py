"""The recipe of a reference, read from the numbers that it closes over, and believed only if it reproduces it.

Optax's rules are closures whose cells carry their arguments' names, and so are most that people write; jaxnet's are
pytrees of their numbers.
"""

import functools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnet.optimizers.transformation import Rule
from jaxnet.verify.engine.lifting import lifted
from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.optimizers.adapters import WithCost
from jaxnet.verify.optimizers.recipe import Recipe

# The names under which people keep a hyperparameter.
NAMES = {
    "b1": ("b1", "beta1", "beta_1"),
    "b2": ("b2", "beta2", "beta_2"),
    "decay": ("decay", "rho", "momentum", "beta"),
    "momentum": ("momentum", "beta"),
    "eps": ("eps", "epsilon"),
    "eps_root": ("eps_root",),
    "weight_decay": ("weight_decay", "lam"),
    "initial": ("initial_scale", "initial_accumulator_value", "nu", "sum_of_squares"),
    "learning_rate": ("learning_rate", "lr", "alpha", "rate"),
}


class Part(NamedTuple):
    """One function of an optimizer.

    Attributes:
        name: of the factory that made it, such as "scale_by_adam".
        held: what it closes over, by name.
    """

    name: str
    held: dict[str, Any]

    def number(self, what: str, otherwise: float = 0.0) -> float:
        """A hyperparameter, under whichever of its names."""
        for name in NAMES[what]:
            value = self.held.get(name)
            if isinstance(value, bool | Tracer) or value is None or callable(value):
                continue
            if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number):
                return float(np.asarray(value))
        return otherwise

    def has(self, *names: str) -> bool:
        """Whether it closes over all of these."""
        return all(any(alias in self.held for alias in NAMES[name]) for name in names)


def parts(function: Any, seen: set[int] | None = None) -> Iterator[Part]:
    """The functions that an update is made of, in their order."""
    seen = set() if seen is None else seen
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, WithCost | MethodType):
        yield from parts(function.update if isinstance(function, WithCost) else function.__func__, seen)
    elif isinstance(function, functools.partial):
        yield from _of_partial(function, seen)
    elif isinstance(function, FunctionType):
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        held = {name: cell.cell_contents for name, cell in cells if _filled(cell)}
        yield Part(function.__qualname__.split(".")[0], held)
        yield from _inside(held.values(), seen)


def _inside(values: Any, seen: set[int]) -> Iterator[Part]:
    for value in values:
        if isinstance(value, tuple | list):
            if id(value) not in seen:  # a list may hold itself
                seen.add(id(value))
                yield from _inside(value, seen)
        elif callable(value):
            yield from parts(value, seen)


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return False
    return True


def _of_partial(function: Any, seen: set[int]) -> Iterator[Part]:
    """jaxnet's own: Partial(init, rule, starts) and Partial(update, rule, numbers, mask)."""
    if function.args and isinstance(function.args[0], Rule):
        rule, numbers = function.args[:2]
        held = {name: getattr(number, "rate", number) for name, number in numbers.items()}
        yield Part(rule.equation.__name__, dict.fromkeys(dict(rule.slots)) | dict(rule.choices) | held)
    else:
        yield from parts(function.func, seen)
        yield from _inside(function.args, seen)


def recipe_of(optimizer: Any, steps: int) -> Recipe | None:
    """What the optimizer's functions say it is; None where they say too little."""
    recipe = None
    for part in all_parts(optimizer):
        for recognize in RECOGNIZED.get(part.name, ()):
            recipe = recognize(recipe or Recipe(np.ones(steps + 3)), part, steps)
    return recipe or _by_names(optimizer, steps)


def all_parts(optimizer: Any) -> list[Part]:
    """Everything that an optimizer is made of."""
    seen: set[int] = set()
    return [*parts(optimizer.init, seen), *parts(optimizer.update, seen)]


def _rates(rate: Any, steps: int) -> Floats:
    """α at the counts -1, 0, 1, ..., in float64."""
    if not callable(rate):
        return np.full(steps + 3, float(np.asarray(rate)))
    program = jax.make_jaxpr(rate)(jnp.int32(0))
    return np.asarray(jax.vmap(lambda count: lifted(program, [count])[0])(jnp.arange(-1, steps + 2, dtype=jnp.int32)))


def _by_names(optimizer: Any, steps: int) -> Recipe | None:
    """A plain closure: what it is follows from the names of its numbers."""
    part = Part("", {name: value for part in all_parts(optimizer) for name, value in part.held.items()})
    held = part.held
    rate = next((held[name] for name in NAMES["learning_rate"] if name in held), None)
    if rate is None:
        return None
    recipe = Recipe(_rates(rate, steps), decay=part.number("weight_decay"))
    if part.has("b1", "b2"):
        return _adam(recipe, part, steps)._replace(rate=recipe.rate)
    if part.has("decay", "eps"):
        return _rms(recipe, part, steps)
    if part.has("decay"):
        return recipe._replace(first="sum", b1=part.number("decay"))
    return recipe


def _adam(recipe: Recipe, part: Part, steps: int) -> Recipe:
    return recipe._replace(
        first="average",
        second="average",
        b1=part.number("b1"),
        b2=part.number("b2"),
        eps=part.number("eps"),
        eps_root=part.number("eps_root"),
        correct_first=True,
        correct_second=True,
        ahead="corrected" if part.held.get("nesterov") is True else "no",
    )


def _belief(recipe: Recipe, part: Part, steps: int) -> Recipe:
    """As Optax has it: its ε_root accumulates."""
    return _adam(recipe, part, steps)._replace(of="(g - m)²", eps_root_at="state")


def _sign(recipe: Recipe, part: Part, steps: int) -> Recipe:
    return recipe._replace(sign=True)


def _amsgrad(recipe: Recipe, part: Part, steps: int) -> Recipe:
    second = part.held.get("bias_correction_nu", True) is True
    return _adam(recipe, part, steps)._replace(
        largest="corrected",
        correct_first=part.held.get("bias_correction_mu", True) is True,
        correct_second=second,
    )


def _adamax(recipe: Recipe, part: Part, steps: int) -> Recipe:
    return _adam(recipe, part, steps)._replace(second="maximum", correct_second=False)


def _lion(recipe: Recipe, part: Part, steps: int) -> Recipe:
    return recipe._replace(lion=True, b1=part.number("b1"), b2=part.number("b2"))


def _rms(recipe: Recipe, part: Part, steps: int) -> Recipe:
    corrected = part.held.get("bias_correction") is True
    return recipe._replace(
        second="average",
        b2=part.number("decay", recipe.b2),
        eps=part.number("eps", recipe.eps),
        initial=part.number("initial", recipe.initial),
        eps_at="outside" if part.held.get("eps_in_sqrt", True) is False else "inside",
        correct_second=corrected,
    )


def _stddev(recipe: Recipe, part: Part, steps: int) -> Recipe:
    """As Optax has it: the mean that is subtracted is no momentum."""
    return _rms(recipe, part, steps)._replace(centered=True)


def _rss(recipe: Recipe, part: Part, steps: int) -> Recipe:
    return recipe._replace(
        second="sum",
        eps_at="inside",
        eps=part.number("eps", recipe.eps),
        initial=part.number("initial", recipe.initial),
    )


def _trace(recipe: Recipe, part: Part, steps: int) -> Recipe:
    ahead = part.held.get("nesterov") is True
    if recipe.second == "nothing":
        return recipe._replace(first="sum", b1=part.number("decay"), ahead="moment" if ahead else "no")
    return recipe._replace(trail=part.number("decay"), trail_ahead=ahead)


def _ema(recipe: Recipe, part: Part, steps: int) -> Recipe:
    debias = part.held.get("debias") is True
    return recipe._replace(first="average", b1=part.number("decay"), correct_first=debias)


def _decayed(recipe: Recipe, part: Part, steps: int) -> Recipe:
    first = recipe.first == recipe.second == "nothing" and not recipe.lion
    at = "gradient" if first and part.name == "add_decayed_weights" else "direction"
    return recipe._replace(decay=part.number("weight_decay"), decay_at=at)


def _velocity(recipe: Recipe, part: Part, steps: int) -> Recipe:
    return recipe._replace(
        first="average" if part.name == "_momentum" else "sum",
        b1=part.number("momentum"),
        ahead="moment" if part.name == "_nesterov" else "no",
    )


def _rmsprop(recipe: Recipe, part: Part, steps: int) -> Recipe:
    recipe = _rms(recipe, Part(part.name, {name: value for name, value in part.held.items() if name != "beta"}), steps)
    trail, ahead = part.number("momentum"), part.held.get("nesterov") is True
    return recipe._replace(centered="mu" in part.held, trail=trail, trail_ahead=ahead)


def _nadam(recipe: Recipe, part: Part, steps: int) -> Recipe:
    return _adam(recipe, part, steps)._replace(ahead="corrected")


def _rate(recipe: Recipe, part: Part, steps: int) -> Recipe:
    rate = part.held.get("alpha")
    return recipe if rate is None else recipe._replace(rate=_rates(rate, steps))


def _scale(recipe: Recipe, part: Part, steps: int) -> Recipe:
    step_size = part.held.get("step_size")
    return recipe if step_size is None else recipe._replace(rate=-recipe.rate * _rates(step_size, steps))


def _scale_by_schedule(recipe: Recipe, part: Part, steps: int) -> Recipe:
    schedule = part.held.get("step_size_fn")
    return recipe if schedule is None else recipe._replace(rate=-recipe.rate * _rates(schedule, steps))


Recognizer = Callable[[Recipe, Part, int], Recipe]
RECOGNIZED: dict[str, tuple[Recognizer, ...]] = {
    "scale_by_adam": (_adam,),
    "scale_by_belief": (_belief,),
    "scale_by_sign": (_sign,),
    "scale_by_amsgrad": (_amsgrad,),
    "scale_by_adamax": (_adamax,),
    "scale_by_lion": (_lion,),
    "scale_by_rms": (_rms,),
    "scale_by_stddev": (_stddev,),
    "scale_by_rss": (_rss,),
    "trace": (_trace,),
    "ema": (_ema,),
    "add_decayed_weights": (_decayed,),
    "scale": (_scale,),
    "scale_by_schedule": (_scale_by_schedule,),
    "_gradient_descent": (_rate,),
    "_momentum": (_velocity, _rate),
    "_heavy_ball": (_velocity, _rate),
    "_nesterov": (_velocity, _rate),
    "_adagrad": (_rss, _rate),
    "_rmsprop": (_rmsprop, _rate),
    "_adam": (_adam, _rate),
    "_adamw": (_adam, _decayed, _rate),
    "_nadam": (_nadam, _rate),
    "_amsgrad": (_amsgrad, _rate),
    "_adamax": (_adamax, _rate),
    "_lion": (_lion, _decayed, _rate),
}
