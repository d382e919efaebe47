"""Where a rule is judged: at the given point, around it, on kinks and under stress."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.arguments import check_key
from jaxnet.verify.problem import Floats, Leaves, Problem, as_the_user_runs_it, is_float, widened

SALT = 20230  # without it, `default_rng(0)` and key(0) would draw the same numbers
# How far the logistic function, exponentials and the logits of a softmax are driven.
STRESS = (20.0, 100.0, 1e4)


class Place(NamedTuple):
    """Where a rule is judged.

    Attributes:
        name: what reports call it.
        point: the differentiated leaves.
        cotangent: what is pulled back there.
        role: "special" where kinks may be, "cotangent" where the cotangent is unusual, else "generic".
        tiny: whether the numbers are so small that their squares underflow.
        saturating: whether they are where a sigmoid rounds to 0 or 1 in float32 and its derivative in no dtype to 0.
    """

    name: str
    point: Leaves
    cotangent: Leaves
    role: Literal["generic", "special", "cotangent"] = "generic"
    tiny: bool = False
    saturating: bool = False


def generator_of(key: Any) -> np.random.Generator:
    """NumPy's generator seeded by a JAX key of either kind: XLA would take seconds to compile one.

    Raises:
        TypeError: if it is no key.
    """
    check_key(key)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words = np.asarray(jax.random.key_data(key) if typed else key).ravel()
    return np.random.default_rng([SALT, *map(int, words)])


def cotangent(problem: Problem, generator: np.random.Generator) -> Leaves:
    """Normal numbers in the shapes of the outputs; 1 for a scalar function and its gradient."""
    if problem.rule.scalar:
        return [np.ones(())]
    shapes = jax.tree.leaves(problem.rule.output_shapes(problem.differentiated, problem.fixed))
    return [generator.standard_normal(leaf.shape) for leaf in shapes if is_float(leaf)]


def size(leaf: Floats) -> float:
    """The root of the mean square of a leaf, 1 for zeros."""
    return float(np.sqrt(np.mean(np.square(leaf)))) or 1.0


def given(problem: Problem) -> Leaves:
    """The point that the user gave, each number as its own dtype rounds it."""
    return widened(problem.differentiated)


def around(problem: Problem, generator: np.random.Generator, spread: float) -> Leaves:
    """A point around the given one, so far away as `spread` says, relative to each leaf's own size.

    Leaves of zeros move too: mistakes hide behind a bias that starts at 0. Numbers of one sign keep it, and move by a
    factor: they may be probabilities or lengths.
    """

    def moved(leaf: Floats) -> Floats:
        steps = spread * generator.standard_normal(leaf.shape)
        return leaf * np.exp(steps) if one_signed(leaf) else leaf + size(leaf) * steps

    return [moved(leaf) for leaf in given(problem)]


def one_signed(leaf: Floats) -> bool:
    """Whether all numbers of a leaf of several are positive, or all negative."""
    return leaf.size > 1 and bool((leaf > 0).all() or (leaf < 0).all())


def _with_signs_of(leaf: Floats, magnitudes: Floats, signs: Floats) -> Floats:
    """The magnitudes with random signs, or with the leaf's where it has but one."""
    return np.abs(magnitudes) * (np.sign(leaf) if one_signed(leaf) else signs)


def generic(problem: Problem, generator: np.random.Generator) -> list[Place]:
    """Points where nothing is special."""
    points = [
        ("near", around(problem, generator, 0.01)),
        ("around", around(problem, generator, 0.3)),
        ("far", around(problem, generator, 1.0)),
        ("unit scale", [_of_unit_scale(leaf, generator) for leaf in given(problem)]),
    ]
    return [Place(name, point, cotangent(problem, generator)) for name, point in points]


def _of_unit_scale(leaf: Floats, generator: np.random.Generator) -> Floats:
    numbers = generator.standard_normal(leaf.shape)
    return _with_signs_of(leaf, numbers, np.sign(numbers))


def special(problem: Problem, generator: np.random.Generator) -> list[Place]:
    """The given point, which may lie on a kink, and points with zeros, where many kinks are."""

    def with_zeros(kept: Callable[[np.ndarray], Any]) -> Leaves:
        return [leaf if one_signed(leaf) else leaf * kept(leaf) for leaf in given(problem)]

    points = {
        "given": given(problem),
        "zeros": with_zeros(lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 2),
        "all zeros": with_zeros(np.zeros_like),
    }
    return [Place(name, point, cotangent(problem, generator), "special") for name, point in points.items()]


def cotangents(problem: Problem, generator: np.random.Generator) -> list[Place]:
    """A point with a cotangent of zeros, and with one a million times larger: a derivative is linear in it.

    Less larger in float16, which ends at 65504.
    """
    if problem.rule.scalar:
        return []
    usual, point = cotangent(problem, generator), around(problem, generator, 0.1)
    factor = min([1e6, *(math.sqrt(jnp.finfo(leaf.dtype).max) for leaf in problem.differentiated)])
    return [
        Place("cotangent of zeros", point, [0 * leaf for leaf in usual], "cotangent"),
        Place("large cotangent", point, [factor * leaf for leaf in usual], "cotangent"),
    ]


def stressed(problem: Problem, generator: np.random.Generator) -> list[Place]:
    """Points with one leaf at a time tiny, large, huge: of this magnitude throughout, with both signs."""
    places = []
    count = len(problem.differentiated)
    for step, stress in enumerate((None, *STRESS)):
        turn = step % count
        leaf = problem.differentiated[turn]
        limits = jnp.finfo(leaf.dtype)
        magnitude = stress or math.sqrt(float(limits.tiny))
        if count > 1 and magnitude > 1e3:
            continue  # a product with it is no longer what a logit is
        alternating = np.where(np.arange(leaf.size).reshape(leaf.shape) % 2, -1.0, 1.0)
        for signs in (alternating, -alternating) if leaf.size == 1 else (alternating,):
            point = given(problem)
            magnitudes = magnitude * generator.uniform(1.0, 1.25, leaf.shape)
            point[turn] = _with_signs_of(
                point[turn], magnitudes, generator.permutation(signs.ravel()).reshape(leaf.shape)
            )
            where = f"magnitudes of {magnitude:.0e}" + f" in {problem.paths[turn]}" * (count > 1)
            stretched = Place(where, point, cotangent(problem, generator))
            places.append(stretched._replace(tiny=stress is None, saturating=stress == STRESS[0]))
    return places


def rounded(problem: Problem, place: Place) -> Place:
    """The point and the cotangent as the user's dtypes hold them, in float64."""

    def held(leaves: Leaves, like: Iterable[Any]) -> Leaves:
        with np.errstate(over="ignore"):
            return [np.asarray(np.asarray(a, own.dtype), np.float64) for a, own in zip(leaves, like, strict=True)]

    with as_the_user_runs_it():
        outputs = jax.tree.leaves(problem.rule.output_shapes(problem.differentiated, problem.fixed))
        cotangent = held(place.cotangent, filter(is_float, outputs))
        return place._replace(point=held(place.point, problem.differentiated), cotangent=cotangent)
