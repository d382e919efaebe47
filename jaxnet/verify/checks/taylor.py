"""Taylor's theorem as a judge that knows nothing of autodiff: f(x + hv) - f(x) - h⟨g, v⟩ falls like h²."""

import math

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.differences import Slope, size, slope
from jaxnet.verify.engine.hearing import NOTHING, Hearing, Outcome
from jaxnet.verify.engine.places import Place
from jaxnet.verify.engine.precision import Leaves
from jaxnet.verify.engine.randomness import normals
from jaxnet.verify.engine.trial import Trial
from jaxnet.verify.report import Finding

STEP = 2.0**-12
DIRECTIONS = 3


def along(trial: Trial, place: Place, direction: Leaves) -> Slope:
    """The slope along a direction by differences."""
    levels = 2 if trial.case.large else 3
    return slope(trial.function.outputs, place.point, place.cotangent, direction, STEP, levels)


def random_direction(point: Leaves, generator: np.random.Generator) -> Leaves:
    """Normal numbers of the size of each leaf."""
    return [size(leaf) * normals(generator, leaf.shape) for leaf in point]


def agrees(gradient: Leaves, direction: Leaves, slope: Slope) -> bool:
    """Whether ⟨g, v⟩ is the slope, up to a hundred times the doubt and a millionth of the size of its terms."""
    terms = [np.asarray(g) * v for g, v in zip(gradient, direction, strict=True)]
    scale = np.sqrt(sum(float(np.square(term).sum()) for term in terms))
    difference = abs(sum(float(term.sum()) for term in terms) - slope.value)
    return not difference > 100 * slope.doubt + 1e-6 * (scale + abs(slope.value))


def contradicts_autodiff(trial: Trial, generic: list[Comparison]) -> bool:
    """Whether Taylor's theorem confirms a candidate that differs from autodiff, and contradicts autodiff."""
    if not _applies(trial) or trial.case.traits.holds_fixed:
        return False
    confirmed = contradicted = 0
    for comparison in generic[:DIRECTIONS]:
        direction = random_direction(comparison.place.point, trial.generator)
        slope = along(trial, comparison.place, direction)
        answer = [comparison.answer(i) for i in range(len(direction))]
        confirmed += math.isfinite(slope.doubt) and agrees(answer, direction, slope)
        contradicted += not agrees(comparison.truth.gradient, direction, slope)
    return confirmed == contradicted > 0


def _applies(trial: Trial) -> bool:
    return trial.exact and trial.function.mode != "differences"


def check(hearing: Hearing) -> Outcome:
    """The candidate agrees with autodiff; the function itself decides whether autodiff is right."""
    trial = hearing.trial
    generic = hearing.in_domain(hearing.generic)
    if not _applies(trial) or not generic:
        return NOTHING
    comparison = generic[min(1, len(generic) - 1)]
    point = comparison.place.point
    whole = random_direction(point, trial.generator)
    if _confirms(trial, comparison, whole) is None:
        return Outcome(covers="Taylor's theorem")
    if trial.case.traits.holds_fixed:
        note = "stop_gradient makes the function's slope another than its gradient: autodiff alone judges"
        return Outcome(notes=(note,))
    findings = []
    for i, path in enumerate(trial.case.paths):
        direction = [part if j == i else np.zeros(part.shape) for j, part in enumerate(whole)]
        contradiction = _confirms(trial, comparison, direction)
        if contradiction:
            findings.append(Finding(path, "unknown", contradiction, where=comparison.place.name))
    return Outcome(tuple(findings), covers="Taylor's theorem", settled=bool(findings))


def _confirms(trial: Trial, comparison: Comparison, direction: Leaves) -> str | None:
    """None if the gradient is the slope along a direction; else what contradicts it, in words."""
    slope = along(trial, comparison.place, direction)
    answer = [comparison.answer(i) for i in range(len(direction))]
    if not math.isfinite(slope.doubt) or agrees(answer, direction, slope):
        return None
    claimed = sum(float((g * v).sum()) for g, v in zip(answer, direction, strict=True))
    # What rounding explains of the gradient, and what the residual of an approximate forward pass does.
    explained = sum(float((noise * abs(v)).sum()) for noise, v in zip(comparison.truth.noise, direction, strict=True))
    if abs(claimed - slope.value) <= comparison.limit * explained:
        return None
    return (
        f"it agrees with autodiff, but not with the function: along a direction the function's slope is "
        f"{slope.value:.6g} and the gradient says {claimed:.6g}; a rule inside the function is wrong"
    )
