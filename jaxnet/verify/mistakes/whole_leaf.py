"""Mistakes that turn the right gradient into the wrong one by a sign, a factor, a term."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from jaxnet.verify.engine.case import Case
from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict


def non_finite(evidence: Evidence) -> Verdict | None:
    """The candidate is NaN or infinite, or the function itself is."""
    leaf, shown = evidence.leaf, evidence.shown
    if any(np.isnan(output).any() for c in shown for output in c.truth.outputs):
        return "non_finite", "the function itself is not finite here, so that rules for it disagree: keep it in range"
    for comparison in shown:
        lost = comparison.judged(leaf) & ~np.isfinite(comparison.answer(leaf))
        if lost.any():
            return "non_finite", (
                f"it is NaN or infinite in {lost.sum()} of {lost.size} elements, where the right value is finite: "
                "look for a division by 0, the logarithm of 0, or ∞ - ∞"
            )
    return None


def zero(evidence: Evidence) -> Verdict | None:
    """The candidate is zero at every place."""
    leaf, shown = evidence.leaf, evidence.shown
    if any(c.answer(leaf).any() for c in evidence.comparisons):
        return None
    none = all(c.candidate[leaf] is None for c in shown)
    return "zero", "it is " + (
        "None, which means zeros" if none else "zero everywhere"
    ) + ": the gradient never arrives"


def proportional(evidence: Evidence) -> Verdict | None:
    """candidate = k · expected with the same k everywhere."""
    leaf = evidence.leaf
    factors = []
    for comparison in evidence.shown:
        expected = np.where(comparison.judged(leaf), comparison.truth.gradient[leaf], 0)
        size = float(np.square(expected).sum())
        factors.append(float((expected * comparison.answer(leaf)).sum() / size) if size else math.nan)
    k = float(np.median(factors))
    same = np.allclose(factors, k, rtol=1e-6 if evidence.trial.exact else 1e-3)
    if k == 0 or not same or not evidence.holds(lambda c: k * c.truth.gradient[leaf]):
        return None
    if math.isclose(k, -1, rel_tol=1e-3):
        return "sign", "every entry has the wrong sign"
    return "scale", _factor_in_words(evidence.case, k)


def _factor_in_words(case: Case, k: float) -> str:
    sign = " and has the wrong sign" if k < 0 else ""
    k = abs(k)
    size, much = (k, "large") if k > 1 else (1 / k, "small")
    text = f"every entry is {size:.6g} times too {much}{sign}"
    for number, if_large, if_small in _numbers_in_sight(case):
        if math.isclose(size, number, rel_tol=1e-4):
            return f"{text}; {if_large if k > 1 else if_small}"
    return text


def _numbers_in_sight(case: Case) -> Iterator[tuple[float, str, str]]:
    """Numbers that turn up as wrong factors, and what to do about a gradient so much too large or too small."""
    fixed = [("a fixed argument", leaf) for leaf in case.fixed]
    batches = {leaf.shape[0] for leaf in [*case.fixed, *case.outputs] if leaf.shape}
    sizes: dict[int, str] = {}
    for name, leaf in [*fixed, *zip(case.paths, case.differentiated, strict=True)]:
        whose = f"leaf {name}" if name.startswith("[") else name or "the argument"
        for axis, length in enumerate(leaf.shape):
            examples = ", the number of examples" if axis == 0 and length in batches else ""
            sizes.setdefault(length, f"{length} is the length of axis {axis} of {whose}{examples}")
        sizes.setdefault(leaf.size, f"{leaf.size} is the number of elements of {whose}")
    lengths = {length: meaning for length, meaning in sizes.items() if length > 2}
    for n, meaning in lengths.items():
        yield n, f"{meaning}: divide by {n} once", f"{meaning}: it is divided by {n} once too often"
    for n, meaning in lengths.items():
        yield n**2, f"{meaning}: divide by {n} twice", f"{meaning}: it is divided by {n} twice too often"
    yield 2, "a factor 2, or a missing ½, as of the derivative of a square", "the 2 of a square's derivative is missing"


def another_leaf(evidence: Evidence) -> Verdict | None:
    """The candidate's leaf is the gradient of another one."""
    case, leaf = evidence.case, evidence.leaf
    for other, path in enumerate(case.paths):
        same = case.differentiated[other].shape == evidence.shape
        if other != leaf and same and evidence.holds(lambda c, other=other: c.truth.gradient[other]):
            return "structure", f"it is the gradient of {path}: the order of the leaves is mixed up"
        for axis, length in enumerate(case.differentiated[other].shape):
            summed = np.delete(case.differentiated[other].shape, axis).tolist() == list(evidence.shape) and length > 1
            if summed and evidence.holds(lambda c, other=other, axis=axis: c.truth.gradient[other].sum(axis)):
                return "structure", f"it is the gradient of {path}, summed along its axis {axis}"
    return None


