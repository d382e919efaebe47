"""Mistakes inside the chain rule, found by making them."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves
from jaxnet.verify.mistakes.evidence import Evidence, Verdict
from jaxnet.verify.mistakes.local import INTRUDERS, Local, Slip, at, product_with, slips
from jaxnet.verify.mistakes.surgery import Operation, Site, Surgery, acts_elementwise
from jaxnet.verify.report import Kind

RUNS = 800  # simulations of a diagnosis
ROUNDS = 64  # at most, of a mistake that is made more than once on the way

# Of mistakes that explain the same leaves the likelier one: a g' is left out more often than a path is cut.
LIKELIHOOD = ("activation", "missing_factor", "transpose", "accumulation", "mask", "sign", "scale", "value", "partial")


class OutOfRunsError(Exception):
    """The diagnosis has simulated as many mistakes as it may."""


class Mistake(NamedTuple):
    """A mistake that can be simulated.

    Attributes:
        kind: how a finding calls it.
        text: what is wrong, in a sentence.
        gradient: at a place, the gradient that somebody gets who makes it.
    """

    kind: Kind
    text: str
    gradient: Callable[[Comparison], Leaves]


class Search:
    """Simulates the mistakes that can be made in a function, and keeps those that explain something.

    Every one is tried at the first place where something is wrong, and at all others if it explains something there.
    """

    def __init__(self, evidence: Evidence) -> None:
        """A search for what is wrong; raises where the function cannot be opened."""
        self.evidence = evidence
        self.surgery = Surgery(evidence.trial, RUNS)
        self.complete = True
        self.leaves = range(len(evidence.case.paths))
        self.first = next(c for c in evidence.comparisons if any(c.any_wrong(leaf) for leaf in self.leaves))
        self.found: list[tuple[int, int, Mistake]] = []
        try:
            for mistake in self._mistakes():
                self._try(mistake)
        except OutOfRunsError:
            self.complete = False
        self.found.sort(key=lambda entry: entry[:2])

    def _try(self, mistake: Mistake) -> None:
        here = mistake.gradient(self.first)
        explained = sum(
            self.first.any_wrong(leaf) and self.evidence._replace(leaf=leaf).explains(self.first, here[leaf])
            for leaf in self.leaves
        )
        if explained:
            likelihood = LIKELIHOOD.index(mistake.kind) if mistake.kind in LIKELIHOOD else len(LIKELIHOOD)
            self.found.append((-explained, likelihood, mistake))

    def verdict(self, evidence: Evidence) -> Verdict | None:
        """The mistakes that explain a leaf everywhere: the best first, and others that do it as well."""
        holding: list[Mistake] = []
        for *_, mistake in self.found:
            if self.surgery.runs > -RUNS and evidence.holds(lambda c, m=mistake: m.gradient(c)[evidence.leaf]):
                holding.append(mistake)
            if len(holding) == 3:
                break
        if not holding:
            return None
        texts = list(dict.fromkeys(mistake.text for mistake in holding))
        return holding[0].kind, "; or ".join(texts)

    # What can be done wrong -------------------------------------------------------------------------------------------

    def _mistakes(self) -> Iterator[Mistake]:
        right = self.surgery.right(self.first)
        arguments = list(zip(self.evidence.case.paths, self.first.place.point, strict=True))
        locals_ = [(operation, at(operation, right)) for operation in self.surgery.operations]
        by_slip: dict[tuple[str, str], list[tuple[Operation, Slip]]] = {}
        activations = [o for o in self.surgery.operations if not o.primitive or acts_elementwise(o.equation)]
        for operation, here in locals_:
            for slip in slips(here, arguments, activations):
                by_slip.setdefault((operation.name, slip.text), []).append((operation, slip))
                yield self._at([(operation, slip)])
        for operation, here in locals_:
            if operation.primitive:
                yield from self._of_path(operation, here)
        for members in by_slip.values():
            if len(members) > 1:
                yield self._at(members)
        for operation, _ in locals_:
            if operation.primitive in ("dot_general", "add", "add_any", "sub") and operation.operand == 0:
                yield from self._intruders(operation)
        for operation, here in locals_:
            if (
                operation.primitive
                and operation.repeats == 1
                and here.a.ndim
                and len(here.a) > 1
                and operation.operand == 0
            ):
                yield from self._rows(operation, here)

    def _at(self, members: list[tuple[Operation, Slip]]) -> Mistake:
        """A slip at one operation, or the same at several."""
        (operation, slip), *others = members
        text = slip.text + f", in all {len(members)} places" * bool(others)
        repeated = bool(others) or operation.repeats > 1

        def gradient(where: Comparison) -> Leaves:
            def changed(simulated: tuple) -> dict[Site, Floats]:
                extra = {}
                for operation, slip in members:
                    here = at(operation, simulated)
                    with np.errstate(all="ignore"):
                        change = slip.passes_on(here) - here.right
                    extra[operation.site] = np.where(np.isfinite(change), change, 0)
                return extra

            extra = changed(self.surgery.right(where))
            rounds = min(sum(operation.repeats for operation, _ in members), ROUNDS) if repeated else 1
            return self._converged(where, extra, changed, rounds)

        return Mistake(slip.kind, text, gradient)

    def _converged(
        self, where: Comparison, extra: dict[Site, Floats], changed: Callable[[tuple], dict[Site, Floats]], rounds: int
    ) -> Leaves:
        """The gradient with a mistake made in several places, each of which sees what the later ones passed on."""
        simulated = self._spend(where, extra)
        for _ in range(1, rounds):
            before, extra = extra, changed(simulated)
            if all(np.array_equal(before[site], extra[site]) for site in extra):
                break
            simulated = self._spend(where, extra)
        return simulated[0]

    def _spend(self, where: Comparison, extra: dict[Site, Floats]) -> tuple:
        if self.surgery.runs <= 0 and self.complete and where is self.first:
            raise OutOfRunsError
        return self.surgery.with_extra(where, extra)

    def _of_path(self, operation: Operation, here: Local) -> Iterator[Mistake]:
        """The path through an operand is missing, or counts a number of times, which is solved for."""
        right = self.surgery.right(self.first)[0]
        cut = self._spend(self.first, {operation.site: -here.right})[0]
        factor = self._factor(cut, [r - c for r, c in zip(right, cut, strict=True)])
        if factor is None:
            return
        through = f"through operand {operation.operand + 1} of `{operation.name}`"
        kinds: dict[float, tuple[Kind, str]] = {
            0.0: ("partial", f"one path of the chain rule is missing: {through}"),
            -1.0: ("sign", f"the sign of one path is wrong: the one {through}"),
        }
        near = next((known for known in kinds if math.isclose(factor, known, abs_tol=1e-6)), None)
        kind, text = (
            ("scale", f"one path counts {factor:.6g} times: the one {through}") if near is None else kinds[near]
        )

        def gradient(where: Comparison) -> Leaves:
            there = at(operation, self.surgery.right(where))
            return self._spend(where, {operation.site: (factor - 1) * there.right})[0]

        yield Mistake(kind, text, gradient)

    def _factor(self, without: Leaves, change: Leaves) -> float | None:
        """k where the candidate is `without` plus k times the change in some wrong leaf, by least squares."""
        for leaf in self.leaves:
            if not self.first.any_wrong(leaf):
                continue
            found, size = self.first.answer(leaf), float(np.square(change[leaf]).sum())
            if not size:
                continue
            k = float((change[leaf] * (found - without[leaf])).sum()) / size
            if math.isfinite(k) and self.evidence._replace(leaf=leaf).explains(
                self.first, without[leaf] + k * change[leaf]
            ):
                return k
        return None

    def _intruders(self, operation: Operation) -> Iterator[Mistake]:
        for text, factor in INTRUDERS:

            def gradient(where: Comparison, factor: Callable[[Floats], Floats] = factor) -> Leaves:
                here = at(operation, self.surgery.right(where))
                return self._spend(where, {operation.result: here.arriving * (factor(here.a) - 1)})[0]

            said = f"a factor g'(z) stands where none belongs: {text} derivative, which the rest contains already"
            yield Mistake("activation", said, gradient)

    def _rows(self, operation: Operation, here: Local) -> Iterator[Mistake]:
        for which, row in (("last", -1), ("first", 0)):

            def gradient(where: Comparison, row: int = row) -> Leaves:
                there = at(operation, self.surgery.right(where))
                left_out = np.zeros_like(there.arriving)
                left_out[row] = -there.arriving[row]
                return self._spend(where, {operation.result: left_out})[0]

            text = f"the {which} row of `{operation.name}`, an example perhaps, is left out of the gradient"
            yield Mistake("partial", text, gradient)

    # Weights that are updated too early -------------------------------------------------------------------------------

    def updated_too_early(self, evidence: Evidence) -> Verdict | None:
        """The backward pass uses W - λ ∂L/∂W in place of W, for one learning rate λ that is found by least squares."""
        leaf, here = evidence.leaf, evidence.shown[0]
        for weight, path in enumerate(evidence.case.paths):

            def change(where: Comparison, weight: int = weight) -> Floats:
                extra = self._with_update(where, weight)
                return self.surgery.with_extra(where, extra)[0][leaf] - self.surgery.right(where)[0][leaf]

            step = change(here)
            size = float(np.square(step).sum())
            without = self.surgery.right(here)[0][leaf]
            rate = float((step * (here.answer(leaf) - without)).sum()) / size if size else math.nan
            if math.isfinite(rate) and evidence.holds(
                lambda c, change=change, rate=rate: self.surgery.right(c)[0][leaf] + rate * change(c)
            ):
                text = f"{path or 'the argument'} is updated before the backward pass uses it"
                return "extra_term", f"{text}, with a learning rate of {rate:.4g}"
        return None

    def _with_update(self, where: Comparison, weight: int) -> dict[Site, Floats]:
        """What is passed on more where a weight is what its gradient would make of it by a step of 1."""
        simulated = self.surgery.right(where)
        value, update = where.place.point[weight], -where.truth.gradient[weight]
        extra: dict[Site, Floats] = {}
        for operation in self.surgery.operations:
            if operation.primitive != "dot_general" or operation.repeats > 1:
                continue
            here = at(operation, simulated)
            other = here.others[1 - operation.operand]
            if other.ndim != 2 or value.ndim != 2:
                continue
            for is_it, step in ((value, update), (value.T, update.T)):
                if other.shape == is_it.shape and np.array_equal(other, is_it):
                    extra[operation.site] = product_with(here, step)
                    break
        return extra
