"""Mistakes inside the chain rule, found by making them."""

import math
from typing import NamedTuple

import numpy as np

from jaxnet.verify.comparison import Comparison
from jaxnet.verify.diagnosis.evidence import Evidence, Verdict
from jaxnet.verify.diagnosis.mutants import Mutant, simulations
from jaxnet.verify.problem import Leaves

# Of mistakes that explain the same leaves the likelier one: a g' is left out more often than a path is cut.
LIKELIHOOD = {"activation": 0, "transpose": 1, "sign": 2, "scale": 3, "partial": 4}


class Simulation(NamedTuple):
    """A mistake with the gradients that somebody gets who makes it, at each place."""

    mutant: Mutant
    gradients: dict[str, Leaves]

    def explains(self, evidence: Evidence) -> Verdict | None:
        """The verdict that this is the mistake in a leaf, if it is."""
        if evidence.holds(lambda c: self.gradients[c.place.name][evidence.leaf]):
            return self.mutant.kind, self.mutant.explanation
        return None


def simulated(evidence: Evidence) -> list[Simulation]:
    """The mistakes in the chain rule that explain some leaf, the best first.

    Every one is tried at the first place where something is wrong, and at all others if it explains something there.
    """
    problem, comparisons = evidence.problem, evidence.comparisons
    leaves = range(len(problem.paths))
    first = next((c for c in comparisons if any(_wrong(c, leaf) for leaf in leaves)), None)
    if first is None:
        return []
    try:
        mutants, gradient = simulations(problem)
    except Exception:  # a function that cannot be traced or differentiated has no simulations
        return []
    found = []
    for mutant in mutants:
        here = gradient(mutant.slot, mutant.value, first)
        explained = sum(
            _wrong(first, leaf) and evidence._replace(leaf=leaf).explains(first, here[leaf]) for leaf in leaves
        )
        if explained:
            gradients = {c.place.name: gradient(mutant.slot, mutant.value, c) for c in comparisons}
            found.append((-explained, LIKELIHOOD[mutant.kind], Simulation(mutant, gradients)))
    return [simulation for *_, simulation in sorted(found, key=lambda entry: entry[:2])]


def updated_too_early(evidence: Evidence) -> Verdict | None:
    """The backward pass uses W - λ ∂L/∂W in place of W, for one learning rate λ that is found by least squares."""
    problem, leaf = evidence.problem, evidence.leaf
    try:
        _, gradient = simulations(problem)
    except Exception:  # as above
        return None
    here = evidence.shown[0]
    for weight, path in enumerate(problem.paths):
        without, change = (gradient(weight, rate, here)[leaf] for rate in (0.0, 1.0))
        change = change - without
        size = float(np.square(change).sum())
        rate = float((change * (here.answer(leaf) - without)).sum()) / size if size else math.nan
        if math.isfinite(rate) and evidence.holds(lambda c, w=weight, r=rate: gradient(w, r, c)[leaf]):
            text = f"{path or 'the argument'} is updated before the backward pass uses it"
            return "extra_term", f"{text}, with a learning rate of {rate:.4g}"
    return None


def _wrong(comparison: Comparison, leaf: int) -> bool:
    return comparison.comparable(leaf) and bool(comparison.wrong(leaf).any())
