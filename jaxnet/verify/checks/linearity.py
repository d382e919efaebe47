"""A derivative is linear in the cotangent: zeros give zeros, and a million times as much a million times as much."""

import math

import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.hearing import NOTHING, Hearing, Outcome
from jaxnet.verify.engine.places import held_wide
from jaxnet.verify.engine.precision import spacing
from jaxnet.verify.report import Finding


def check(hearing: Hearing) -> Outcome:
    """The candidate with unusual cotangents, at a point where it is right with the usual one."""
    trial, case = hearing.trial, hearing.trial.case
    usual = next((c for c in hearing.in_domain(hearing.generic)), hearing.given)
    if case.function.scalar:
        return NOTHING
    # Less in float16, which ends at 65504, and where the function may compute in it; a power of 2 rounds nothing.
    dtypes = [leaf.dtype for leaf in case.differentiated]
    dtypes += [np.dtype(np.float16)] if case.traits.narrowest >= spacing(np.float16) else []
    limit = min(math.sqrt(float(jnp.finfo(dtype).max)) for dtype in dtypes)
    factors = {"cotangent of zeros": 0.0, "large cotangent": 2.0 ** math.floor(math.log2(min(1e6, limit)))}
    findings: dict[str, Finding] = {}
    for name, factor in factors.items():
        cotangent = held_wide([factor * c for c in usual.place.cotangent], case.outputs)
        found = trial.answer(usual.place.point, cotangent)
        for i, path in enumerate(case.paths):
            place = usual.place._replace(name=name, cotangent=cotangent)
            scaled = usual._replace(place=place, truth=usual.truth.times(factor), candidate=found)
            if path not in findings and scaled.any_wrong(i) and not usual.any_wrong(i):
                finite = np.isfinite(scaled.answer(i)).all()
                text = f"right elsewhere, wrong with a {name}: a derivative is linear in the cotangent"
                findings[path] = scaled.finding(i, path, "nonlinear" if finite else "non_finite", text)
    return Outcome(tuple(findings.values()), covers="linearity", settled=bool(findings))
