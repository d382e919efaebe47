"""RMSProp and Adam do not feel the scale of the cost; with a large eps they do, and the verdict turns."""

import jax
import numpy as np
import pytest

from experiments import optimizers
from experiments.experiment import Options


def run(**premise):
    return optimizers.run(Options(jax.random.key(0), seeds=2, quick=True), lambda steps, _: steps, **premise)


@pytest.fixture(scope="module")
def quick_run():
    return run()


def failed(result):
    return [measurement.name for measurement in result.measurements if measurement.holds is False]


def test_claim_holds(quick_run):
    assert failed(quick_run) == []


@pytest.mark.parametrize("name", ["gradient descent", "momentum"])
def test_100_times_the_cost_is_100_times_the_rate(name, quick_run):
    """α ∂(cJ)/∂w = cα ∂J/∂w: the sweep is the same, shifted along the rates; compared where it converges."""
    cost = quick_run.drawn["valley"]["cost"][name][0]
    shift = round(2 / np.log10(quick_run.drawn["rates"][1] / quick_run.drawn["rates"][0]))
    small = quick_run.drawn["rates"][shift:] < 0.15
    np.testing.assert_allclose(cost[1, :-shift][small], cost[0, shift:][small], rtol=1e-9)


@pytest.mark.parametrize("name", optimizers.ADAPTIVE)
def test_the_path_of_a_scaled_gradient_is_the_same(name, quick_run):
    cost = quick_run.drawn["valley"]["cost"][name][0]
    small = quick_run.drawn["rates"] < 0.02
    np.testing.assert_allclose(cost[1, small], cost[0, small], rtol=1e-4)


@pytest.mark.parametrize("name", ["gradient descent", "momentum"])
def test_a_turned_valley_is_the_same_to_gradient_descent(name, quick_run):
    along, turned = quick_run.drawn["valley"]["cost"][name][:, 0]
    small = quick_run.drawn["rates"] < 0.15
    np.testing.assert_allclose(turned[small], along[small], rtol=1e-9)


@pytest.mark.long
def test_a_large_eps_turns_the_verdict():
    result = run(eps=1.0)
    assert not result.holds
    for name in optimizers.ADAPTIVE:
        assert f"valley, {name}: move of the good rates for 100 J, from +0, in decades" in failed(result)
