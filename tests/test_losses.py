"""Every loss is its definition and its gradient the derivative, exact to rounding where naive forms break down."""

import functools
import re

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from mpmath import mpf

from jaxnet import (
    binary_cross_entropy,
    relu,
    sigmoid,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.losses import squared_error_through, textbook_cross_entropy
from tests.compare import WIDEST, assert_close

LOSSES = [
    binary_cross_entropy,
    softmax_cross_entropy,
    squared_error,
    squared_error_through(relu),
    squared_error_through(tanh),
    textbook_cross_entropy,
]
PER_OUTPUT = [loss for loss in LOSSES if loss is not softmax_cross_entropy]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
every_loss_per_output = pytest.mark.parametrize("loss", PER_OUTPUT, ids=lambda loss: loss.name)
both_functions = pytest.mark.parametrize("function", ["value", "gradient"])


def eager(loss):
    return lambda z, y: (loss.value(z, y), loss.gradient(z, y))


@functools.cache
def compiled(loss):
    return jax.jit(eager(loss))


def examples(loss, dtype=WIDEST):
    """20 examples with 3 outputs, exact zeros and ties among them, and targets that suit the loss."""
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(20, 3))
    z[0], z[1], z[2] = 0, [1, 1, -2], [-2, 1, 1]
    targets = {
        "binary_cross_entropy": rng.choice([0, 1, 0.25, 0.9], (20, 3)),
        "softmax_cross_entropy": np.arange(20) % 3,
        "textbook_cross_entropy": rng.choice([0, 1, 0.25, 0.9], (20, 3)),
    }
    if loss is textbook_cross_entropy:
        z = 1 / (1 + np.exp(-z))
    y = jnp.asarray(targets.get(loss.name, rng.normal(size=(20, 3))))
    return jnp.asarray(z, dtype), y if loss is softmax_cross_entropy else y.astype(dtype)


def definition(loss, z, y):
    """L of each example as the lecture writes it, in NumPy."""
    if loss is softmax_cross_entropy:
        return np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, y[:, None], -1)[:, 0]
    if loss in (binary_cross_entropy, textbook_cross_entropy):
        a = z if loss is textbook_cross_entropy else 1 / (1 + np.exp(-z))
        return -(y * np.log(a) + (1 - y) * np.log(1 - a)).sum(-1)
    output = {"squared_error_through(relu)": lambda z: np.maximum(z, 0), "squared_error_through(tanh)": np.tanh}
    return np.square(output.get(loss.name, lambda z: z)(z) - y).sum(-1) / 2


# Definitions and derivatives -----------------------------------------------------------------------------------------


