"""What a verification found, for people and for programs."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxnet.page import page

Kind = str  # a word for a sort of mistake; each check and each hypothesis declares its own


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        path: the leaf, as `jax.tree_util.keystr` writes it in the gradient's tree, such as "[0].weight".
        kind: which mistake it is; "unknown" where no known one explains it.
        explanation: the mistake in a sentence, and what to do.
        index: the worst element of the leaf; None where the leaf cannot be compared.
        candidate: the candidate's number there.
        expected: the right one.
        error: ‖candidate - expected‖ / ‖expected‖ over the leaf, at the point where it stands out most.
        rounding: the same ratio, for what rounding alone explains.
        where: the point, or the dtype, at which it shows.
        part: the part of the network that was judged alone; empty for the whole.
    """

    path: str
    kind: Kind
    explanation: str
    index: tuple[int, ...] | None = None
    candidate: float = math.nan
    expected: float = math.nan
    error: float = math.nan
    rounding: float = math.nan
    where: str = ""
    part: str = ""


@dataclass(frozen=True)
class Report:
    """The verdict: true if nothing was found.

    `str(report)` is a table in plain text; Rich prints one in colour, `rich.print(report)`. In pytest, a failing
    `assert verify_gradient(...)` shows it.

    Attributes:
        subject: what was verified.
        findings: what is wrong, the cause before what follows from it.
        leaves: every leaf that was compared, with its largest error in units of rounding.
        notes: what a reader should know: conventions at kinks, checks that could not be made.
        conditions: the device, the dtypes, the number of points, the matrix precision.
    """

    subject: str
    findings: tuple[Finding, ...] = ()
    leaves: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    conditions: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __bool__(self) -> bool:
        """Whether the verification passed."""
        return self.passed

    def __repr__(self) -> str:
        """One line, since pytest shows no more of a value than that."""
        if self.passed:
            return f"<Report passed: {self.subject}>"
        first = self.findings[0]
        return f"<Report FAILED: {self.subject}; {_place(first)}: {first.kind}: {first.explanation}>"

    def __str__(self) -> str:
        """The table in plain text."""
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self._headline(), ""]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        if self.findings:
            lines.insert(3, "  ".join("-" * width for width in widths))
            lines += ["", *(f"{_place(finding)}: {finding.explanation}" for finding in self.findings)]
        lines += ["", *(f"note: {note}" for note in self.notes), self._conditions()]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        explained = [f"{_place(finding)}: {finding.explanation}" for finding in self.findings]
        notes = [f"note: {note}" for note in self.notes]
        return page(self._headline(), self._rows(), [*explained, *notes, self._conditions()])

    def __rich__(self) -> Any:
        """The table that Rich prints."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        header, *rows = self._rows()
        table = Table(*header, box=SIMPLE_HEAD)
        for row in rows:
            table.add_row(*map(Text, row))
        parts: list[Any] = [Text(self._headline(), style="bold green" if self.passed else "bold red"), table]
        for finding in self.findings:
            parts.append(Text.assemble((_place(finding), "bold"), ": ", finding.explanation))
        parts += [Text(f"note: {note}", style="yellow") for note in self.notes]
        parts.append(Text(self._conditions(), style="dim"))
        return Group(*parts)

    def raise_if_failed(self) -> None:
        """Raises `AssertionError` with the table as its message, unless the verification passed."""
        if not self.passed:
            raise AssertionError(str(self))

    def to_json(self) -> str:
        """The report as a JSON object; numbers that are not finite become strings."""
        record = {
            "subject": self.subject,
            "passed": self.passed,
            "findings": [finding._asdict() for finding in self.findings],
            "leaves": self.leaves,
            "notes": self.notes,
            "conditions": self.conditions,
        }
        return json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)

    def _headline(self) -> str:
        if self.passed:
            return f"PASSED: {self.subject}"
        return f"FAILED: {self.subject}, {len(self.findings)} finding{'s' * (len(self.findings) > 1)}"

    def _rows(self) -> list[tuple[str, ...]]:
        """The table, its header first."""
        if self.findings:
            return [COLUMNS, *map(_row, self.findings)]
        units = [(path or "gradient", f"{number:.2g}") for path, number in self.leaves.items()]
        return [("leaf", "largest error, in units of rounding"), *units]

    def _conditions(self) -> str:
        return "; ".join(f"{name} {value}" for name, value in self.conditions.items())


COLUMNS = ("leaf", "kind", "worst at", "candidate", "expected", "error", "rounding", "seen at")


def _place(finding: Finding) -> str:
    return " ".join(filter(None, (finding.part, finding.path))) or "gradient"


def _row(finding: Finding) -> tuple[str, ...]:
    index = "" if finding.index is None else str(list(finding.index))
    numbers = (finding.candidate, finding.expected, finding.error, finding.rounding)
    shown = ("" if math.isnan(n) and finding.index is None else f"{n:.6g}" for n in numbers[:2])
    ratios = ("" if math.isnan(n) else f"{n:.1e}" for n in numbers[2:])
    return _place(finding), finding.kind, index, *shown, *ratios, finding.where


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
