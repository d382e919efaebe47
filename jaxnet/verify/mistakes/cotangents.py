"""Mistakes about what is pulled back: what is not linear in it, parts that do not enter, J where Jᵀ belongs."""

import jax
import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, in_float64
from jaxnet.verify.mistakes.evidence import OF_THE_NOISE, Evidence, Hypothesis, Level, Verdict


def is_linear(evidence: Evidence) -> bool:
    """Whether twice the cotangent gives twice the candidate's leaf, and its opposite the opposite.

    A term that is added to the right gradient and does not depend on the cotangent counts as linear.
    """
    if evidence.case.function.scalar:
        return True
    once, twice, opposite = (_times(evidence, factor) for factor in (1.0, 2.0, -1.0))
    added = _same(evidence, twice - once, evidence.shown[0].truth.gradient[evidence.leaf])
    return added or (_same(evidence, twice, 2 * once) and _same(evidence, opposite, -once))


def _times(evidence: Evidence, factor: float) -> Floats:
    """The candidate's leaf for a multiple of the cotangent."""
    here = evidence.shown[0]
    answer = evidence.trial.answer(here.place.point, [factor * c for c in here.place.cotangent])
    return here._replace(candidate=answer).answer(evidence.leaf)


def _same(evidence: Evidence, a: Floats, b: Floats) -> bool:
    here, leaf = evidence.shown[0], evidence.leaf
    slack = 4 * OF_THE_NOISE * np.linalg.norm(here.truth.noise[leaf]) + 1e-9 * np.linalg.norm(here.answer(leaf))
    return not np.linalg.norm(a - b) > slack


def nonlinear(evidence: Evidence) -> Verdict | None:
    """Twice the cotangent must give twice the gradient."""
    if is_linear(evidence):
        return None
    once, twice, opposite = (_times(evidence, factor) for factor in (1.0, 2.0, -1.0))
    if _same(evidence, twice, once) and _same(evidence, opposite, once):
        return "nonlinear", "the cotangent is ignored: multiply by it, the chain rule's factor from above"
    return "nonlinear", (
        "twice the cotangent does not give twice the gradient, or its opposite the opposite: a derivative is linear in "
        "the cotangent"
    )


def ignored_output(evidence: Evidence) -> Verdict | None:
    """The cotangent of one of several outputs is not used."""
    leaf = evidence.leaf
    for k in range(len(evidence.case.outputs)):

        def without(c: Comparison, k: int = k) -> Floats:
            cotangent = [0 * part if i == k else part for i, part in enumerate(c.place.cotangent)]
            return evidence.pulled(c, cotangent)[leaf]

        if len(evidence.case.outputs) > 1 and evidence.holds(without):
            return "missing_term", f"the cotangent of output [{k}] is not used: its gradient must be added"
    return None


def one_row_for_all(evidence: Evidence) -> Verdict | None:
    """The first row of the cotangent is used for every row."""
    leaf, outputs = evidence.leaf, evidence.case.outputs
    if len(outputs) != 1 or not outputs[0].shape or outputs[0].shape[0] < 2:
        return None

    def first(c: Comparison) -> Floats:
        (cotangent,) = c.place.cotangent
        return evidence.pulled(c, [np.broadcast_to(cotangent[:1], cotangent.shape)])[leaf]

    if evidence.holds(first):
        return "missing_factor", "the first row of the cotangent is used for every row: each has its own"
    return None


def not_transposed(evidence: Evidence) -> Verdict | None:
    """J ct in place of Jᵀ ct, for outputs of the leaf's shape."""
    leaf, case = evidence.leaf, evidence.case
    if [output.shape for output in case.outputs] != [evidence.shape] or not case.function.traced:
        return None

    def pushed(c: Comparison) -> Floats:
        with in_float64():
            fixed = case.fixed_in(True)

            def function(moved: object) -> object:
                point = [moved if i == leaf else part for i, part in enumerate(c.place.point)]
                return case.function.outputs(point, fixed)[0]

            return np.asarray(jax.jvp(function, (c.place.point[leaf],), (c.place.cotangent[0],))[1])

    if evidence.holds(pushed):
        return "transpose", "the Jacobian itself is applied where its transpose belongs: J ct in place of Jᵀ ct"
    return None


HYPOTHESES = (
    Hypothesis(Level.NONLINEAR, nonlinear, ("nonlinear",)),
    Hypothesis(Level.FUNCTION, not_transposed, ("transpose",)),
    Hypothesis(Level.FUNCTION, ignored_output, ("missing_term",)),
    Hypothesis(Level.FUNCTION, one_row_for_all, ("missing_factor",)),
)
