"""Where a verdict on an optimizer could go astray: dtypes, promotion, overflow, single elements, late faults."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import from_step, gradient_descent, verify_optimizer

pytestmark = pytest.mark.one_in(2)

PARAMETERS = {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2), "b": np.ones(2, np.float32)}
KEY = jax.random.key(0)


def verdict(candidate, reference, params=PARAMETERS, **options):
    with jax.numpy_dtype_promotion("standard"):
        return verify_optimizer(candidate, reference, params, key=KEY, **options)


def optimizer_of(init: Any, update: Any):
    return optax.GradientTransformation(init, update)


def around(optimizer, change):
    """The optimizer with its updates and the count of its steps changed into other updates."""

    def update(gradients, state, params=None):
        count, inner = state
        updates, inner = optimizer.update(gradients, inner, params)
        return change(updates, count), (count + 1, inner)

    def init(params):
        return jnp.zeros([], jnp.int32), optimizer.init(params)

    return optimizer_of(init, update)


@pytest.mark.parametrize(
    "params", [{"a": np.linspace(-1, 1, 3)}, {"a": 1.5}], ids=["numpy's float64", "python's float"]
)
def test_wide_parameters_without_float64(params):
    with jax.enable_x64(False):
        verdict(optax.sgd(0.1), optax.sgd(0.1), params).raise_if_failed()


def test_optax_is_judged_by_under_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        verify_optimizer(gradient_descent, optax.sgd, PARAMETERS, key=KEY).raise_if_failed()


def test_what_overflows_in_the_reference_too_is_no_fault():
    growing = optax.chain(optax.add_decayed_weights(-1.0), optax.sgd(0.5))
    verdict(growing, growing).raise_if_failed()


def test_parameters_of_several_dtypes():
    params = {"a": np.ones(2, np.float32), "b": jnp.ones(2, jnp.bfloat16), "c": np.ones(2, np.float16)}
    verdict(optax.sgd(0.1), optax.sgd(0.1), params).raise_if_failed()


@pytest.mark.parametrize(("number", "notes"), [(0.01, 0), (1 / 3, 1)])  # a short decimal is what was meant
def test_learning_rate_in_float32_passes(number, notes):
    rate: Any = np.float32(number)
    wrong: Any = np.float32(number * (1 + 1e-4))
    report = verdict(optax.sgd(rate), optax.sgd(number))
    report.raise_if_failed()
    assert ["narrower dtype" in note for note in report.notes] == [True] * notes
    assert verdict(optax.sgd(number), optax.sgd(rate)).passed
    assert not verdict(optax.sgd(wrong), optax.sgd(number))


def test_numpy_rule_that_changes_arrays_in_place():
    def step(params, gradients, state):
        for name, array in params.items():
            array -= 0.01 * gradients[name]
        return None, state

    report = verdict(from_step(lambda params: (), step), optax.sgd(0.01))
    report.raise_if_failed()
    assert "the candidate takes NumPy's arrays, not JAX's" in report.notes


def test_state_that_holds_text():
    labelled = optimizer_of(lambda params: {"name": "sgd"}, lambda g, s, p=None: (g, s))
    (finding,) = verdict(labelled, optax.sgd(-1.0)).findings
    assert (finding.path, finding.kind) == ("state['name']", "structure")
    assert "got str" in finding.explanation


def test_one_element_of_many_is_partial_and_found():
    wrong = around(optax.sgd(0.01), lambda updates, count: {"w": updates["w"].at[13, 17].multiply(1.001)})
    (finding,) = verdict(wrong, optax.sgd(0.01), {"w": np.ones((20, 30), np.float32)}).findings
    assert (finding.kind, finding.index) == ("partial", (13, 17))
    assert "some elements" in finding.explanation


@pytest.mark.parametrize(
    ("factor", "kind", "words"),
    [
        (1 + 1e-10, "scale", "1 + 1e-10 times"),
        (1 - 1e-6, "value", "1 - 1e-06 times"),  # another learning rate does as well
        (1.5, "value", "1.5 times"),
    ],
)
def test_factor_is_named_however_small(factor, kind, words):
    wrong = around(optax.sgd(0.01), lambda updates, count: jax.tree.map(lambda u: u * factor, updates))
    (finding,) = verdict(wrong, optax.sgd(0.01)).findings
    assert finding.kind == kind
    assert words in finding.explanation


def test_factor_is_named_in_the_own_dtype():
    wrong = around(optax.sgd(0.01), lambda updates, count: jax.tree.map(lambda u: u * jnp.float32(1.5), updates))
    (finding,) = verdict(wrong, optax.sgd(0.01), native=True).findings
    assert finding.kind == "value"
    assert "1.5 times" in finding.explanation


def test_fault_that_begins_late_is_found_where_it_begins():
    def late(updates, count):
        return jax.tree.map(lambda u: jnp.where(count >= 300, 1.5 * u, u), updates)

    (finding,) = verdict(around(optax.sgd(0.01), late), optax.sgd(0.01)).findings
    assert finding.kind == "value"
    assert "1.5 in step 301" in finding.explanation
    assert finding.where.startswith("step 301, ")


def test_update_rounded_to_bfloat16_is_precision():
    def rounded(updates, count):
        return jax.tree.map(lambda u: u.astype(jnp.bfloat16).astype(u.dtype), updates)

    (finding,) = verdict(around(optax.adam(0.01), rounded), optax.adam(0.01)).findings
    assert finding.kind == "precision"
