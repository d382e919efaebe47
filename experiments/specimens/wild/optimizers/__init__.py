"""Faults of optimizers in public code, their mended forms, and right ones of unusual form."""

from experiments.specimens.specimen import collected

SPECIMENS = collected(__name__, __path__)
WILD_OPTIMIZER_FAULTS = tuple(specimen for specimen in SPECIMENS if specimen.kind is not None)
WILD_RIGHT_OPTIMIZERS = tuple(specimen for specimen in SPECIMENS if specimen.kind is None)
