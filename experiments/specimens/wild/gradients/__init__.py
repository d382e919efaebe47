"""Faults of hand-written derivatives in public code, their mended forms, and right rules of unusual form."""

from experiments.specimens.specimen import collected

SPECIMENS = collected(__name__, __path__)
WILD_FAULTS = tuple(specimen for specimen in SPECIMENS if specimen.kind is not None)
WILD_RIGHT_RULES = tuple(specimen for specimen in SPECIMENS if specimen.kind is None)
