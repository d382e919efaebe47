"""However a rule is called, its answer is the same: directly, compiled, one at a time or all at once."""

import numpy as np

from jaxnet.verify.engine.comparison import Comparison
from jaxnet.verify.engine.hearing import NOTHING, Hearing, Outcome
from jaxnet.verify.engine.precision import Leaves
from jaxnet.verify.engine.trial import answer, answers, own_unit
from jaxnet.verify.report import Finding


def compiled(hearing: Hearing) -> Outcome:
    """Compiled by `jax.jit` it gives what it gave when it was called directly, in the user's dtypes."""
    trial = hearing.trial
    if not trial.traced:
        return NOTHING
    place = hearing.special[0]
    found = answer(trial.case, place.point, place.cotangent, exact=False)
    measured = hearing.truth(place).in_unit(own_unit(trial.case))
    truth = measured.with_noise(lambda: trial.function.noise_as_written(measured, place))
    limit = 64.0  # two roundings of the same formula
    here = Comparison(place, truth, hearing.called, limit)
    findings = _others(hearing, here, found, "compiled by jax.jit it gives another answer than called directly")
    return Outcome(tuple(findings), covers="jit", settled=bool(findings))


def _others(hearing: Hearing, here: Comparison, found: Leaves, text: str) -> list[Finding]:
    """Findings on leaves that are another than they were."""
    findings = []
    before = [here.answer(i) for i in range(len(found))]
    apart = here._replace(truth=here.truth.with_noise(lambda: here.truth.noise, before), candidate=found)
    for i, path in enumerate(hearing.trial.case.paths):
        if apart.any_wrong(i):
            findings.append(apart.finding(i, path, "impure", text))
    return findings


def mapped(hearing: Hearing) -> Outcome:
    """Under `jax.vmap` it gives what it gives one at a time."""
    trial = hearing.trial
    if not trial.traced:
        return NOTHING
    pair = [hearing.given, *hearing.in_domain(hearing.generic)][: 1 if trial.case.large else 2]
    try:
        together = answers(
            trial.case,
            [np.stack(leaves) for leaves in zip(*(c.place.point for c in pair), strict=True)],
            [np.stack(leaves) for leaves in zip(*(c.place.cotangent for c in pair), strict=True)],
            exact=not trial.native,
        )
    except Exception as error:
        return Outcome(notes=(f"jax.vmap of the candidate raises {type(error).__name__}: untested",))
    findings: list[Finding] = []
    for row, here in enumerate(pair):
        found = [None if leaf is None else leaf[row] for leaf in together]
        text = "under jax.vmap it gives another answer than called one at a time"
        findings += _others(hearing, here, found, text)
    return Outcome(tuple(findings), covers="vmap", settled=bool(findings))
