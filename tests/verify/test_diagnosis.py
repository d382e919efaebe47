"""Explanations in words: the mistake is named, and where none is known, none is invented."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.verify import mistakes, verify_gradient, verify_vjp
from jaxnet.verify.mistakes.evidence import Hypothesis, Level
from tests.verify.rules import dense, dense_args, dense_rule, first, kind, normal

pytestmark = pytest.mark.one_in(3)


def changed(spoil):
    """The dense rule with (grad_x, grad_weight, grad_bias) replaced by spoil(those, args, ct)."""
    return lambda args, ct: spoil(*dense_rule(args, ct), args, ct)


DENSE = {
    "sign": (lambda gx, gw, gb, args, ct: (gx, -gw, gb), "[1]", "sign", "wrong sign"),
    "transpose": (lambda gx, gw, gb, args, ct: (gx, gw.T, gb), "[1]", "transpose", "swap the factors"),
    "wrong factor": (lambda gx, gw, gb, args, ct: (gx, 1.7 * gw, gb), "[1]", "scale", "1.7 times too large"),
    "averaged": (lambda gx, gw, gb, args, ct: (gx, gw / 5, gb), "[1]", "scale", "divided by 5 once too often"),
    "weight decay": (lambda gx, gw, gb, args, ct: (gx, gw + 0.03 * args[1], gb), "[1]", "extra_term", "0.03 times"),
    "bias not summed": (lambda gx, gw, gb, args, ct: (gx, gw, ct), "[2]", "missing_reduction", "batch axis"),
    "first example": (lambda gx, gw, gb, args, ct: (gx, gw, ct[0]), "[2]", "missing_reduction", "the first row"),
    "last dropped": (
        lambda gx, gw, gb, args, ct: (gx, ct[:-1].T @ args[0][:-1], gb), "[1]", "missing_term", "the last ",
    ),
    "no cotangent": (lambda gx, gw, gb, args, ct: (jnp.ones_like(ct) @ args[1], gw, gb), "[0]", "nonlinear", "ignored"),
    "absolute": (lambda gx, gw, gb, args, ct: (abs(ct) @ args[1], gw, gb), "[0]", "nonlinear", "linear in"),
    "zero": (lambda gx, gw, gb, args, ct: (gx, gw, 0 * gb), "[2]", "zero", "never arrives"),
    "None": (lambda gx, gw, gb, args, ct: (gx, None, gb), "[1]", "zero", "None, which means zeros"),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_mistake_in_a_dense_layer_is_named(name, key):
    spoil, path, expected, words = DENSE[name]
    report = verify_vjp(dense, changed(spoil), *dense_args(), key=key)
    assert [(finding.path, finding.kind) for finding in report.findings] == [(path, expected)]
    assert words in report.findings[0].explanation


def test_transpose_of_a_square_weight_is_named(key):
    """The shape says nothing."""
    wrong = changed(lambda gx, gw, gb, args, ct: (ct @ args[1].T, gw.T, gb))
    report = verify_vjp(dense, wrong, *dense_args(n_out=4), key=key)
    assert [(finding.path, finding.kind) for finding in report.findings] == [("[0]", "transpose"), ("[1]", "transpose")]


def mean_cost(weight, x, y):
    return ((x @ weight - y) ** 2).mean()


def mean_cost_gradient(weight, x, y):
    return 2 * x.T @ (x @ weight - y) / len(y)


def test_batch_size_is_named(key):
    args = normal(3), normal(64, 3, seed=1), normal(64, seed=2)
    verify_gradient(mean_cost, mean_cost_gradient, *args, key=key).raise_if_failed()
    found = first(verify_gradient(mean_cost, lambda *args: 64 * mean_cost_gradient(*args), *args, key=key))
    assert found.kind == "scale"
    assert "64 times too large" in found.explanation
    assert "64 is the length of axis 0" in found.explanation


def test_last_example_left_out_of_a_mean_is_named(key):
    def gradient(weight, x, y):
        return 2 * x[:-1].T @ (x[:-1] @ weight - y[:-1]) / len(y)

    found = first(verify_gradient(mean_cost, gradient, normal(3), normal(6, 3, seed=1), normal(6, seed=2), key=key))
    assert found.kind == "missing_term"
    assert "last" in found.explanation


def test_swapped_leaves_are_named(key):
    def function(first, second, x):
        return (jnp.tanh(x @ first) @ second).sum()

    def swapped(*args):
        return jax.grad(function, (0, 1))(*args)[::-1]

    args = normal(3, 3), normal(3, 3, seed=1), normal(4, 3, seed=2)
    report = verify_gradient(function, swapped, *args, argnums=(0, 1), key=key)
    assert [finding.kind for finding in report.findings] == ["structure", "structure"]
    assert "it is the gradient of [1]" in report.findings[0].explanation


def tanh_layer(x, weight):
    return jnp.tanh(x @ weight.T)


def slope(z):
    return 1 - jnp.tanh(z) ** 2


SLOPES = {
    "missing": jnp.ones_like,
    "at the output": lambda z: slope(jnp.tanh(z)),
    "twice": lambda z: slope(z) ** 2,
    "1 - z²": lambda z: 1 - z**2,
    "of the sigmoid": lambda z: jax.nn.sigmoid(z) * jax.nn.sigmoid(-z),
}


@pytest.mark.parametrize("name", SLOPES)
def test_wrong_slope_alone_is_named(name, key):
    found = first(verify_vjp(jnp.tanh, lambda args, ct: (ct * SLOPES[name](args[0]),), normal(6), key=key))
    assert found.kind == "activation"


@pytest.mark.parametrize("name", ["missing", "at the output", "twice"])
def test_wrong_slope_in_a_layer_is_named(name, key):
    def backward(args, ct):
        x, weight = args
        delta = ct * SLOPES[name](x @ weight.T)
        return delta @ weight, delta.T @ x

    report = verify_vjp(tanh_layer, backward, normal(5, 4), normal(3, 4, seed=1), key=key)
    assert {finding.kind for finding in report.findings} == {"activation"}


def test_input_in_place_of_the_output_of_an_activation_is_named(key):
    def function(z, weight):
        return jnp.tanh(z) @ weight.T

    def backward(args, ct):
        z, weight = args
        return (ct @ weight) * slope(z), ct.T @ z

    found = first(verify_vjp(function, backward, normal(5, 4), normal(3, 4, seed=1), key=key))
    assert (found.path, found.kind) == ("[1]", "activation")
    assert "z in place of" in found.explanation


def test_diagonal_of_the_softmax_is_named(key):
    def backward(args, ct):
        p = jax.nn.softmax(args[0])
        return (ct * p * (1 - p),)

    found = first(verify_vjp(jax.nn.softmax, backward, normal(3, 4), key=key))
    assert found.kind == "missing_term"
    assert "diagonal" in found.explanation


def unit(x):
    return x / jnp.sqrt((x * x).sum())


def unit_or_leaking(x):
    """A comparison is an operation without a derivative."""
    return jnp.where(x > 0, unit(x), 0.1 * x)


def scaled_attention(q, k):
    return jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[-1]).astype(q.dtype))


def scaled_attention_without_the_sum(args, ct):
    q, k = args
    root = jnp.sqrt(q.shape[-1]).astype(q.dtype)
    ds = scaled_attention(q, k) * ct
    return ds @ k / root, ds.T @ q / root


@pytest.mark.parametrize(
    ("function", "backward", "shapes"),
    [
        (unit, lambda args, ct: (ct / jnp.sqrt((args[0] * args[0]).sum()),), [(6,)]),
        (
            unit_or_leaking,
            lambda args, ct: (ct * jnp.where(args[0] > 0, 1 / jnp.sqrt((args[0] * args[0]).sum()), 0.1),),
            [(6,)],
        ),
        (scaled_attention, scaled_attention_without_the_sum, [(5, 4), (3, 4)]),
    ],
    ids=["length of a unit vector", "beside a comparison", "sum of a softmax"],
)
def test_path_through_a_sum_is_named_beside_a_scalar_operand(function, backward, shapes, key):
    report = verify_vjp(function, backward, *(normal(*shape, seed=i) for i, shape in enumerate(shapes)), key=key)
    assert {finding.kind for finding in report.findings} == {"missing_term"}
    assert "through operand 2 of `div`" in first(report).explanation


def test_hypothesis_that_cannot_be_tried_is_told(key, monkeypatch):
    def broken(evidence):
        raise ZeroDivisionError

    monkeypatch.setattr(mistakes, "HYPOTHESES", [Hypothesis(Level.WHOLE, broken, ("sign",))])
    found = first(verify_vjp(jnp.tanh, lambda args, ct: (args[0],), normal(3), key=key))
    assert found.kind == "unknown"
    assert "some could not be tried, the first for a ZeroDivisionError" in found.explanation


def test_forgotten_skip_connection_is_named(key):
    def backward(args, ct):
        x, weight = args
        delta = ct * slope(x @ weight.T)
        return delta @ weight, delta.T @ x

    found = first(verify_vjp(lambda x, weight: x + tanh_layer(x, weight), backward, normal(5, 4),
                             normal(4, 4, seed=1), key=key))  # fmt: skip
    assert (found.path, found.kind) == ("[0]", "missing_term")
    assert "skip connection" in found.explanation


def normalized(x, epsilon):
    return x / jnp.sqrt((x**2).mean() + epsilon)


def test_forgotten_epsilon_is_no_loss_of_digits(key):
    def backward(args, ct):
        return jax.vjp(lambda x: normalized(x, 0), *args)[1](ct)

    report = verify_vjp(lambda x: normalized(x, 1e-6), backward, normal(6), key=key)
    assert not report.passed
    assert "precision" not in {finding.kind for finding in report.findings}


def test_mask_that_the_gradient_does_not_read_is_named(key):
    mask = jnp.asarray([[True, True, False], [True, False, False]])
    report = verify_vjp(
        lambda x: jnp.where(mask, x, 0).sum(axis=1) / mask.sum(axis=1).astype(x.dtype),
        lambda args, ct: (jnp.broadcast_to(ct[:, None] / 3, args[0].shape),),
        normal(2, 3),
        key=key,
    )
    assert first(report).kind == "mask"
    assert "true everywhere" in first(report).explanation


def test_elements_that_get_the_gradient_of_others_are_named(key):
    order = np.asarray([0, 3, 2, 5, 1, 4])
    report = verify_vjp(lambda x: x**3, lambda args, ct: ((3 * ct * args[0] ** 2)[order],), normal(6), key=key)
    assert first(report).kind == "axis"


def test_cotangents_that_are_read_from_other_places_are_named(key):
    """Every second cotangent belongs to an element; the candidate takes the first ones."""
    weight = normal(3, seed=1)
    report = verify_vjp(
        lambda x: jnp.zeros(6, x.dtype).at[::2].set(weight.astype(x.dtype) * x),
        lambda args, ct: (weight.astype(ct.dtype) * ct[:3],),
        normal(3),
        key=key,
    )
    assert first(report).kind == "axis"
    assert "cotangent 1 is treated as 2 should be" in first(report).explanation


def test_sum_of_another_leaf_is_named(key):
    wrong = changed(lambda gx, gw, gb, args, ct: (gx, gw, gw.sum(axis=1)))
    report = verify_vjp(dense, wrong, *dense_args(), key=key)
    assert first(report).kind == "structure"
    assert "summed along its axis 1" in first(report).explanation


def recurrent(x, h, weight):
    for x_t in x:
        h = jnp.tanh(x_t + weight @ h)
    return h


def test_state_that_is_carried_back_by_one_step_alone_is_named(key):
    def backward(args, ct):
        x, h, weight = args
        last = jax.lax.stop_gradient(recurrent(x[:-1], h, weight))
        dx, _, dweight = jax.vjp(lambda x, h, weight: jnp.tanh(x + weight @ h), x[-1], last, weight)[1](ct)
        return jnp.zeros_like(x).at[-1].set(dx), jnp.zeros_like(h), dweight

    report = verify_vjp(recurrent, backward, normal(4, 3), normal(3, seed=1), normal(3, 3, seed=2), key=key)
    kinds = {finding.path: finding.kind for finding in report.findings}
    assert kinds["[2]"] == "missing_term"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.float64
def test_nonsense_is_not_explained(seed, key):
    numbers = np.asarray(normal(3, 4, dtype="float64", seed=seed + 20))

    def backward(args, ct):
        gx, _, gb = dense_rule(args, ct)
        return gx, jnp.asarray(numbers, ct.dtype) * ct.sum(), gb

    report = verify_vjp(dense, backward, *dense_args(), key=key)
    assert kind(report) in {"unknown", "nonlinear", "partial"}
    assert [finding.path for finding in report.findings] == ["[1]"]


def test_every_wrong_leaf_gets_its_own_finding(key):
    wrong = changed(lambda gx, gw, gb, args, ct: (-gx, 3 * gw, 0 * gb))
    report = verify_vjp(dense, wrong, *dense_args(), key=key)
    assert [(finding.path, finding.kind) for finding in report.findings] == [
        ("[0]", "sign"), ("[1]", "scale"), ("[2]", "zero"),
    ]  # fmt: skip
