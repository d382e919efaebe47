"""From a rule for one array to an `optax.GradientTransformation` of trees.

A rule is a function of one array in the symbols of its equation: (g, *slots, alpha, numbers) -> (update, *slots), where
the update is what is added to θ. It never sees a tree, a dtype, a schedule or a step count: those are settled here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.tree_util import Partial, keystr
from jax.typing import ArrayLike, DTypeLike
from optax import GradientTransformation

# A number, or a function of the finished steps.
Schedulable = ArrayLike | Callable[[Array], ArrayLike]


class Decay(NamedTuple):
    """A decay rate β of an average that starts at 0.

    Attributes:
        rate: β.
        complement: 1 - β, subtracted before float32 rounds β, which would leave 1 - 0.999 wrong by 1.3e-5.
        correction: 1 - βᵗ in step t, the weight that the average has gathered by then.
        next_correction: 1 - βᵗ⁺¹.
    """

    rate: Any
    complement: Any
    correction: Any = None
    next_correction: Any = None


def average(decay: Decay, old: Array, new: Array) -> Array:
    """The exponential moving average: (1 - β) · new + β · old."""
    return decay.complement * new + decay.rate * old


@jax.tree_util.register_static
@dataclass(frozen=True)
class Rule:
    """What is fixed about an optimizer: part of the structure of its pytree, equal for equal calls.

    Attributes:
        equation: (g, *slots, alpha, numbers) -> (update, *slots); with weight decay also the keyword `theta`.
        state: the NamedTuple of the step count and the slots.
        slots: (field, dtype) of each slot in use; None is the parameter's dtype. The equation gets None for others.
        choices: keywords of the equation that decide its form.
        decays: whether the equation reads θ.
    """

    equation: Callable[..., tuple[Any, ...]]
    state: Any
    slots: tuple[tuple[str, Any], ...]
    choices: tuple[tuple[str, Any], ...]
    decays: bool


def optimizer(
    state: Any,
    equation: Callable[..., tuple[Any, ...]],
    learning_rate: Schedulable,
    *,
    slots: Mapping[str, DTypeLike | None] | None = None,
    starts: Mapping[str, ArrayLike] | None = None,
    choices: Mapping[str, bool] | None = None,
    decays: bool = False,
    mask: Any = None,
    **numbers: Any,
) -> GradientTransformation:
    """The transformation whose slots follow an equation, with every number a leaf of its pytree.

    Args:
        state, equation, slots, choices, decays: as in `Rule`.
        learning_rate: α, or a schedule.
        starts: what a slot holds before the first step, if not 0.
        mask: where θ decays: a tree of booleans that is a prefix of the parameters, or a function from them to it.
        **numbers: what else the equation takes by keyword: scalars, `Decay` or schedules.
    """
    numbers["alpha"] = checked("learning_rate", learning_rate, 0)
    dtypes = tuple((field, _slot_dtype(field, dtype)) for field, dtype in (slots or {}).items())
    rule = Rule(equation, state, dtypes, tuple((choices or {}).items()), decays)
    return GradientTransformation(
        Partial(_init, rule, dict(starts or {})),  # pyright: ignore[reportArgumentType]
        Partial(_update, rule, jax.tree.map(_as_pytree, numbers), _as_pytree(mask)),  # pyright: ignore[reportArgumentType]
    )


def is_elementwise(transformation: GradientTransformation) -> bool:
    """Whether it treats every number by itself, whatever the others: a rule from here, without a mask."""
    update = transformation.update
    return isinstance(update, Partial) and update.func is _update and update.args[2] is None


def checked(name: str, value: Any, low: ArrayLike, high: ArrayLike = np.inf) -> Any:
    """The value, after a `ValueError` unless low <= value < high; schedules and traced values pass."""
    if not callable(value) and not isinstance(value, Tracer):
        number = np.asarray(value)
        if not ((number >= low) & (number < high)).all():
            raise ValueError(f"{name} must be at least {low} and below {high}, got {value}")
    return value


def decay(name: str, rate: Any) -> Decay:
    """The decay rate, after a `ValueError` unless 0 <= rate < 1."""
    return Decay(checked(name, rate, 0, 1), 1 - rate)


def _as_pytree(value: Any) -> Any:
    """A plain function as a `Partial`, so that it may stand in a pytree."""
    return Partial(value) if callable(value) and not isinstance(value, Partial) else value


def _slot_dtype(field: str, dtype: DTypeLike | None) -> Any:
    if dtype is None:
        return None
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{field} needs a floating-point dtype, got {dtype}")
    return dtype


def _init(rule: Rule, starts: Mapping[str, ArrayLike], params: Any) -> Any:
    def slot(field: str, dtype: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jnp.full_like(leaf, starts.get(field, 0), dtype or jnp.result_type(leaf)), params
        )

    return rule.state(jnp.zeros([], jnp.int32), **{field: slot(field, dtype) for field, dtype in rule.slots})


def _update(
    rule: Rule, numbers: Mapping[str, Any], mask: Any, gradients: Any, state: Any, params: Any = None
) -> tuple[Any, Any]:
    """One step of the rule for every leaf of the gradients.

    The arithmetic is float32 at least, since bfloat16 rounds 0.999 to 1. A slot keeps its dtype; an update has the one
    that its gradient and slots promote to.
    """
    if rule.decays and params is None:
        raise ValueError("weight decay needs the parameters: call update(gradients, state, params)")
    leaves, structure = _checked_gradients(gradients)
    used = dict(rule.slots)
    columns = [
        _matching(gradients, slot, f"the state's {field}") if field in used else [None] * len(leaves)
        for field, slot in zip(state._fields[1:], state[1:], strict=True)
    ]
    thetas = leaves if params is None else _matching(gradients, params, "the parameters")
    if rule.decays and mask is not None:
        thetas = _masked(thetas, mask, params)

    # A counter that turned negative would make βᵗ explode, so it stays at the largest integer.
    t = jnp.where(state.count < jnp.iinfo(state.count.dtype).max, state.count + 1, state.count)
    scalars = {name: _scalar(number, state.count, t) for name, number in numbers.items()}
    scalars_in = {}

    def apply(i: int) -> list[Any]:
        slots = [column[i] for column in columns]
        result_dtype = _promoted(leaves[i], *(slot for slot in slots if slot is not None))
        dtype = result_dtype if result_dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
        if dtype not in scalars_in:
            scalars_in[dtype] = jax.tree.map(lambda scalar: jnp.asarray(scalar, dtype), scalars)
        theta = {"theta": jnp.asarray(thetas[i], dtype)} if rule.decays else {}
        g, *old = (None if x is None else jnp.asarray(x, dtype) for x in (leaves[i], *slots))
        update, *new = rule.equation(g, *old, **theta, **scalars_in[dtype], **dict(rule.choices))
        return [update.astype(result_dtype)] + [
            None if slot is None else value.astype(slot.dtype) for value, slot in zip(new, slots, strict=True)
        ]

    results = [apply(i) for i in range(len(leaves))]
    updates, *slots = (jax.tree.unflatten(structure, [row[i] for row in results]) for i in range(1 + len(columns)))
    return updates, rule.state(
        t, *(slot if field in used else None for field, slot in zip(state._fields[1:], slots, strict=True))
    )


def _scalar(number: Any, count: Array, t: Array) -> Any:
    """The number in step t, after `count` finished ones."""
    if isinstance(number, Decay):
        rate, t = jnp.asarray(number.rate, float), t.astype(float)
        number = number._replace(correction=_hoisted(1 - rate**t), next_correction=_hoisted(1 - rate ** (t + 1)))
    elif callable(number):
        number = number(count)
    if any(jnp.ndim(scalar) for scalar in jax.tree.leaves(number)):
        raise ValueError("hyperparameters must be scalars; put stacked ones through jax.vmap")
    return number


def _hoisted(scalar: Array) -> Array:
    """The scalar, computed once: XLA would fuse the power into the loop and evaluate it for every element."""
    return jax.lax.optimization_barrier(scalar)


def _promoted(*arrays: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*arrays)


def _masked(thetas: list[Any], mask: Any, params: Any) -> list[Any]:
    """The parameters that decay, and 0 for the others."""
    tree = mask(params) if isinstance(mask, Partial) else mask
    keep = jax.tree.leaves(jax.tree.broadcast(tree, params))
    return [jnp.where(kept, theta, jnp.zeros_like(theta)) for kept, theta in zip(keep, thetas, strict=True)]


def _checked_gradients(gradients: Any) -> tuple[list[Any], Any]:
    """The leaves and their structure, after a `TypeError` unless all are real floating-point numbers."""
    for path, leaf in jax.tree.leaves_with_path(gradients):
        dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"gradient{keystr(path)} must be a real floating-point array, got {dtype}")
    return jax.tree.flatten(gradients)


def _matching(gradients: Any, other: Any, name: str) -> list[Any]:
    """The leaves of a tree, after a `ValueError` unless it has the structure and the shapes of the gradients."""
    ours, theirs = dict(jax.tree.leaves_with_path(gradients)), dict(jax.tree.leaves_with_path(other))
    for path in ours | theirs:
        if path not in theirs:
            raise ValueError(f"the gradients have a leaf {keystr(path)} that {name} lack: different trees")
        if path not in ours:
            raise ValueError(f"{name} have a leaf {keystr(path)} that the gradients lack: different trees")
        if jnp.shape(ours[path]) != jnp.shape(theirs[path]):
            raise ValueError(
                f"{keystr(path)} has shape {jnp.shape(ours[path])} in the gradients "
                f"and {jnp.shape(theirs[path])} in {name}"
            )
    structure, expected = jax.tree.structure(gradients), jax.tree.structure(other)
    if structure != expected:
        raise ValueError(f"the gradients are {structure}, but {name} are {expected}")
    return list(theirs.values())