@every_loss
def test_value_equals_its_definition(loss):
    z, y = examples(loss)
    assert_close(compiled(loss)(z, y)[0], definition(loss, np.asarray(z), np.asarray(y)), 1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
@every_loss
def test_gradient_equals_autodiff_of_the_value(loss, dtype, tolerance):
    z, y = examples(loss, dtype)
    autodiff = jax.jit(jax.grad(lambda z: loss.value(z, y).sum()))(z)
    assert_close(compiled(loss)(z, y)[1], autodiff, tolerance)


@every_loss
def test_gradient_equals_central_differences_of_the_definition(loss):
    z, y = (np.asarray(array) for array in examples(loss))
    step = 1e-6
    slopes = [
        definition(loss, z + step * e, y) / (2 * step) - definition(loss, z - step * e, y) / (2 * step)
        for e in np.eye(3)
    ]
    gradient = compiled(loss)(z, y)[1]
    assert_close(gradient[1:], np.stack(slopes, -1)[1:], 1e-8)  # without z = 0, where ReLU has no derivative


@every_loss
def test_vmap_over_examples_equals_the_batch(loss):
    z, y = examples(loss)
    assert_close(jax.vmap(compiled(loss))(z, y), compiled(loss)(z, y), 1e-15)


@pytest.mark.one_in(2)
@every_loss
def test_jit_equals_eager(loss):
    z, y = examples(loss, "float32")
    assert_close(compiled(loss)(z, y), eager(loss)(z, y), 2 * float(jnp.finfo("float32").eps))


def test_binary_gradient_is_the_short_and_the_long_way_round():
    z = jnp.asarray(np.linspace(-3, 3, 21)[:, None])
    a = 1 / (1 + np.exp(-np.asarray(z)))
    for label in [0.0, 1.0]:
        y = jnp.full_like(z, label)
        gradient = compiled(binary_cross_entropy)(z, y)[1]
        assert_close(gradient, a - label, 1e-14)
        assert_close(gradient, -(label / a * a * (1 - a) - (1 - label) / (1 - a) * a * (1 - a)), 1e-14)
        chain = np.asarray(compiled(textbook_cross_entropy)(jnp.asarray(a), y)[1]) * sigmoid.derivative(z)
        assert_close(gradient, chain, 1e-14)


@pytest.mark.float64
def test_predict_is_the_output_activation():
    z = jnp.asarray([[-2.0, 0.5, 3.0], [1.0, 1.0, -100.0]])
    x = np.asarray(z)
    assert_close(binary_cross_entropy.predict(z), 1 / (1 + np.exp(-x)), 1e-15)
    assert_close(softmax_cross_entropy.predict(z), np.exp(x) / np.exp(x).sum(-1, keepdims=True), 1e-15)
    assert_close(squared_error.predict(z), x, 0)
    assert_close(squared_error_through(relu).predict(z), np.maximum(x, 0), 0)
    assert_close(squared_error_through(tanh).predict(z), np.tanh(x), 1e-15)
    assert_close(textbook_cross_entropy.predict(z), x, 0)


def test_squared_error_through_builds_the_same_loss_once():
    assert squared_error_through(relu) == squared_error_through(relu) is not squared_error_through(tanh)


# Accuracy ------------------------------------------------------------------------------------------------------------

DIGITS = {"float64": 340, "float32": 60}  # that 1 + the smallest number needs
TAILS = [0, 1e-8, 0.1, 1, 3, 10, 16, 20, 30, 80, 87, 100, 500, 1e4]


def assert_accurate(dtype, actual, exact, scale, points):
    """Elementwise within 8 units of rounding of `scale`, or below the smallest normal number, which may underflow."""
    info = jnp.finfo(dtype)
    wrong = [
        f"{float(a):.9g} instead of {float(e):.9g} at {point}"
        for a, e, s, point in zip(np.ravel(actual), exact, scale, points, strict=True)
        if not abs(mpf(float(a)) - e) <= 8 * float(info.eps) * s + float(info.smallest_normal)
    ]
    assert not wrong, "; ".join(wrong)


@pytest.mark.parametrize("label", [0, 1, 0.3, 1 - 2**-20])
@pytest.mark.parametrize(("dtype", "run"), [("float64", compiled), ("float32", compiled), ("float32", eager)])
def test_binary_cross_entropy_is_exact_to_rounding(dtype, run, label):
    """The gradient is measured against its two terms, which cancel where a = y unless y is 0 or 1."""
    points = np.concatenate([TAILS, np.random.default_rng(0).uniform(0, 100, 30)])
    z = np.concatenate([points, -points])[:, None].astype(dtype)
    y = np.full_like(z, label)
    value, gradient = run(binary_cross_entropy)(jnp.asarray(z), jnp.asarray(y))
    with mpmath.workdps(DIGITS[dtype]):
        label = mpf(float(y[0, 0]))
        a = [1 / (1 + mpmath.exp(-mpf(float(point)))) for point in z[:, 0]]
        b = [1 / (1 + mpmath.exp(mpf(float(point)))) for point in z[:, 0]]
        losses = [-label * mpmath.log(p) - (1 - label) * mpmath.log(q) for p, q in zip(a, b, strict=True)]
        gradients = [p - label for p in a]
        terms = [label * q + (1 - label) * p for p, q in zip(a, b, strict=True)]
        assert_accurate(dtype, value, losses, losses, points=z[:, 0])
        assert_accurate(dtype, gradient, gradients, terms, points=z[:, 0])


@pytest.mark.parametrize(
    ("dtype", "classes", "run"),
    [(dtype, classes, compiled) for dtype in ["float64", "float32"] for classes in [2, 3, 10]]
    + [("float32", 3, eager)],
)
def test_softmax_cross_entropy_is_exact_to_rounding(dtype, classes, run):
    """A compiler that simplified the compensated subtraction away would lose 80 units of rounding at e^-80."""
    rng = np.random.default_rng(0)
    scales = np.repeat([1, 30, 100, 1e4], 12)[:, None]
    z = np.asarray((scales * rng.normal(size=(48, classes))).clip(-1e4, 1e4), dtype)
    z[0] = 0  # all classes tie
    z[12:16, :2] = z[12:16].max(-1, keepdims=True) + 5  # two tie for the largest
    z[16, :2], z[16, 2:] = [50.3, -0.7], -60  # a loss of 7e-23
    y = rng.integers(classes, size=48)
    y[::2] = z[::2].argmax(-1)
    points = [f"{row}, label {label}" for row, label in zip(z, y, strict=True)]
    value, gradient = run(softmax_cross_entropy)(jnp.asarray(z), jnp.asarray(y))
    losses, gradients = [], []
    with mpmath.workdps(DIGITS[dtype]):
        for row, label in zip(z, y, strict=True):
            e = [mpmath.exp(mpf(float(logit))) for logit in row]
            losses.append(mpmath.log(mpmath.fsum(e) / e[label]))
            gradients += [term / mpmath.fsum(e) - (k == label) for k, term in enumerate(e)]
        assert_accurate(dtype, value, losses, losses, points)
        assert_accurate(dtype, gradient, gradients, map(abs, gradients), np.repeat(points, classes))


def test_tiny_losses_are_not_rounded_to_zero():
    z = jnp.asarray([[50.25, -0.75]], "float32")
    value, gradient = compiled(softmax_cross_entropy)(z, jnp.asarray([0]))
    np.testing.assert_allclose(value, np.exp(-51.0), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-np.exp(-51.0), np.exp(-51.0)]], rtol=1e-6)
    value, gradient = compiled(binary_cross_entropy)(jnp.asarray([[-51.0]], "float32"), jnp.asarray([0]))
    np.testing.assert_allclose(value, np.exp(-51.0), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[np.exp(-51.0)]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_cross_entropies_are_finite_for_every_finite_output(dtype):
    largest = float(jnp.finfo(dtype).max)
    z = jnp.asarray([[largest], [-largest], [largest], [-largest]], dtype)
    value, gradient = compiled(binary_cross_entropy)(z, jnp.asarray([1, 0, 0, 1]))
    np.testing.assert_array_equal(np.asarray(value, float), [0, 0, largest, largest])
    np.testing.assert_array_equal(np.asarray(gradient, float), [[0], [0], [1], [-1]])
    z = jnp.asarray([[largest, -largest], [largest, -largest]], dtype)
    value, gradient = compiled(softmax_cross_entropy)(z, jnp.asarray([0, 1]))
    np.testing.assert_array_equal(np.asarray(value, float), [0, np.inf])  # 2 · largest
    np.testing.assert_array_equal(np.asarray(gradient, float), [[0, 0], [1, -1]])


@pytest.mark.parametrize(("z", "y"), [(200, 0), (200, 1), (-200, 0), (-200, 1)])
def test_textbook_cross_entropy_breaks_down_where_the_loss_of_logits_does_not(z, y):
    logits, targets = jnp.asarray([[z]], "float32"), jnp.asarray([[y]], "float32")
    for result in compiled(textbook_cross_entropy)(sigmoid.value(logits), targets):
        assert not jnp.isfinite(result).any()
    loss, gradient = (abs(z), 1 - 2 * y) if (z > 0) != y else (0, 0)
    expected = jnp.asarray([loss], "float32"), jnp.asarray([[gradient]], "float32")
    assert_close(compiled(binary_cross_entropy)(logits, targets), expected, 0)


# Shapes and errors ---------------------------------------------------------------------------------------------------


@every_loss_per_output
def test_targets_of_one_output_may_lack_the_last_axis(loss):
    z, y = examples(loss)
    z, y = z[:, :1], y[:, :1]
    losses, gradients = compiled(loss)(z, y)
    assert (losses.shape, gradients.shape) == ((20,), (20, 1))
    assert_close(compiled(loss)(z, y[:, 0]), (losses, gradients), 0)
    assert_close(compiled(loss)(z[3], y[3, 0]), (losses[3], gradients[3]), 1e-15)
    assert_close(compiled(loss)(z[3, 0], y[3, 0]), (losses[3], gradients[3, 0]), 1e-15)


@every_loss_per_output
def test_losses_of_several_outputs_are_summed(loss):
    z, y = examples(loss)
    columns = [compiled(loss)(z[:, k : k + 1], y[:, k])[0] for k in range(3)]
    assert_close(compiled(loss)(z, y)[0], columns[0] + columns[1] + columns[2], 1e-14)


@both_functions
@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ((5, 1), (1, 5)),
        ((5, 1), (5, 5)),
        ((5, 1), (5, 2)),
        ((5, 1), (4,)),
        ((5, 1), (1,)),
        ((5, 1), ()),
        ((5, 2), (5,)),
        ((5, 2), (5, 1)),
        ((5, 2), (2, 5)),
        ((5, 2), (2,)),
        ((5,), ()),
        ((5,), (5, 1)),
    ],
    ids=str,
)
@every_loss_per_output
def test_targets_never_broadcast(loss, outputs, targets, function):
    message = f"outputs of shape {outputs} need targets of the same shape, got {targets}"
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(getattr(loss, function), np.full(outputs, 0.5), np.zeros(targets))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@every_loss_per_output
def test_complex_targets_are_refused(loss, dtype):
    """They would lose their imaginary part."""
    with pytest.raises(TypeError, match=f"targets must be real numbers, got {dtype}"):
        loss.value(jnp.full((2, 1), 0.5), jnp.full((2, 1), 0.5 + 0.5j, dtype))


