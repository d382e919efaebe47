"""Which convention a candidate follows where the reference follows another: known variants are run and compared."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.optimizers.recipe import Recipe, simulate
from jaxnet.verify.optimizers.values import ELEMENTS, NUMBERS, STEPS, solved, with_number
from jaxnet.verify.report import Kind

# What each choice is called, in the order in which they are tried: the most usual first.
CHOICES: dict[str, dict[object, str]] = {
    "ascends": {False: "the update is subtracted", True: "the sign is wrong: the update climbs, θ := θ + u"},
    "eps_at": {
        "outside": "ε is outside the square root, √v̂ + ε",
        "inside": "ε is inside the square root, √(v̂ + ε)",
        "squared": "ε² is inside the square root, √(v̂ + ε²)",
        "uncorrected": "ε is added before bias correction, √v + ε (TensorFlow's ε̂)",
        "subtracted": "ε is subtracted, √v̂ - ε",
        "nowhere": "ε is missing",
    },
    "eps_in_gradient": {False: "gradients are taken as they are", True: "ε is added to every gradient"},
    "eps_root_at": {
        "root": "ε_root is added under the root",
        "state": "ε_root is added to v in the state, where it accumulates",
    },
    "root": {
        True: "the direction is divided by √v̂",
        False: "the square root is missing: it divides by v̂ itself",
        "multiplied": "the direction is multiplied by √v̂ + ε, not divided by it",
    },
    "correct_first": {True: "m is corrected for bias, m/(1 - β₁ᵗ)", False: "m has no bias correction"},
    "correct_second": {True: "v is corrected for bias, v/(1 - β₂ᵗ)", False: "v has no bias correction"},
    "counted": {
        0: "bias correction counts steps from 1",
        -1: "bias correction is one step late: it counts from 0, t - 1 in place of t",
        1: "bias correction is one step early: it counts from 2, t + 1 in place of t",
        None: "the counter of bias correction never advances: t is 1 in every step",
        "every other": "the counter of bias correction advances in every other step only",
    },
    "corrected_as": {
        "divided": "moments are divided by 1 - βᵗ",
        "multiplied": "moments are multiplied by 1 - βᵗ, not divided by it",
        "complement": "moments are divided by βᵗ, not by 1 - βᵗ",
    },
    "corrected_by": {"b2": "v is corrected with β₂", "b1": "v is corrected with β₁, 1 - β₁ᵗ"},
    "kept": {
        "plain": "the moments are kept as they are",
        "corrected": "the corrected moments are kept in the state, and corrected again in the next step",
        "not": "the moments are not kept: each step starts from the initial ones",
    },
    "begins": {
        "zeros": "the moments begin with 0",
        "whole": "the moments begin with the first g and g² whole, without the factors 1 - β",
    },
    "first": {
        "average": "m is an average, βm + (1 - β)g (the lecture's form)",
        "sum": "m is a sum, βm + g (heavy ball)",
        "exchanged": "the weights of m's average are exchanged: it is (1 - β)m + βg",
        "nothing": "there is no momentum",
    },
    "second": {
        "average": "v is an average, βv + (1 - β)g²",
        "exchanged": "the weights of v's average are exchanged: it is (1 - β)v + βg²",
        "decayed sum": "v is βv + g², without the factor 1 - β",
        "sum": "v is the sum of all g² (Adagrad)",
        "maximum": "v is a maximum, max(βv, |g|) (Adamax)",
        "nothing": "there is no division by the root of v",
    },
    "of": {
        "g²": "v is made of g²",
        "|g|": "v is made of |g|, not squared",
        "m²": "v is made of m², not of g²",
        "(g - m)²": "v is made of (g - m)² (AdaBelief)",
    },
    "ahead": {
        "no": "there is no Nesterov step ahead",
        "moment": "Nesterov's step ahead is βm + g, in the same step's weights",
        "corrected": "Nesterov's step ahead is Dozat's, β₁m/(1 - β₁ᵗ⁺¹) + (1 - β₁)g/(1 - β₁ᵗ)",
        "scheduled": "Nesterov's step ahead follows Dozat's schedule of β₁ (as PyTorch and Keras have it)",
        "bare": "Nesterov's step ahead is βm alone, without the gradient",
        "subtracted": "the velocity is subtracted from the gradient, g - βm",
    },
    "rate_at": {
        "direction": "the learning rate multiplies the finished direction",
        "gradient": "the learning rate is inside the momentum, βm + αg: it differs when α changes",
        "trail": "the learning rate is outside the momentum: it differs when α changes",
    },
    "rate_step": {
        0: "the schedule is read with the number of finished steps",
        1: "the schedule is read one step early, with the count after the step",
        -1: "the schedule is read one step late",
        "held": "the schedule is read one step late, its first rate twice",
        None: "the schedule stays at its start",
    },
    "decay_at": {
        "direction": "weight decay is decoupled, added to the direction as αλθ",
        "gradient": "weight decay is coupled, λθ added to the gradient (L2, not decoupled)",
        "update": "weight decay is not multiplied by the learning rate",
        "corrected": "weight decay is multiplied by the learning rate with the bias corrections in it",
        "factor": "weight decay multiplies the gradient, by 1 + λθ",
        "start": "weight decay is multiplied by the first learning rate, not by that of its step",
        "after": "weight decay is of the parameters after the step, θ - αd, not before it",
        "nowhere": "weight decay is missing",
    },
    "stale": {
        "no": "the moments of this step are used",
        "first": "m is stale: the update reads the moment from before the step",
        "second": "v is stale: the update reads the moment from before the step",
        "both": "both moments are stale: the update reads them from before the step",
        "fresh": "the direction reads the moment from after the step (Lion's is from before)",
    },
    "late": {False: "the update is this step's", True: "the update is that of the step before"},
    "centered": {True: "the squared average of g is subtracted from v (centred)", False: "v is not centred"},
    "largest": {
        "no": "there is no maximum over the steps",
        "corrected": "AMSGrad's maximum is over the corrected v̂",
        "uncorrected": "AMSGrad's maximum is over v before its correction",
    },
    "signed": {True: "the direction is a sign", False: "the sign of the direction is not taken"},
    "sign": {True: "the sign of the direction is the direction", False: "the sign of the direction is not taken"},
    "trail_ahead": {False: "the velocity is applied as it is", True: "the velocity is formed once more, as Nesterov's"},
}
# Choices that leave a term out.
MISSING = {("eps_at", "nowhere"), ("decay_at", "nowhere")}
SCREENED_STEPS = (1, 4, 24)
LATE = 32  # steps after which pairs of changes are not looked for: every one is simulated from the start
IN_FLOAT64, IN_OWN_DTYPE = 1e-9, 1e-3
OF_THE_DIFFERENCE = 1e-4
NO_DECAY = 1e-15


class Exhibit(NamedTuple):
    """What candidate and reference did in one setting, to elements of the parameters chosen for it.

    Attributes:
        recipe: what the reference is, None if it is not known.
        gradients: (steps, elements).
        parameters: before each step.
        candidate: its updates.
        reference: its updates.
    """

    recipe: Recipe | None
    gradients: Floats
    parameters: Floats
    candidate: Floats
    reference: Floats

    def until(self, step: int) -> "Exhibit":
        """The first steps only."""
        return self._replace(
            gradients=self.gradients[:step],
            parameters=self.parameters[:step],
            candidate=self.candidate[:step],
            reference=self.reference[:step],
        )


class Explanation(NamedTuple):
    """A mistake that explains every update.

    Attributes:
        kind: which it is.
        sentence: what the candidate does, and what the reference does.
    """

    kind: Kind
    sentence: str


class Variation(NamedTuple):
    """A recipe with something changed, in words.

    Attributes:
        fields: what is changed.
        change: of the recipe.
        here: what the candidate does, in words.
        there: what the reference does.
        kind: of mistake.
    """

    fields: tuple[str, ...]
    change: Callable[[Recipe], Recipe]
    here: str
    there: str = ""
    kind: Kind = "convention"

    def sentence(self) -> str:
        """What the candidate does, and what the reference does."""
        return f"{self.here}; in the reference, {self.there}" if self.there else self.here


def variations(recipe: Recipe) -> Iterator[Variation]:
    """The recipe with one thing changed, each in turn."""
    if recipe.b1 and recipe.b2:
        yield Variation(
            ("b1", "b2"), lambda r: r._replace(b1=r.b2, b2=r.b1), "the two decay rates β₁ and β₂ are exchanged"
        )
    if recipe.correct_first and recipe.correct_second:
        yield _to({"correct_first": False, "correct_second": False}, "bias correction is absent", "m and v have it")
    if recipe.b1 and recipe.b2:
        yield Variation(("b2",), lambda r: r._replace(b2=r.b1), "β₁ stands where β₂ should")
        yield Variation(("b1",), lambda r: r._replace(b1=r.b2), "β₂ stands where β₁ should")
    if recipe.decay:
        sign = "weight decay has the wrong sign: it makes the weights grow"
        yield Variation(("decay",), lambda r: r._replace(decay=-r.decay), sign)
    if recipe.counted is not None:
        yield _to({"counted": None, "rate_step": None}, "the step counter never advances", "it counts the steps")
    for field, values in CHOICES.items():
        now = getattr(recipe, field)
        for value, words in values.items():
            if value != now and _means_something(recipe, field, value):
                kind = "missing_term" if (field, value) in MISSING else "convention"
                yield _to({field: value}, words, values[now])._replace(kind=kind)
    for power, words in ((2, "the learning rate is applied twice"), (0, "the learning rate is not applied")):
        yield Variation(("rate",), lambda r, power=power: r._replace(rate=r.rate**power), words)
    for field in ("b1", "b2", "trail"):
        symbol, now = NUMBERS[field].symbol, getattr(recipe, field)
        if now:
            yield Variation((field,), _complement(field), f"1 - {symbol} stands where {symbol} should")
            for dtype in ("float32", "bfloat16", "float16"):
                here = f"{symbol} is rounded to {dtype}, {float(jnp.asarray(now, dtype)):.9g}"
                yield Variation((field,), _rounded(field, dtype), here, f"it is {now:.9g}", "value")


def _means_something(recipe: Recipe, field: str, value: object) -> bool:
    """Whether a choice is another rule than the others: a maximum has no root, and only averages have factors 1 - β."""
    if recipe.second == "maximum" and value in ("inside", "squared", "subtracted"):
        return False
    return field != "begins" or "average" in (recipe.first, recipe.second)


def other_values(recipe: Recipe, field: str, value: float) -> Iterator[Variation]:
    """The recipe with this value of a number: by default, which takes no effect where it is given; or always."""
    symbol = NUMBERS[field].symbol
    now = recipe.rate[1] if field == "rate" else getattr(recipe, field)
    # A decay of 0 is a term that is missing, a rate of 1 one that is not applied: both are said in other words.
    if value == now or (value == 0 and field != "initial") or (field, value) == ("rate", 1):
        return
    if field == "decay" and abs(value) < NO_DECAY:
        return

    def by_default(r: Recipe) -> Recipe:
        own = r.rate[1] if field == "rate" else getattr(r, field)
        return with_number(r, field, value) if own == now else r

    words = f"{symbol} is {value:.9g}"
    yield Variation((field,), by_default, words, f"it is {now:.9g}", "value")
    whatever = f"{words}, whatever it is set to"
    yield Variation((field,), lambda r: with_number(r, field, value), whatever, f"it is {now:.9g}", "value")


def _usual(recipe: Recipe) -> Iterator[Variation]:
    """Other values that people choose."""
    for field, number in NUMBERS.items():
        for value in number.usual:
            yield from other_values(recipe, field, value)


def _solved(shown: "Exhibit", recipe: Recipe, start: int) -> Iterator[Variation]:
    """Other values of one number that explain some steps after the first that differs, if any do."""
    shown = shown.until(start + STEPS)
    apart = np.abs(shown.candidate - shown.reference)
    first = np.argsort(-np.nan_to_num(apart[: start + 1].max(axis=0)), kind="stable")
    chosen = np.sort(first[:ELEMENTS])
    parts = [part[:, chosen] for part in (shown.gradients, shown.parameters, shown.candidate)]
    for field in NUMBERS:
        if field == "rate" and np.ptp(recipe.rate) and not recipe.rate[1]:
            continue
        value = solved(recipe, field, *parts)
        if value is not None:
            yield from other_values(recipe, field, value)


def _to(values: dict[str, object], here: str, there: str) -> Variation:
    return Variation(tuple(values), lambda recipe: recipe._replace(**values), here, there)


def _complement(field: str) -> Callable[[Recipe], Recipe]:
    return lambda recipe: recipe._replace(**{field: 1 - getattr(recipe, field)})


def _rounded(field: str, dtype: str) -> Callable[[Recipe], Recipe]:
    return lambda recipe: recipe._replace(**{field: float(jnp.asarray(getattr(recipe, field), dtype))})


def identify(exhibits: Sequence[Exhibit], slack: float) -> list[Explanation]:
    """Every single thing that, done otherwise, explains all updates: other values first, then other formulas.

    Args:
        exhibits: what both did in every setting.
        slack: how far from a variant's updates the candidate's may be, relative to the largest of each element.
    """
    found = _Search.of(exhibits, slack)
    if found is None:
        return []
    fitting = [v for v in variations(found.recipe) if found.explains(v)]
    named = {v.fields for v in fitting if v.kind == "value"}
    values = [v for v in _solved(found.shown, found.recipe, found.start) if v.fields not in named and found.explains(v)]
    ordered = [*_once(values), *sorted(fitting, key=lambda v: v.kind != "value")]
    return [Explanation(v.kind, v.sentence()) for v in ordered]


def _once(values: list[Variation]) -> list[Variation]:
    """One of those that change the same number: the first says the least."""
    return list({v.fields: v for v in reversed(values)}.values())[::-1]


def identify_two(exhibits: Sequence[Exhibit], slack: float) -> list[Explanation]:
    """The first two things that, done otherwise, explain all updates."""
    found = _Search.of(exhibits, slack)
    if found is None or found.start > LATE:
        return []
    singles = [(v, found.matters(v)) for v in (*_usual(found.recipe), *variations(found.recipe))]
    for (one, matters), (other, matters_too) in itertools.combinations(singles, 2):
        if set(one.fields) & set(other.fields) or not (matters or matters_too):
            continue
        both = one._replace(change=lambda recipe, one=one, other=other: other.change(one.change(recipe)))
        if found.explains(both):
            return [Explanation("convention", f"two things differ. {one.sentence()}. {other.sentence()}")]
    return []


class _Search(NamedTuple):
    """What variants are compared with.

    Attributes:
        known: every exhibit with its recipe.
        screens: the first steps of the most telling one, to tell soon that a variant does not fit.
        shown: the most telling one.
        recipe: its recipe.
        start: the step from which the updates differ in it.
        slack: as in `identify`.
    """

    known: list[tuple[Exhibit, Recipe]]
    screens: list[Exhibit]
    shown: Exhibit
    recipe: Recipe
    start: int
    slack: float

    @staticmethod
    def of(exhibits: Sequence[Exhibit], slack: float) -> "_Search | None":
        """None where a recipe is not known, or nothing differs."""
        known = [(exhibit, exhibit.recipe) for exhibit in exhibits if exhibit.recipe is not None]
        if not known or len(known) < len(exhibits):
            return None
        shown, recipe = max(known, key=lambda pair: _apart(pair[0].candidate, pair[0].reference))
        start = _first_step_apart(shown, slack)
        if start is None:
            return None
        screens = [shown.until(start + steps) for steps in SCREENED_STEPS]
        return _Search(known, screens, shown, recipe, start, slack)

    def matters(self, variation: Variation) -> bool:
        """Whether the recipe so changed makes other updates in some of the first steps."""
        screen = self.screens[-1]
        own, changed = (
            simulate(recipe, screen.gradients, screen.parameters)
            for recipe in (self.recipe, variation.change(self.recipe))
        )
        return not np.array_equal(own, changed, equal_nan=True)

    def explains(self, variation: Variation) -> bool:
        """Whether the recipes so changed give the candidate's updates."""
        changed = variation.change(self.recipe)
        return all(matches(screen, changed, self.slack) for screen in self.screens) and all(
            matches(exhibit, variation.change(own), self.slack) for exhibit, own in self.known
        )


