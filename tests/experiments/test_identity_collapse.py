"""The identity collapses to an affine map; with another activation the verdict turns."""

import jax
import numpy as np
import pytest

import jaxnet
from experiments import identity_collapse
from experiments.experiment import Options

OPTIONS = Options(jax.random.key(0), seeds=2, quick=True)


def steps(steps, description):
    return steps


@pytest.fixture(scope="module")
def quick_run():
    return identity_collapse.run(OPTIONS, steps)


def test_quick_run_holds_and_draws(quick_run):
    assert quick_run.holds
    assert len(identity_collapse.plot(quick_run).axes) == 5


@pytest.mark.float64
def test_affine_map_is_the_lectures_formula():
    params = jaxnet.mlp((2, 3, 3, 2), jaxnet.activations.identity, initializer=jaxnet.initializers.lecun_normal).init(
        jax.random.key(1)
    )
    (w1, b1), _, (w2, b2), _, (w3, b3) = [tuple(np.asarray(leaf) + 1 for leaf in layer) for layer in params]
    matrix, offset = identity_collapse.affine_map([(w1, b1), (), (w2, b2), (), (w3, b3)])
    np.testing.assert_allclose(matrix, w3 @ w2 @ w1, rtol=1e-14)
    np.testing.assert_allclose(offset[:, 0], w3 @ w2 @ b1 + w3 @ b2 + b3, rtol=1e-14)


@pytest.mark.parametrize("name", [identity_collapse.RINGS, identity_collapse.XOR])
def test_no_line_classifies_more_than_two_thirds(name):
    _, _, x, y = identity_collapse._problems(jax.random.key(0))[name]
    angles = np.linspace(0, 2 * np.pi, 73)
    along = x @ np.stack([np.cos(angles), np.sin(angles)])
    thresholds = np.linspace(-1.5, 1.5, 301)
    accuracy = ((along[..., None] > thresholds) == y[:, None, None]).mean(axis=0)
    assert identity_collapse.BEST_LINE - 0.01 < accuracy.max() <= identity_collapse.CEILING


@pytest.mark.long
def test_another_activation_than_the_identity_turns_the_verdict():
    broken = identity_collapse.run(OPTIONS, steps, hidden=jaxnet.tanh)
    assert [m.holds for m in broken.measurements if "affine map" in m.name] == [False, False]
    assert any(m.holds is False for m in broken.measurements if "accuracy with identity" in m.name)
