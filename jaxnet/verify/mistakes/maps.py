"""The gradient as the matrix that it is for a cotangent, with other rows or other columns."""

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.precision import Floats, Leaves
from jaxnet.verify.mistakes.evidence import Evidence, Hypothesis, Level, Verdict

MOST = 64  # elements of a leaf, and of a cotangent
NOWHERE = -1


def _units(cotangent: Leaves) -> list[Leaves]:
    """A cotangent for each element, which is 1 there and 0 elsewhere."""
    ends = np.cumsum([part.size for part in cotangent])
    rows = np.eye(int(ends[-1]))
    return [
        [part.reshape(c.shape) for part, c in zip(np.split(row, ends[:-1]), cotangent, strict=True)] for row in rows
    ]


def _matrix(evidence: Evidence, where: Comparison, *, right: bool = True) -> Floats:
    """The right matrix, or the candidate's: an element of the leaf is a row, one of the cotangent a column."""
    point, units = where.place.point, _units(where.place.cotangent)
    rows = [evidence.pulled(where, unit) if right else evidence.trial.answer(point, unit) for unit in units]
    return np.stack([row[evidence.leaf].ravel() for row in rows], axis=1)


def _matched(found: Floats, right: Floats) -> Floats | None:
    """For each row the right one that it is, NOWHERE for zeros; None if some are none of them."""
    size = np.abs(right).max(initial=0)
    alike = np.abs(found[:, None] - right[None]).max(axis=2) <= 1e-9 * size
    alike = alike & (np.abs(right).max(axis=1) > 0)
    own, nothing = alike.diagonal(), np.abs(found).max(axis=1) <= 1e-9 * size
    if not (alike.any(axis=1) | nothing).all() or not alike.any():
        return None
    matched = np.where(own, np.arange(len(found)), np.argmax(alike, axis=1))
    return np.where(nothing, NOWHERE, matched)


def exchanged(evidence: Evidence) -> Verdict | None:
    """The matrix of the candidate is the right one with other rows or other columns."""
    here, shape, leaf = evidence.shown[0], evidence.shape, evidence.leaf
    outputs = sum(part.size for part in here.place.cotangent)
    if evidence.case.function.scalar or not 2 <= int(np.prod(shape)) <= MOST or not 2 <= outputs <= MOST:
        return None
    found, right = _matrix(evidence, here, right=False), _matrix(evidence, here)
    rows, columns = _matched(found, right), _matched(found.T, right.T)
    if rows is not None and evidence.holds(
        lambda c: np.append(c.truth.gradient[leaf].ravel(), 0)[rows].reshape(shape)  # the last one is NOWHERE
    ):
        return "axis", f"counting its elements in a row, {_in_words(rows, 'element')}"
    if columns is not None and evidence.holds(
        lambda c: (np.insert(_matrix(evidence, c), outputs, 0, axis=1)[:, columns] @ _flat(c)).reshape(shape)
    ):
        return "axis", f"counting the cotangent's elements in a row, {_in_words(columns, 'cotangent')}"
    return None


def _flat(where: Comparison) -> Floats:
    return np.concatenate([np.ravel(part) for part in where.place.cotangent])


def _in_words(matched: Floats, what: str) -> str:
    """What is taken for what."""
    wrong = sorted((i for i, other in enumerate(matched) if other != i), key=lambda i: matched[i] == NOWHERE)
    parts = [
        f"{what} {i} is left out" if matched[i] == NOWHERE else f"{what} {i} is treated as {matched[i]} should be"
        for i in wrong[:3]
    ]
    return ", ".join(parts) + (f", and so on: {len(wrong)} are wrong" if len(wrong) > 3 else "")


HYPOTHESES = (Hypothesis(Level.ELEMENTS, exchanged, ("axis",)),)