def matches(exhibit: Exhibit, recipe: Recipe, slack: float) -> bool:
    """Whether a recipe's updates are the candidate's."""
    found = simulate(recipe, exhibit.gradients, exhibit.parameters)
    apart = _difference(exhibit.candidate, exhibit.reference)
    allowed = np.maximum(slack * _size(exhibit.candidate), OF_THE_DIFFERENCE * np.where(np.isfinite(apart), apart, 0))
    return bool((_difference(found, exhibit.candidate) <= allowed).all())


def _apart(a: Floats, b: Floats) -> float:
    with np.errstate(all="ignore"):
        return float(np.nan_to_num(_difference(a, b) / _size(b), posinf=1e300).max(initial=0))


def _first_step_apart(exhibit: Exhibit, slack: float) -> int | None:
    """The step from which the elements shown differ; None where they do not."""
    with np.errstate(all="ignore"):
        apart = ~(np.abs(exhibit.candidate - exhibit.reference) <= slack * _size(exhibit.reference))
    apart &= ~(np.isnan(exhibit.candidate) & np.isnan(exhibit.reference))
    steps = np.flatnonzero(apart.any(axis=1))
    return int(steps[0]) if len(steps) else None


def _difference(a: Floats, b: Floats) -> Floats:
    """The largest over the steps, for each element; where both are not a number they agree."""
    with np.errstate(all="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    return np.where(np.isnan(difference), np.inf, difference).max(axis=0)


def _size(updates: Floats) -> Floats:
    return np.abs(np.where(np.isfinite(updates), updates, 0)).max(axis=0)
