"""In the arguments' own dtype right rules pass, and rules that lose digits there do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.verify import verify_custom_vjp, verify_gradient, verify_vjp
from tests.verify.rules import dense, dense_args, dense_rule, first, kind, normal

pytestmark = pytest.mark.one_in(2)

LOSSES = {"precision", "non_finite"}


def cross_entropy(z, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], axis=1).mean()


def cross_entropy_rule(args, ct):
    z, labels = args
    one_hot = jax.nn.one_hot(labels, z.shape[1], dtype=z.dtype)
    return ct * (jax.nn.softmax(z) - one_hot) / len(z), None


def two_layers(x, first_weight, second_weight):
    return jnp.tanh(x @ first_weight.T) @ second_weight.T


def two_layers_rule(args, ct):
    x, first_weight, second_weight = args
    a = jnp.tanh(x @ first_weight.T)
    delta = (ct @ second_weight) * (1 - a**2)
    return delta @ first_weight, delta.T @ x, ct.T @ a


def textbook_sigmoid_rule(args, ct):
    a = jax.nn.sigmoid(args[0])
    return (ct * a * (1 - a),)


RIGHT = {
    "dense": (dense, dense_rule, lambda dtype: dense_args(dtype=dtype)),
    "tanh": (
        jnp.tanh,
        lambda args, ct: (ct * (1 - jnp.tanh(args[0]) ** 2),),
        lambda dtype: (normal(8, dtype=dtype),),
    ),
    "sigmoid": (jax.nn.sigmoid, textbook_sigmoid_rule, lambda dtype: (normal(8, dtype=dtype),)),
    "relu": (
        jax.nn.relu,
        lambda args, ct: (ct * (args[0] > 0).astype(ct.dtype),),
        lambda dtype: (normal(8, dtype=dtype),),
    ),
    "cross-entropy": (
        cross_entropy,
        cross_entropy_rule,
        lambda dtype: (normal(6, 4, dtype=dtype, scale=2), jnp.arange(6) % 4),
    ),
    "two layers": (
        two_layers,
        two_layers_rule,
        lambda dtype: (normal(5, 4, dtype=dtype), normal(4, 4, dtype=dtype, seed=1), normal(2, 4, dtype=dtype, seed=2)),
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_rule_passes(name, dtype, key):
    function, backward, args = RIGHT[name]
    verify_vjp(function, backward, *args(dtype), key=key).raise_if_failed()


@pytest.mark.parametrize("z", [20.0, [20.0], [-20.0, -1.0, 0.0, 1.0, 20.0]], ids=str)
def test_textbook_sigmoid_loses_its_tail(z, key):
    found = first(verify_vjp(jax.nn.sigmoid, textbook_sigmoid_rule, jnp.asarray(z, "float32"), key=key))
    assert (found.path, found.kind) == ("[0]", "precision")


def test_tail_that_is_set_to_0_is_found(key):
    def backward(args, ct):
        z = args[0]
        return (ct * jnp.where(jnp.abs(z) > 15, 0, jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)).astype(z.dtype),)

    assert kind(verify_vjp(jax.nn.sigmoid, backward, normal(5), key=key)) == "precision"


def naive_log_sigmoid(z):
    return jnp.log(jax.nn.sigmoid(z))


def naive_rule(args, ct):
    """1/a · a(1 - a), where a underflows to 0."""
    a = jax.nn.sigmoid(args[0])
    return (ct / a * (a * (1 - a)),)


def test_naive_log_sigmoid_is_not_stable(key):
    assert kind(verify_vjp(jax.nn.log_sigmoid, naive_rule, normal(5), key=key)) in LOSSES


def test_naive_rule_of_a_naive_function_is_not_stable(key):
    function = jax.custom_vjp(naive_log_sigmoid)
    function.defvjp(lambda z: (naive_log_sigmoid(z), z), lambda z, ct: naive_rule((z,), ct))
    assert kind(verify_custom_vjp(function, normal(5), key=key)) in LOSSES


def test_softmax_without_the_shift_is_not_stable(key):
    def backward(args, ct):
        e = jnp.exp(args[0])
        p = e / e.sum(axis=-1, keepdims=True)
        return (p * (ct - (ct * p).sum(axis=-1, keepdims=True)),)

    assert kind(verify_vjp(jax.nn.softmax, backward, normal(3, 4), key=key)) in LOSSES


def in_dtype(dtype):
    """The dense rule, computed in a dtype of its own."""

    def backward(args, ct):
        cast = dense_rule([arg.astype(dtype) for arg in args], ct.astype(dtype))
        return tuple(grad.astype(arg.dtype) for grad, arg in zip(cast, args, strict=True))

    return backward


@pytest.mark.parametrize("inside", ["float16", "bfloat16"])
def test_rule_in_a_narrower_dtype_is_found(inside, key):
    assert kind(verify_vjp(dense, in_dtype(inside), *dense_args(), key=key)) == "precision"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rule_in_a_wider_dtype_passes(dtype, key):
    verify_vjp(dense, in_dtype("float32"), *dense_args(dtype=dtype), key=key).raise_if_failed()


def test_products_accumulated_in_float32_pass(key):
    def backward(args, ct):
        x, weight, _ = args
        wide = {"preferred_element_type": jnp.float32}
        grads = (
            jnp.matmul(ct, weight, **wide), jnp.matmul(ct.T, x, **wide), ct.sum(0, dtype=jnp.float32),
        )  # fmt: skip
        return tuple(grad.astype(arg.dtype) for grad, arg in zip(grads, args, strict=True))

    verify_vjp(dense, backward, *dense_args(dtype="bfloat16"), key=key).raise_if_failed()


def shifted(x, bias):
    return x + bias


def summed_in(dtype):
    """The gradient of a bias, whose sum over the rows a loop carries in this dtype."""

    def backward(args, ct):
        total, _ = jax.lax.scan(
            lambda total, row: (total + row.astype(dtype), None), jnp.zeros(ct.shape[1:], dtype), ct
        )
        return ct, total.astype(ct.dtype)

    return backward


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sum_that_stops_growing_in_half_precision_is_found(dtype, key):
    rows = 2 * round(2 / float(jnp.finfo(dtype).eps))  # half of them are lost
    args = normal(rows, 3, dtype=dtype), normal(3, dtype=dtype)
    verify_vjp(shifted, summed_in("float32"), *args, key=key).raise_if_failed()
    report = verify_vjp(shifted, summed_in(dtype), *args, key=key)
    assert kind(report) == "precision"
    assert "cotangent of ones" in str(report)


def gelu_rule(constant):
    def backward(args, ct):
        (x,) = args
        t = jnp.tanh(constant * (x + 0.044715 * x**3))
        return (ct * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * constant * (1 + 3 * 0.044715 * x**2)),)

    return backward


@pytest.mark.parametrize(
    "held", [np.float32, jnp.float32, lambda c: np.full(3, c, np.float32), lambda c: jnp.full(3, c, "float32")]
)
def test_constant_that_was_rounded_to_float32_is_known_to_half_a_unit(held, key):
    constant, x = np.sqrt(2 / np.pi), normal(4, 3)
    verify_vjp(jax.nn.gelu, gelu_rule(held(constant)), x, key=key).raise_if_failed()
    assert not verify_vjp(jax.nn.gelu, gelu_rule(held(constant * (1 + 4e-7))), x, key=key)
    own = gelu_rule(held(constant * (1 + 4e-7)))  # a function that holds the same number
    verify_vjp(lambda x: x / 2 * (1 + jnp.tanh(held(constant * (1 + 4e-7)) * (x + 0.044715 * x**3))), own, x, key=key)


def test_wrong_rule_in_half_precision_is_found(key):
    def backward(args, ct):
        grad_x, grad_weight, grad_bias = in_dtype("float32")(args, ct)
        return grad_x, grad_weight, 1.3 * grad_bias

    assert not verify_vjp(dense, backward, *dense_args(dtype="bfloat16"), key=key)


@pytest.mark.parametrize("seed", range(3))
def test_autodiff_itself_passes_where_tanh_saturates(seed):
    z = normal(64, seed=seed, scale=3)
    report = verify_vjp(jnp.tanh, lambda args, ct: jax.vjp(jnp.tanh, *args)[1](ct), z, key=jax.random.key(seed))
    report.raise_if_failed()


@pytest.mark.parametrize("seed", range(2))
def test_autodiff_itself_passes_at_large_logits(seed):
    args = normal(6, 4, seed=seed, scale=20), jnp.arange(6) % 4
    verify_gradient(cross_entropy, jax.grad(cross_entropy), *args, key=jax.random.key(seed)).raise_if_failed()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_point_and_cotangent_are_rounded_before_they_are_judged(dtype, key):
    report = verify_vjp(lambda x: -x, lambda args, ct: (-ct,), normal(5, dtype=dtype), key=key, native=True)
    assert report.leaves == {"[0]": 0}


def test_large_cotangent_does_not_overflow_in_float16(key):
    x = 0.1 * normal(500, dtype="float16")
    verify_vjp(lambda x: x**3, lambda args, ct: (3 * ct * args[0] ** 2,), x, key=key, native=True).raise_if_failed()
