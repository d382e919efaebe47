"""Public faults are wrong and their mended forms right, by differences in float64, whatever the verifier says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.specimens.wild.gradients import WILD_FAULTS, WILD_RIGHT_RULES
from tests.specimens.differences import bounds_by_differences, floats, gradient_by_differences, widened

# What differences in float64 cannot show: the form of an answer, or digits lost in the arguments' own dtype.
ABOUT_FORM = ("structure", "shape", "dtype", "impure")
ABOUT_DIGITS = ("precision", "non_finite")
# Where a function has no derivative, differences bound what a rule may say.
ON_KINKS = [s for s in WILD_RIGHT_RULES if "on kinks" in s.name]
OFF_KINKS = [s for s in WILD_RIGHT_RULES if "on kinks" not in s.name]


def judged(specimen, own_dtype, truth=gradient_by_differences):
    """The rule's answer, leaf by leaf, and the truth about it."""
    case = specimen.case
    args = case.arguments(np.random.default_rng(5), 1.0)
    argnums = case.options.get("argnums", [i for i, arg in enumerate(args) if floats(arg)])
    argnums = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        outputs = jax.tree.map(jnp.asarray, case.function(*args))
        generator = np.random.default_rng(6)
        cotangent = jax.tree.map(lambda o: jnp.asarray(generator.standard_normal(o.shape), o.dtype), outputs)
        expected = truth(case.function, args, cotangent, argnums)
        with jax.enable_x64(not own_dtype or jnp.result_type(float) == jnp.float64):
            given = args if own_dtype else widened(args)
            answer = case.backward(given, cotangent if own_dtype else widened(cotangent))
    return [np.asarray(entry, np.float64) for entry in _entries(answer, args, argnums)], expected


def _entries(answer, args, argnums):
    leaves = []
    for i in argnums:
        zeros = [np.zeros(np.shape(leaf)) for leaf in floats(args[i])]
        leaves += zeros if answer[i] is None else jax.tree.leaves(answer[i])[: len(zeros)]
    return leaves


def error(found, expected):
    """The largest error over the largest slope of each leaf."""
    worst = 0.0
    for f, e in zip(found, expected, strict=True):
        if f.shape != e.shape or not np.isfinite(f).all():
            return np.inf
        worst = max(worst, np.abs(f - e).max(initial=0) / max(np.abs(e).max(initial=0), 1e-3))
    return worst


@pytest.mark.one_in(80)
@pytest.mark.float64
@pytest.mark.parametrize("specimen", [s for s in WILD_FAULTS if s.kind not in ABOUT_FORM], ids=lambda s: s.name)
def test_fault_is_wrong(specimen):
    limit = 1e-6 if specimen.kind not in ABOUT_DIGITS else 1e-5
    assert error(*judged(specimen, specimen.kind in ABOUT_DIGITS)) > limit


@pytest.mark.one_in(80)
@pytest.mark.float64
@pytest.mark.parametrize("specimen", OFF_KINKS, ids=lambda s: s.name)
def test_mended_or_unusual_rule_is_right(specimen):
    assert error(*judged(specimen, own_dtype=False)) < 1e-7


@pytest.mark.one_in(20)
@pytest.mark.float64
@pytest.mark.parametrize("specimen", ON_KINKS, ids=lambda s: s.name)
def test_rule_on_kinks_lies_between_the_slopes_of_both_sides(specimen):
    found, bounds = judged(specimen, own_dtype=False, truth=bounds_by_differences)
    for f, (lowest, highest) in zip(found, bounds, strict=True):
        room = 1e-7 * max(np.abs(lowest).max(), np.abs(highest).max(), 1e-3)
        assert f.shape == lowest.shape
        assert ((lowest - room <= f) & (f <= highest + room)).all()
