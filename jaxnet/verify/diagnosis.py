"""Which mistake was made: the candidate's error is held against those that known mistakes make.

A hypothesis is a gradient that somebody would have got by making one mistake. It explains a leaf if it equals the
candidate there, at every place, up to a ten-thousandth of the error and a few units of rounding. Simple ones come
first: a sign, a factor, a transpose. Where none explains the leaf, its kind is "unknown".
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.verify.comparison import Comparison
from jaxnet.verify.evaluation import DOUBLE, PERTURBATIONS, by_candidate, narrowest, outputs_and_gradients, stacked
from jaxnet.verify.mutants import INTRUDERS, SUBSTITUTES, simulations
from jaxnet.verify.problem import Leaves, Problem
from jaxnet.verify.report import Kind

Verdict = tuple[Kind, str]

OF_THE_ERROR = 1e-4
OF_THE_NOISE = 8.0
NEARLY = 1e-5
LARGEST_BATCH = 64


class Evidence(NamedTuple):
    """What a diagnosis goes by.

    Attributes:
        problem: the function and the candidate.
        comparisons: the candidate beside the truth, at every place.
        traced: whether the candidate is compiled.
        float64: whether it ran in float64.
    """

    problem: Problem
    comparisons: tuple[Comparison, ...]
    traced: bool
    float64: bool


def diagnose(evidence: Evidence, leaves: Iterable[int]) -> dict[int, Verdict]:
    """The kind of mistake and its explanation for each wrong leaf."""
    simulated = functools.cache(lambda: _simulated(evidence))
    return {leaf: _diagnose(evidence, leaf, simulated) for leaf in leaves}


def _diagnose(evidence: Evidence, leaf: int, simulated: Any) -> Verdict:
    shown = [c for c in evidence.comparisons if c.comparable(leaf) and c.wrong(leaf).any()]
    if not shown:
        return _shape(evidence, leaf)
    if any(not np.isfinite(output).all() for c in shown for output in c.truth.outputs):
        return "non_finite", "the function itself is not finite here, so that rules for it disagree: keep it in range"
    for hypothesis in (_non_finite, _zero, _nonlinear, _proportional, _transposed, _another_leaf, _extra_term):
        verdict = hypothesis(evidence, leaf, shown)
        if verdict:
            return verdict
    verdict = _lost_digits(shown, leaf) or _lost_tail(evidence, leaf, shown)
    if verdict:
        return verdict
    verdict = _elementwise(evidence, leaf, shown)
    if verdict:
        return verdict
    for verdict, answers in simulated():
        if all(_explained(c, leaf, answers[id(c)][leaf]) for c in shown) and _consistent(
            evidence, leaf, lambda c, answers=answers: answers[id(c)][leaf]
        ):
            return verdict
    return (
        _by_example(evidence, leaf, shown)
        or _narrow(evidence, leaf, shown)
        or _some_elements(shown, leaf)
        or ("unknown", "the gradient is wrong, and no mistake that is simulated here explains it")
    )


def _explained(comparison: Comparison, leaf: int, hypothesis: np.ndarray) -> bool:
    """Whether a hypothesis gives the candidate's leaf, and not what is right."""
    known = comparison.judged(leaf) & np.isfinite(hypothesis)
    found, expected = comparison.answer(leaf)[known], comparison.truth.gradient[leaf][known]
    error = np.linalg.norm(found - expected)
    slack = OF_THE_ERROR * error + OF_THE_NOISE * np.linalg.norm(comparison.truth.noise[leaf][known])
    return bool(np.linalg.norm(found - hypothesis[known]) <= slack < 0.5 * error)


def _consistent(evidence: Evidence, leaf: int, hypothesis: Callable[[Comparison], np.ndarray]) -> bool:
    """Whether a hypothesis holds also where the candidate is right."""
    for comparison in evidence.comparisons:
        if comparison.comparable(leaf) and not comparison.wrong(leaf).any():
            known = comparison.judged(leaf)
            apart = np.linalg.norm(hypothesis(comparison)[known] - comparison.answer(leaf)[known])
            if apart > comparison.limit * np.linalg.norm(comparison.truth.noise[leaf][known]):
                return False
    return True


# Simple transformations ----------------------------------------------------------------------------------------------


