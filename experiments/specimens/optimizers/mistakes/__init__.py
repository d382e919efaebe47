"""Planted mistakes in optimizers, as people get them wrong by hand or bring them from another library.

Each is a right rule with one thing changed; its docstring says which.
"""

from experiments.specimens.specimen import collected

OPTIMIZER_MISTAKES = collected(__name__, __path__)
