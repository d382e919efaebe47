"""Which mistake it is, from where candidate and reference part."""

import warnings
from collections.abc import Sequence

import numpy as np

from jaxnet.verify.engine.precision import Floats, in_float64
from jaxnet.verify.optimizers.comparison import Comparison
from jaxnet.verify.optimizers.conventions import (
    IN_FLOAT64,
    IN_OWN_DTYPE,
    Exhibit,
    Explanation,
    identify,
    identify_two,
    matches,
)
from jaxnet.verify.optimizers.differences import Pair
from jaxnet.verify.optimizers.recipe import Recipe
from jaxnet.verify.optimizers.recognition import recipe_of
from jaxnet.verify.optimizers.sides import Side
from jaxnet.verify.report import Kind

Verdict = tuple[Kind, str]
ONE = 1e-14  # nearer to 1 a factor is none


def of_updates(compared: Sequence[Comparison]) -> Verdict:
    """The kind of mistake in the updates and its explanation, from every setting.

    Several that explain all updates are all said, the simplest first.
    """
    slack = IN_FLOAT64 if all(comparison.float64 for comparison in compared) else IN_OWN_DTYPE
    exhibits = [comparison.exhibit(comparison.wrong()) for comparison in compared]
    known = [e._replace(recipe=_recipe(e, c.sides.reference)) for e, c in zip(exhibits, compared, strict=True)]
    for hypothesis in (_nothing, _new_parameters, _climbs, _identified, _scheduled, identify_two):
        with np.errstate(all="ignore"):
            found = hypothesis(known, slack)
        if found:
            return found[0].kind, ". Or: ".join(dict.fromkeys(explanation.sentence for explanation in found))
    if all(_some_right(comparison, slack) for comparison in compared if comparison.wrong()):
        return "partial", "some elements are wrong where others are right"
    pairs = [pair for comparison in compared for pair in comparison.updates if pair.first]
    if any(not np.isfinite(pair.first.candidate) for pair in pairs if pair.first):
        return "non_finite", "the update is not a number where the reference's is one"
    if all(len(comparison.wrong()) < len(comparison.updates) for comparison in compared):
        return "partial", "other leaves are right: this one is treated otherwise"
    return "unknown", "the updates are others, and no convention that is known here explains it"


def _some_right(comparison: Comparison, slack: float) -> bool:
    """Whether some elements of the wrong leaves are right in every sequence."""
    e = comparison.exhibit(comparison.wrong())
    right = np.isclose(e.candidate, e.reference, rtol=slack, atol=0, equal_nan=True).all(axis=0)
    right = right.reshape(len(comparison.records), -1).all(axis=0)
    return bool(right.any())


def _recipe(exhibit: Exhibit, side: Side) -> Recipe | None:
    """What the reference is, if that reproduces what it did; weight decay may be masked."""
    try:
        with in_float64():
            recipe = recipe_of(side.optimizer, len(exhibit.gradients))
    except Exception:  # what an optimizer closes over need not be what its name says
        return None
    as_itself = exhibit._replace(candidate=exhibit.reference)
    for possible in (recipe, recipe and recipe._replace(decay=0.0)):
        if possible and matches(as_itself, possible, IN_FLOAT64):
            return possible
    return None


def _nothing(exhibits: Sequence[Exhibit], slack: float) -> list[Explanation]:
    if all((e.candidate == 0).all() for e in exhibits):
        return [Explanation("zero", "the update is zero in every step")]
    return []


def _new_parameters(exhibits: Sequence[Exhibit], slack: float) -> list[Explanation]:
    if all(np.allclose(e.candidate, e.parameters + e.reference, rtol=slack) for e in exhibits):
        text = "it returns the new parameters θ + u; an update u is expected, which is added to θ"
        return [Explanation("convention", text)]
    return []


def _climbs(exhibits: Sequence[Exhibit], slack: float) -> list[Explanation]:
    if all(np.allclose(e.candidate, -e.reference, rtol=slack, atol=0) for e in exhibits):
        text = "the sign is wrong: the update climbs; an update is added to θ, so that it must be -αd"
        return [Explanation("convention", text)]
    return []


def _identified(exhibits: Sequence[Exhibit], slack: float) -> list[Explanation]:
    """What is done otherwise, and the one factor between all updates, if there is one."""
    return [*identify(exhibits, slack), *_scaled(exhibits, slack)]


def _scaled(exhibits: Sequence[Exhibit], slack: float) -> list[Explanation]:
    """One factor for all updates."""
    factors = _of_steps(exhibits, slack)
    every = np.concatenate(factors) if factors else np.empty(0)
    every = every[~np.isnan(every)]
    if not len(every) or not np.allclose(every, every[0], rtol=slack) or abs(every[0] - 1) < ONE:
        return []
    beside_1 = every[0] - 1
    near = f"1 {'+' if beside_1 > 0 else '-'} {abs(beside_1):.2g}"
    factor = near if abs(beside_1) < 1e-3 else f"{every[0]:.6g}"
    return [Explanation("scale", f"every update is {factor} times the reference's")]


def _scheduled(exhibits: Sequence[Exhibit], slack: float) -> list[Explanation]:
    """One factor for the updates of each step, which another schedule of the learning rate makes."""
    for found in _of_steps(exhibits, slack) or []:
        steps = np.flatnonzero(np.abs(found - 1) > slack)
        if len(steps):
            shown = ", ".join(f"{found[step]:.6g} in step {step + 1}" for step in steps[:2])
            text = f"all updates of a step are one factor times the reference's, {shown}"
            return [Explanation("value", f"{text}: as if the learning rate followed another schedule")]
    return []


def _of_steps(exhibits: Sequence[Exhibit], slack: float) -> list[Floats] | None:
    """For each exhibit the factors of its steps; None if one has none."""
    factors = [_factors(e, slack) for e in exhibits if e.candidate.size]
    return None if any(found is None for found in factors) else [found for found in factors if found is not None]


def _factors(e: Exhibit, slack: float) -> Floats | None:
    """For each step the one factor between all updates of both, NaN where these are 0; None if there is no such."""
    least = np.finfo(float).eps * np.abs(e.reference).max(initial=0, where=np.isfinite(e.reference))
    zero = (np.abs(e.candidate) <= least) & (np.abs(e.reference) <= least)
    ratios = np.where(zero, np.nan, e.candidate / e.reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a number
        middle = np.nanmedian(ratios, axis=1)
    same = np.isnan(ratios) | np.isclose(ratios, middle[:, None], rtol=slack, atol=0)
    return middle if same.all() else None


def of_a_field(pair: Pair, *, counter: bool, updates: Verdict | None) -> Verdict:
    """What is wrong with a field of the state, beside what is wrong with the updates."""
    assert pair.first is not None
    if counter and stops(pair):
        last = pair.first.candidate
        text = f"the counter stops at {last:.9g}: its dtype has no next integer; count in int32, always"
        return "precision", text
    what = ""
    if pair.shift is not None:
        what = f"it is the reference's plus {pair.shift:.6g} in every step"
    elif pair.factor is not None:
        what = f"it is {pair.factor:.6g} times the reference's in every step"
    if updates:
        return updates[0], (what or "it is another than the reference's") + "; see the updates"
    if what:
        return (
            "convention",
            f"{what}, while the updates agree: another form of the same rule, whose state is not the same",
        )
    return "unknown", "it is another than the reference's, while the updates agree"


def stops(pair: Pair) -> bool:
    """Whether a counter counts up to some step and no further."""
    return pair.first is not None and pair.first.candidate == pair.first.expected - 1 > 0 and pair.shift is None
