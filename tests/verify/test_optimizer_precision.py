"""Optimizers in narrow dtypes: wrong ones are found as surely as in float32, and what rounding does is no fault."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet.verify import from_step, verify_optimizer

pytestmark = pytest.mark.one_in(3)

PARAMS = {"weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "bias": np.full(3, 0.2, np.float32)}
HALVES = {dtype: jax.tree.map(lambda p, d=dtype: jnp.asarray(p, d), PARAMS) for dtype in ("bfloat16", "float16")}
KEY = jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def dtypes_are_promoted():
    with jax.numpy_dtype_promotion("standard"):
        yield


def verdict(candidate, reference, params=PARAMS, key=KEY, **options):
    return verify_optimizer(candidate, reference, params, key=key, **options)


def optimizer_of(init: Any, update: Any):
    return optax.GradientTransformation(init, update)


def holding(optimizer, number):
    """The optimizer with a number in its state that it does not need."""
    return optimizer_of(
        lambda params: (optimizer.init(params), number),
        lambda g, state, params=None: (
            (updates := optimizer.update(g, state[0], params))[0],
            (updates[1], state[1]),
        ),
    )


# Wrong in any dtype ---------------------------------------------------------------------------------------------------


@pytest.mark.one_in(5)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "numbers",
    [{"learning_rate": 0.0101}, {"b1": 0.899}, {"b2": 0.9985}, {"eps": 2e-8}],
    ids=["rate", "b1", "b2", "epsilon"],
)
def test_another_number_is_found_in_half_precision(dtype, numbers):
    candidate = optax.adam(**({"learning_rate": 0.01} | numbers), mu_dtype=dtype)
    assert not verdict(candidate, optax.adam(0.01), HALVES[dtype])


@pytest.mark.parametrize("dtype", HALVES)
def test_a_narrow_number_in_the_state_hides_nothing(dtype):
    number = jnp.asarray(0.1, dtype)
    assert verdict(holding(optax.sgd(0.01), number), optax.sgd(0.01)).passed
    assert not verdict(holding(optax.sgd(0.01 * (1 + 1e-4)), number), optax.sgd(0.01))


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (optax.sgd(0.011), optax.sgd(0.01)),
        (optax.sgd(0.009), optax.sgd(0.01)),
        (optax.adam(0.011), optax.adam(0.01)),
        (optax.adam(0.01, b1=0.88), optax.adam(0.01)),
        (jaxnet.optimizers.lion(0.011), optax.lion(0.01)),
    ],
    ids=["sgd above", "sgd below", "adam", "b1", "lion"],
)
def test_native_finds_what_the_dtype_can_tell(wrong, right):
    assert not verdict(wrong, right, HALVES["bfloat16"], native=True)


# Right in any dtype ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_moments_of_another_dtype_than_the_references_pass(dtype):
    verdict(optax.adam(0.01, mu_dtype=dtype), optax.adam(0.01), HALVES[dtype]).raise_if_failed()


@pytest.mark.one_in(5)
@pytest.mark.parametrize("seed", range(6))
def test_a_sign_that_is_about_to_change_is_rounding(seed):
    key = jax.random.key(seed)
    verdict(jaxnet.optimizers.lion(0.01), optax.lion(0.01), HALVES["bfloat16"], key, steps=128).raise_if_failed()
    verdict(jaxnet.optimizers.lion(0.01), optax.lion(0.01), HALVES["bfloat16"], key, native=True).raise_if_failed()


def products(dtype):
    """Descent by a rate that is a product of ever more factors, in NumPy; wide beside the gradients."""

    def step(params, gradients, state):
        product = dtype(state["product"] * dtype(0.99))
        average = jax.tree.map(lambda m, g: 0.9 * m + np.asarray(0.1 * g), state["average"], gradients)
        after = jax.tree.map(lambda p, m: p - 0.1 * float(product) * m, params, average)
        return after, {"product": product, "average": average}

    def init(params):
        return {"product": dtype(1), "average": jax.tree.map(lambda p: np.zeros(p.shape), params)}

    return from_step(init, step)


def test_a_product_in_float32_is_allowed_its_rounding_and_nothing_else():
    narrow, wide = products(np.float32), products(np.float64)
    report = verdict(narrow, wide, steps=64)
    report.raise_if_failed()
    assert any("narrower dtype" in note for note in report.notes)

    def halved(params, gradients, state):
        after, state = narrow.update.step(params, gradients, state)  # pyright: ignore[reportAttributeAccessIssue]
        return jax.tree.map(lambda new, old: old + (1 + 1e-4) * (new - old), after, params), state

    assert not verdict(from_step(narrow.init, halved), wide, steps=64)


# What an optimizer may close over, and do ----------------------------------------------------------------------------


class Odd:
    """Raises at whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __array__(self, *arguments, **options):
        raise RuntimeError("no array")


def odd_things():
    loop: list[Any] = []
    loop.append(loop)
    return [np.float32, jnp, {1: 2, "a": {}}, loop, lambda: None, Odd(), [[1], [1, 2]], 1j, float("nan"), ...]


@pytest.mark.one_in(5)
@pytest.mark.parametrize("thing", odd_things(), ids=lambda thing: type(thing).__name__)
@pytest.mark.parametrize("factor", [1, 3])
def test_odd_things_that_are_closed_over_raise_nothing(thing, factor):
    def descent(b1, eps, weight_decay):
        def update(gradients, state, params=None):
            held = (b1, eps, weight_decay)
            return jax.tree.map(lambda g: -0.1 * factor * len(held) / 3 * g, gradients), state

        return optimizer_of(lambda params: (), update)

    report = verdict(descent(thing, thing, thing), descent(thing, thing, thing), steps=8)
    assert report.passed
    assert verdict(descent(thing, thing, thing), optax.sgd(0.1), steps=8).passed == (factor == 1)
    assert verdict(optax.sgd(0.1), descent(thing, thing, thing), steps=8).passed == (factor == 1)


def test_reference_that_changes_numpys_arrays_in_place():
    def step(params, gradients, state):
        for name in params:
            params[name] -= 0.1 * gradients[name]
        return None, state

    reference = from_step(lambda params: {}, step)
    verdict(optax.sgd(0.1), reference, steps=8).raise_if_failed()
    assert not verdict(optax.sgd(0.11), reference, steps=8)


# Optimizers that ask for the cost -------------------------------------------------------------------------------------


def of_value(g, state, params=None, *, value):
    return jax.tree.map(lambda leaf: -value * leaf, g), state


@pytest.mark.parametrize("ask", [optax.polyak_sgd, lambda: optimizer_of(lambda params: (), of_value)])
def test_optimizer_that_asks_for_the_cost_is_given_one(ask):
    report = verdict(ask(), ask(), steps=16)
    report.raise_if_failed()
    assert "the candidate asks for the cost, and is given half the sum of the parameters' squares" in report.notes
    assert not verdict(ask(), optax.sgd(0.1), steps=16)


def test_what_else_an_optimizer_may_ask_for_is_said():
    def update(g, state, params=None, *, curvature):
        return g, state

    unanswered = optimizer_of(lambda params: (), update)
    (finding,) = verdict(unanswered, optax.sgd(0.1)).findings
    assert "missing 1 required keyword-only argument: 'curvature'" in finding.explanation
    with pytest.raises(ValueError, match="'curvature'"):
        verdict(optax.sgd(0.1), unanswered)
