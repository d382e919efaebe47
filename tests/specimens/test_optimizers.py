"""Every planted mistake in an optimizer is found and named, every right optimizer passes."""

import collections

import jax
import pytest

from experiments.specimens.optimizers.mistakes import OPTIMIZER_MISTAKES
from experiments.specimens.optimizers.right import RIGHT_OPTIMIZERS
from jaxnet.verify.doors.options import KINDS


def verdict(specimen):
    """The report at one key; Optax's rules and many of these rest on the promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return specimen.case.verify(jax.random.key(0))


@pytest.mark.one_in(80)
@pytest.mark.parametrize("specimen", OPTIMIZER_MISTAKES, ids=lambda specimen: specimen.name)
def test_mistake_is_found_and_named(specimen):
    report = verdict(specimen)
    assert not report.passed
    assert specimen.named_by(report), str(report)


@pytest.mark.one_in(80)
@pytest.mark.parametrize("specimen", RIGHT_OPTIMIZERS, ids=lambda specimen: specimen.name)
def test_right_optimizer_passes(specimen):
    verdict(specimen).raise_if_failed()


@pytest.mark.parametrize(
    ("specimens", "least"), [(OPTIMIZER_MISTAKES, 45), (RIGHT_OPTIMIZERS, 30)], ids=["mistakes", "right optimizers"]
)
def test_catalogue_is_large(specimens, least):
    assert len(specimens) >= least


def test_catalogue_names_are_distinct():
    names = collections.Counter(specimen.name for specimen in (*OPTIMIZER_MISTAKES, *RIGHT_OPTIMIZERS))
    assert [name for name, count in names.items() if count > 1] == []


def test_catalogue_plants_kinds_that_reports_know():
    assert {specimen.kind for specimen in OPTIMIZER_MISTAKES} <= KINDS
    assert {specimen.kind for specimen in RIGHT_OPTIMIZERS} == {None}


def test_scaled_velocities_pass_with_a_note():
    by_name = {specimen.name: specimen for specimen in RIGHT_OPTIMIZERS}
    assert "0.1 times it" in " ".join(verdict(by_name["heavy ball: of the moving average"]).notes)