@both_functions
@pytest.mark.parametrize("loss", [binary_cross_entropy, textbook_cross_entropy], ids=lambda loss: loss.name)
@pytest.mark.parametrize("label", [-1, 2, 1.001, np.nan])
def test_binary_labels_must_lie_in_zero_to_one(loss, label, function):
    with pytest.raises(ValueError, match=rf"binary labels must lie in \[0, 1\], got values from .*{label}"):
        getattr(loss, function)(jnp.full((2, 1), 0.5), jnp.asarray([label, 1]))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float64"])
def test_binary_labels_may_be_of_any_dtype(dtype):
    z = jnp.asarray([[-1.0], [2.0]], "float32")
    expected = compiled(binary_cross_entropy)(z, jnp.asarray([0, 1], "float32"))
    assert_close(compiled(binary_cross_entropy)(z, jnp.asarray([0, 1], dtype)), expected, 0)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_softmax_labels_may_be_of_any_integer_dtype(dtype):
    """Also of one that cannot count the classes: 3 = 259 mod 256, and 100 is not below 300 mod 256 = 44."""
    z, labels = np.linspace(-1, 1, 600).reshape(2, 300), np.asarray([3, 100])
    arguments = jnp.asarray(z), jnp.asarray(labels.astype(dtype))
    assert_close(softmax_cross_entropy.value(*arguments), definition(softmax_cross_entropy, z, labels), 1e-14)
    gradient = np.asarray(compiled(softmax_cross_entropy)(*arguments)[1])
    assert np.argwhere(gradient < 0).tolist() == [[0, 3], [1, 100]]


