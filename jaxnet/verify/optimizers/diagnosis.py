"""Which mistake it is, from where candidate and reference part."""

from collections.abc import Sequence

import numpy as np

from jaxnet.verify.engine.precision import in_float64
from jaxnet.verify.optimizers.comparison import Comparison
from jaxnet.verify.optimizers.conventions import IN_FLOAT64, IN_OWN_DTYPE, Exhibit, identify, matches
from jaxnet.verify.optimizers.differences import Pair
from jaxnet.verify.optimizers.recipe import Recipe
from jaxnet.verify.optimizers.recognition import recipe_of
from jaxnet.verify.optimizers.sides import Side
from jaxnet.verify.report import Kind

Verdict = tuple[Kind, str]


def of_updates(compared: Sequence[Comparison]) -> Verdict:
    """The kind of mistake in the updates and its explanation, from every setting."""
    slack = IN_FLOAT64 if all(comparison.float64 for comparison in compared) else IN_OWN_DTYPE
    exhibits = [comparison.exhibit(comparison.wrong()) for comparison in compared]
    shown = [exhibit for exhibit in exhibits if exhibit.candidate.size]
    with np.errstate(all="ignore"):
        for hypothesis in (_nothing, _new_parameters, _climbs):
            verdict = hypothesis(shown, slack)
            if verdict:
                return verdict
    known = [e._replace(recipe=_recipe(e, c.sides.reference)) for e, c in zip(exhibits, compared, strict=True)]
    sentence = identify(known, slack)
    if sentence:
        return "convention", sentence
    pairs = [pair for comparison in compared for pair in comparison.updates if pair.first]
    factors = [pair.factor or np.nan for pair in pairs]
    if np.allclose(factors, factors[0], rtol=slack):
        beside_1 = factors[0] - 1
        near = f"1 {'+' if beside_1 > 0 else '-'} {abs(beside_1):.2g}"
        factor = near if abs(beside_1) < 1e-3 else f"{factors[0]:.6g}"
        return "scale", f"every update is {factor} times the reference's"
    if all(_some_right(comparison, slack) for comparison in compared if comparison.wrong()):
        return "partial", "some elements are wrong where others are right"
    sentence = identify(known, slack, changes=2)
    if sentence:
        return "convention", sentence
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
    """What the reference is, if that reproduces what it did."""
    with in_float64():
        recipe = recipe_of(side.optimizer, len(exhibit.gradients))
    as_itself = exhibit._replace(candidate=exhibit.reference)
    return recipe if recipe and matches(as_itself, recipe, IN_FLOAT64) else None


def _nothing(shown: Sequence[Exhibit], slack: float) -> Verdict | None:
    if all((e.candidate == 0).all() for e in shown):
        return "zero", "the update is zero in every step"
    return None


def _new_parameters(shown: Sequence[Exhibit], slack: float) -> Verdict | None:
    if all(np.allclose(e.candidate, e.parameters + e.reference, rtol=slack) for e in shown):
        return "convention", "it returns the new parameters θ + u; an update u is expected, which is added to θ"
    return None


def _climbs(shown: Sequence[Exhibit], slack: float) -> Verdict | None:
    if all(np.allclose(e.candidate, -e.reference, rtol=slack, atol=0) for e in shown):
        return "convention", "the sign is wrong: the update climbs; an update is added to θ, so that it must be -αd"
    return None


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
