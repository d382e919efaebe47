"""What any derivative must do before its numbers are looked at: run, answer in the right form, twice the same."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnet.verify.candidate import StructureError, as_came, by_candidate, entries
from jaxnet.verify.points import Place, given
from jaxnet.verify.problem import Leaves, Problem, as_the_user_runs_it, in_words, spacing
from jaxnet.verify.report import Finding, Kind


class Contract(NamedTuple):
    """What the candidate does at the given point in the user's dtypes, called as the user calls it.

    Attributes:
        findings: what it does wrong; after a finding with `fatal` its numbers mean nothing.
        traced: whether it runs under `jax.jit`.
        notes: which checks could not be made.
        fatal: whether to stop here.
    """

    findings: tuple[Finding, ...]
    traced: bool
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


def check(problem: Problem, place: Place) -> Contract:
    """Calls the candidate twice with copies of what the user gave, then compiles it."""
    try:
        raw, changed = _call(problem, place)
        answer = entries(problem.rule, raw)
        again = entries(problem.rule, _call(problem, place)[0])
    except StructureError as error:
        return _stop(Finding("", "structure", str(error)))
    except Exception as error:
        return _stop(raised(error))
    if changed:
        return _stop(Finding("", "impure", f"the candidate changes its input {changed} in place: copy it first"))
    findings = []
    for path, leaf, own in zip(problem.paths, answer, problem.differentiated, strict=True):
        findings += _form(path, leaf, own)
    if any(f.kind in ("structure", "impure") for f in findings) or any(map(np.iscomplexobj, answer)):
        return Contract(tuple(findings), False, fatal=True)
    findings += [f for f in _repeats(problem, answer, again) if f]
    if any(finding.kind == "impure" for finding in findings):
        return Contract(tuple(findings), False, fatal=True)
    traced, note = _traces(problem, place)
    return Contract(tuple(findings), traced, note)


def _stop(finding: Finding) -> Contract:
    return Contract((finding,), False, fatal=True)


def _call(problem: Problem, place: Place) -> tuple[Any, str]:
    """The candidate's raw answer, and the path of a NumPy input that it changed, if any."""
    rule = problem.rule
    with as_the_user_runs_it(), np.errstate(all="ignore"):
        differentiated, fixed = as_came(rule, problem.differentiated, problem.fixed)
        shapes = jax.tree.leaves(rule.output_shapes(problem.differentiated, problem.fixed))
        floating = [shape for shape in shapes if jnp.issubdtype(shape.dtype, jnp.floating)]
        cotangent = [jnp.asarray(c, shape.dtype) for c, shape in zip(place.cotangent, floating, strict=True)]
        raw = rule.gradient(differentiated, fixed, cotangent)
        for leaves, originals in ((differentiated, problem.differentiated), (fixed, problem.fixed)):
            for position, (leaf, original) in enumerate(zip(leaves, originals, strict=True)):
                if isinstance(leaf, np.ndarray) and not np.array_equal(leaf, np.asarray(original), equal_nan=False):
                    named = leaves is differentiated and problem.paths[position]
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


def _repeats(problem: Problem, answer: Leaves, again: Leaves) -> list[Finding]:
    """Whether the second answer is the first, but for the order in which a parallel device sums."""
    findings = []
    for path, first, second, own in zip(problem.paths, answer, again, problem.differentiated, strict=True):
        if first is None or second is None:
            same = first is second
        else:
            a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
            allowed = 64 * spacing(own.dtype) * np.max(np.abs(a), initial=0, where=np.isfinite(a))
            same = a.shape == b.shape and np.allclose(a, b, rtol=0, atol=allowed, equal_nan=True)
        if not same:
            findings.append(
                Finding(path, "impure", "called twice with the same arguments it gives two answers: it must be pure")
            )
    return findings


def _traces(problem: Problem, place: Place) -> tuple[bool, tuple[str, ...]]:
    try:
        by_candidate(problem, given(problem), place.cotangent, traced=True, float64=False)
    except Exception as error:
        name = type(error.__cause__ or error).__name__
        return False, (f"jax.jit cannot trace the candidate ({name}): judged call by call, jit and vmap untested",)
    return True, ()
