"""Mistakes about functions that act element by element: what stands in place of g', or on top of it."""

from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes.evidence import Evidence, Verdict
from jaxnet.verify.mistakes.examples import LARGEST_BATCH
from jaxnet.verify.mistakes.local import INTRUDERS, SUBSTITUTES


class Whole(NamedTuple):
    """A function that acts element by element, at a place."""

    evidence: Evidence
    z: Floats
    a: Floats

    def slope_at(self, z: Floats) -> Floats:
        """g'(z)."""
        return self.evidence.trial.function.derivative([np.asarray(z)], [np.ones(self.a.shape)])[1][0]

    @property
    def slope(self) -> Floats:
        """g' at the point."""
        return self.slope_at(self.z)


def elementwise(evidence: Evidence) -> Verdict | None:
    """For a = g(z), and for a leaf in the form of a loss's logits: what is written in place of g', or on top of it."""
    case, leaf = evidence.case, evidence.leaf
    for text, factor in INTRUDERS:
        if evidence.holds(lambda c, f=factor: c.truth.gradient[leaf] * f(c.place.point[leaf])):
            return "activation", f"{text} derivative is multiplied on, and the rest of the gradient contains it already"
    outputs = evidence.shown[0].truth.outputs
    if case.function.scalar or len(case.paths) != 1 or [output.shape for output in outputs] != [evidence.shape]:
        return None
    few = [(c, _diagonal(evidence, c)) for c in evidence.shown[:2]]
    if all(diagonal is not None and evidence.explains(c, diagonal) for c, diagonal in few):
        return "partial", "only the diagonal of the Jacobian is there: each output depends on several inputs"
    if any(diagonal is not None and not np.allclose(diagonal, c.truth.gradient[leaf]) for c, diagonal in few):
        return None
    for text, substitute in SUBSTITUTES:

        def hypothesis(c: Comparison, substitute=substitute) -> Floats:
            with np.errstate(all="ignore"):
                return c.place.cotangent[0] * substitute(Whole(evidence, c.place.point[leaf], c.truth.outputs[0]))

        if evidence.holds(hypothesis):
            return "activation", f"the derivative {text}"
    return None


def _diagonal(evidence: Evidence, comparison: Comparison) -> Floats | None:
    """The gradient of an output by its own input, as if the function acted element by element."""
    (cotangent,) = comparison.place.cotangent
    if cotangent.size > LARGEST_BATCH:
        return None
    masks = [np.eye(1, cotangent.size, k).reshape(cotangent.shape) for k in range(cotangent.size)]
    answers = [evidence.pulled(comparison, [mask * cotangent])[0] for mask in masks]
    return np.array([answer.flat[k] for k, answer in enumerate(answers)]).reshape(cotangent.shape)
