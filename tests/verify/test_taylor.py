"""Taylor's theorem judges where autodiff is wrong, and differences where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.verify import verify_gradient, verify_vjp
from tests.verify.rules import kind, normal


@jax.custom_jvp
def sine(x):
    return jnp.sin(x)


@sine.defjvp
def _(primals, tangents):
    """A derivative with a mistake in it."""
    return jnp.sin(primals[0]), 1.1 * jnp.cos(primals[0]) * tangents[0]


def of_a_wrong_rule(x):
    return (x * sine(x)).sum()


def true_gradient(x):
    return jnp.sin(x) + x * jnp.cos(x)


def test_gradient_that_agrees_with_a_wrong_rule_alone_is_rejected(key):
    report = verify_gradient(of_a_wrong_rule, jax.grad(of_a_wrong_rule), normal(4), key=key)
    assert not report.passed
    assert "not with the function" in report.findings[0].explanation


def test_true_gradient_passes_beside_a_wrong_rule(key):
    report = verify_gradient(of_a_wrong_rule, true_gradient, normal(4), key=key)
    report.raise_if_failed()
    assert any("Taylor's theorem" in note for note in report.notes)


def test_gradient_wrong_in_another_way_is_rejected_beside_a_wrong_rule(key):
    assert not verify_gradient(of_a_wrong_rule, lambda x: -true_gradient(x), normal(4), key=key)


def halved_until_small(x):
    """x / 2ⁿ with the least n that makes it smaller than 1, by a loop that JAX cannot reverse."""
    _, value = jax.lax.while_loop(lambda s: s[0] >= 1, lambda s: (s[0] / 2, s[1] / 2), (jnp.abs(x).max(), x))
    return jnp.sin(value)


def halved_rule(args, ct):
    (x,) = args
    n = jnp.maximum(jnp.floor(jnp.log2(jnp.abs(x).max())) + 1, 0)
    return (ct * jnp.cos(x / 2**n) / 2**n,)


def called_back(x):
    return jax.pure_callback(lambda x: np.sin(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)


UNDIFFERENTIABLE = {
    "while loop": (halved_until_small, halved_rule),
    "callback": (called_back, lambda args, ct: (ct * jnp.cos(args[0]),)),
}


@pytest.mark.parametrize("name", UNDIFFERENTIABLE)
def test_differences_stand_in_for_autodiff(name, key):
    function, backward = UNDIFFERENTIABLE[name]
    x = jnp.array([3.3, 0.4, -1.2], "float32")
    report = verify_vjp(function, backward, x, key=key)
    report.raise_if_failed()
    instead = {"while loop": "forward mode", "callback": "differences stand in for it"}[name]
    assert any(instead in note for note in report.notes)
    assert kind(verify_vjp(function, lambda args, ct: (-backward(args, ct)[0],), x, key=key)) == "sign"
    assert not verify_vjp(function, lambda args, ct: (1.001 * backward(args, ct)[0],), x, key=key)
