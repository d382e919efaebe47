"""Momentum needs √κ steps and damps the zig-zag; without memory it does neither."""

import jax
import numpy as np
import pytest

from experiments import momentum
from experiments.experiment import Options


def run(**premise):
    return momentum.run(Options(jax.random.key(0), seeds=2, quick=True), lambda steps, _: steps, **premise)


@pytest.fixture(scope="module")
def quick_run():
    return run()


def test_claim_holds_with_the_steps_of_the_closed_form(quick_run):
    assert quick_run.holds
    steps = quick_run.drawn["quadratics"]
    for name in momentum.NAMES:
        np.testing.assert_array_equal(steps[f"{name}, theory's settings"], steps[f"{name}, closed form"])
    # At α = 2/(1 + 1/κ) both curvatures shrink by (κ - 1)/(κ + 1) a step.
    for stretch, counted in zip(quick_run.drawn["stretches"], steps["gradient descent, closed form"], strict=True):
        expected = np.ceil(np.log(momentum.TOLERANCE) / np.log((stretch - 1) / (stretch + 1)))
        np.testing.assert_array_equal(counted, expected)


def test_travel_of_gradient_descent_is_a_geometric_sum(quick_run):
    drawn = quick_run.drawn["zig-zag"]
    shrinking = 1 - drawn["rates"]
    expected = drawn["rates"] * (1 - np.abs(shrinking) ** momentum.ZIG_ZAG_STEPS) / (1 - np.abs(shrinking))
    np.testing.assert_allclose(drawn["gradient descent"]["across"], expected, rtol=1e-12)


@pytest.mark.long
def test_without_memory_the_verdict_turns():
    result = run(memory=0.0)
    assert not result.holds
    failed = {measurement.name for measurement in result.measurements if measurement.holds is False}
    assert "momentum: its relative distance to 0.5" in failed
    assert "travel across at α = 1.9/λ, momentum over gradient descent" in failed
    np.testing.assert_allclose(result.drawn["momentum, exponent"], 1, rtol=0.05)


def test_same_key_gives_the_same_numbers(quick_run):
    assert run().measurements == quick_run.measurements
