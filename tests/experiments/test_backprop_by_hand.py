import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import backprop_by_hand
from experiments.experiment import Options

OPTIONS = Options(jax.random.key(0), seeds=2, quick=True)


def track(steps, description):
    return steps


@pytest.fixture(scope="module")
def quick_run():
    return backprop_by_hand.run(OPTIONS, track)


def test_claim_holds_and_figure_draws(quick_run):
    assert quick_run.holds, quick_run.measurements
    assert backprop_by_hand.plot(quick_run).axes


def test_operations_meet_their_closed_form(quick_run):
    for counts in quick_run.drawn["operations"].values():
        for how, formula in counts["closed form"].items():
            assert formula <= counts[how] <= 1.05 * formula


def test_factors_of_one_example_multiply_to_the_derivatives(quick_run):
    factors = quick_run.drawn["factors"]
    delta = factors["∂z[3]/∂a[2]"].T @ factors["∂L/∂z[3]"] * factors["∂a[2]/∂z[2]"]
    np.testing.assert_allclose(np.outer(delta, factors["∂z[2]/∂W[2]"]), factors["∂L/∂W[2]"], rtol=1e-14)


def test_claim_falls_with_another_slope():
    wrong = backprop_by_hand.run(OPTIONS, track, slope=lambda a: 1 - jnp.square(a))
    assert not wrong.holds


def test_shapes_decide_only_where_sizes_differ(quick_run):
    assert set(quick_run.drawn["products"]["48-3-2-1"].values()) == {1}
    assert quick_run.drawn["products"]["2-2-2-1"] == {"∂L/∂W[3]": 1, "∂L/∂W[2]": 6, "∂L/∂W[1]": 62}


def test_products_of_a_column_and_a_row():
    a, b = np.array([[2.0], [3.0]]), np.array([[5.0], [7.0]])
    found = backprop_by_hand.products([a, b], (2, 2))
    assert {tuple(product.ravel()) for product in found} == {(10, 14, 15, 21), (10, 15, 14, 21)}
