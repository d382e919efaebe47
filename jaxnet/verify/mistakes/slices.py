"""Slices of a gradient that are those of other places along an axis, or sums of them."""

import numpy as np

from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict

LONGEST = 16


def other_slices(evidence: Evidence) -> Verdict | None:
    """Along one axis, every slice of the candidate is made of some right slices, each taken once."""
    leaf = evidence.leaf
    for axis, length in enumerate(evidence.shape):
        if not 2 <= length <= LONGEST:
            continue
        found, expected = (
            np.concatenate([np.moveaxis(part(c), axis, 0).reshape(length, -1) for c in evidence.shown], axis=1)
            for part in (lambda c: c.answer(leaf), lambda c: c.truth.gradient[leaf])
        )
        mixed = _mixture(found, expected)
        if mixed is None or not evidence.holds(
            lambda c, mixed=mixed, axis=axis: np.moveaxis(
                np.tensordot(mixed, np.moveaxis(c.truth.gradient[leaf], axis, 0), 1), 0, axis
            )
        ):
            continue
        return "axis", f"along axis {axis}, {_in_words(mixed)}"
    return None


def _mixture(found: Floats, expected: Floats) -> Floats | None:
    """The matrix of 0s and 1s by which the right slices are mixed; None if there is none, or it is the identity."""
    if found.shape[1] <= len(found) or not np.isfinite(found).all() or not np.isfinite(expected).all():
        return None
    mixed, _, rank, _ = np.linalg.lstsq(expected.T, found.T, rcond=1e-9)
    whole = np.round(mixed.T)
    if rank < len(found) or not np.isin(whole, (0, 1)).all() or np.abs(mixed.T - whole).max() > 1e-4:
        return None
    return None if (whole == np.eye(len(whole))).all() else whole


def _in_words(mixed: Floats) -> str:
    """The first slices that are wrong, and of what they are made."""
    wrong = [i for i, row in enumerate(mixed) if row[i] != 1 or row.sum() != 1]
    parts = []
    for i in wrong[:3]:
        made = [str(j) for j in np.flatnonzero(mixed[i])]
        parts.append(f"slice {i} is " + (f"the right slice {' plus '.join(made)}" if made else "0"))
    return ", ".join(parts) + (f", and so on: {len(wrong)} slices are wrong" if len(wrong) > 3 else "")


HYPOTHESES = (Hypothesis(Level.FUNCTION, other_slices, ("axis",)),)
