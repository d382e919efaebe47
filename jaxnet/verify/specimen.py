"""Specimens on which the verifier is itself put to the proof: functions with a rule for their derivative.

Some rules are right, the others each contain one planted mistake. A catalogue collects them in the order in which they
are written down:

    catalogue = Catalogue()

    @catalogue.planted("sign", of=DENSE)
    def bias_gradient_negated(ct, x, W, b):
        \"\"\"The bias gradient has the wrong sign.\"\"\"
        ...
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Rule = Callable[..., Any]  # (ct, *arguments) -> one cotangent for each argument


class Subject(NamedTuple):
    """A function that is itself right, and points at which to judge rules for its derivative.

    Attributes:
        area: the part of a network that it belongs to.
        function: (*arguments) -> outputs, differentiable by JAX.
        arguments: (generator, weight scale) -> arguments.
    """

    area: str
    function: Callable[..., Any]
    arguments: Callable[[np.random.Generator, float], tuple]


class Specimen(NamedTuple):
    """A function and a rule for its derivative, right or wrong on purpose.

    Attributes:
        name: the area and what the rule does, such as "dense: bias gradient negated".
        kind: what a diagnosis must call the mistake; None for a right rule.
        function: (*arguments) -> outputs (arrays or pytrees), differentiable by JAX and itself right.
        backward: (arguments, cotangent of the outputs) -> a tuple with one cotangent for each argument.
        arguments: (generator, weight scale) -> arguments, JAX or NumPy arrays.
    """

    name: str
    kind: str | None
    function: Callable[..., Any]
    backward: Callable[[tuple, Any], tuple]
    arguments: Callable[[np.random.Generator, float], tuple]

    @property
    def area(self) -> str:
        """The part of a network that the specimen belongs to: its name up to the colon."""
        return self.name.split(":")[0]


class Catalogue:
    """Specimens in the order of their definition, each entered by a decorator that leaves its rule as it was."""

    def __init__(self) -> None:
        """An empty catalogue."""
        self.specimens: list[Specimen] = []

    def enter(self, kind: str | None, subject: Subject, what: str, rule: Rule) -> None:
        """Add a rule for the derivative of a subject's function, written as (ct, *arguments) -> cotangents."""

        def backward(arguments: tuple, ct: Any) -> Any:
            return rule(ct, *arguments)

        name = f"{subject.area}: {what}"
        self.specimens.append(Specimen(name, kind, subject.function, backward, subject.arguments))

    def planted(self, kind: str, of: Subject) -> Callable[[Rule], Rule]:
        """A decorator for a rule with one mistake of this kind; the rule's own name says which."""

        def register(rule: Rule) -> Rule:
            self.enter(kind, of, _words(rule), rule)
            return rule

        return register

    def right(self, of: Subject) -> Callable[[Rule], Rule]:
        """A decorator for a right rule."""

        def register(rule: Rule) -> Rule:
            self.enter(None, of, _words(rule), rule)
            return rule

        return register


def _words(rule: Rule) -> str:
    return rule.__name__.replace("_", " ")
