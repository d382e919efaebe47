"""Planted mistakes: rules for derivatives that are wrong in one way each, as people get them wrong by hand.

Each is a right rule with one thing changed; its docstring says which.
"""

from experiments.specimens.specimen import collected

MISTAKES = collected(__name__, __path__)
