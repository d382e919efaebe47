"""What the checks look at and what they answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.iteration import CONVERGED
from jaxnet.verify.engine.places import Place, Places
from jaxnet.verify.engine.precision import Leaves
from jaxnet.verify.engine.trial import Trial
from jaxnet.verify.engine.truth import Truth
from jaxnet.verify.report import Finding


class Outcome(NamedTuple):
    """What a check found.

    Attributes:
        findings: what is wrong.
        notes: what a reader should know.
        covers: what was judged, in a few words; empty if the check could not be made.
        settled: whether the verdict stands, and no further check is made.
    """

    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    covers: str = ""
    settled: bool = False


NOTHING = Outcome()


@dataclass
class Hearing:
    """A trial with the places at which it is held; what was compared is kept.

    Attributes:
        trial: how the candidate is judged.
        places: that it can be judged at.
        special: the given point, and points with zeros.
        generic: points where nothing is special.
        stressed: points with extreme numbers.
        called: the leaves of what the candidate returned when it was called directly.
        compared: every comparison that was made, by its place's name.
        truths: the right gradients at places without a comparison.
    """

    trial: Trial
    places: Places
    special: list[Place]
    generic: list[Place]
    stressed: list[Place]
    called: Leaves
    compared: dict[str, Comparison] = field(default_factory=dict)
    truths: dict[str, Truth] = field(default_factory=dict)

    def at(self, place: Place) -> Comparison:
        """The comparison at a place, made once."""
        if place.name not in self.compared:
            self.compared[place.name] = self.trial.compare(place)
        return self.compared[place.name]

    def truth(self, place: Place) -> Truth:
        """The right gradient at a place."""
        if place.name in self.compared:
            return self.compared[place.name].truth
        if place.name not in self.truths:
            self.truths[place.name] = self.trial.function.truth(place, self.trial.unit)
        return self.truths[place.name]

    @property
    def given(self) -> Comparison:
        """The comparison at the given point."""
        return self.at(self.special[0])

    def solved(self, place: Place) -> bool:
        """Whether a solver in the function comes about as near to its end at a place as it does at the given point.

        A loop that is no solver may have nothing to do at the given point, at 0 say: nearby it has.
        """
        residual = self.trial.function.residual
        usual = max(residual(p.point) for p in (self.special[0], *self.generic) if p.name in ("given", "near"))
        return usual > CONVERGED or residual(place.point) <= 1e3 * max(usual, 1e-12)

    def in_domain(self, places: list[Place]) -> list[Comparison]:
        """The comparisons where outputs are finite that are so at the given point: not log(1 - p) at p = 20.

        Where a solver in the function converges at the given point, it must do so there, too.
        """
        usual = [np.isfinite(output) for output in self.given.truth.outputs]

        def inside(comparison: Comparison) -> bool:
            outputs = zip(comparison.truth.outputs, usual, strict=True)
            return self.solved(comparison.place) and all((np.isfinite(o) | ~u).all() for o, u in outputs)

        return [c for c in map(self.at, places) if c is self.given or inside(c)]


Check = Callable[[Hearing], Outcome]
