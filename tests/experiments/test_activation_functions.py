"""Gradients vanish through sigmoids and not through ReLU; exchanged, the verdict turns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from experiments import activation_functions
from experiments.activation_functions import ACTIVATIONS, PLAIN
from experiments.experiment import Options

OPTIONS = Options(jax.random.key(0), seeds=2, quick=True)


def steps(steps, description):
    return steps


@pytest.fixture(scope="module")
def quick_run():
    return activation_functions.run(OPTIONS, steps)


def test_quick_run_holds_and_draws(quick_run):
    assert quick_run.holds
    assert len(activation_functions.plot(quick_run).axes) == 6


def test_slopes_drawn_are_those_of_autodiff(quick_run):
    for name, activation in ACTIVATIONS.items():
        curve = quick_run.drawn["curves"][name]
        expected = jax.vmap(jax.grad(activation.value))(jnp.asarray(curve["z"]))
        np.testing.assert_allclose(curve["slope"], expected, rtol=1e-9, atol=1e-15)


def test_law_of_relu_is_no_change():
    np.testing.assert_allclose(activation_functions.law(jaxnet.relu, 1.0, 0.0), 1.0, rtol=0.01)


def test_gradients_follow_the_law_of_wide_networks(quick_run):
    for name in ACTIVATIONS:
        measured = np.median(quick_run.drawn["through"][name][PLAIN]["gradient"], axis=0)
        np.testing.assert_allclose(np.log10(measured), np.log10(quick_run.drawn["law"][name][PLAIN]), atol=0.5)


def test_exchanged_activations_turn_the_verdict():
    exchanged = {"sigmoid": jaxnet.tanh, "tanh": jaxnet.sigmoid, "ReLU": jaxnet.tanh}
    broken = activation_functions.signals(OPTIONS, steps, exchanged)
    failed = {m.name for m in broken.measurements if m.holds is False}
    assert {
        "sigmoid: gradient's factor a layer, largest of the seeds",
        "ReLU: factor with biases N(0, 5²), median",
    } <= failed
