"""At a kink any value between the one-sided slopes is right, and none outside; smooth functions have no kinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.verify import verify_gradient, verify_vjp
from tests.verify.rules import first, kind, normal

pytestmark = pytest.mark.one_in(3)

ZEROS = jnp.array([0.0, 1.5, 0.0, -0.7, 0.3], "float32")
NO_ZEROS = jnp.array([0.4, 1.5, -0.2, -0.7, 0.3], "float32")


def relu(z):
    return jnp.maximum(z, 0)


def relu_rule(slope):
    def backward(args, ct):
        (z,) = args
        return (ct * jnp.where(z > 0, 1.0, jnp.where(z < 0, 0.0, slope)).astype(z.dtype),)

    return backward


@pytest.mark.parametrize("slope", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("function", [relu, jax.nn.relu], ids=["maximum", "jax.nn.relu"])
def test_relu_may_have_any_slope_between_0_and_1(function, slope, key):
    report = verify_vjp(function, relu_rule(slope), ZEROS, key=key)
    report.raise_if_failed()
    (note,) = (note for note in report.notes if "at given" in note)
    assert f"at [0] the one-sided slopes are 0 and 1, the candidate's convention is {slope:g}" in note


@pytest.mark.parametrize("slope", [1.5, -0.5, 1.01])
@pytest.mark.parametrize("z", [ZEROS, NO_ZEROS], ids=["zeros", "no zeros"])
def test_relu_must_not_have_another_slope(z, slope, key):
    found = first(verify_vjp(relu, relu_rule(slope), z, key=key))
    assert (found.path, found.kind) == ("[0]", "kink")
    assert "any value between them is right" in found.explanation


@pytest.mark.parametrize("slope", [-1, 0, 1])
def test_absolute_value_may_have_any_slope_between_its_two(slope, key):
    def backward(args, ct):
        return (ct * jnp.where(args[0] == 0, float(slope), jnp.sign(args[0])).astype(ct.dtype),)

    verify_vjp(jnp.abs, backward, ZEROS, key=key).raise_if_failed()


def test_absolute_value_must_not_have_another_slope(key):
    def backward(args, ct):
        return (ct * jnp.where(args[0] == 0, 2.0, jnp.sign(args[0])).astype(ct.dtype),)

    assert kind(verify_vjp(jnp.abs, backward, ZEROS, key=key)) == "kink"


def sum_of_maxima(x):
    return x.max(axis=1).sum()


TIES = jnp.array([[1.0, 1.0, 0.2], [0.3, -0.4, 0.1]], "float32")


def share_of_ties(how):
    def gradient(x):
        highest = (x == x.max(axis=1, keepdims=True)).astype(x.dtype)
        if how == "shared":
            return highest / highest.sum(axis=1, keepdims=True)
        if how == "first":
            return jax.nn.one_hot(x.argmax(axis=1), x.shape[1], dtype=x.dtype)
        return 3 * highest - 2 * jax.nn.one_hot(x.argmax(axis=1), x.shape[1], dtype=x.dtype)

    return gradient


@pytest.mark.parametrize("how", ["shared", "first"])
def test_max_pooling_may_share_ties_or_not(how, key):
    verify_gradient(sum_of_maxima, share_of_ties(how), TIES, key=key).raise_if_failed()


def test_max_pooling_must_not_multiply_ties(key):
    assert kind(verify_gradient(sum_of_maxima, share_of_ties("multiplied"), TIES, key=key)) == "kink"


def singled_out(z):
    """z², but autodiff says 0 at z = 1, whose derivative is 2."""
    return jnp.where(z == 1, 1.0, z**2).astype(z.dtype)


def test_point_that_where_singles_out_is_judged_by_its_neighbours(key):
    z = jnp.array([1.0, 0.5, -2.0], "float32")
    verify_vjp(singled_out, lambda args, ct: (ct * 2 * args[0],), z, key=key).raise_if_failed()
    report = verify_vjp(singled_out, lambda args, ct: (jnp.where(args[0] == 1, 7.0, 2 * args[0]) * ct,), z, key=key)
    assert not report.passed


def test_dead_gradient_at_a_point_between_no_slopes_is_found(key):
    """sin has no kink at 0, whatever the rule says."""

    def backward(args, ct):
        return (jnp.where(args[0] == 0, 0, jnp.cos(args[0])).astype(ct.dtype) * ct,)

    found = first(verify_vjp(jnp.sin, backward, ZEROS, key=key))
    assert found.kind != "kink"
    assert found.index in ((0,), (2,))


def layer_norm(x):
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / jnp.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)


SMOOTH = {
    "square at 0": (jnp.square, jnp.zeros(3, "float32")),
    "cube at 0": (lambda z: z**3, jnp.zeros(3, "float32")),
    "tanh": (jnp.tanh, normal(5, scale=3)),
    "sigmoid": (jax.nn.sigmoid, normal(5, scale=3)),
    "sqrt at 1e-6": (jnp.sqrt, jnp.full(3, 1e-6, "float32")),
    "layer norm": (layer_norm, normal(4, 6)),
    "softmax": (jax.nn.softmax, normal(4, 6)),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_function_has_no_kinks(name, key):
    function, z = SMOOTH[name]
    report = verify_vjp(function, lambda args, ct: jax.vjp(function, *args)[1](ct), z, key=key)
    report.raise_if_failed()
    assert [note for note in report.notes if "kink" in note] == []


def test_convention_follows_the_cotangent(key):
    """A kink is at the same elements whatever the cotangent's sign is."""
    z = jnp.zeros(16, "float32")
    verify_vjp(relu, relu_rule(0.25), z, key=key).raise_if_failed()
    report = verify_vjp(relu, relu_rule(-0.25), z, key=key)
    assert np.asarray(first(report).index) >= 0
    assert kind(report) == "kink"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("winner", ["first", "last", "shared"])
