"""The verdict on an optimizer: held against another in every update and every field of the state."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_leaves_with_path

from jaxnet.arguments import positive_integer
from jaxnet.verify.engine.case import in_words
from jaxnet.verify.engine.precision import DOUBLE, as_the_user_runs_it, in_float64, is_float, spacing
from jaxnet.verify.engine.randomness import generator_of
from jaxnet.verify.engine.trial import CandidateError
from jaxnet.verify.optimizers import form
from jaxnet.verify.optimizers.comparison import Comparison, Sides, Trial, compare
from jaxnet.verify.optimizers.findings import by_field, findings, unmatched, wrong_fields
from jaxnet.verify.optimizers.sequences import STEPS, sequences
from jaxnet.verify.optimizers.settings import Setting, settings
from jaxnet.verify.optimizers.sides import Side, Way, begin, cast, dtypes_of_updates, way_of
from jaxnet.verify.report import Finding, Report

FLOAT32 = spacing(np.float32)


def verify_optimizer(
    candidate: Any, reference: Any, params: Any, *, key: Array, steps: int = STEPS, native: bool = False
) -> Report:
    """Judges an optimizer against another: every update and every field of the state, step by step.

    Both are given the same gradients: ordinary ones, such of one sign, tiny, huge and sparse ones, stretches of zeros.
    They are compared in float64, then in the parameters' own dtypes (float32 for float64) with the reference in
    float64. What rounding explains is measured, so there is no tolerance. Where they differ, variants of the reference
    are run to tell which convention the candidate follows: where ε is, what is corrected for bias, ...

    Two functions learning_rate -> optimizer, such as `optax.adam` and one of your own with Optax's argument names, are
    compared at a learning rate that changes and other hyperparameters too; what depends on that stays hidden in two
    finished optimizers.

    Args:
        candidate: an `optax.GradientTransformation`, or a function learning_rate -> such. `from_step` adapts a rule
            (params, grads, state) -> (params, state), `from_torch` an optimizer of PyTorch.
        reference: the same, trusted: from Optax, or an own one to compare with.
        params: parameters; their shapes matter, and their numbers to weight decay. Small ones do: 60,000 numbers take
            about a minute.
        key: of the gradients.
        steps: how many of each sequence; bfloat16 counts to 256.
        native: whether the candidate runs in the parameters' dtypes only, and never in float64.

    Returns:
        A report, true if nothing is wrong. A field of the state that has no counterpart of equal value or name in the
        other state is named in its notes.

    Raises:
        TypeError: if candidate and reference are not two optimizers or two functions, params hold anything but real
            floats, or key is no key.
        ValueError: if params are empty or not finite, steps are no positive integer, or the reference raises.
    """
    judged_in = settings(candidate, reference)
    params, steps = _checked(params), positive_integer("steps", steps)
    notes: list[str] = []
    found, judged = _verdict(judged_in, params, generator_of(key), steps, notes, native=native)
    subject = " ".join(filter(None, ("optimizer", _name(candidate))))
    return Report(subject, tuple(found), _units(judged, params), tuple(notes), _conditions(params, steps, judged))


def _verdict(
    judged_in: list[Setting], params: Any, generator: np.random.Generator, steps: int, notes: list[str], *, native: bool
) -> tuple[list[Finding], list["Judged"]]:
    """What is wrong, and the comparisons that showed it: form first, then float64, then the parameters' own dtypes."""
    seed = int(generator.integers(2**32))
    try:
        first = judged_in[0].candidate()
    except Exception as error:
        text = f"the candidate cannot be built: it raises {in_words(error)}"
        return [Finding("updates", "unknown", text)], []
    checked = form.check(first, params, generator, _usual(judged_in[0], params))
    notes += checked.notes
    if checked.findings:
        return list(checked.findings), []
    exact: list[Judged] = []
    if not native:
        try:
            wide = Trial(cast(params, float64=True), seed, steps, True, DOUBLE)
            exact = _judged(judged_in, wide, checked.way, notes)
        except CandidateError as error:
            notes.append(f"the candidate does not run in float64 ({error}): judged in the parameters' dtypes alone")
    found = _findings(exact, params, exact=True)
    if found:
        return found, exact
    own_params = cast(params, float64=False)
    own_unit = max(spacing(leaf.dtype) for leaf in jax.tree.leaves(own_params))
    try:
        in_own = Trial(own_params, seed, steps, False, own_unit, native=not exact)
        own = _judged(judged_in, in_own, checked.way, notes)
    except CandidateError as error:
        return [Finding("updates", "unknown", f"the candidate raises {error}")], exact
    alike = {judged.setting.name: judged.comparison for judged in exact}
    own = [j._replace(comparison=j.comparison.among_the_equal(alike.get(j.setting.name))) for j in own]
    notes += dict.fromkeys(note for judged in exact or own for note in unmatched(judged.comparison))
    return _findings(own, params, exact=not exact), exact or own


