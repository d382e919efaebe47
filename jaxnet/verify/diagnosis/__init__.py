"""Which mistake was made: the candidate's error is held against those that known mistakes make.

A hypothesis is a gradient that somebody would have got by making one mistake. It explains a leaf if it equals the
candidate there, at every place, up to a ten-thousandth of the error and a few units of rounding. Simple ones come
first: a sign, a factor, a transpose. Where none explains the leaf, its kind is "unknown".
"""

import functools
from collections.abc import Iterable

from jaxnet.verify.diagnosis.digits import lost_digits, lost_tail, narrow
from jaxnet.verify.diagnosis.elements import some_elements
from jaxnet.verify.diagnosis.elementwise import elementwise
from jaxnet.verify.diagnosis.evidence import Evidence, Verdict
from jaxnet.verify.diagnosis.examples import by_example
from jaxnet.verify.diagnosis.shapes import wrong_shape
from jaxnet.verify.diagnosis.simulated import Simulation, simulated, updated_too_early
from jaxnet.verify.diagnosis.transformations import (
    another_leaf,
    extra_term,
    non_finite,
    nonlinear,
    proportional,
    transposed,
    zero,
)

SIMPLE = (non_finite, zero, nonlinear, proportional, transposed, another_leaf, extra_term, lost_digits, lost_tail)
LAST = (updated_too_early, by_example, narrow, some_elements)


def diagnose(evidence: Evidence, leaves: Iterable[int]) -> dict[int, Verdict]:
    """The kind of mistake and its explanation for each wrong leaf."""

    @functools.cache
    def simulations() -> list[Simulation]:
        return simulated(evidence)

    def of_one(evidence: Evidence) -> Verdict:
        if not evidence.shown:
            return wrong_shape(evidence)
        for hypothesis in (*SIMPLE, elementwise):
            verdict = hypothesis(evidence)
            if verdict and verdict[0] == "nonlinear":  # so is a backward pass through weights that it has updated
                return updated_too_early(evidence) or verdict
            if verdict:
                return verdict
        for simulation in simulations():
            verdict = simulation.explains(evidence)
            if verdict:
                return verdict
        for hypothesis in LAST:
            verdict = hypothesis(evidence)
            if verdict:
                return verdict
        return "unknown", "the gradient is wrong, and no mistake that is simulated here explains it"

    return {leaf: of_one(evidence._replace(leaf=leaf)) for leaf in leaves}
