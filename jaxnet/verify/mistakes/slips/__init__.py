"""Mistakes that are made at one equation: what is passed on in place of the right cotangent of its operand.

Each file here holds one family, and is found by being here.
"""

import importlib
import pkgutil
from collections.abc import Iterator

from jaxnet.verify.mistakes.slips.local import Local, Slip, Slips

FAMILIES: list[Slips] = [
    module.SLIPS
    for found in pkgutil.iter_modules(__path__, f"{__name__}.")
    if hasattr(module := importlib.import_module(found.name), "SLIPS")
]


def slips(here: Local) -> Iterator[Slip]:
    """The mistakes that can be made at an operation."""
    for family in FAMILIES:
        yield from family.made(here)
