"""What a diagnosis goes by, and when a hypothesis explains it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnet.verify.comparison import Comparison
from jaxnet.verify.problem import Floats, Problem
from jaxnet.verify.report import Kind

Verdict = tuple[Kind, str]

OF_THE_ERROR = 1e-4
OF_THE_NOISE = 8.0


class Evidence(NamedTuple):
    """What a diagnosis of a leaf goes by.

    Attributes:
        problem: the function and the candidate.
        comparisons: the candidate beside the truth, at every place.
        traced: whether the candidate is compiled.
        float64: whether it ran in float64.
        leaf: the leaf to explain.
    """

    problem: Problem
    comparisons: tuple[Comparison, ...]
    traced: bool
    float64: bool
    leaf: int = 0

    @property
    def shown(self) -> list[Comparison]:
        """The places where the leaf is wrong."""
        return [c for c in self.comparisons if c.comparable(self.leaf) and c.wrong(self.leaf).any()]

    def explains(self, comparison: Comparison, hypothesis: Floats) -> bool:
        """Whether a hypothesis is the candidate's leaf at a place, and not what is right."""
        known = comparison.judged(self.leaf) & np.isfinite(hypothesis)
        found, expected = (leaf[known] for leaf in (comparison.answer(self.leaf), comparison.truth.gradient[self.leaf]))
        error = np.linalg.norm(found - expected)
        slack = OF_THE_ERROR * error + OF_THE_NOISE * np.linalg.norm(comparison.truth.noise[self.leaf][known])
        return bool(np.linalg.norm(found - hypothesis[known]) <= slack < 0.5 * error)

    def holds(self, hypothesis: Callable[[Comparison], Floats]) -> bool:
        """Whether a hypothesis explains the leaf wherever it is wrong, and is right wherever it is right."""
        return all(self.explains(c, hypothesis(c)) for c in self.shown) and all(
            _same(c, self.leaf, hypothesis(c))
            for c in self.comparisons
            if c.comparable(self.leaf) and not c.wrong(self.leaf).any()
        )


def _same(comparison: Comparison, leaf: int, hypothesis: Floats) -> bool:
    """Whether a hypothesis is the candidate's leaf, up to rounding."""
    known = comparison.judged(leaf)
    apart = np.linalg.norm(hypothesis[known] - comparison.answer(leaf)[known])
    return bool(apart <= comparison.limit * np.linalg.norm(comparison.truth.noise[leaf][known]))