def _non_finite(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    for comparison in shown:
        lost = comparison.judged(leaf) & ~np.isfinite(comparison.answer(leaf))
        if lost.any():
            return "non_finite", (
                f"it is NaN or infinite in {lost.sum()} of {lost.size} elements, where the right value is finite: "
                "look for a division by 0, the logarithm of 0, or ∞ - ∞"
            )
    return None


def _zero(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    if any(c.answer(leaf).any() for c in evidence.comparisons):
        return None
    none = all(c.candidate[leaf] is None for c in shown)
    return "zero", "it is " + (
        "None, which means zeros" if none else "zero everywhere"
    ) + ": the gradient never arrives"


def _nonlinear(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    """Twice the cotangent must give twice the gradient."""
    if evidence.problem.rule.scalar:
        return None
    here = shown[0]

    def times(factor: float) -> np.ndarray:
        scaled = [factor * c for c in here.place.cotangent]
        answer = by_candidate(
            evidence.problem, here.place.point, scaled, traced=evidence.traced, float64=evidence.float64
        )
        return here._replace(candidate=answer).answer(leaf)

    once, twice, opposite = here.answer(leaf), times(2.0), times(-1.0)
    slack = 4 * OF_THE_NOISE * np.linalg.norm(here.truth.noise[leaf]) + 1e-9 * np.linalg.norm(once)

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return not np.linalg.norm(a - b) > slack

    if (same(twice, 2 * once) and same(opposite, -once)) or same(twice - once, here.truth.gradient[leaf]):
        return None  # linear, or a term that does not depend on the cotangent was added
    if same(twice, once) and same(opposite, once):
        return "nonlinear", "the cotangent is ignored: multiply by it, the chain rule's factor from above"
    return "nonlinear", (
        "twice the cotangent does not give twice the gradient, or its opposite the opposite: a derivative is linear in "
        "the cotangent"
    )


def _proportional(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    """candidate = k · expected with the same k everywhere."""
    factors = []
    for comparison in shown:
        expected = np.where(comparison.judged(leaf), comparison.truth.gradient[leaf], 0)
        size = float(np.square(expected).sum())
        factor = float((expected * comparison.answer(leaf)).sum() / size) if size else math.nan
        if not _explained(comparison, leaf, factor * comparison.truth.gradient[leaf]):
            return None
        factors.append(factor)
    k = float(np.median(factors))
    if k == 0 or not np.allclose(factors, k, rtol=1e-3 if not evidence.float64 else 1e-6):
        return None
    if not _consistent(evidence, leaf, lambda c: k * c.truth.gradient[leaf]):
        return None
    if math.isclose(k, -1, rel_tol=1e-3):
        return "sign", "every entry has the wrong sign"
    return "scale", _factor_in_words(evidence.problem, k)


def _factor_in_words(problem: Problem, k: float) -> str:
    sign = " and has the wrong sign" if k < 0 else ""
    k = abs(k)
    size, much = (k, "large") if k > 1 else (1 / k, "small")
    text = f"every entry is {size:.6g} times too {much}{sign}"
    for number, meaning, remedy in _numbers_in_sight(problem):
        if math.isclose(size, number, rel_tol=1e-4):
            return f"{text}; {meaning}: {remedy[0] if k > 1 else remedy[1]}"
    return text


def _numbers_in_sight(problem: Problem) -> Iterator[tuple[float, str, tuple[str, str]]]:
    """Numbers that turn up as wrong factors, what they are and what to do about a gradient too large or too small."""
    by_mean = ("the mean's 1/{0} is missing, divide by it once", "it is divided by {0} once too often")
    sizes: dict[int, str] = {}
    named = [
        *zip(problem.paths, problem.differentiated, strict=True),
        *(("a fixed argument", f) for f in problem.fixed),
    ]
    leading = {leaf.shape[0] for _, leaf in named if len(leaf.shape) > 1}
    for name, leaf in [*((n, f) for n, f in named if n == "a fixed argument"), *named]:
        for axis, length in enumerate(leaf.shape):
            sizes.setdefault(length, f"{length} is the length of axis {axis} of {name or 'the argument'}")
        sizes.setdefault(leaf.size, f"{leaf.size} is the number of elements of {name or 'the argument'}")
    for length, meaning in sizes.items():
        if length > 2:
            also = ", the number of examples" if length in leading and "axis 0 of a fixed" in meaning else ""
            yield length, meaning + also, (by_mean[0].format(length), by_mean[1].format(length))
    for length, meaning in sizes.items():
        if length > 2:
            yield (
                length**2,
                f"{meaning}, and it counts twice",
                (f"divide by {length} twice", f"divide by {length} once"),
            )
    yield 2, "the derivative of a square has a factor 2", ("it stands once too often", "it is missing")


def _transposed(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    shape = shown[0].truth.gradient[leaf].shape
    square = len(shape) == 2 and shape[0] == shape[1]
    if square and all(_explained(c, leaf, c.truth.gradient[leaf].T) for c in shown):
        return "transpose", "it is the transpose of the right gradient: swap the factors of the matrix product"
    return None


def _another_leaf(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    for other, path in enumerate(evidence.problem.paths):
        same = all(c.truth.gradient[other].shape == c.truth.gradient[leaf].shape for c in shown)
        if other != leaf and same and all(_explained(c, leaf, c.truth.gradient[other]) for c in shown):
            return "structure", f"it is the gradient of {path}: the order of the leaves is mixed up"
    return None


def _extra_term(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    """candidate = expected + λ · something in sight, with the same λ everywhere."""
    for name, term in _terms(evidence.problem, leaf):
        factors = []
        for comparison in shown:
            error, x = comparison.answer(leaf) - comparison.truth.gradient[leaf], term(comparison)
            size = float(np.square(x).sum())
            factor = float((x * error).sum() / size) if size else math.nan
            if not _explained(comparison, leaf, comparison.truth.gradient[leaf] + factor * x):
                break
            factors.append(factor)
        if len(factors) < len(shown):
            continue
        for through, upstream in (("", lambda c: 1.0), (", times the cotangent", _scalar_cotangent)):
            k = np.array(factors) / [upstream(c) for c in shown]
            if np.allclose(k, k[0], rtol=1e-3) and _consistent(
                evidence, leaf, lambda c, k=k[0], x=term, u=upstream: c.truth.gradient[leaf] + k * u(c) * x(c)
            ):
                if name == "the cotangent" and math.isclose(k[0], -1, rel_tol=1e-3):
                    text = "the path that hands the cotangent on as it is, such as a skip connection's, is missing"
                    return "partial", text
                decay = ", as weight decay does" * (name == "itself")
                return "extra_term", f"an extra term is added: {k[0]:.4g} times {name}{through}{decay}"
    return None


def _scalar_cotangent(comparison: Comparison) -> float:
    upstream = comparison.place.cotangent[0]
    return float(upstream) if upstream.ndim == 0 else 1.0


def _terms(problem: Problem, leaf: int) -> Iterator[tuple[str, Callable[[Comparison], np.ndarray]]]:
    """What may be added to a leaf's gradient by mistake, and its name."""
    shape = problem.differentiated[leaf].shape
    yield "itself", lambda c: c.place.point[leaf]
    yield "its sign", lambda c: np.sign(c.place.point[leaf])
    yield "1", lambda c: np.ones(shape)
    for other, path in enumerate(problem.paths):
        if other != leaf and problem.differentiated[other].shape == shape:
            yield path, lambda c, other=other: c.place.point[other]
            yield f"the gradient of {path}", lambda c, other=other: c.truth.gradient[other]
    for fixed in problem.fixed:
        if fixed.shape == shape and getattr(fixed.dtype, "kind", "") in "fiu":
            yield "a fixed argument", lambda c, fixed=fixed: np.asarray(fixed, np.float64)
    if not problem.rule.scalar:
        for position, output in enumerate(
            jax.tree.leaves(problem.rule.output_shapes(problem.differentiated, problem.fixed))
        ):
            if output.shape == shape and position == 0:
                yield "the cotangent", lambda c: c.place.cotangent[0]


def _lost_digits(shown: list[Comparison], leaf: int) -> Verdict | None:
    """Everything that is wrong is nearly right."""
    errors = [c.error(leaf) for c in shown]
    for comparison in shown:
        bad = comparison.wrong(leaf)
        expected = comparison.truth.gradient[leaf][bad]
        errors.append(float(np.median(np.abs(comparison.answer(leaf)[bad] - expected) / (np.abs(expected) + 1e-300))))
    if not max(errors) < NEARLY:
        return None
    digits = -math.log10(max(*errors, 1e-17))
    return "precision", (
        f"the formula agrees to {digits:.0f} digits and no further in float64: part of it is computed in a narrower "
        "dtype, by finite differences, or as a difference of nearly equal numbers"
    )


def _lost_tail(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    """What is wrong is tiny beside the gradient's size elsewhere, where it is right."""

    def largest(values: np.ndarray, comparison: Comparison) -> float:
        upstream = math.sqrt(sum(float(np.mean(np.square(c))) for c in comparison.place.cotangent)) or 1.0
        return float(np.abs(values).max(initial=0)) / upstream

    known = [c for c in evidence.comparisons if c.comparable(leaf)]
    scale = max(largest(np.where(c.judged(leaf), c.truth.gradient[leaf], 0), c) for c in known)
    lost = max(largest(np.where(c.wrong(leaf), c.answer(leaf) - c.truth.gradient[leaf], 0), c) for c in shown)
    if not lost < NEARLY * scale:
        return None
    return "precision", "the derivative is lost where it is tiny beside its size elsewhere: it is not 0 there"


# Simulated mistakes --------------------------------------------------------------------------------------------------


def _simulated(evidence: Evidence) -> list[tuple[Verdict, dict[int, Leaves]]]:
    """The mistakes in the chain rule that change some leaf into the candidate's, with their gradients at each place.

    Every one is tried at the first place, and those that explain something there at all others.
    """
    problem, comparisons = evidence.problem, evidence.comparisons
    wrong = [c for c in comparisons if any(c.comparable(i) and c.wrong(i).any() for i in range(len(problem.paths)))]
    if not wrong:
        return []
    try:
        mutants, gradient = simulations(problem)
    except Exception:  # a function that cannot be traced or differentiated has no simulations
        return []
    first = wrong[0]
    found = []
    for mutant in mutants:
        answers = {id(first): gradient(mutant, first.place.point, first.place.cotangent)}
        explained = sum(
            1
            for leaf in range(len(problem.paths))
            if first.comparable(leaf) and first.wrong(leaf).any() and _explained(first, leaf, answers[id(first)][leaf])
        )
        if explained:
            rest = (c for c in comparisons if c is not first)
            answers |= {id(c): gradient(mutant, c.place.point, c.place.cotangent) for c in rest}
            found.append((explained, ((mutant.kind, mutant.explanation), answers)))
    # What explains the most leaves comes first, then what was listed first: g' missing before a path cut.
    order = {"activation": 0, "transpose": 1, "sign": 2, "scale": 3, "partial": 4}
    found.sort(key=lambda pair: (-pair[0], order.get(pair[1][0][0], 9)))
    return [simulation for _, simulation in found]


def _elementwise(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    """For a = g(z), and for a leaf in the form of a loss's logits: what is written in place of g', or on top of it."""
    outputs = shown[0].truth.outputs
    shape = shown[0].truth.gradient[leaf].shape
    for text, factor in INTRUDERS:

        def intruded(c: Comparison, factor: Any = factor) -> np.ndarray:
            return c.truth.gradient[leaf] * np.asarray(factor(c.place.point[leaf]))

        if all(_explained(c, leaf, intruded(c)) for c in shown) and _consistent(evidence, leaf, intruded):
            return "activation", f"{text} derivative is multiplied on, and the rest of the gradient contains it already"
    if (
        evidence.problem.rule.scalar
        or len(outputs) != 1
        or len(evidence.problem.paths) != 1
        or outputs[0].shape != shape
    ):
        return None

    diagonals = [_diagonal(evidence.problem, c) for c in shown[:2]]
    if all(d is not None and _explained(c, leaf, d) for c, d in zip(shown, diagonals, strict=False)):
        return "partial", "only the diagonal of the Jacobian is there: each output depends on several inputs"

    def slope(z: Any) -> Any:
        _, gradients = outputs_and_gradients(evidence.problem, stacked([np.asarray(z)]), stacked([np.ones(shape)]))
        return gradients[0][0]

    for text, substitute in SUBSTITUTES:

        def substituted(c: Comparison, substitute: Any = substitute) -> np.ndarray:
            with np.errstate(all="ignore"):
                factor = substitute(c.place.point[leaf], c.truth.outputs[0], slope)
                return c.place.cotangent[0] * np.asarray(factor)

        if all(_explained(c, leaf, substituted(c)) for c in shown) and _consistent(evidence, leaf, substituted):
            return "activation", f"the derivative {text}"
    return None


def _diagonal(problem: Problem, comparison: Comparison) -> np.ndarray | None:
    """The gradient of an output by its own input, as if the function acted element by element."""
    (cotangent,) = comparison.place.cotangent
    if cotangent.size > LARGEST_BATCH:
        return None
    answers = _masked(
        problem, comparison, [np.eye(1, cotangent.size, k).reshape(cotangent.shape) for k in range(cotangent.size)]
    )
    return np.array([answer[0].flat[k] for k, answer in enumerate(answers)]).reshape(cotangent.shape)


def _narrow(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    """The candidate rounds to a narrower dtype than the user's, and that explains how far it is off."""
    if not evidence.traced or not evidence.float64:
        return None
    unit = narrowest(evidence.problem, shown[0].place.cotangent)
    if unit <= DOUBLE or max(c.error(leaf) for c in shown) > 64 * unit:
        return None
    return (
        "precision",
        f"it is right to {unit:.0e} and no further: part of it is rounded to a dtype of that spacing inside",
    )


# Mistakes with a batch -----------------------------------------------------------------------------------------------


def _examples(evidence: Evidence, comparison: Comparison) -> list[Leaves]:
    """The gradients of the examples alone, whose sum is the gradient; empty where there is no batch.

    The cotangent of one example is the cotangent with all other rows 0.
    """
    problem = evidence.problem
    cotangent = comparison.place.cotangent
    if problem.rule.scalar or len({c.shape[:1] for c in cotangent}) != 1 or cotangent[0].ndim == 0:
        return []
    m = len(cotangent[0])
    if not 2 <= m <= LARGEST_BATCH:
        return []
    rows = np.eye(m)
    return _masked(problem, comparison, [row.reshape(-1, *[1] * (cotangent[0].ndim - 1)) for row in rows])


def _masked(problem: Problem, comparison: Comparison, masks: list[np.ndarray]) -> list[Leaves]:
    """The gradient for the cotangent under each mask."""
    found: list[Leaves] = []
    points = stacked(comparison.place.point)
    together = 1 + PERTURBATIONS
    for start in range(0, len(masks), together):
        some = masks[start : start + together]
        filled = some + [some[-1]] * (together - len(some))
        cotangents = [np.stack([mask * c for mask in filled]) for c in comparison.place.cotangent]
        _, gradients = outputs_and_gradients(problem, points, cotangents)
        found += [[g[k] for g in gradients] for k in range(len(some))]
    return found


def _by_example(evidence: Evidence, leaf: int, shown: list[Comparison]) -> Verdict | None:
    """Some examples are left out, or the wrong axis is summed."""
    batches = [_examples(evidence, c) for c in shown[:3]]
    if not all(batches):
        return None
    stacks = [np.stack([example[leaf] for example in batch]) for batch in batches]
    hypotheses = (
        ("partial", "the last example is left out of the sum over the batch", lambda s: s[:-1].sum(0)),
        ("partial", "the first example is left out of the sum over the batch", lambda s: s[1:].sum(0)),
        ("missing_reduction", "it is the first example's gradient alone: sum over the batch", lambda s: s[0]),
        ("missing_reduction", "it is the last example's gradient alone: sum over the batch", lambda s: s[-1]),
        ("missing_reduction", "the wrong axis is summed: sum over the batch", _summed_over_the_other_axis),
    )
    for kind, text, hypothesis in hypotheses:
        if all(_explained(c, leaf, hypothesis(s)) for c, s in zip(shown, stacks, strict=False)):
            return kind, text
    return None


def _summed_over_the_other_axis(stack: np.ndarray) -> np.ndarray:
    summed = stack.sum(axis=-1)
    return summed if summed.shape == stack.shape[1:] else np.full(stack.shape[1:], np.nan)


# Shapes --------------------------------------------------------------------------------------------------------------


def _shape(evidence: Evidence, leaf: int) -> Verdict:
    """Why a leaf has the wrong shape."""
    shown = [c for c in evidence.comparisons if not c.comparable(leaf)]
    found, expected = shown[0].answer(leaf), shown[0].truth.gradient[leaf]
    differ = f"shape {list(found.shape)} where {list(expected.shape)} is expected"

    def all_equal(transform: Any) -> bool:
        return all(
            np.allclose(
                transform(c.answer(leaf)), c.truth.gradient[leaf], rtol=1e-6, atol=c.limit * np.max(c.truth.noise[leaf])
            )
            for c in shown
        )

    if found.ndim == expected.ndim == 2 and found.shape == expected.shape[::-1]:
        more = "" if all_equal(np.transpose) else ", and not only that"
        return "transpose", f"{differ}: it is transposed{more}; swap the factors of the matrix product"
    if found.size == expected.size and all_equal(lambda x: x.reshape(expected.shape)):
        return "shape", f"{differ}: the numbers are right, reshape them"
    extra = found.ndim - expected.ndim
    if extra > 0 and found.shape[extra:] == expected.shape:
        axes = tuple(range(extra))
        if all_equal(lambda x: x.sum(axis=axes)):
            return "missing_reduction", f"{differ}: sum over the {'batch axis' if extra == 1 else 'batch axes'}"
        if all_equal(lambda x: x.mean(axis=axes)):
            return "missing_reduction", f"{differ}: take the mean over the batch axis"
    for axis in range(found.ndim):
        if np.delete(found.shape, axis).tolist() == list(expected.shape) and all_equal(lambda x, a=axis: x.sum(axis=a)):
            return "missing_reduction", f"{differ}: sum over axis {axis}"
    if found.ndim == expected.ndim and _broadcasts(expected.shape, found.shape):
        axes = tuple(i for i, (a, b) in enumerate(zip(expected.shape, found.shape, strict=True)) if a != b)
        if all_equal(lambda x: x.sum(axis=axes, keepdims=True)):
            return (
                "missing_reduction",
                f"{differ}: the argument was broadcast, sum over the axes {list(axes)} it was broadcast along",
            )
    batches = [_examples(evidence, c) for c in shown[:2]]
    if all(batches):
        stacks = [np.stack([example[leaf] for example in batch]) for batch in batches]
        pairs = list(zip(shown, stacks, strict=False))
        for axis in range(1, stacks[0].ndim):
            sums = [s.sum(axis=axis) for s in stacks]
            if all(
                s.shape == c.answer(leaf).shape and np.allclose(c.answer(leaf), s, rtol=1e-6)
                for (c, _), s in zip(pairs, sums, strict=True)
            ):
                return "missing_reduction", f"{differ}: the wrong axis is summed; sum over the batch"
    return "shape", f"{differ}: a gradient has its argument's shape"


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return all(a in (1, b) for a, b in zip(small, large, strict=True))


# Some of the elements ------------------------------------------------------------------------------------------------


def _some_elements(shown: list[Comparison], leaf: int) -> Verdict | None:
    """Some elements are right everywhere, others wrong."""
    wrong = functools.reduce(np.logical_or, (c.wrong(leaf) for c in shown))
    informative = functools.reduce(np.logical_or, (c.judged(leaf) & (c.truth.gradient[leaf] != 0) for c in shown))
    right = ~wrong & informative
    if not right.any():
        return None
    zeros = all(not c.answer(leaf)[wrong].any() for c in shown)
    return "partial", (
        f"{_where(wrong)} wrong, the other {right.sum()} right" + ("; the wrong ones are 0" if zeros else "")
    )


def _where(wrong: np.ndarray) -> str:
    """The pattern of the wrong elements in words."""
    if wrong.sum() == 1:
        return f"element {[int(i) for i in np.argwhere(wrong)[0]]} is"
    for axis in range(wrong.ndim):
        lines = np.moveaxis(wrong, axis, 0).reshape(wrong.shape[axis], -1)
        hit = np.flatnonzero(lines.any(axis=1))
        if len(hit) == 1 and wrong.ndim > 1:
            return f"{wrong.sum()} elements are, all at position {hit[0]} of axis {axis},"
    return f"{wrong.sum()} of {wrong.size} elements are"
