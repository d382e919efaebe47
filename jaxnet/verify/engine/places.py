"""Where a rule is judged: at the given point, around it, on kinks and under stress."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.case import Case
from jaxnet.verify.engine.differences import size
from jaxnet.verify.engine.precision import Floats, Leaves, as_the_user_runs_it, held, spacing, widened
from jaxnet.verify.engine.randomness import POOL, normals

# How far the logistic function, exponentials and the logits of a softmax are driven.
STRESS = (20.0, 100.0, 1e4)


class Place(NamedTuple):
    """Where a rule is judged. Point and cotangent are numbers that the user's dtypes hold, but for probabilities.

    Attributes:
        name: what reports call it.
        point: the differentiated leaves.
        cotangent: what is pulled back there.
        role: "special" where kinks may be, "stress" where numbers are extreme, else "generic".
        tiny: whether the numbers are so small that their squares underflow.
    """

    name: str
    point: Leaves
    cotangent: Leaves
    role: Literal["generic", "special", "stress"] = "generic"
    tiny: bool = False

    @property
    def saturating(self) -> bool:
        """Whether it is where a sigmoid rounds to 0 or 1 in float32 and its derivative in no dtype to 0."""
        return self.role == "stress" and not self.tiny and f"{STRESS[0]:.0e}" in self.name


class Domain:
    """What the given numbers keep to, and points around them that keep to it as well.

    Numbers of one sign keep it, and move by a factor: they may be probabilities or lengths. Rows of probabilities go on
    adding up to 1, numbers in order stay in order, and a symmetric matrix stays symmetric, and positive definite.
    """

    def __init__(self, leaf: Floats, dtype: Any) -> None:
        self.leaf, self.dtype = leaf, dtype
        self.one_signed = leaf.size > 1 and bool((leaf > 0).all() or (leaf < 0).all())
        sums = leaf.sum(axis=-1) if leaf.ndim else np.zeros(())
        near = 4 * spacing(dtype) * (leaf.shape[-1] if leaf.ndim else 1)
        self.simplex = leaf.ndim > 0 and leaf.shape[-1] > 1 and bool((leaf >= 0).all() and (abs(sums - 1) < near).all())
        square = leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2] > 1
        turned = np.swapaxes(leaf, -1, -2) if square else leaf
        off_diagonal = square and (leaf * (1 - np.eye(leaf.shape[-1]))).any()
        self.symmetric = bool(off_diagonal and (leaf == turned).all())
        self.definite = self.symmetric and bool((np.linalg.eigvalsh(leaf) > 0).all())
        steps = np.diff(leaf, axis=-1) if leaf.ndim and leaf.shape[-1] > 2 else np.zeros(1)
        self.order = int((steps > 0).all()) - int((steps < 0).all())

    @property
    def constraint(self) -> str:
        """What is kept beside signs, in words; empty if nothing."""
        if self.simplex:
            return "its rows add up to 1 at the given point, and are kept so"
        if self.order:
            return "it is in order at the given point, and is kept so"
        kept = "symmetric and positive definite" if self.definite else "symmetric"
        return f"it is {kept} at the given point, and is kept so" if self.symmetric else ""

    def around(self, generator: np.random.Generator, spread: float) -> Floats:
        """Numbers so far away as `spread` says, relative to the leaf's own size; a leaf of zeros moves too."""
        steps = spread * normals(generator, self.leaf.shape)
        if self.simplex:
            inside = (1 - spread / 2) * self.leaf + spread / 2 / self.leaf.shape[-1]
            return self.kept(inside * np.exp(steps))
        moved = self.leaf * np.exp(steps) if self.one_signed else self.leaf + size(self.leaf) * steps
        return self.kept(moved)

    def kept(self, numbers: Floats) -> Floats:
        """The numbers moved to where they keep to it."""
        if self.simplex:
            numbers = np.abs(numbers)
            return numbers / np.maximum(numbers.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        if self.symmetric:
            numbers = (numbers + np.swapaxes(numbers, -1, -2)) / 2
            return _definite(numbers) if self.definite else numbers
        numbers = np.abs(numbers) * np.sign(self.leaf) if self.one_signed else numbers
        return np.sort(numbers, axis=-1)[..., :: self.order] if self.order else numbers

    def with_zeros(self, kept: Callable[[Floats], Any]) -> Floats:
        """The leaf with some elements 0, unless it has to be as it is."""
        free = not (self.one_signed or self.simplex or self.symmetric or self.order)
        return self.leaf * kept(self.leaf) if free else self.leaf


def _definite(matrix: Floats) -> Floats:
    """A symmetric matrix with its eigenvalues made positive, none of them tiny."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.abs(values) + 0.05 * np.abs(values).mean(axis=-1, keepdims=True)
    return (vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2)


class Places:
    """The places at which a case is judged, drawn by a generator."""

    def __init__(self, case: Case, generator: np.random.Generator) -> None:
        self.case, self.generator = case, generator
        self.given = widened(case.differentiated)
        self.domains = [Domain(g, own.dtype) for g, own in zip(self.given, case.differentiated, strict=True)]

    def place(self, name: str, point: Leaves, role: Literal["generic", "special", "stress"], **options: Any) -> Place:
        """A place with a random cotangent, both rounded to the user's dtypes; rows still add up to 1."""
        rounded = held_wide(point, self.case.differentiated)
        exact = [d.kept(leaf) if d.simplex else leaf for d, leaf in zip(self.domains, rounded, strict=True)]
        return Place(name, exact, self.cotangent(), role, **options)

    def cotangent(self) -> Leaves:
        """Normal numbers in the shapes of the outputs; 1 for a scalar function and its gradient."""
        if self.case.function.scalar:
            return [np.ones(())]
        drawn = [normals(self.generator, output.shape) for output in self.case.outputs]
        return held_wide(drawn, self.case.outputs)

    def around(self, name: str, spread: float) -> Place:
        """A point so far from the given one as the spread says."""
        return self.place(name, [domain.around(self.generator, spread) for domain in self.domains], "generic")

    def special(self) -> list[Place]:
        """The given point, which may lie on a kink, and points with zeros, where many kinks are."""
        found = [self.place("given", self.given, "special")]
        with_zeros: dict[str, Callable[[Floats], Any]] = {
            "zeros": lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 2,
            "all zeros": np.zeros_like,
        }
        if self.case.options.at == "given" or self.case.traits.waits:
            return found
        if self.case.large:
            del with_zeros["all zeros"]
        for name, kept in with_zeros.items():
            found.append(self.place(name, [domain.with_zeros(kept) for domain in self.domains], "special"))
        return found

    def generic(self) -> list[Place]:
        """Points where nothing is special."""
        if self.case.options.at == "given":
            return []
        unit_scale = [domain.kept(normals(self.generator, domain.leaf.shape)) for domain in self.domains]
        if self.case.large:
            return [self.around("around", 0.3)]
        places = [self.around(name, spread) for name, spread in (("near", 0.01), ("around", 0.3), ("far", 1.0))]
        return [*places, self.place("unit scale", unit_scale, "generic")]

    def stressed(self) -> list[Place]:
        """Points with one leaf at a time tiny, large, huge: of this magnitude throughout, with both signs."""
        places: list[Place] = []
        if self.case.options.at == "given" or self.case.traits.waits:
            return places
        count = len(self.given)
        for step, stress in enumerate((None, *STRESS) if not self.case.large else STRESS[::2]):
            turn = step % count
            leaf, domain = self.given[turn], self.domains[turn]
            tiny = math.sqrt(float(jnp.finfo(self.case.differentiated[turn].dtype).tiny))
            magnitude = stress or tiny
            if (count > 1 and magnitude > 1e3) or domain.simplex:
                continue  # a product with it is no longer what a logit is
            alternating = np.where(np.arange(leaf.size).reshape(leaf.shape) % 2, -1.0, 1.0)
            for signs in (alternating, -alternating) if leaf.size == 1 else (alternating,):
                drawn = self.generator.uniform(1.0, 1.25, min(leaf.size, POOL))
                magnitudes = magnitude * np.resize(drawn, leaf.shape)
                shuffled = signs if leaf.size > POOL else self.generator.permutation(signs.ravel()).reshape(leaf.shape)
                point = [*self.given[:turn], domain.kept(magnitudes * shuffled), *self.given[turn + 1 :]]
                name = f"magnitudes of {magnitude:.0e}" + f" in {self.case.paths[turn]}" * (count > 1)
                places.append(self.place(name, point, "stress", tiny=stress is None))
        return places


def held_wide(leaves: Leaves, like: list[Any]) -> Leaves:
    """The leaves as other dtypes hold them, in float64."""
    with as_the_user_runs_it():
        return widened(held(leaves, like))