def extra_term(evidence: Evidence) -> Verdict | None:
    """candidate = expected + λ · something in sight, with the same λ everywhere, or λ times a scalar cotangent."""
    leaf, shown = evidence.leaf, evidence.shown
    for name, term in _terms(evidence.case, leaf):
        factors = []
        for comparison in shown:
            error, x = comparison.answer(leaf) - comparison.truth.gradient[leaf], term(comparison)
            size = float(np.square(x).sum())
            factors.append(float((x * error).sum() / size) if size else math.nan)
        for through, upstream in (("", lambda c: 1.0), (", times the cotangent", _scalar_cotangent)):
            multiples = [factor / (upstream(c) or math.nan) for factor, c in zip(factors, shown, strict=True)]
            k = multiples[0]
            if not np.allclose(multiples, k, rtol=1e-3):
                continue
            if evidence.holds(lambda c, k=k, x=term, u=upstream: c.truth.gradient[leaf] + k * u(c) * x(c)):
                if name == "the cotangent" and math.isclose(k, -1, rel_tol=1e-3):
                    text = "the path that hands the cotangent on as it is, such as a skip connection's, is missing"
                    return "missing_term", text
                decay = ", as weight decay does" * (name == "itself")
                return "extra_term", f"an extra term is added: {k:.4g} times {name}{through}{decay}"
    return None


def _scalar_cotangent(comparison: Comparison) -> float:
    upstream = comparison.place.cotangent[0]
    return float(upstream) if upstream.ndim == 0 else 1.0


def _terms(case: Case, leaf: int) -> Iterator[tuple[str, Callable[[Comparison], Floats]]]:
    """What may be added to a leaf's gradient by mistake, and its name."""
    shape = case.differentiated[leaf].shape
    yield "itself", lambda c: c.place.point[leaf]
    yield "its sign", lambda c: np.sign(c.place.point[leaf])
    yield "1", lambda c: np.ones(shape)
    for other, path in enumerate(case.paths):
        if other != leaf and case.differentiated[other].shape == shape:
            yield path, lambda c, other=other: c.place.point[other]
            yield f"the gradient of {path}", lambda c, other=other: c.truth.gradient[other]
    for fixed in case.fixed:
        if fixed.shape == shape and getattr(fixed.dtype, "kind", "") in "fiu":
            yield "a fixed argument", lambda c, fixed=fixed: np.asarray(fixed, np.float64)
    if not case.function.scalar and case.outputs[0].shape == shape:
        yield "the cotangent", lambda c: c.place.cotangent[0]


HYPOTHESES = (
    Hypothesis(Level.WHOLE, non_finite, ("non_finite",)),
    Hypothesis(Level.WHOLE, zero, ("zero",)),
    Hypothesis(Level.WHOLE, proportional, ("sign", "scale")),
    Hypothesis(Level.WHOLE, another_leaf, ("structure",)),
    Hypothesis(Level.WHOLE, extra_term, ("extra_term", "missing_term")),
)
