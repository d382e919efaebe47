"""However a rule is called, its answer is the same: directly, compiled, one at a time or all at once."""

from collections.abc import Iterator

import numpy as np

from jaxnet.verify.candidate import by_candidate, narrowest_value, value_by_candidate, vmapped
from jaxnet.verify.comparison import UNITS_IN_OWN_DTYPE, Comparison
from jaxnet.verify.report import Finding
from jaxnet.verify.trial import Trial


def forward_pass(trial: Trial, given: Comparison) -> Iterator[Finding]:
    """Whether the rule's own forward pass computes the function."""
    problem = trial.problem
    if problem.rule.value is None or trial.native or not trial.traced:
        return
    found = value_by_candidate(problem, given.place.point)
    if len(found) != len(given.truth.outputs):
        text = f"the rule's forward pass returns {len(found)} outputs, the function {len(given.truth.outputs)}"
        yield Finding("output", "structure", text)
        return
    unit = max(trial.unit, narrowest_value(problem))
    for i, (a, e) in enumerate(zip(found, given.truth.outputs, strict=True)):
        known = np.isfinite(e)
        slack = 2 * UNITS_IN_OWN_DTYPE * unit * float(np.abs(e[known]).max(initial=0))
        if a.shape != e.shape or not np.allclose(a[known], e[known], rtol=0, atol=slack):
            path = "output" + f"[{i}]" * (len(found) > 1)
            yield Finding(path, "unknown", "the rule's forward pass returns another value than the function itself")


def same_however_called(trial: Trial, comparisons: list[Comparison], notes: list[str]) -> list[Finding]:
    """Rule 5: called directly or compiled, one at a time or under `jax.vmap`, the answer is the same."""
    if not trial.traced:
        return []
    problem, findings = trial.problem, []
    given = comparisons[0]
    pair = [given, *(c for c in comparisons if c.place.role == "generic")][:2]
    try:
        together = vmapped(
            problem,
            [np.stack(leaves) for leaves in zip(*(c.place.point for c in pair), strict=True)],
            [np.stack(leaves) for leaves in zip(*(c.place.cotangent for c in pair), strict=True)],
            float64=not trial.native,
        )
    except Exception as error:
        notes.append(f"jax.vmap of the candidate raises {type(error).__name__}: untested")
        return []
    for row, comparison in enumerate(pair):
        batched = comparison._replace(candidate=[None if leaf is None else leaf[row] for leaf in together])
        for i, path in enumerate(problem.paths):
            if batched.wrong(i).any() and not comparison.wrong(i).any():
                text = "under jax.vmap it gives another answer than called one at a time"
                findings.append(batched.finding(i, path, "impure", text))
    direct = by_candidate(problem, given.place.point, given.place.cotangent, traced=False, float64=not trial.native)
    called = given._replace(candidate=direct)
    for i, path in enumerate(problem.paths):
        if called.wrong(i).any() and not given.wrong(i).any():
            text = "compiled by jax.jit it gives another answer than called directly"
            findings.append(called.finding(i, path, "impure", text))
    return findings
