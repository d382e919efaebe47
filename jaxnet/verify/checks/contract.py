"""What any derivative must do before its numbers are looked at: run, answer in the right form, twice the same."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnet.verify.engine.case import Case, in_words, is_mixed
from jaxnet.verify.engine.layout import StructureError
from jaxnet.verify.engine.places import Place
from jaxnet.verify.engine.precision import Leaves, as_the_user_runs_it, spacing
from jaxnet.verify.engine.program import signature
from jaxnet.verify.report import Finding, Kind


class Contract(NamedTuple):
    """What the candidate does at the given point in the user's dtypes, called as the user calls it.

    Attributes:
        findings: what it does wrong.
        answer: the leaves that it returned.
        traced: whether `jax.jit` can trace it.
        version: what sets its program apart from others.
        mixed: whether it closes over NumPy arrays and the user runs it without float64.
        notes: which checks could not be made.
        fatal: whether its numbers mean nothing.
    """

    findings: tuple[Finding, ...]
    answer: Leaves
    traced: bool = False
    version: Hashable = None
    mixed: bool = False
    notes: tuple[str, ...] = ()
    fatal: bool = False


def raised(error: Exception) -> Finding:
    """The finding that the candidate raises."""
    text = in_words(error)
    about_shapes = isinstance(error, TypeError | ValueError) and any(
        word in text for word in ("shape", "dimension", "broadcast", "axis", "axes", "rank")
    )
    kind: Kind = "shape" if about_shapes else "unknown"
    return Finding("", kind, f"the candidate raises {text}")


def check(case: Case, place: Place) -> Contract:
    """Calls the candidate twice with copies of what the user gave, then traces it."""
    try:
        raw, changed = _call(case, place)
        answer = case.layout.entries(raw)
        again = case.layout.entries(_call(case, place)[0])
    except StructureError as error:
        return _stop(Finding("", "structure", str(error)))
    except Exception as error:
        return _stop(raised(error))
    if changed:
        return _stop(Finding("", "impure", f"the candidate changes its input {changed} in place: copy it first"))
    findings = []
    for path, leaf, own in zip(case.paths, answer, case.differentiated, strict=True):
        findings += _form(path, leaf, own)
    if any(f.kind in ("structure", "impure") for f in findings) or any(map(np.iscomplexobj, answer)):
        return Contract(tuple(findings), answer, fatal=True)
    findings += _repeats(case, answer, again)
    if any(finding.kind == "impure" for finding in findings):
        return Contract(tuple(findings), answer, fatal=True)
    return _traced(case, place, Contract(tuple(findings), answer))


def _stop(finding: Finding) -> Contract:
    return Contract((finding,), [], fatal=True)


def _call(case: Case, place: Place) -> tuple[Any, str]:
    """The candidate's raw answer, and the path of a NumPy input that it changed, if any."""
    with as_the_user_runs_it(), np.errstate(all="ignore"):
        given = {"differentiated": case.differentiated, "fixed": case.fixed}
        came = {role: case.layout.as_came(role, leaves) for role, leaves in given.items()}
        cotangent = [jnp.asarray(c, shape.dtype) for c, shape in zip(place.cotangent, case.outputs, strict=True)]
        raw = case.candidate.answer(case.layout, came["differentiated"], came["fixed"], cotangent)
        for role, leaves in came.items():
            for position, (leaf, original) in enumerate(zip(leaves, given[role], strict=True)):
                if isinstance(leaf, np.ndarray) and not np.array_equal(leaf, np.asarray(original), equal_nan=False):
                    named = role == "differentiated" and case.paths[position]
                    return raw, named or f"of shape {leaf.shape}"
    return raw, ""


def _form(path: str, leaf: Any, own: Any) -> list[Finding]:
    """Whether a leaf is an array of floats of the right dtype; shapes are judged with the numbers."""
    if leaf is None or isinstance(leaf, float):
        return []
    if isinstance(leaf, Tracer):
        return [
            Finding(path, "impure", "it returns a tracer kept from an earlier trace: compute it from the arguments")
        ]
    numeric = isinstance(leaf, int | jax.Array | np.ndarray | np.generic)
    dtype = np.dtype(int) if isinstance(leaf, int) else getattr(leaf, "dtype", np.dtype(object))
    if not numeric or dtype == jax.dtypes.float0 or not jnp.issubdtype(dtype, jnp.number):
        return [Finding(path, "structure", f"expected an array of floats, got {type(leaf).__name__}: {leaf!r:.80}")]
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return [Finding(path, "dtype", f"the gradient is {dtype}, the argument {own.dtype}: take the real part")]
    if dtype == own.dtype:
        return []
    # NumPy knows no weak types, so that a wider result says nothing about the rule.
    wider = jnp.issubdtype(dtype, jnp.floating) and spacing(dtype) < spacing(own.dtype)
    if isinstance(leaf, np.ndarray | np.generic) and wider:
        return []
    return [
        Finding(
            path,
            "dtype",
            f"the gradient is {dtype}, the argument {own.dtype}: return the argument's dtype, "
            + ("a promotion to a wider dtype is hidden in the rule" if wider else "a narrower one loses digits"),
        )
    ]


def _repeats(case: Case, answer: Leaves, again: Leaves) -> list[Finding]:
    """Whether the second answer is the first, but for the order in which a parallel device sums."""
    findings = []
    for path, first, second, own in zip(case.paths, answer, again, case.differentiated, strict=True):
        if first is None or second is None:
            same = first is second
        else:
            a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
            allowed = 64 * spacing(own.dtype) * np.max(np.abs(a), initial=0, where=np.isfinite(a))
            same = a.shape == b.shape and np.allclose(a, b, rtol=0, atol=allowed, equal_nan=True)
        if not same:
            text = "called twice with the same arguments it gives two answers: it must be pure"
            findings.append(Finding(path, "impure", text))
    return findings


def _traced(case: Case, place: Place, so_far: Contract) -> Contract:
    """The same, with what the candidate's program is in the user's dtypes, or a note that it cannot be traced."""

    def leaves(*given: Leaves) -> Leaves:
        return case.candidate.leaves(case.layout, *given)

    with as_the_user_runs_it():
        cotangent = [jnp.asarray(c, shape.dtype) for c, shape in zip(place.cotangent, case.outputs, strict=True)]
        try:
            # What XLA itself refuses, a callback's shape for instance, shows when it is compiled.
            program = jax.make_jaxpr(lambda *given: leaves(*given))(case.differentiated, case.fixed, cotangent)
            return so_far._replace(traced=True, version=signature(program), mixed=is_mixed(program))
        except Exception as error:
            note = f"jax.jit cannot trace the candidate ({type(error).__name__}): judged call by call"
            return so_far._replace(notes=(f"{note}, jit and vmap untested",))
