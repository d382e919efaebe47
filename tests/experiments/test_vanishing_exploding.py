"""Powers of c and the limits of float32 are met; with another activation the verdict turns."""

import jax
import numpy as np
import pytest

import jaxnet
from experiments import vanishing_exploding
from experiments.experiment import Options

OPTIONS = Options(jax.random.key(0), seeds=1, quick=True)


def steps(steps, description):
    return steps


@pytest.fixture(scope="module")
def quick_run():
    return vanishing_exploding.run(OPTIONS, steps)


def test_quick_run_holds_and_draws(quick_run):
    assert quick_run.holds
    assert len(vanishing_exploding.plot(quick_run).axes) == 4


def test_outputs_and_gradients_are_the_powers(quick_run):
    depths = np.arange(1, 101)
    for way in ("forward", "backward"):
        for c, values in zip((1.5, 1.0, 0.5), quick_run.drawn["powers"][way], strict=True):
            np.testing.assert_allclose(values, c**depths, rtol=1e-12)


def test_float32_overflows_at_219(quick_run):
    assert np.float64(1.5) ** 218 < np.finfo(np.float32).max < np.float64(1.5) ** 219
    found = {m.name: m.value for m in quick_run.measurements}
    assert found["float32 forward: first L: 1.5^L infinite"] == 219
    assert found["float32 backward: first L: 1.5^L infinite"] == 219


def test_law_of_wide_networks_is_no_growth():
    mean, variance = vanishing_exploding.law(10**6)
    np.testing.assert_allclose((mean, variance), (-0.5e-6, 0.5e-6), rtol=1e-3)


def test_another_activation_than_the_identity_turns_the_verdict():
    broken = vanishing_exploding.run(OPTIONS, steps, activation=jaxnet.tanh)
    assert not broken.holds
    assert any(m.holds is False for m in broken.measurements if "c = 1.5" in m.name)
