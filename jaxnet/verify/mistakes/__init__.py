"""Which mistake was made: the candidate's error is held against those that known mistakes make.

A hypothesis is a gradient that somebody would have got by making one mistake. It explains a leaf if it equals the
candidate there, at every place, up to a ten-thousandth of the error and a few units of rounding. Simple ones come
first: a sign, a factor, a transpose. Where none explains the leaf, its kind is "unknown". The verdict stands before any
of this; nothing here can change or delay it for long: the number of simulations is bounded.

Each file here holds hypotheses of one sort, and is found by being here: a new kind of mistake is a new file.
"""

import importlib
import itertools
import pkgutil
from collections.abc import Iterable

from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Verdict
from jaxnet.verify.mistakes.shapes import wrong_shape
from jaxnet.verify.mistakes.slips import FAMILIES

HYPOTHESES: list[Hypothesis] = sorted(
    (
        hypothesis
        for found in pkgutil.iter_modules(__path__, f"{__name__}.")
        for hypothesis in getattr(importlib.import_module(found.name), "HYPOTHESES", ())
    ),
    key=lambda hypothesis: hypothesis.level,
)
KINDS = frozenset(kind for family in (*HYPOTHESES, *FAMILIES) for kind in family.kinds) | {"shape", "unknown"}
UNEXPLAINED = "the gradient is wrong, and no mistake that is simulated here explains it"


def diagnose(evidence: Evidence, leaves: Iterable[int]) -> dict[int, Verdict]:
    """The kind of mistake and its explanation for each wrong leaf."""
    return {leaf: _of_leaf(evidence._replace(leaf=leaf)) for leaf in leaves}


def _of_leaf(evidence: Evidence) -> Verdict:
    """All mistakes that explain a leaf and are equally simple; the first one gives the kind."""
    if not evidence.shown:
        return wrong_shape(evidence)
    for _, alike in itertools.groupby(HYPOTHESES, lambda hypothesis: hypothesis.level):
        verdicts = [verdict for hypothesis in alike if (verdict := _tried(hypothesis, evidence))]
        if verdicts:
            return verdicts[0][0], "; or ".join(dict.fromkeys(text for _, text in verdicts))
    return "unknown", UNEXPLAINED + _cut_short(evidence)


def _tried(hypothesis: Hypothesis, evidence: Evidence) -> Verdict | None:
    """What a hypothesis says; None where it cannot be tried, as on a function that JAX cannot trace, which is told."""
    try:
        return hypothesis.test(evidence)
    except Exception as error:  # a name that cannot be found is no reason to lose the verdict
        evidence.kept("untried", list).append(type(error).__name__)
        return None


def _cut_short(evidence: Evidence) -> str:
    search, untried = evidence.memory.get("search"), evidence.memory.get("untried")
    if untried:
        return f" (some could not be tried, the first for a {untried[0]})"
    return "" if search is None or search.complete else " (the search stopped before its end)"
