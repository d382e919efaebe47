"""One self-contained page of what was measured: claims, figures, numbers, verdicts, and how to measure again."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader

STATEMENTS = 21  # the lecture's statements are S1 to S21
CITATION = re.compile(r"\((S\d+[^()]*)\)")


class Record(NamedTuple):
    """What is known of an experiment that ran.

    Attributes:
        name: of its module.
        claim: what it claims.
        holds: the verdict; None if it failed.
        shows: what its figure shows, in a sentence.
        numbers: what its JSON file holds.
        error: why it failed.
    """

    name: str
    claim: str
    holds: bool | None
    shows: str = ""
    numbers: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    error: str = ""

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.name.replace("_", " ")

    @property
    def command(self) -> str:
        """What runs it again in full."""
        if chosen := self.numbers.get("chosen"):
            options = (f"--{option} {','.join(names)}" for option, names in chosen.items())
            return f"python -m experiments {self.name} {' '.join(options)}"
        return f"python -m experiments run {self.name} --seeds {self.numbers['seeds']}"

    @property
    def statements(self) -> list[int]:
        """The numbers of the lecture's statements that the claim cites: (S9, S12) or (S5 to S7)."""
        found: set[int] = set()
        for citation in CITATION.findall(self.claim):
            for first, last in re.findall(r"S(\d+)(?: to S(\d+))?", citation):
                found.update(range(int(first), int(last or first) + 1))
        return sorted(found)


def write(records: Sequence[Record], folder: Path) -> Path:
    """Writes index.html into the folder in which NAME.svg of every experiment lies; every text is escaped."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters["number"] = lambda value: f"{value:.4g}" if isinstance(value, float) else value
    figures = {r.name: _embedded(folder / f"{r.name}.svg") for r in records if not r.error}
    where = {s: [r for r in records if s in r.statements] for s in range(1, STATEMENTS + 1)}
    path = folder / "index.html"
    page = environment.get_template("report.html").render(
        records=records, figures=figures, where=where, about=_about(records)
    )
    path.write_text(page + "\n", encoding="utf-8")
    return path


def _embedded(figure: Path) -> str:
    """The figure as a data address: no second file, and no names that clash with another figure's."""
    return "data:image/svg+xml;base64," + base64.b64encode(figure.read_bytes()).decode()


def _about(records: Sequence[Record]) -> dict[str, str]:
    numbers = next((record.numbers for record in records if record.numbers), {})
    versions = ", ".join(f"{package} {version}" for package, version in numbers.get("versions", {}).items())
    return {"device": numbers.get("device", ""), "versions": versions}