class Judged(NamedTuple):
    """Candidate and reference, compared in a setting.

    Attributes:
        setting: how they were built.
        comparison: what came of it.
    """

    setting: Setting
    comparison: Comparison


def _checked(params: Any) -> Any:
    leaves = tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("params are empty: there is nothing to judge")
    for path, leaf in leaves:
        leaf = jnp.asarray(leaf)
        if not is_float(leaf):
            raise TypeError(f"params{keystr(path)} must be real floating-point numbers, got {leaf.dtype}")
        if leaf.size == 0 or not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"params{keystr(path)} must be finite and not empty, got shape {list(leaf.shape)}")
    return jax.tree.map(np.asarray, params)


def _usual(setting: Setting, params: Any) -> list[Any]:
    """The dtypes of the reference's updates; none where it cannot be had here."""
    try:
        reference = setting.reference()
        way = way_of(reference, params)
    except Exception:  # that it raises is said where it is run
        return []
    return dtypes_of_updates(reference, params, way)


def _judged(judged_in: list[Setting], trial: Trial, way: Way, notes: list[str]) -> list[Judged]:
    """The comparison in the first setting, and in every other that both can be built in.

    Raises:
        CandidateError: if the candidate does not run in the first.
        ValueError: if the reference does not.
    """
    judged = []
    for setting in judged_in:
        try:
            with in_float64():
                reference, of_reference = _reference(setting, trial)
        except Exception as error:
            if not judged:
                raise ValueError(f"the reference raises {in_words(error)}") from error
            notes.append(f"with a {setting.name} the reference raises {type(error).__name__}: not compared there")
            continue
        try:
            judged.append(Judged(setting, _comparison(setting, trial, (reference, of_reference), way, notes)))
        except CandidateError as error:
            if not judged:
                raise
            notes.append(f"with a {setting.name} the candidate raises {error}: not compared there")
    return judged


def _reference(setting: Setting, trial: Trial) -> tuple[Side, Way]:
    """The reference in float64, and how it is called."""
    optimizer, parameters = setting.reference(), cast(trial.parameters, float64=True)
    way = way_of(optimizer, parameters)
    return begin(optimizer, parameters, way, exact=True), way


def _comparison(setting: Setting, trial: Trial, reference: tuple[Side, Way], way: Way, notes: list[str]) -> Comparison:
    with in_float64() if trial.float64 else as_the_user_runs_it():
        try:
            candidate = begin(setting.candidate(), trial.parameters, way, exact=trial.float64)
        except Exception as error:
            raise CandidateError(in_words(error)) from error
        with jax.numpy_dtype_promotion("standard"):
            begun = setting.reference(), trial.parameters, reference[1]
            own = None if trial.float64 else begin(*begun, exact=False)
    sides = Sides(candidate, reference[0], own)
    found = compare(sides, trial, setting.name)
    if trial.unit == DOUBLE and _wrong(found) and max(candidate.narrow, reference[0].narrow) > DOUBLE:
        # A number that is held in float32 is as right as float32 can say it; in half precision it is another number.
        again = compare(sides, trial._replace(unit=FLOAT32), setting.name)
        if not _wrong(again):
            notes.append("a number or a result inside is of a narrower dtype, whose rounding is allowed for")
            return again
    return found


def _wrong(comparison: Comparison) -> bool:
    return bool(comparison.wrong() or wrong_fields(comparison))


def _findings(judged: Sequence[Judged], params: Any, *, exact: bool) -> list[Finding]:
    return findings([j.comparison for j in judged], _paths(params), exact=exact)


def _paths(params: Any) -> list[str]:
    return [keystr(path) for path, _ in tree_leaves_with_path(params)]


def _units(judged: Sequence[Judged], params: Any) -> dict[str, float]:
    """The largest error of every update and every field of the reference's state, in units of rounding."""
    units: dict[str, float] = {}
    for _, comparison in judged:
        pairs = [(f"updates{path}", [pair]) for path, pair in zip(_paths(params), comparison.updates, strict=True)]
        pairs += [(f"state{other.path}", [pair for _, pair in found]) for other, found in by_field(comparison)]
        for path, found in pairs:
            if found:
                units[path] = max(units.get(path, 0.0), min(pair.units for pair in found))
    return units


def _conditions(params: Any, steps: int, judged: Sequence[Judged]) -> dict[str, str]:
    device = jax.devices()[0]
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
    names = "; ".join(filter(None, (j.setting.name for j in judged)))
    return {
        "device": f"{device.platform} ({device.device_kind})",
        "dtype": ", ".join(dtypes),
        "gradients": f"{len(sequences(jnp.finfo(np.float32)))} sequences of {steps} steps",
    } | ({"compared at": names} if names else {})


def _name(candidate: Any) -> str:
    name = getattr(candidate, "__name__", "")
    return "" if name == "<lambda>" else name