def test_winner_of_many_that_are_equal_is_a_convention(winner, key):
    """Of so many directions that one goes from a tie few lead to a given element."""

    def backward(args, ct):
        chosen = args[0] == args[0].max(axis=-1, keepdims=True)
        if winner == "shared":
            return (ct[:, None] * chosen.astype(ct.dtype) / chosen.sum(axis=-1, keepdims=True, dtype=ct.dtype),)
        index = chosen.argmax(axis=-1) if winner == "first" else 11 - chosen[:, ::-1].argmax(axis=-1)
        return (ct[:, None] * jax.nn.one_hot(index, 12, dtype=ct.dtype),)

    verify_vjp(lambda x: x.max(axis=-1), backward, jnp.zeros((3, 12), "float32"), key=key).raise_if_failed()


def test_bound_that_meets_its_argument_is_no_loss_of_precision(key):
    x = jnp.asarray([1.0, 2.0, 3.0], "float32")
    bound = jnp.asarray([0.0, 2.0, 4.0], "float32")

    def backward(args, ct):
        return jnp.where(args[0] >= args[1], ct, 0), jnp.where(args[0] < args[1], ct, 0)

    verify_vjp(jnp.maximum, backward, x, bound, key=key).raise_if_failed()


def test_nan_is_found_where_rounding_grows_towards_the_point(key):
    """The derivative of sin x/x is 0 at 0; beside it, differences that cancel grow the nearer they are."""

    def backward(args, ct):
        (x,) = args
        return (ct * (jnp.cos(jnp.pi * x) - jnp.sinc(x)) / x,)

    x = jnp.array([0.0, 0.7, -1.3, 0.0], "float32")
    assert kind(verify_vjp(jnp.sinc, backward, x, key=key)) == "non_finite"


def distances(x):
    return jnp.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_where_autodiff_is_nan_at_every_point_results_beside_it_decide(key, factor):
    """The distance of a point to itself is 0 everywhere, and autodiff divides by it."""

    def backward(args, ct):
        apart = args[0][:, None] - args[0][None]
        length = distances(args[0])[..., None]
        sent = ct[..., None] * jnp.where(length > 0, apart / jnp.where(length > 0, length, 1), 0)
        return ((factor * (sent.sum(1) - sent.sum(0))).astype(ct.dtype),)

    report = verify_vjp(distances, backward, normal(4, 3).astype("float32"), key=key)
    assert report.passed == (factor == 1.0)
