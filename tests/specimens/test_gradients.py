"""Every planted mistake is found and named, every right rule passes."""

import collections

import jax
import numpy as np
import pytest

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.mistakes import MISTAKES
from experiments.specimens.gradients.right import RIGHT_RULES
from jaxnet.verify import verify_vjp
from jaxnet.verify.doors.options import KINDS

SCALES = [0.1, 10.0]


def reports(specimen):
    """A report at each weight scale; some specimens rest on the promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        for scale in SCALES:
            arguments = specimen.case.arguments(np.random.default_rng(0), scale)
            yield verify_vjp(specimen.case.function, specimen.case.backward, *arguments, key=jax.random.key(0))


@pytest.mark.one_in(90)
@pytest.mark.parametrize("specimen", MISTAKES, ids=lambda specimen: specimen.name)
def test_mistake_is_found_and_named(specimen):
    for scale, report in zip(SCALES, reports(specimen), strict=True):
        assert not report.passed, scale
        assert report.findings[0].kind == specimen.kind, (scale, str(report))


@pytest.mark.one_in(90)
@pytest.mark.parametrize("specimen", RIGHT_RULES, ids=lambda specimen: specimen.name)
def test_right_rule_passes(specimen):
    for report in reports(specimen):
        report.raise_if_failed()


def in_half_precision(specimen, dtype):
    """A report of a rule that runs in this dtype alone."""
    subject = Function(specimen.area, specimen.case.function, specimen.case.arguments).cast(dtype)
    arguments = subject.arguments(np.random.default_rng(1), 1.0)
    with jax.numpy_dtype_promotion("standard"):
        return verify_vjp(
            specimen.case.function, specimen.case.backward, *arguments, key=jax.random.key(0), native=True
        )


# What has no half precision: LAPACK's functions, inputs of 1e8 and 1e-8, and rules that are about dtypes.
OF_ANY_DTYPE = [s for s in RIGHT_RULES if s.area not in ("linear algebra", "dtype") and "inputs of 1e" not in s.name]


@pytest.mark.one_in(90)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("specimen", OF_ANY_DTYPE, ids=lambda specimen: specimen.name)
def test_right_rule_in_half_precision_alone_passes(specimen, dtype):
    in_half_precision(specimen, dtype).raise_if_failed()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["sigmoid derivative without cancellation", "leaky_relu(0.01)"])
def test_right_rule_in_tails_and_at_kinks_passes_in_half_precision(name, dtype):
    (specimen,) = (s for s in RIGHT_RULES if s.name == f"activation: {name}")
    in_half_precision(specimen, dtype).raise_if_failed()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "name",
    [
        "dense: square weight gradient transposed",
        "activation: second term of the silu forgotten",
        "activation: derivative multiplied twice",
    ],
)
def test_mistake_in_half_precision_alone_is_found(name, dtype):
    (specimen,) = (s for s in MISTAKES if s.name == name)
    assert not in_half_precision(specimen, dtype)


@pytest.mark.parametrize(("specimens", "least"), [(MISTAKES, 60), (RIGHT_RULES, 40)], ids=["mistakes", "right rules"])
def test_catalogue_is_large(specimens, least):
    assert len(specimens) >= least


def test_catalogue_names_are_distinct():
    names = collections.Counter(specimen.name for specimen in (*MISTAKES, *RIGHT_RULES))
    assert [name for name, count in names.items() if count > 1] == []


def test_catalogue_plants_kinds_that_reports_know():
    assert {specimen.kind for specimen in MISTAKES} <= KINDS
    assert {specimen.kind for specimen in RIGHT_RULES} == {None}
