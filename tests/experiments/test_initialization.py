"""Variances follow their theory through fifty layers; a scheme under another's name turns the verdict."""

import jax
import numpy as np
import pytest

import jaxnet
from experiments import initialization
from experiments.experiment import Options

OPTIONS = Options(jax.random.key(0), seeds=3, quick=True)


def steps(steps, description):
    return steps


@pytest.fixture(scope="module")
def quick_run():
    return initialization.run(OPTIONS, steps)


def test_quick_run_holds_and_draws(quick_run):
    assert [m.name for m in quick_run.measurements if m.holds is False] == []
    assert len(initialization.plot(quick_run).axes) == 8


@pytest.mark.parametrize(("activation", "share"), [(jaxnet.relu, 0.5), (jaxnet.activations.identity, 1.0)])
def test_theory_is_a_power_where_it_is_known(activation, share):
    z, delta = initialization.expected(activation, scale=3.0)
    layers = np.arange(initialization.DEPTH)
    np.testing.assert_allclose(z, 3.0 * (3.0 * share) ** layers, rtol=1e-6)
    np.testing.assert_allclose(delta[::-1], share * (3.0 * share) ** layers, rtol=1e-6)


def test_measured_variances_are_those_of_an_explicit_loop():
    key = jax.random.split(jax.random.key(1), 1)
    with jax.enable_x64(True):
        params = jax.vmap(initialization.deep(jaxnet.tanh, jaxnet.initializers.he_normal).init)(key)
        z, delta = jax.device_get(initialization.mean_squares(jaxnet.tanh, params, key))
        x_key, delta_key = jax.random.split(jax.random.fold_in(key[0], 1))
        shape = (initialization.EXAMPLES, initialization.WIDTH)
        a, d = np.asarray(jax.random.normal(x_key, shape)), np.asarray(jax.random.normal(delta_key, shape))
    weights = np.asarray(params[0].weight[0])
    linear = []
    for weight in weights:
        linear.append(a @ weight.T)
        a = np.tanh(linear[-1])
    back = []
    for weight, values in zip(weights[::-1], linear[::-1], strict=True):
        d = d * (1 - np.tanh(values) ** 2)
        back.append(np.mean(d**2))
        d = d @ weight
    np.testing.assert_allclose(z[0], [np.mean(values**2) for values in linear], rtol=1e-10)
    np.testing.assert_allclose(delta[0], back[::-1], rtol=1e-10)


@pytest.mark.long
def test_a_scheme_under_another_name_turns_the_verdict():
    swapped = initialization.SCHEMES | {"He": jaxnet.initializers.lecun_normal}
    broken = initialization.judge(initialization.signals(OPTIONS, steps, schemes=swapped))
    wrong = {m.name for m in broken if m.holds is False}
    assert any("against theory" in name for name in wrong)
    assert any("He, ReLU: variance of z" in name for name in wrong)
