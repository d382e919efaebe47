"""The variance of the gradient falls like 1/B for independent draws; batches of one class turn the verdict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from experiments import batch_sizes
from experiments.experiment import Options

OPTIONS = Options(jax.random.key(0), seeds=3, quick=True)
TIMED = "on this machine"  # not decided here: the machine that runs the tests is busy


def run(**premise):
    return batch_sizes.run(OPTIONS, lambda steps, _: steps, **premise)


@pytest.fixture(scope="module")
def quick_run():
    return run()


def failed(result):
    return [measurement.name for measurement in result.measurements if measurement.holds is False]


def test_claim_holds_and_the_variance_is_that_of_one_example_over_b(quick_run):
    assert [name for name in failed(quick_run) if TIMED not in name] == []
    noise = quick_run.drawn["noise"]
    np.testing.assert_allclose(noise["slopes"], -1, atol=0.1)
    ratio = noise["measured"][batch_sizes.INDEPENDENT] / noise["closed form"]
    np.testing.assert_allclose(np.mean(ratio, axis=1), 1, atol=0.2)


def test_all_examples_without_replacement_have_no_noise(quick_run):
    noise = quick_run.drawn["noise"]
    assert np.all(noise["measured"][batch_sizes.WITHOUT][-1] < 1e-10 * noise["one"])
    assert np.all(noise["finite population"][-1] == 0)


@pytest.mark.long
def test_batches_of_one_class_turn_the_verdict():
    result = run(how=batch_sizes.ONE_CLASS)
    assert not result.holds
    assert "its 95 % interval: upper end" in failed(result)
    assert np.min(result.drawn["noise"]["slopes"]) > -0.9


def test_gradient_of_a_batch_is_the_mean_of_its_examples():
    x, y = batch_sizes.training_set()
    params = batch_sizes.initial(jax.random.split(OPTIONS.key, 1))
    gradients = batch_sizes.gradients_of_examples(params, x, y)[0]
    batch = jnp.array([3, 1, 4, 1, 5])
    first = jax.tree.map(lambda leaf: leaf[0], params)
    gradient = jaxnet.cost_and_gradient(batch_sizes.NETWORK, batch_sizes.LOSS)(first, x[batch], y[batch])[1]
    expected = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])
    np.testing.assert_allclose(gradients[batch].mean(axis=0), expected, rtol=1e-4, atol=1e-6)
