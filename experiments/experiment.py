"""What an experiment is: a claim, a run that measures it, and a figure of what was measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jax import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LONGEST_MESSAGE = 500


class DataError(ValueError):
    """A file or folder that cannot be used; the message is one line for the user, whatever names the file holds."""

    def __init__(self, message: str) -> None:
        """The message, printable and of bounded length."""
        line = " ".join(message.split())
        line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
        super().__init__(line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}...")


class Options(NamedTuple):
    """How to run an experiment.

    Attributes:
        key: the random key that everything random in the run derives from.
        seeds: how many independent repetitions, where chance plays a part.
        quick: a smaller run, for a look.
        data: a file or folder to run on instead of the experiment's own data.
        test_data: the test set that belongs to it, if it cannot be found beside it.
        chosen: what of the experiment to run, by option, where it lets one choose; all of it by default.
    """

    key: Array
    seeds: int = 5
    quick: bool = False
    data: Path | None = None
    test_data: Path | None = None
    chosen: Mapping[str, Sequence[str]] = {}  # never changed


class Measurement(NamedTuple):
    """A measured number, and whether it is what the claim says; `holds` is None for a number that decides nothing."""

    name: str
    value: float
    expected: str = ""
    holds: bool | None = None


def at_most(name: str, value: Any, bound: float) -> Measurement:
    """A measurement that must not exceed the bound; NaN does not hold."""
    return Measurement(name, float(value), f"≤ {bound:g}", bool(value <= bound))


def at_least(name: str, value: Any, bound: float) -> Measurement:
    """A measurement that must reach the bound; NaN does not hold."""
    return Measurement(name, float(value), f"≥ {bound:g}", bool(value >= bound))


class Table(NamedTuple):
    """More numbers than a claim needs, for reading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


class Result(NamedTuple):
    """What a run measured.

    Attributes:
        measurements: the numbers that decide the claim, and a few that help to read it.
        drawn: every number in the figure, by name; arrays, numbers, strings, and lists and dicts of them.
        tables: further numbers.
    """

    measurements: tuple[Measurement, ...]
    drawn: dict[str, Any]
    tables: tuple[Table, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every measurement that the claim rests on is as it says."""
        return all(measurement.holds is not False for measurement in self.measurements)


Track = Callable[[Iterable[Any], str], Iterable[Any]]


class Experiment(Protocol):
    """A module of this package with these three names.

    `run` shows its progress by looping over `track(steps, description)`.
    """

    CLAIM: str

    @staticmethod
    def run(options: Options, track: Track) -> Result:
        """Measures."""
        ...

    @staticmethod
    def plot(result: Result) -> "Figure":
        """Draws `result.drawn`."""
        ...
