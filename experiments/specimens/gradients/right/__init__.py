"""Right rules for derivatives, which a verifier must not object to, the unusual ones first of all.

Among them are rules at kinks, where any slope between those of the two sides is right; rules in half precision; rules
of functions whose gradient is zero; arguments that have no gradient; and arguments of extreme size.
"""

from experiments.specimens.specimen import collected

RIGHT_RULES = collected(__name__, __path__)
