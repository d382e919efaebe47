"""What a diagnosis goes by, and when a hypothesis explains it."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxnet.verify.engine.case import Case
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves
from jaxnet.verify.engine.trial import Trial
from jaxnet.verify.report import Kind

Verdict = tuple[Kind, str]

OF_THE_ERROR = 1e-4
OF_THE_NOISE = 8.0


class Evidence(NamedTuple):
    """What a diagnosis of a leaf goes by.

    Attributes:
        trial: the function and the candidate, and how it is judged.
        comparisons: the candidate beside the truth, at every place.
        memory: what hypotheses keep from one leaf to the next.
        leaf: the leaf to explain.
    """

    trial: Trial
    comparisons: tuple[Comparison, ...]
    memory: dict[str, Any]
    leaf: int = 0

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Something that is made once for all leaves."""
        if name not in self.memory:
            self.memory[name] = make()
        return self.memory[name]

    @property
    def case(self) -> Case:
        """The function and the candidate."""
        return self.trial.case

    @property
    def path(self) -> str:
        """Of the leaf."""
        return self.case.paths[self.leaf]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the leaf."""
        return self.case.differentiated[self.leaf].shape

    @property
    def shown(self) -> list[Comparison]:
        """The places where the leaf is wrong."""
        return [c for c in self.comparisons if c.any_wrong(self.leaf)]

    def pulled(self, comparison: Comparison, cotangent: Leaves) -> Leaves:
        """The gradient at a place for another cotangent."""
        return self.trial.function.truth(comparison.place._replace(cotangent=cotangent), self.trial.unit).gradient

    def explains(self, comparison: Comparison, hypothesis: Floats) -> bool:
        """Whether a hypothesis is the candidate's leaf at a place, and not what is right."""
        found, expected = comparison.answer(self.leaf), comparison.truth.gradient[self.leaf]
        known = comparison.judged(self.leaf) & np.isfinite(hypothesis) & np.isfinite(found)
        with np.errstate(all="ignore"):
            apart, error = np.abs(found - hypothesis), np.abs(found - expected)
        missed = ~np.isfinite(found) & comparison.judged(self.leaf) & np.isfinite(hypothesis)
        if missed.any() or not known.any():
            return False
        slack = OF_THE_ERROR * error + OF_THE_NOISE * comparison.truth.noise[self.leaf]
        size = OF_THE_ERROR * np.linalg.norm(error[known]) / np.sqrt(known.sum())
        total = np.linalg.norm((OF_THE_NOISE * comparison.truth.noise[self.leaf])[known])
        close = (apart <= slack + size + total)[known].all()
        return bool(close and np.linalg.norm(apart[known]) < 0.5 * np.linalg.norm(error[known]))

    def holds(self, hypothesis: Callable[[Comparison], Floats]) -> bool:
        """Whether a hypothesis explains the leaf wherever it is wrong, and is right wherever it is right."""
        return all(self.explains(c, hypothesis(c)) for c in self.shown) and all(
            self._same(c, hypothesis(c))
            for c in self.comparisons
            if c.comparable(self.leaf) and not c.any_wrong(self.leaf)
        )

    def _same(self, comparison: Comparison, hypothesis: Floats) -> bool:
        """Whether a hypothesis is the candidate's leaf, up to rounding."""
        known = comparison.judged(self.leaf) & np.isfinite(hypothesis)
        apart = np.linalg.norm((hypothesis - comparison.answer(self.leaf))[known])
        return bool(apart <= comparison.limit * np.linalg.norm(comparison.truth.noise[self.leaf][known]))


class Level(enum.IntEnum):
    """In which order hypotheses are tried: what says something simple about the whole leaf comes first."""

    WHOLE = 1
    ORDER = 2
    NONLINEAR = 3
    DIGITS = 4
    FUNCTION = 5
    SIMULATED = 6
    FORWARD = 7
    PARTS = 8
    ELEMENTS = 9
    REST = 10


class Hypothesis(NamedTuple):
    """A mistake that somebody may have made.

    Attributes:
        level: when it is tried.
        test: what it says of a leaf, its kind and an explanation; None where it does not explain it.
        kinds: that it may find.
    """

    level: Level
    test: Callable[[Evidence], Verdict | None]
    kinds: tuple[Kind, ...]
