"""What any optimizer must do before its numbers are looked at: run, answer in the right form, twice the same."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from jaxnet.verify.engine.case import in_words
from jaxnet.verify.engine.precision import as_the_user_runs_it, is_float
from jaxnet.verify.optimizers.program import as_numbers, as_numpy, traced
from jaxnet.verify.optimizers.sides import Way, way_of
from jaxnet.verify.report import Finding


class Form(NamedTuple):
    """What the candidate does at the given parameters in their own dtypes, called as the user calls it.

    Attributes:
        findings: what is wrong; its numbers mean nothing then.
        way: how it is called.
        notes: which checks could not be made.
    """

    findings: tuple[Finding, ...]
    way: Way = Way()
    notes: tuple[str, ...] = ()


def check(candidate: Any, parameters: Any, generator: np.random.Generator, usual: Sequence[Any] = ()) -> Form:
    """Starts the candidate, takes the same step twice and another one after it, and traces it.

    Args:
        candidate: the optimizer.
        parameters: as the user has them.
        generator: of the gradients.
        usual: the dtypes of the reference's updates, which the candidate's may have too.
    """
    given = jax.tree.map(lambda p: np.asarray(generator.standard_normal(np.shape(p)), p.dtype), parameters)
    with as_the_user_runs_it(), np.errstate(all="ignore"):
        try:
            way = way_of(candidate, parameters)
            form = _judged(way.made(candidate), way, parameters, given, usual)
        except Exception as error:  # whatever it is, it is what was found
            return Form((Finding("updates", "unknown", f"the candidate raises {in_words(error)}"),))
    notes = []
    if way.cost:
        notes.append("the candidate asks for the cost, and is given half the sum of the parameters' squares")
    if way.array is not jnp.asarray:
        notes.append("the candidate takes NumPy's arrays, not JAX's")
    return form._replace(notes=(*form.notes, *notes))


def _judged(candidate: Any, way: Way, parameters: Any, given: Any, usual: Sequence[Any]) -> Form:
    parameters, gradients = jax.tree.map(way.array, parameters), jax.tree.map(way.array, given)
    start = candidate.init(parameters)
    first, state = candidate.update(gradients, copy.deepcopy(start), parameters)
    again, _ = candidate.update(gradients, copy.deepcopy(start), parameters)
    _, later = candidate.update(gradients, copy.deepcopy(state), parameters)
    findings = [*_numbers(start), *_updates(first, parameters)]
    if not findings:
        findings += [*_state(start, state, later), *_dtypes(first, parameters, state, usual)]
    findings += [
        Finding("updates", "impure", text) for text in _impure(jax.tree.map(way.array, given), gradients, first, again)
    ]
    if findings:
        return Form(tuple(findings), way)
    try:
        traced(candidate, gradients, start, parameters)
    except Exception as error:
        name = type(error).__name__
        return Form((), way, (f"jax.jit cannot trace the candidate ({name}): judged step by step in Python",))
    return Form((), way)


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


def _dtypes(updates: Any, parameters: Any, state: Any, usual: Sequence[Any]) -> list[Finding]:
    """Whether JAX's updates have the parameters' dtypes, or such as the state or the reference give a reason for."""
    findings = []
    with jax.numpy_dtype_promotion("standard"):
        owns = [jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in jax.tree.leaves(parameters)]
        held = {leaf.dtype for leaf in jax.tree.leaves(state) if is_float(leaf)}
        reasons = [{own, *(jnp.promote_types(own, dtype) for dtype in held)} for own in owns]
    for number, (path, update) in enumerate(tree_leaves_with_path(updates)):
        if isinstance(update, jax.Array) and update.dtype not in reasons[number] | {*usual[number : number + 1]}:
            text = f"the update is {update.dtype}, the parameter {owns[number]}: added to it, it changes its dtype"
            findings.append(Finding(f"updates{keystr(path)}", "dtype", text))
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
        elif _changes_its_dtype(old, new):
            text = (
                f"it changes its dtype in a step, from {old.dtype} to {new.dtype}: jit compiles anew, and scan refuses"
            )
            findings.append(Finding(f"state{keystr(path)}", "dtype", text))
    return findings


def _changes_its_dtype(old: Any, new: Any) -> bool:
    """Whether the dtype is another for JAX; between floats of NumPy, nothing is compiled that could depend on it."""
    if not isinstance(new, jax.Array) and is_float(old) and is_float(new):
        return False
    return jax.dtypes.canonicalize_dtype(old.dtype) != jax.dtypes.canonicalize_dtype(new.dtype)


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
