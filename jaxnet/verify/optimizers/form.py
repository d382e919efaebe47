"""What any optimizer must do before its numbers are looked at: run, answer in the right form, twice the same."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from jaxnet.verify.engine.case import in_words
from jaxnet.verify.engine.precision import as_the_user_runs_it, is_float
from jaxnet.verify.optimizers.program import as_numbers, as_numpy, traced
from jaxnet.verify.report import Finding


class Form(NamedTuple):
    """What the candidate does at the given parameters in their own dtypes, called as the user calls it.

    Attributes:
        findings: what is wrong; its numbers mean nothing then.
        array: what its arrays are made by: `jax.numpy.asarray`, or `numpy.array` where it takes no others.
        notes: which checks could not be made.
    """

    findings: tuple[Finding, ...]
    array: Callable[[Any], Any] = jnp.asarray
    notes: tuple[str, ...] = ()


def check(candidate: Any, parameters: Any, generator: np.random.Generator) -> Form:
    """Starts the candidate, takes the same step twice and another one after it, and traces it."""
    given = jax.tree.map(lambda p: np.asarray(generator.standard_normal(np.shape(p)), p.dtype), parameters)
    with as_the_user_runs_it(), np.errstate(all="ignore"):
        try:
            return _judged(candidate, parameters, given, jnp.asarray)
        except Exception as error:  # whatever it is, it is what was found, unless NumPy's arrays avoid it
            raised = Finding("updates", "unknown", f"the candidate raises {in_words(error)}")
        try:
            form = _judged(candidate, parameters, given, np.array)
        except Exception:
            return Form((raised,))
        return form._replace(notes=(*form.notes, "the candidate takes NumPy's arrays, not JAX's"))


def _judged(candidate: Any, parameters: Any, given: Any, array: Callable[[Any], Any]) -> Form:
    parameters, gradients = jax.tree.map(array, parameters), jax.tree.map(array, given)
    start = candidate.init(parameters)
    first, state = candidate.update(gradients, copy.deepcopy(start), parameters)
    again, _ = candidate.update(gradients, copy.deepcopy(start), parameters)
    _, later = candidate.update(gradients, copy.deepcopy(state), parameters)
    findings = [*_numbers(start), *_updates(first, parameters)]
    if not findings:
        findings += _state(start, state, later)
    findings += [
        Finding("updates", "impure", text) for text in _impure(jax.tree.map(array, given), gradients, first, again)
    ]
    if findings:
        return Form(tuple(findings), array)
    try:
        traced(candidate, gradients, start, parameters)
    except Exception as error:
        name = type(error).__name__
        return Form((), array, (f"jax.jit cannot trace the candidate ({name}): judged step by step in Python",))
    return Form((), array)


def _updates(updates: Any, parameters: Any) -> list[Finding]:
    found, expected = jax.tree.structure(updates), jax.tree.structure(parameters)
    if found != expected:
        text = f"the updates must be a tree like the parameters, {expected}; got {found}"
        return [Finding("updates", "structure", text)]
    findings = []
    for (path, update), parameter in zip(tree_leaves_with_path(updates), jax.tree.leaves(parameters), strict=True):
        place = f"updates{keystr(path)}"
        if jnp.shape(update) != parameter.shape:
            text = f"shape {list(jnp.shape(update))} where {list(parameter.shape)} is expected"
            findings.append(Finding(place, "shape", text))
        elif not is_float(jnp.asarray(update)):
            text = f"the update is {jnp.asarray(update).dtype}, the parameter {parameter.dtype}"
            findings.append(Finding(place, "dtype", text))
    return findings


def _numbers(state: Any) -> list[Finding]:
    """Whether every leaf of the state is a number or an array of them."""
    others = [
        (path, leaf)
        for path, leaf in tree_leaves_with_path(state)
        if not isinstance(leaf, jax.Array) and np.asarray(leaf).dtype.kind not in "biufcV"
    ]
    return [
        Finding(f"state{keystr(path)}", "structure", f"the state may hold arrays only, got {type(leaf).__name__}")
        for path, leaf in others
    ]


def _state(start: Any, state: Any, later: Any) -> list[Finding]:
    """Whether the state keeps its form; one that is made in the first step is compared from there."""
    made_later = not jax.tree.leaves(start) and jax.tree.leaves(state)
    before, after = (state, later) if made_later else (start, state)
    if jax.tree.structure(before) != jax.tree.structure(after):
        text = f"the state changes its tree in a step, from {jax.tree.structure(before)} to {jax.tree.structure(after)}"
        return [Finding("state", "structure", f"{text}: jit compiles anew in every step, and scan refuses")]
    findings = []
    for (path, old), new in zip(tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        old, new = as_numbers(old), as_numbers(new)
        if old.shape != new.shape:
            text = f"it changes its shape in a step, from {list(old.shape)} to {list(new.shape)}"
            findings.append(Finding(f"state{keystr(path)}", "shape", text))
        elif old.dtype != new.dtype:
            text = (
                f"it changes its dtype in a step, from {old.dtype} to {new.dtype}: jit compiles anew, and scan refuses"
            )
            findings.append(Finding(f"state{keystr(path)}", "dtype", text))
    return findings


def _impure(given: Any, gradients: Any, first: Any, again: Any) -> list[str]:
    """What is said of a step that is no function of its arguments."""
    found = []
    if any(not np.array_equal(a, b) for a, b in _leaves(given, gradients)):
        found.append("it changes the gradients in place: copy them first")
    if any(a.shape != b.shape or not np.array_equal(a, b, equal_nan=True) for a, b in _leaves(first, again)):
        found.append("the same step taken twice gives two answers: everything it remembers must be in the state")
    return found


def _leaves(one: Any, other: Any) -> list[tuple[Any, Any]]:
    return list(zip(as_numpy(jax.tree.leaves(one)), as_numpy(jax.tree.leaves(other)), strict=False))
