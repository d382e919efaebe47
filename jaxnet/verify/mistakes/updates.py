"""Weights that are updated before the backward pass uses them."""

import math

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes.cotangents import is_linear
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict
from jaxnet.verify.mistakes.slips.local import at, product_with
from jaxnet.verify.mistakes.surgery import Site, Surgery, opened


def updated_too_early(evidence: Evidence) -> Verdict | None:
    """The backward pass uses W - λ ∂L/∂W in place of W, for one learning rate λ that is found by least squares."""
    leaf, here, surgery = evidence.leaf, evidence.shown[0], opened(evidence)
    scalar = [output.shape for output in evidence.case.outputs] == [()]
    for weight, path in enumerate(evidence.case.paths):

        def change(where: Comparison, weight: int = weight) -> Floats:
            moved = surgery.gradient(where, _with_update(surgery, where, weight))
            return moved[leaf] - surgery.right(where)[0][leaf]

        step, without = change(here), surgery.right(here)[0][leaf]
        size = float(np.square(step).sum())
        rate = float((step * (here.answer(leaf) - without)).sum()) / size if size else math.nan
        for of_cost in (False, True)[: 1 + scalar]:  # by the gradient with its cotangent, or that of the cost
            upstream = float(here.place.cotangent[0]) if of_cost else 1.0

            def hypothesis(c: Comparison, change=change, of_cost=of_cost, rate=rate * upstream) -> Floats:
                by = float(c.place.cotangent[0]) if of_cost else 1.0
                return surgery.right(c)[0][leaf] + rate / by * change(c)

            if math.isfinite(rate) and evidence.holds(hypothesis):
                text = f"{path or 'the argument'} is updated before the backward pass uses it"
                return "extra_term", f"{text}, with a learning rate of {rate * upstream:.4g}"
    return None


def _with_update(surgery: Surgery, where: Comparison, weight: int) -> dict[Site, Floats]:
    """What is passed on more where a weight is what its gradient would make of it by a step of 1."""
    value, update = where.place.point[weight], -where.truth.gradient[weight]
    extra: dict[Site, Floats] = {}
    for operation in surgery.operations:
        if operation.primitive != "dot_general" or operation.repeats > 1:
            continue
        here = at(operation, surgery, surgery.right(where), where.place.point)
        if here.other.ndim != 2 or value.ndim != 2:
            continue
        for is_it, step in ((value, update), (value.T, update.T)):
            if here.other.shape == is_it.shape and np.array_equal(here.other, is_it):
                extra[operation.site] = product_with(here, step)
                break
    return extra


def of_the_nonlinear(evidence: Evidence) -> Verdict | None:
    """A backward pass through weights that it has updated is not linear in the cotangent: this says more than that."""
    return None if is_linear(evidence) else updated_too_early(evidence)


HYPOTHESES = (
    Hypothesis(Level.WHOLE, of_the_nonlinear, ("extra_term",)),
    Hypothesis(Level.SIMULATED, updated_too_early, ("extra_term",)),
)
