"""Whether the rule's own forward pass computes the function: looked at before its backward pass runs."""

import functools

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxnet.verify.engine.case import Case, in_words
from jaxnet.verify.engine.hearing import NOTHING, Hearing, Outcome
from jaxnet.verify.engine.layout import described
from jaxnet.verify.engine.precision import DOUBLE, Floats, as_the_user_runs_it, compiled, precision, widened
from jaxnet.verify.engine.program import narrowings
from jaxnet.verify.engine.truth import largest, limit_of
from jaxnet.verify.report import Finding


def form(case: Case) -> tuple[Finding, ...]:
    """Whether the rule's forward pass returns what the function returns, in number, shape and kind."""
    value = case.candidate.value
    if value is None or not case.function.traced:
        return ()
    with as_the_user_runs_it():
        args = case.layout.arguments
        try:
            found = jax.eval_shape(lambda *leaves: value(args(*leaves)), case.differentiated, case.fixed)
        except Exception as error:
            concrete = isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError)
            if concrete:  # it is called with numbers later
                return ()
            return (Finding("output", "unknown", f"the rule's forward pass raises {in_words(error)}"),)
        expected = jax.eval_shape(lambda *leaves: case.function.tree(*leaves), case.differentiated, case.fixed)
    a, b = jax.tree.leaves(found), jax.tree.leaves(expected)
    if len(a) != len(b):
        count = f"{len(a)} output{'s' * (len(a) != 1)}, the function {len(b)}"
        return (Finding("output", "structure", f"the rule's forward pass returns {count}"),)
    if jax.tree.structure(found) != jax.tree.structure(expected):
        text = f"the rule's forward pass returns {described(found)}, the function {described(expected)}"
        return (Finding("output", "structure", text),)
    findings = []
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        if one.shape != other.shape:
            text = f"the rule's forward pass returns shape {list(one.shape)}, the function {list(other.shape)}"
            findings.append(Finding(_path(i, len(a)), "shape", text))
    return tuple(findings)


def _path(i: int, count: int) -> str:
    return "output" + f"[{i}]" * (count > 1)


def check(hearing: Hearing) -> Outcome:
    """Whether the numbers are those of the function, at the given point."""
    trial, given = hearing.trial, hearing.given
    case = trial.case
    if case.candidate.value is None or trial.native or not trial.traced:
        return NOTHING
    leaves = given.place.point, case.fixed_in(True)
    with precision(True), np.errstate(all="ignore"):
        program = jax.make_jaxpr(functools.partial(case.candidate.outputs, case.layout))(*leaves)
        found = widened(compiled(jaxpr_as_fun(program))(*jax.tree.leaves(leaves)))
    unit = max(DOUBLE, trial.unit, max(narrowings(program), default=0.0))
    findings = []
    for i, (a, e) in enumerate(zip(found, given.truth.outputs, strict=True)):
        known = np.isfinite(e)
        slack = limit_of(unit) * unit * largest(e)
        if (known & ~(np.abs(a - e) <= slack)).any():  # rounding is measured only where it may matter
            slack = slack + limit_of(trial.unit) * trial.function.noise_of_outputs(given.place, trial.unit)[i]
        wrong = known & ~(np.abs(a - e) <= slack)
        if wrong.any():
            findings.append(_finding(_path(i, len(found)), a, e, wrong, unit))
    return Outcome(tuple(findings), covers="forward pass")


def _finding(path: str, found: Floats, expected: Floats, wrong: Floats, unit: float) -> Finding:
    with np.errstate(all="ignore"):
        distance = np.where(wrong, np.nan_to_num(np.abs(found - expected), nan=np.inf), -1)
        index = tuple(int(n) for n in np.unravel_index(int(np.argmax(distance)), distance.shape))
        known = np.isfinite(expected)
        error = float(np.linalg.norm((found - expected)[known]) / (np.linalg.norm(expected[known]) or 1.0))
    text = (
        f"the rule's forward pass returns {found[index]:.6g} where the function is {expected[index]:.6g}; "
        f"{wrong.sum()} of {wrong.size} numbers are others"
    )
    return Finding(path, "unknown", text, index, float(found[index]), float(expected[index]), error, unit, "given")
