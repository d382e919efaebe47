"""Mistakes about functions that act element by element: what stands in place of g', or on top of it."""

from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.places import Place
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
        function = self.evidence.trial.function
        place = Place("inside", [np.asarray(z)], [np.ones(self.a.shape)])
        return function.truth(place, self.evidence.trial.unit).gradient[0]

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
        return "missing_term", "only the diagonal of the Jacobian is there: each output depends on several inputs"
    if any(diagonal is not None and not np.allclose(diagonal, c.truth.gradient[leaf]) for c, diagonal in few):
        return None
    return _substituted(evidence)


def _substituted(evidence: Evidence) -> Verdict | None:
    """What is written in place of g'."""
    leaf = evidence.leaf
    for text, substitute in SUBSTITUTES:

        def hypothesis(c: Comparison, substitute=substitute) -> Floats:
            with np.errstate(all="ignore"):
                return c.place.cotangent[0] * substitute(Whole(evidence, c.place.point[leaf], c.truth.outputs[0]))

        if evidence.holds(hypothesis):
            return "activation", f"the derivative {text}"
    return None


def another_slope(evidence: Evidence) -> Verdict | None:
    """Both the right gradient and the candidate act element by element, with another slope: ct ⊙ s for ct ⊙ g'.

    Where the two slopes differ by a product of powers of the arguments and of the output, it says by which.
    """
    leaf, case = evidence.leaf, evidence.case
    if case.function.scalar or [output.shape for output in case.outputs] != [evidence.shape] or not evidence.shape:
        return None
    here = evidence.shown[0]
    (cotangent,) = here.place.cotangent
    flipped = np.where(np.arange(cotangent.size).reshape(cotangent.shape) % 2, 1.0, 2.0) * cotangent
    other = here._replace(candidate=evidence.trial.answer(here.place.point, [flipped]))
    with np.errstate(all="ignore"):
        pairs = (
            (here.answer(leaf), other.answer(leaf)),
            (here.truth.gradient[leaf], evidence.pulled(here, [flipped])[leaf]),
        )
        diagonal = [np.allclose(b * cotangent, a * flipped, rtol=1e-6, atol=0) for a, b in pairs]
    if not all(diagonal):
        return None
    factor = _monomial(evidence)
    if factor:
        return "missing_factor", f"element by element, the slope is {factor} times what it should be"
    index = np.unravel_index(int(np.argmax(here.wrong(leaf))), evidence.shape)
    slopes = [float(part[index] / cotangent[index]) for part in (here.answer(leaf), here.truth.gradient[leaf])]
    at = f"at {[int(i) for i in index]}, where it is {here.place.point[leaf][index]:.4g}, the slope"
    return (
        "activation",
        f"it acts element by element, and the derivative is another: {at} is {slopes[0]:.6g} for {slopes[1]:.6g}",
    )


def _monomial(evidence: Evidence) -> str:
    """The product of powers by which the candidate differs from the right gradient; empty if there is none."""
    leaf, case = evidence.leaf, evidence.case
    names = [path or "the argument" for path in case.paths] + ["the output"]

    def columns(c: Comparison) -> list[Floats]:
        return [np.broadcast_to(np.abs(x), evidence.shape).ravel() for x in (*c.place.point, c.truth.outputs[0])]

    rows, logs = [], []
    for c in evidence.shown:
        with np.errstate(all="ignore"):
            ratio = (c.answer(leaf) / c.truth.gradient[leaf]).ravel()
        known = np.isfinite(ratio) & (ratio != 0) & np.all([x > 0 for x in columns(c)], axis=0)
        rows.append(np.log(np.stack([x[known] for x in columns(c)], axis=1)))
        logs.append(np.log(np.abs(ratio[known])))
    matrix, target = np.concatenate(rows), np.concatenate(logs)
    if len(target) <= matrix.shape[1]:
        return ""
    powers, _, rank, _ = np.linalg.lstsq(matrix, target, rcond=1e-9)
    whole = np.round(2 * powers) / 2
    if rank < matrix.shape[1] or not whole.any() or np.abs(matrix @ whole - target).max() > 1e-6:
        return ""
    return " · ".join(f"|{name}|^{power:g}" for name, power in zip(names, whole, strict=True) if power)


def _diagonal(evidence: Evidence, comparison: Comparison) -> Floats | None:
    """The gradient of an output by its own input, as if the function acted element by element."""
    (cotangent,) = comparison.place.cotangent
    if cotangent.size > LARGEST_BATCH:
        return None
    masks = [np.eye(1, cotangent.size, k).reshape(cotangent.shape) for k in range(cotangent.size)]
    answers = [evidence.pulled(comparison, [mask * cotangent])[0] for mask in masks]
    return np.array([answer.flat[k] for k, answer in enumerate(answers)]).reshape(cotangent.shape)
