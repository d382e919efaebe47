"""The verdict on an optimizer: held against another in every update and every field of the state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_leaves_with_path

from jaxnet.verify.optimizers import diagnosis, form
from jaxnet.verify.optimizers.comparison import Comparison, Precision, Side, begin, cast, compare
from jaxnet.verify.optimizers.differences import Difference, Pair
from jaxnet.verify.optimizers.fields import Field
from jaxnet.verify.optimizers.sequences import STEPS, sequences
from jaxnet.verify.optimizers.settings import Setting, settings
from jaxnet.verify.points import generator_of
from jaxnet.verify.problem import as_the_user_runs_it, in_float64, in_words, is_float, spacing
from jaxnet.verify.reference import DOUBLE
from jaxnet.verify.report import Finding, Kind, Report


def verify_optimizer(candidate: Any, reference: Any, params: Any, *, key: Array, native: bool = False) -> Report:
    """Judges an optimizer against another: every update and every field of the state, in each of 320 steps.

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
        params: parameters; their shapes matter, and their numbers to weight decay. Small ones do.
        key: of the gradients.
        native: whether the candidate runs in the parameters' dtypes only, and never in float64.

    Returns:
        A report, true if nothing is wrong. A field of the state that has no counterpart of equal value or name in the
        other state is named in its notes.

    Raises:
        TypeError: if candidate and reference are not two optimizers or two functions, params hold anything but real
            floats, or key is no key.
        ValueError: if params are empty or not finite, or the reference raises.
    """
    compared_in = settings(candidate, reference)
    params = _checked(params)
    generator = generator_of(key)
    seed = int(generator.integers(2**32))
    notes: list[str] = []
    try:
        first = compared_in[0].candidate()
    except Exception as error:
        text = f"the candidate cannot be built: it raises {in_words(error)}"
        return _report(candidate, [Finding("updates", "unknown", text)], [], notes, params, compared_in)
    checked = form.check(first, params, generator)
    notes += checked.notes
    if checked.findings:
        return _report(candidate, checked.findings, [], notes, params, compared_in)
    own_unit = max(spacing(leaf.dtype) for leaf in jax.tree.leaves(cast(params, float64=False)))
    findings: list[Finding] = []
    compared: list[Comparison] = []
    for precision in [Precision(False, own_unit)] if native else [Precision(True, DOUBLE), Precision(False, own_unit)]:
        exact = compared
        compared, sides = _compared(compared_in, params, seed, precision, checked.array, notes)
        if exact:
            compared = [own.among_the_equal(before) for own, before in zip(compared, exact, strict=True)]
        findings = _findings(compared, sides, compared_in, precision, params, notes, native=native)
        if findings:
            break
    return _report(candidate, findings, compared, notes, params, compared_in)


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


def _compared(
    compared_in: list[Setting], params: Any, seed: int, precision: Precision, array: Any, notes: list[str]
) -> tuple[list[Comparison], list[Side]]:
    """The comparison in every setting that both can be built in, and the references."""
    comparisons, references = [], []
    for setting in list(compared_in):
        with in_float64():
            try:
                optimizer = setting.reference()
                reference = begin(optimizer, cast(params, float64=True))
            except Exception as error:
                if setting is compared_in[0]:
                    raise ValueError(f"the reference raises {in_words(error)}") from error
                notes.append(f"the reference cannot be built with a {setting.name} ({type(error).__name__})")
                compared_in.remove(setting)
                continue
        with in_float64() if precision.float64 else as_the_user_runs_it():
            parameters = cast(params, float64=precision.float64)
            try:
                candidate = begin(setting.candidate(), parameters, array)
            except Exception as error:
                notes.append(f"the candidate cannot be built with a {setting.name} ({in_words(error)}): untested")
                compared_in.remove(setting)
                continue
            own = None if precision.float64 else begin(setting.reference(), parameters)
        found = compare(candidate, reference, own, parameters, seed, precision, setting.name)
        if precision.unit == DOUBLE and _wrong(found) and candidate.program is not None:
            narrow = candidate.program.narrowest()
            usual = reference.program.narrowest() if reference.program is not None else DOUBLE
            if narrow > max(usual, DOUBLE):
                # What computes in a narrower dtype inside is judged by that dtype's rounding.
                again = compare(candidate, reference, None, parameters, seed, Precision(True, narrow), setting.name)
                if not _wrong(again):
                    notes.append("the candidate computes in a narrower dtype inside, and is judged by its rounding")
                    found = again
        comparisons.append(found)
        references.append(reference)
    return comparisons, references


def _wrong(comparison: Comparison) -> bool:
    return bool(comparison.wrong() or any(_named_wrong(comparison)))


def _findings(
    compared: list[Comparison],
    references: list[Side],
    compared_in: list[Setting],
    precision: Precision,
    params: Any,
    notes: list[str],
    *,
    native: bool,
) -> list[Finding]:
    paths = [keystr(path) for path, _ in tree_leaves_with_path(params)]
    findings: list[Finding] = []
    verdict: tuple[Kind, str] | None = None
    wrong = {leaf: pair.first for found in reversed(compared) for leaf, pair in enumerate(found.updates) if pair.first}
    if wrong:
        if precision.float64 or native:
            verdict = diagnosis.of_updates(list(zip(compared, references, strict=True)), float64=precision.float64)
        else:
            verdict = "precision", "right in float64; in the parameters' own dtype it loses more than rounding explains"
        leaf = min(wrong, key=lambda leaf: (wrong[leaf].step, leaf))
        kind, text = verdict
        if len(wrong) < len(paths):
            text = f"{text} (in {len(wrong)} of {len(paths)} leaves: {', '.join(paths[i] for i in sorted(wrong))})"
        findings.append(_finding(f"updates{paths[leaf]}", kind, text, wrong[leaf]))
    seen: set[str] = set()
    for found in compared:
        for field, pair in _named_wrong(found):
            assert pair.first is not None
            if field.name in seen:
                continue
            seen.add(field.name)
            kind, text = diagnosis.of_a_field(pair, counter=field.whole or field.of is None, updates=verdict)
            findings.append(_finding(f"state{field.path}", kind, text, pair.first))
        if precision.float64 or native:
            notes += [note for note in dict.fromkeys(_matched(found)) if note not in notes]
    return findings


def _named_wrong(comparison: Comparison) -> list[tuple[Field, Pair]]:
    """Fields of the candidate's state that should equal one of the reference's, going by their names, and do not."""
    wrong = []
    for other, pairs in _by_field(comparison):
        namesakes = [(field, pair) for field, pair in pairs if field.namesake(other)]
        if any(pair.first is None for _, pair in pairs) or not namesakes:
            continue
        field, pair = namesakes[0]
        if field.name == other.name or (pair.factor is None and pair.shift is None):
            wrong.append((field, pair))
    return wrong


def _by_field(comparison: Comparison) -> list[tuple[Field, list[tuple[Field, Pair]]]]:
    """For each field of the reference's state the candidate's that may stand for it."""
    return [
        (other, [(comparison.candidate[c], pair) for (c, of), pair in comparison.states.items() if of == r])
        for r, other in enumerate(comparison.reference)
    ]


def _matched(comparison: Comparison) -> list[str]:
    """What is to be said of fields that stand for another by value alone, or for none."""
    notes = []
    wrong = {id(pair) for _, pair in _named_wrong(comparison)}
    for other, pairs in _by_field(comparison):
        name = other.name or other.path
        equal = [field for field, pair in pairs if pair.first is None]
        if equal and not any(field.namesake(other) for field in equal):
            notes.append(f"the reference's state field {name} is the candidate's {equal[0].name}, by value")
        elif not equal and not other.whole and not any(id(pair) in wrong for _, pair in pairs):
            notes.append(f"the reference's state field {name} has no counterpart of equal value{_related(pairs)}")
    return notes


def _related(pairs: list[tuple[Field, Pair]]) -> str:
    for field, pair in pairs:
        if pair.factor is not None:
            return f": the candidate's {field.name} is {pair.factor:.6g} times it, in every step"
        if pair.shift is not None:
            return f": the candidate's {field.name} is {pair.shift:+.6g} beside it, in every step"
    return ""


def _finding(path: str, kind: Kind, text: str, at: Difference) -> Finding:
    where = f"step {at.step}, {at.where}"
    return Finding(path, kind, text, at.index, at.candidate, at.expected, at.error, at.rounding, where)


def _report(
    candidate: Any, findings: Any, compared: list[Comparison], notes: list[str], params: Any, compared_in: list[Setting]
) -> Report:
    paths = [keystr(path) for path, _ in tree_leaves_with_path(params)]
    units: dict[str, float] = {}
    for found in compared:
        for path, pair in zip(paths, found.updates, strict=True):
            units[f"updates{path}"] = max(units.get(f"updates{path}", 0.0), pair.units)
        for other, pairs in _by_field(found):
            if pairs:
                best = min(pair.units for _, pair in pairs)
                units[f"state{other.path}"] = max(units.get(f"state{other.path}", 0.0), best)
    name = getattr(candidate, "__name__", "")
    device = jax.devices()[0]
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
    conditions = {
        "device": f"{device.platform} ({device.device_kind})",
        "dtype": ", ".join(dtypes),
        "gradients": f"{len(sequences(jnp.finfo(np.float32)))} sequences of {STEPS} steps",
        "settings": str(len(compared_in)),
    }
    subject = f"optimizer {name}" if name and name != "<lambda>" else "optimizer"
    return Report(subject, tuple(findings), units, tuple(notes), conditions)
