import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from experiments import symmetry
from experiments.experiment import Options

OPTIONS = Options(jax.random.key(0), seeds=2, quick=True)


def track(steps, description):
    return steps


@pytest.fixture(scope="module")
def quick_run():
    return symmetry.run(OPTIONS, track)


def test_equal_neurons_stay_exactly_equal(quick_run):
    assert quick_run.holds, quick_run.measurements
    assert np.all(quick_run.drawn["runs"]["equal"]["spread"] == 0)
    assert symmetry.plot(quick_run).axes


def test_claim_falls_with_nearly_equal_weights():
    assert not symmetry.run(OPTIONS, track, nudge=1e-3).holds


def test_twin_of_equal_neurons_computes_the_same(key):
    case = symmetry.CASES["equal"]
    twin = symmetry.CASES["its one-neuron twin"]
    x = jax.random.normal(key, (5, 64), jnp.float32)
    (outputs, _), (twins, _) = (
        symmetry.network_of(each).forward(symmetry.start(key, each), x) for each in (case, twin)
    )
    np.testing.assert_allclose(twins, outputs, rtol=1e-5)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_spread_sees_one_other_neuron(key, layer, leaf):
    params = list(symmetry.start(key, symmetry.CASES["equal"]))
    array = getattr(params[layer], leaf)
    params[layer] = params[layer]._replace(**{leaf: array.at[3].add(jnp.asarray(0.5, array.dtype))})
    assert symmetry.spread(tuple(params)) == pytest.approx(0.5, rel=1e-6)


def test_spread_of_random_neurons_is_not_zero(key):
    network = jaxnet.mlp((4, 3, 3, 2), jaxnet.tanh)
    assert symmetry.spread(network.init(key)) > 0.1
