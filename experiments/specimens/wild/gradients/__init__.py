"""Faults of hand-written derivatives in public code, their mended forms, and right rules of unusual form."""

import importlib
import pkgutil

from experiments.specimens.specimen import Specimen

SPECIMENS: tuple[Specimen, ...] = tuple(
    specimen
    for module in pkgutil.iter_modules(__path__)
    for specimen in importlib.import_module(f"{__name__}.{module.name}").catalogue.specimens
)
WILD_FAULTS = tuple(specimen for specimen in SPECIMENS if specimen.kind is not None)
WILD_RIGHT_RULES = tuple(specimen for specimen in SPECIMENS if specimen.kind is None)
