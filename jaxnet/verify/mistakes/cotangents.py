"""Mistakes about what is pulled back: parts of the cotangent that do not enter, a Jacobian that is not transposed."""

import jax
import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, in_float64
from jaxnet.verify.mistakes.evidence import Evidence, Verdict


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
