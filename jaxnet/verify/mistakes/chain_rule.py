"""Mistakes inside the chain rule, found by making them."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict
from jaxnet.verify.mistakes.slips import slips
from jaxnet.verify.mistakes.slips.activations import INTRUDERS
from jaxnet.verify.mistakes.slips.local import Local, Slip, at, fitted
from jaxnet.verify.mistakes.surgery import RUNS, Operation, Simulated, Site, Surgery, opened
from jaxnet.verify.report import Kind

ROUNDS = 64  # at most, of a mistake that is made more than once on the way
ANOTHER = 200  # simulations after one that explains everything, in search of another
MANY = 10**6  # mistakes in one place are named before those in several
PAIRS = 300  # simulations of mistakes that are made on one path alone

# Of mistakes that explain the same leaves the likelier one: a g' is left out more often than a path is cut.
LIKELIHOOD = (
    "activation", "missing_factor", "transpose", "accumulation", "mask", "missing_term", "sign", "scale", "value",
)  # fmt: skip


# Operations that hand a path on as it is.
HANDING_ON = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "transpose", "copy"}


class OutOfRunsError(Exception):
    """The diagnosis has simulated as many mistakes as it may."""


class Mistake(NamedTuple):
    """A mistake that can be simulated.

    Attributes:
        kind: how a finding calls it.
        text: what is wrong, in a sentence.
        gradient: at a place, the gradient that somebody gets who makes it.
        roundabout: whether another mistake that explains as much is the simpler one to name.
        places: in how many it is made.
    """

    kind: Kind
    text: str
    gradient: Callable[[Comparison], Leaves]
    roundabout: bool = False
    places: int = 1


class Search:
    """Simulates the mistakes that can be made in a function, and keeps those that explain something.

    Every one is tried at the first place where something is wrong, and at all others if it explains something there.
    """

    def __init__(self, evidence: Evidence) -> None:
        """A search for what is wrong; raises where the function cannot be opened."""
        self.evidence = evidence
        self.surgery = opened(evidence)
        self.complete = True
        self.leaves = range(len(evidence.case.paths))
        self.first = next(c for c in evidence.comparisons if any(c.any_wrong(leaf) for leaf in self.leaves))
        self.wrong = sum(self.first.any_wrong(leaf) for leaf in self.leaves)
        self.found: list[tuple[int, int, int, Mistake]] = []
        try:
            for number, mistake in enumerate(self._mistakes()):
                if self.surgery.runs <= 0:
                    raise OutOfRunsError
                self._try(number, mistake)
        except OutOfRunsError:
            self.complete = False
        self.found.sort(key=lambda entry: entry[:3])

    def _try(self, number: int, mistake: Mistake) -> None:
        here = mistake.gradient(self.first)
        explained = sum(self._explains(leaf, here[leaf]) for leaf in self.leaves)
        if explained:
            likelihood = LIKELIHOOD.index(mistake.kind) if mistake.kind in LIKELIHOOD else len(LIKELIHOOD)
            rank = likelihood + 100 * mistake.roundabout
            self.found.append((-explained, rank, number + MANY * (mistake.places > 1), mistake))
            if explained == self.wrong and not mistake.roundabout:
                self.surgery.runs = min(self.surgery.runs, ANOTHER)

    def _explains(self, leaf: int, gradient: Floats) -> bool:
        return self.first.any_wrong(leaf) and self.evidence._replace(leaf=leaf).explains(self.first, gradient)

    def verdict(self, evidence: Evidence) -> Verdict | None:
        """The mistakes that explain a leaf everywhere: the best first, and others that do it as well."""
        holding: list[Mistake] = []
        for *_, mistake in self.found:
            if len(holding) == 3 or self.surgery.runs < -RUNS or (holding and mistake.roundabout):
                break
            if evidence.holds(lambda c, m=mistake: m.gradient(c)[evidence.leaf]):
                holding.append(mistake)
        if not holding:
            return None
        return holding[0].kind, "; or ".join(dict.fromkeys(mistake.text for mistake in holding))

    # What can be done wrong -------------------------------------------------------------------------------------------

    def _at(self, operation: Operation, where: Comparison) -> Local:
        return at(operation, self.surgery, self.surgery.right(where), where.place.point)

    def _mistakes(self) -> Iterator[Mistake]:
        operations = self.surgery.operations
        by_slip: dict[tuple[str, int, str], list[tuple[Operation, Slip]]] = {}
        for operation in operations:
            here = self._at(operation, self.first)
            for slip in _distinct(slips(here), here):
                by_slip.setdefault((operation.name, operation.operand, slip.text), []).append((operation, slip))
        single = [operation for operation in operations if operation.primitive]
        # What is done wrong in every step of a recurrence is looked for before the many things in one step alone.
        yield from self._cut_in_every_round(single)
        for members in by_slip.values():
            yield from map(self._slip, _groups(members))
        for members in by_slip.values():
            yield from (self._slip([member]) for member in members)
        yield from self._gradients_of_results(single)
        for operation in single:
            if operation.primitive not in HANDING_ON:
                yield from self._of_path(operation)
        for operation in single:
            if operation.primitive in ("dot_general", "add", "add_any", "sub") and operation.operand == 0:
                yield from self._intruders(operation)
        for operation in single:
            if operation.repeats == 1 and operation.operand == 0:
                yield from self._rows(operation)
        yield from self._on_one_path(by_slip.values())

    def _slip(self, members: list[tuple[Operation, Slip]]) -> Mistake:
        """A slip at one operation, or the same at several."""
        (_, slip), *others = members
        rounds = min(sum(operation.repeats for operation, _ in members), ROUNDS)

        def gradient(where: Comparison) -> Leaves:
            extra = _changed(members, self.surgery, self.surgery.right(where), where)
            for _ in range(1, rounds):  # each place sees what the later ones have passed on
                before, extra = extra, _changed(members, self.surgery, self.surgery.seen(where, extra), where)
                if all(np.array_equal(before[site], extra[site]) for site in extra):
                    break
            return self.surgery.gradient(where, extra)

        text = slip.text + (f", in {len(members)} places" if others else "")
        return Mistake(slip.kind, text, gradient, slip.roundabout, len(members))

    def _of_path(self, operation: Operation) -> Iterator[Mistake]:
        """The path through an operand is missing, or counts a number of times, which is solved for."""
        right = self.surgery.right(self.first)[0]
        cut = self.surgery.gradient(self.first, {}, {operation.site: 0.0})
        factor = self._factor(cut, [r - c for r, c in zip(right, cut, strict=True)])
        if factor is None or (operation.repeats > 1 and not math.isclose(factor, 0, abs_tol=1e-6)):
            return
        through = f"through operand {operation.operand + 1} of `{operation.name}`"
        known: dict[float, tuple[Kind, str]] = {
            0.0: ("missing_term", f"one path of the chain rule is missing: {through}"),
            -1.0: ("sign", f"the sign of one path is wrong: the one {through}"),
        }
        near = next((value for value in known if math.isclose(factor, value, abs_tol=1e-6)), None)
        kind, text = (
            ("scale", f"one path counts {factor:.6g} times: the one {through}") if near is None else known[near]
        )
        value = factor if near is None else near
        yield Mistake(kind, text, lambda where: self.surgery.gradient(where, {}, {operation.site: value}))

    def _factor(self, without: Leaves, change: Leaves) -> float | None:
        """k where the candidate is `without` plus k times the change in some wrong leaf, by least squares."""
        for leaf in self.leaves:
            size = float(np.square(change[leaf]).sum())
            if not (self.first.any_wrong(leaf) and size):
                continue
            k = float((change[leaf] * (self.first.answer(leaf) - without[leaf])).sum()) / size
            if math.isfinite(k) and self._explains(leaf, without[leaf] + k * change[leaf]):
                return k
        return None

    def _gradients_of_results(self, operations: list[Operation]) -> Iterator[Mistake]:
        """What is given for a leaf is the gradient by an intermediate result of its shape."""
        for operation in operations:
            shape = self._at(operation, self.first).a.shape
            if (
                operation.repeats > 1
                or operation.operand
                or not any(part.shape == shape for part in self.first.place.point)
            ):
                continue

            def gradient(where: Comparison, operation: Operation = operation) -> Leaves:
                here = self._at(operation, where)
                return [here.arriving if leaf.shape == here.a.shape else 0 * leaf for leaf in where.place.point]

            text = f"it is the gradient by the result of `{operation.name}`: what leads to it is not differentiated"
            yield Mistake("missing_factor", text, gradient, roundabout=True)

    def _cut_in_every_round(self, operations: list[Operation]) -> Iterator[Mistake]:
        """A path that is met again and again, from one step of a recurrence to the one before, is missing."""
        alike: dict[tuple[str, int, tuple[int, ...]], list[Operation]] = {}
        for operation in operations:
            shape = self._at(operation, self.first).z.shape
            alike.setdefault((operation.name, operation.operand, shape), []).append(operation)
        for (name, operand, _), members in alike.items():
            for group in _groups(members):
                factors = {operation.site: 0.0 for operation in group}
                text = f"one path of the chain rule is missing in {len(group)} places: through operand {operand + 1} of"
                yield Mistake(
                    "missing_term",
                    f"{text} `{name}`",
                    lambda where, factors=factors: self.surgery.gradient(where, {}, factors),
                    places=len(group),
                )

    def _intruders(self, operation: Operation) -> Iterator[Mistake]:
        for text, factor in INTRUDERS:

            def gradient(where: Comparison, factor: Callable[[Floats], Floats] = factor) -> Leaves:
                here = self._at(operation, where)
                return self.surgery.gradient(where, {operation.result: here.arriving * (factor(here.a) - 1)})

            said = f"a factor g'(z) stands where none belongs: {text} derivative, which the rest contains already"
            yield Mistake("activation", said, gradient)

    def _rows(self, operation: Operation) -> Iterator[Mistake]:
        here = self._at(operation, self.first)
        if not here.a.ndim or len(here.a) < 2:
            return
        for which, row in (("last", -1), ("first", 0)):

            def gradient(where: Comparison, row: int = row) -> Leaves:
                there = self._at(operation, where)
                left_out = np.zeros_like(there.arriving)
                left_out[row] = -there.arriving[row]
                return self.surgery.gradient(where, {operation.result: left_out})

            text = f"the {which} row of `{operation.name}`, an example perhaps, is left out of the gradient"
            yield Mistake("missing_term", text, gradient)

    def _on_one_path(self, by_slip: Iterable[list[tuple[Operation, Slip]]]) -> Iterator[Mistake]:
        """A factor that is missing or applied twice on one of several paths alone: in one term of the gradient."""
        before = self.surgery.runs
        singles = [members[0] for members in by_slip if members[0][1].kind in ("missing_factor", "mask")]
        for operation, slip in singles:
            right = self.surgery.right(self.first)
            spoiled = self.surgery.seen(self.first, _changed([(operation, slip)], self.surgery, right, self.first))
            for later in self.surgery.operations:
                same = np.array_equal(spoiled[1][later.site], right[1][later.site])
                if same or not later.primitive or later.number >= operation.number or later.repeats > 1:
                    continue
                if before - self.surgery.runs > PAIRS:
                    return

                def gradient(where: Comparison, operation=operation, slip=slip, site=later.site) -> Leaves:
                    right = self.surgery.right(where)
                    spoiled = self.surgery.seen(where, _changed([(operation, slip)], self.surgery, right, where))
                    change = np.asarray(spoiled[1][site]) - np.asarray(right[1][site])
                    return self.surgery.gradient(where, {site: change})

                through = f"on the path through operand {later.operand + 1} of `{later.name}` alone"
                yield Mistake(slip.kind, f"{slip.text}, {through}", gradient, roundabout=True)


def _changed(
    members: list[tuple[Operation, Slip]], surgery: Surgery, simulated: Simulated, where: Comparison
) -> dict[Site, Floats]:
    """What slips add to the right cotangents."""
    extra = {}
    for operation, slip in members:
        here = at(operation, surgery, simulated, where.place.point)
        with np.errstate(all="ignore"):
            change = fitted(slip.passes_on(here), here.z.shape) - here.right
        extra[operation.site] = np.where(np.isfinite(change), change, 0)
    return extra


def _distinct(found: Iterable[Slip], here: Local) -> Iterator[Slip]:
    """The slips that pass on something, each something else."""
    known = [here.right, np.zeros_like(here.right)]
    for slip in found:
        with np.errstate(all="ignore"):
            passed = fitted(slip.passes_on(here), here.z.shape)
        if np.isfinite(passed).any() and not any(np.allclose(passed, other, rtol=1e-9, atol=0) for other in known):
            known.append(passed)
            yield slip


def _groups(members: list[Any]) -> Iterator[list[Any]]:
    """All of several, and of those that come in rounds the ones at the same place of every round; or all but the first.

    The first is met last in the backward pass: what leads from it to a state that is given is no step's to carry.
    """
    count = len(members)
    periods = [1, *(period for period in range(2, count // 2 + 1) if count % period == 0)]
    for period in periods if count > 1 else []:
        for i in range(period):
            group = members[i::period]
            yield group
            if len(group) > 2:
                yield group[:-1]


def in_the_chain_rule(evidence: Evidence) -> Verdict | None:
    """The simulated mistake that explains the leaf."""
    return evidence.kept("search", lambda: Search(evidence)).verdict(evidence)


HYPOTHESES = (
    Hypothesis(Level.SIMULATED, in_the_chain_rule, ("missing_term", "sign", "scale", "missing_factor", "activation")),
)