@both_functions
@pytest.mark.float64
def test_softmax_refuses_bad_labels(function):
    call = getattr(softmax_cross_entropy, function)
    z = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"labels must lie in 0 to 2, got values from 0 to 3"):
        call(z, jnp.asarray([0, 3]))
    with pytest.raises(ValueError, match=r"labels must lie in 0 to 2, got values from -1 to 0"):
        call(z, jnp.asarray([-1, 0]))
    with jax.enable_x64(False), pytest.raises(ValueError, match="got values from 0 to 4294967296"):
        call(jnp.zeros((2, 3)), np.array([0, 2**32]))  # 0 in 32 bits
    with pytest.raises(TypeError, match=r"needs integer class labels, got float64"):
        call(z, jnp.asarray([0.0, 1.0]))
    with pytest.raises(TypeError, match=r"needs integer class labels, got bool"):
        call(z, jnp.asarray([False, True]))
    with pytest.raises(ValueError, match=r"outputs of shape \(2, 3\) need labels of shape \(2,\), got \(2, 1\)"):
        call(z, jnp.asarray([[0], [1]]))
    with pytest.raises(ValueError, match=r"outputs of shape \(2, 3\) need labels of shape \(2,\), got \(3,\)"):
        call(z, jnp.asarray([0, 1, 2]))
    with pytest.raises(ValueError, match=r"at least 2 classes, got shape \(2, 1\)"):
        call(z[:, :1], jnp.asarray([0, 0]))
    with pytest.raises(ValueError, match=r"at least 2 classes, got shape \(\)"):
        call(z[0, 0], jnp.asarray(0))
