"""Specimens on which the verifier is itself put to the proof: rules and optimizers, right ones and wrong ones.

A catalogue collects them in the order in which they are written down, by decorators that leave a rule as it was. Some
mistakes are planted, others are faults of public code, each entered together with its mended form:

    catalogue = Catalogue()

    @catalogue.planted("sign", of=DENSE)
    def bias_gradient_negated(ct, x, W, b):
        \"\"\"The bias gradient has the wrong sign.\"\"\"
        ...

    @catalogue.found("owner/repository#12", "sign", of=DENSE, mended=dense_rule)
    def bias_gradient_negated_there_too(ct, x, W, b):
        ...
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from jaxnet.verify import Report

Rule = Callable[..., Any]


class Case(Protocol):
    """What can be judged: a derivative, or an optimizer beside another."""

    def verify(self, key: Any, scale: float = 1.0) -> Report:
        """The verifier's report, with weights of this scale."""
        ...


class Subject(Protocol):
    """What rules are written for."""

    @property
    def area(self) -> str:
        """The first part of a specimen's name."""
        ...

    def case(self, rule: Rule) -> Any:
        """The rule as something to be judged."""
        ...


class Specimen(NamedTuple):
    """A rule or an optimizer, right or wrong on purpose.

    Attributes:
        name: the area and what the rule does, such as "dense: bias gradient negated".
        kind: what a diagnosis must call the mistake; None for a right rule.
        case: what is judged.
        says: what the explanation must contain; empty where the kind says it all.
        source: the repository and the number of the public fault, or the file of the public rule; empty if planted.
    """

    name: str
    kind: str | None
    case: Any
    says: str = ""
    source: str = ""

    @property
    def area(self) -> str:
        """What the specimen belongs to: its name up to the colon."""
        return self.name.split(":")[0]

    def named_by(self, report: Report) -> bool:
        """Whether the first finding is the mistake that is in it."""
        first = report.findings[0] if report.findings else None
        return first is not None and first.kind == self.kind and self.says in first.explanation


class Catalogue:
    """Specimens in the order of their definition."""

    def __init__(self) -> None:
        """An empty catalogue."""
        self.specimens: list[Specimen] = []

    def enter(self, name: str, kind: str | None, case: Any, says: str = "", source: str = "") -> None:
        """Add a specimen."""
        self.specimens.append(Specimen(name, kind, case, says, source))

    def planted(self, kind: str, says: str = "", *, of: Subject) -> Callable[[Rule], Rule]:
        """A decorator for a rule with one mistake of this kind; the rule's own name says which."""

        def register(rule: Rule) -> Rule:
            self.enter(f"{of.area}: {words(rule)}", kind, of.case(rule), says)
            return rule

        return register

    def right(self, of: Subject, source: str = "", *, what: str = "") -> Callable[[Rule], Rule]:
        """A decorator for a right rule; its own name says what it does, where nothing else does."""

        def register(rule: Rule) -> Rule:
            self.enter(f"{of.area}: {what or words(rule)}", None, of.case(rule), source=source)
            return rule

        return register

    def found(self, source: str, kind: str, says: str = "", *, of: Subject, mended: Rule) -> Callable[[Rule], Rule]:
        """A decorator for a fault of public code; its mended form is entered beside it, as a right rule."""

        def register(rule: Rule) -> Rule:
            name = f"{of.area}: {words(rule)}"
            self.enter(name, kind, of.case(rule), says, source)
            self.enter(f"{name}, mended", None, of.case(mended), source=source)
            return rule

        return register


def collected(package: str, paths: Iterable[str]) -> tuple[Specimen, ...]:
    """The specimens of the catalogues in the modules of a package."""
    modules = (importlib.import_module(f"{package}.{module.name}") for module in pkgutil.iter_modules(paths))
    return tuple(specimen for module in modules for specimen in module.catalogue.specimens)


def words(rule: Rule) -> str:
    """A function's name in words."""
    return rule.__name__.replace("_", " ")
