import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import input_normalization
from experiments.data import breast_cancer
from experiments.experiment import Options

OPTIONS = Options(jax.random.key(0), seeds=2, quick=True)


def track(steps, description):
    return steps


@pytest.fixture(scope="module")
def quick_run():
    return input_normalization.run(OPTIONS, track)


def test_claim_holds_and_figure_draws(quick_run):
    assert quick_run.holds, quick_run.measurements
    assert input_normalization.plot(quick_run).axes


def test_claim_falls_with_inputs_left_raw():
    assert not input_normalization.run(OPTIONS, track, prepare=lambda x_train, x: x).holds


def test_one_example_with_its_own_mean_says_always_the_same(quick_run):
    accuracy = quick_run.drawn["accuracy"]["malignant only"]["own"][:, 0]
    assert np.all((accuracy == 0) | (accuracy == 1))


@pytest.mark.float64
def test_curvature_at_start_is_the_costs_second_derivative():
    split = breast_cancer(0)
    x = input_normalization.standardized(split.x, split.x)[:, :3]
    y = split.y.astype(float)

    def cost(w):
        z = x @ w[:-1] + w[-1]
        return (jnp.logaddexp(0.0, z) - y * z).mean()

    np.testing.assert_allclose(
        input_normalization.curvature_at_start(x), jax.hessian(cost)(jnp.zeros(4)), rtol=1e-12, atol=1e-14
    )


def test_best_rate_reaches_first_and_else_ends_lowest():
    costs = np.array([[3.0, 2.0, 0.5], [3.0, 0.9, 0.8], [3.0, np.nan, np.nan]])
    assert input_normalization.best(costs, 1.0) == (1, 1)
    assert input_normalization.best(costs, 0.1) == (0, 3)
