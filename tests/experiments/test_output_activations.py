"""An output activation keeps the target's range at no loss; another range turns the verdict."""

from pathlib import Path
from urllib.error import URLError

import jax
import numpy as np
import pytest

import jaxnet
from experiments import data, output_activations
from experiments.experiment import DataError, Options

OPTIONS = Options(jax.random.key(0), seeds=2, quick=True)
KEYS = jax.random.split(OPTIONS.key, OPTIONS.seeds)


def steps(steps, description):
    return steps


@pytest.fixture(scope="module")
def quick_run():
    return output_activations.run(OPTIONS, steps)


def test_quick_run_holds_and_draws(quick_run):
    assert quick_run.holds
    assert len(output_activations.plot(quick_run).axes) == 6


def test_errors_are_those_of_the_right_examples(quick_run):
    task = output_activations.bandit([0, 1])
    constant = np.sqrt(((task.truth - task.truth.mean(axis=1, keepdims=True)) ** 2).mean(axis=1))
    assert (quick_run.drawn["tasks"]["reward of an action"]["error"]["matched"] < constant / 2).all()


@pytest.mark.parametrize("make", output_activations.TASKS.values())
def test_targets_lie_in_their_range(make):
    task = make([0, 1])
    for targets in (task.y, task.truth):
        assert (targets >= task.low).all()
        assert (targets <= task.high).all()


def broken(name, loss):
    task = output_activations.TASKS[name]([0, 1])._replace(loss=loss)
    return [m.holds for m in output_activations.judge(name, task, KEYS, steps=100)[0]]


def test_a_range_that_misses_targets_turns_the_verdict():
    within, near, _ = broken("reward of an action", jaxnet.losses.squared_error_through(jaxnet.sigmoid))
    assert within
    assert not near


def test_a_linear_output_turns_the_verdict():
    within, _, _ = broken("reward of an action", jaxnet.squared_error)
    assert not within


def test_california_housing_takes_the_place_of_diabetes(monkeypatch):
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((50, 8)), generator.uniform(0.15, 5, 50)
    monkeypatch.setattr(data, "fetch_california_housing", lambda **_: (x, y))
    task = output_activations.CALIFORNIA["house value"]([0, 1])
    assert (task.x.shape, task.x_test.shape) == ((2, 35, 8), (2, 15, 8))
    np.testing.assert_array_equal(np.sort(np.concatenate([task.y[1], task.truth[1]])), np.sort(y))
    assert "diabetes progression" not in output_activations.CALIFORNIA


def test_what_cannot_be_downloaded_is_said(monkeypatch):
    def offline(**_):
        raise URLError("no route to host")

    monkeypatch.setattr(data, "fetch_california_housing", offline)
    with pytest.raises(DataError, match=r"California housing is not on this machine .* no route to host"):
        output_activations.run(OPTIONS._replace(data=Path("california")), steps)


def test_other_data_is_refused():
    with pytest.raises(DataError, match=r"takes --data california, got houses\.csv"):
        output_activations.run(OPTIONS._replace(data=Path("houses.csv")), steps)
