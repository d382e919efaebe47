"""Gradients on which optimizers that differ are seen to differ.

No hyperparameter of a finished optimizer can be changed, but the size of its gradients can: ε = 1e-8 is large beside
gradients of 1e-8, and beside their squares at 1e-4. There are more steps than bfloat16 can count, stretches of zeros,
gradients that keep their sign and such that lose it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxnet.verify.engine.precision import Floats, Leaves

STEPS = 320


class Sequence(NamedTuple):
    """A sequence of gradients.

    Attributes:
        name: what reports call it.
        shape_of_steps: (generator, steps) -> a factor for each step.
        mean: of the normal numbers of deviation 1 that are multiplied by it.
        sparsity: the share of single elements that are zero.
    """

    name: str
    shape_of_steps: Callable[[np.random.Generator, int], Floats]
    mean: float = 0.0
    sparsity: float = 0.0

    def draw(self, generator: np.random.Generator, shapes: list[tuple[int, ...]], steps: int) -> Iterator[Leaves]:
        """The gradients of one step after the other, a leaf for each shape."""
        factors = self.shape_of_steps(generator, steps)
        offsets = [self.mean * generator.standard_normal(shape) for shape in shapes]
        for factor in factors:
            normal = [offset + generator.standard_normal(offset.shape) for offset in offsets]
            if self.sparsity:
                normal = [leaf * (generator.random(leaf.shape) >= self.sparsity) for leaf in normal]
            yield [np.asarray(factor * leaf) for leaf in normal]


def _constant(factor: float) -> Callable[[np.random.Generator, int], Floats]:
    return lambda generator, steps: np.full(steps, factor)


def _with_pauses(generator: np.random.Generator, steps: int) -> Floats:
    """Zeros at first, and for the middle third."""
    factors = np.ones(steps)
    factors[:3] = factors[steps // 3 : 2 * steps // 3] = 0
    return factors


def _over_all_sizes(low: float, high: float) -> Callable[[np.random.Generator, int], Floats]:
    return lambda generator, steps: 10 ** generator.uniform(np.log10(low), np.log10(high), steps)


def sequences(limits: Any) -> list[Sequence]:
    """Gradients whose squares the dtype with these `jnp.finfo` can hold: ordinary, small, tiny, huge, sparse, mixed."""
    small, tiny = (max(size, 4 * float(limits.tiny) ** 0.5) for size in (1e-4, 1e-8))
    huge = min(1e6, 0.05 * float(limits.max) ** 0.5)
    found = [
        Sequence("ordinary gradients", _constant(1.0)),
        Sequence("gradients of one sign", _constant(1.0), mean=3.0),
        Sequence(f"gradients of size {small:.0e}", _constant(small)),
        Sequence(f"gradients of size {tiny:.0e}", _constant(tiny)),
        Sequence(f"gradients of size {huge:.0e}", _constant(huge)),
        Sequence("sparse gradients with pauses", _with_pauses, sparsity=0.7),
        Sequence("gradients of changing size", _over_all_sizes(small, min(huge, 1e3))),
    ]
    return list({sequence.name: sequence for sequence in found}.values())
