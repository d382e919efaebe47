"""Which mistake was made: the candidate's error is held against those that known mistakes make.

A hypothesis is a gradient that somebody would have got by making one mistake. It explains a leaf if it equals the
candidate there, at every place, up to a ten-thousandth of the error and a few units of rounding. Simple ones come
first: a sign, a factor, a transpose. Where none explains the leaf, its kind is "unknown". The verdict stands before any
of this; nothing here can change or delay it for long: the number of simulations is bounded.
"""

import functools
from collections.abc import Callable, Iterable

from jaxnet.verify.mistakes.chain_rule import Search
from jaxnet.verify.mistakes.cotangents import ignored_output, not_transposed, one_row_for_all
from jaxnet.verify.mistakes.digits import lost_digits, lost_tail, narrow
from jaxnet.verify.mistakes.elements import in_a_triangle, masked, scaled_in_places, some_elements
from jaxnet.verify.mistakes.elementwise import another_slope, elementwise
from jaxnet.verify.mistakes.evidence import Evidence, Verdict
from jaxnet.verify.mistakes.examples import by_example
from jaxnet.verify.mistakes.shapes import wrong_shape
from jaxnet.verify.mistakes.slices import other_slices
from jaxnet.verify.mistakes.values import another_value
from jaxnet.verify.mistakes.whole_leaf import (
    another_leaf,
    extra_term,
    non_finite,
    nonlinear,
    proportional,
    transposed,
    zero,
)

Hypothesis = Callable[[Evidence], Verdict | None]
SIMPLE: tuple[Hypothesis, ...] = (
    non_finite,
    zero,
    nonlinear,
    proportional,
    transposed,
    another_leaf,
    extra_term,
    lost_digits,
    lost_tail,
    another_value,
    elementwise,
    not_transposed,
    ignored_output,
    one_row_for_all,
)
# Of what is wrong with the numbers, before it is said that some are wrong.
LAST: tuple[Hypothesis, ...] = (
    by_example,
    in_a_triangle,
    other_slices,
    masked,
    scaled_in_places,
    another_slope,
    narrow,
    some_elements,
)
UNEXPLAINED = "the gradient is wrong, and no mistake that is simulated here explains it"


def diagnose(evidence: Evidence, leaves: Iterable[int]) -> dict[int, Verdict]:
    """The kind of mistake and its explanation for each wrong leaf."""

    @functools.cache
    def search() -> Search:
        return Search(evidence)

    def in_the_chain_rule(evidence: Evidence) -> Verdict | None:
        return search().verdict(evidence)

    def updated_too_early(evidence: Evidence) -> Verdict | None:
        return search().updated_too_early(evidence)

    def of_one(evidence: Evidence) -> Verdict:
        if not evidence.shown:
            return wrong_shape(evidence)
        for hypothesis in (*SIMPLE, in_the_chain_rule, updated_too_early, *LAST):
            verdict = _tried(hypothesis, evidence)
            if verdict and verdict[0] == "nonlinear":  # so is a backward pass through weights that it has updated
                return _tried(updated_too_early, evidence) or verdict
            if verdict:
                return verdict
        return "unknown", UNEXPLAINED + _cut_short(search)

    return {leaf: of_one(evidence._replace(leaf=leaf)) for leaf in leaves}


def _tried(hypothesis: Hypothesis, evidence: Evidence) -> Verdict | None:
    """What a hypothesis says; None where it cannot be tried, as on a function that JAX cannot trace."""
    try:
        return hypothesis(evidence)
    except Exception:  # a name that cannot be found is no reason to lose the verdict
        return None


def _cut_short(search: Callable[[], Search]) -> str:
    try:
        return "" if search().complete else " (the search stopped before its end)"
    except Exception:  # as above
        return ""
