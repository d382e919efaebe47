"""What the doors have in common: the options of a verification."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from jaxnet.verify import checks, mistakes
from jaxnet.verify.engine.case import Options
from jaxnet.verify.report import Kind

KINDS = checks.KINDS | mistakes.KINDS


class Asked(TypedDict, total=False):
    """How a derivative is judged.

    Attributes:
        native: whether the candidate runs in the arguments' dtypes only, and never in float64.
        at: "around", the given point and others around it; or "given", the given point alone, for arguments that are
            valid only where they satisfy a constraint.
        allow: kinds of findings that are waived; the report says so.
    """

    native: bool
    at: Literal["around", "given"]
    allow: tuple[Kind, ...]


def options(asked: Mapping[str, Any]) -> Options:
    """The options that a user has asked for.

    Raises:
        TypeError: if there is no such option.
        ValueError: if an option has no such value.
    """
    unknown = sorted(set(asked) - set(Asked.__annotations__))
    if unknown:
        raise TypeError(f"unknown options {unknown}; there are {', '.join(Asked.__annotations__)}")
    allow = asked.get("allow", ())
    allow = (allow,) if isinstance(allow, str) else tuple(allow)
    if not KINDS.issuperset(allow):
        raise ValueError(f"allow has {allow}; the kinds of findings are {', '.join(sorted(KINDS))}")
    at = asked.get("at", "around")
    if at not in ("around", "given"):
        raise ValueError(f'at must be "around" or "given", got {at!r}')
    return Options(bool(asked.get("native", False)), at, allow)
