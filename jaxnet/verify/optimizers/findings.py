"""What is wrong, from the comparisons in every setting: the updates first, then the fields of the state."""

from collections.abc import Sequence

from jaxnet.verify.optimizers import diagnosis
from jaxnet.verify.optimizers.comparison import Comparison
from jaxnet.verify.optimizers.differences import Difference, Pair
from jaxnet.verify.optimizers.fields import Field
from jaxnet.verify.report import Finding, Kind

Verdict = tuple[Kind, str]


def findings(compared: Sequence[Comparison], paths: list[str], *, exact: bool) -> list[Finding]:
    """The updates' finding and one for each field of the state that differs, at the leaf where it shows first.

    Args:
        compared: in every setting.
        paths: of the leaves of the parameters.
        exact: whether nothing was compared in a wider dtype before.
    """
    found: list[Finding] = []
    verdict: Verdict | None = None
    wrong: dict[int, Difference] = {}
    for comparison in compared:
        wrong = {leaf: pair.first for leaf, pair in enumerate(comparison.updates) if pair.first} | wrong
    if wrong:
        verdict = "precision", "right in float64; in the parameters' own dtype it loses more than rounding explains"
        if exact:
            verdict = _of_a_counter(compared) or diagnosis.of_updates(compared)
        kind, text = verdict
        leaf = min(wrong, key=lambda leaf: (wrong[leaf].step, leaf))
        if len(wrong) < len(paths):
            text = f"{text} (in {len(wrong)} of {len(paths)} leaves: {', '.join(paths[i] for i in sorted(wrong))})"
        found.append(_finding(f"updates{paths[leaf]}", kind, text, wrong[leaf]))
    seen: set[str] = set()
    for comparison in compared:
        for field, pair in wrong_fields(comparison):
            if field.name in seen or pair.first is None:
                continue
            seen.add(field.name)
            kind, text = diagnosis.of_a_field(pair, counter=field.whole or field.of is None, updates=verdict)
            found.append(_finding(f"state{field.path}", kind, text, pair.first))
    return found


def _of_a_counter(compared: Sequence[Comparison]) -> Verdict | None:
    """The verdict on a counter that stops, which spoils the updates after it."""
    for comparison in compared:
        for field, pair in wrong_fields(comparison):
            if field.of is None and diagnosis.stops(pair):
                return diagnosis.of_a_field(pair, counter=True, updates=None)
    return None


def _finding(path: str, kind: Kind, text: str, at: Difference) -> Finding:
    where = f"step {at.step}, {at.where}"
    return Finding(path, kind, text, at.index, at.candidate, at.expected, at.error, at.rounding, where)


def wrong_fields(comparison: Comparison) -> list[tuple[Field, Pair]]:
    """Fields of the candidate's state that should equal one of the reference's, going by their names, and do not."""
    wrong = []
    for other, pairs in by_field(comparison):
        namesakes = [(field, pair) for field, pair in pairs if field.namesake(other)]
        if any(pair.first is None for _, pair in pairs) or not namesakes:
            continue
        field, pair = namesakes[0]
        if field.name == other.name or (pair.factor is None and pair.shift is None):
            wrong.append((field, pair))
    return wrong


def by_field(comparison: Comparison) -> list[tuple[Field, list[tuple[Field, Pair]]]]:
    """For each field of the reference's state the candidate's that may stand for it."""
    return [
        (
            other,
            [(comparison.sides.candidate.fields[c], pair) for (c, of), pair in comparison.states.items() if of == r],
        )
        for r, other in enumerate(comparison.sides.reference.fields)
    ]


def unmatched(comparison: Comparison) -> list[str]:
    """What is to be said of the reference's fields whose counterpart is known by its value alone, or not known."""
    notes = []
    wrong = {id(pair) for _, pair in wrong_fields(comparison)}
    for other, pairs in by_field(comparison):
        name = other.name or other.path
        equal = [field for field, pair in pairs if pair.first is None]
        if equal and not any(field.namesake(other) for field in equal):
            notes.append(
                f"the reference's state field {name} is the candidate's {equal[0].name or equal[0].path}, by value"
            )
        elif not equal and not other.whole and not any(id(pair) in wrong for _, pair in pairs):
            notes.append(f"the reference's state field {name} has no counterpart of equal value{_related(pairs)}")
    return notes


def _related(pairs: list[tuple[Field, Pair]]) -> str:
    for field, pair in pairs:
        if pair.factor is not None:
            return f": the candidate's {field.name or field.path} is {pair.factor:.6g} times it, in every step"
        if pair.shift is not None:
            return f": the candidate's {field.name or field.path} is {pair.shift:+.6g} beside it, in every step"
    return ""
