"""Mistakes about functions that act element by element: what stands in place of g', or on top of it."""

from typing import Any

import numpy as np

from jaxnet.verify.comparison import Comparison
from jaxnet.verify.diagnosis.evidence import Evidence, Verdict
from jaxnet.verify.diagnosis.examples import LARGEST_BATCH, masked
from jaxnet.verify.diagnosis.mutants import INTRUDERS, SUBSTITUTES
from jaxnet.verify.problem import Floats, Problem
from jaxnet.verify.reference import outputs_and_gradients, stacked


def elementwise(evidence: Evidence) -> Verdict | None:
    """For a = g(z), and for a leaf in the form of a loss's logits: what is written in place of g', or on top of it."""
    problem, leaf = evidence.problem, evidence.leaf
    shape = problem.differentiated[leaf].shape
    for text, factor in INTRUDERS:
        if evidence.holds(lambda c, f=factor: c.truth.gradient[leaf] * np.asarray(f(c.place.point[leaf]))):
            return "activation", f"{text} derivative is multiplied on, and the rest of the gradient contains it already"
    outputs = evidence.shown[0].truth.outputs
    if problem.rule.scalar or len(problem.paths) != 1 or [output.shape for output in outputs] != [shape]:
        return None
    few = [(c, _diagonal(problem, c)) for c in evidence.shown[:2]]
    if all(diagonal is not None and evidence.explains(c, diagonal) for c, diagonal in few):
        return "partial", "only the diagonal of the Jacobian is there: each output depends on several inputs"
    if any(diagonal is not None and not np.allclose(diagonal, c.truth.gradient[leaf]) for c, diagonal in few):
        return None

    def slope(z: Any) -> Any:
        _, gradients = outputs_and_gradients(problem, stacked([np.asarray(z)]), stacked([np.ones(shape)]))
        return gradients[0][0]

    def with_substitute(comparison: Comparison, substitute: Any) -> Floats:
        with np.errstate(all="ignore"):
            factor = substitute(comparison.place.point[leaf], comparison.truth.outputs[0], slope)
            return comparison.place.cotangent[0] * np.asarray(factor)

    for text, substitute in SUBSTITUTES:
        if evidence.holds(lambda c, s=substitute: with_substitute(c, s)):
            return "activation", f"the derivative {text}"
    return None


def _diagonal(problem: Problem, comparison: Comparison) -> Floats | None:
    """The gradient of an output by its own input, as if the function acted element by element."""
    (cotangent,) = comparison.place.cotangent
    if cotangent.size > LARGEST_BATCH:
        return None
    answers = masked(
        problem, comparison, [np.eye(1, cotangent.size, k).reshape(cotangent.shape) for k in range(cotangent.size)]
    )
    return np.array([answer[0].flat[k] for k, answer in enumerate(answers)]).reshape(cotangent.shape)
