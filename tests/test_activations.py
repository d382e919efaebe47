"""Every activation and derivative is its formula: symbolically, to rounding in every dtype, and against autodiff."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import sympy
from sympy import Piecewise, Rational, erfc, exp, log, pi, sqrt

from jaxnet import (
    gelu,
    relu,
    sigmoid,
    tanh,
)
from jaxnet.activations import (
    Activation,
    elu,
    elu_with,
    gelu_tanh,
    identity,
    leaky_relu,
    leaky_relu_with,
    silu,
    softplus,
)
from tests.compare import assert_close


class Formula(NamedTuple):
    """What a docstring states, in SymPy: the value of z, and the derivative of a or z, whichever the code reads."""

    value: Callable[[Any], Any]
    derivative: Callable[[Any], Any]


def logistic(z):
    return 1 / (1 + exp(-z))


def normal_distribution(z):
    return erfc(-z / sqrt(2)) / 2


def cubic(z):
    """The u of gelu_tanh."""
    return 2 * sqrt(2 / pi) * (z + Rational(44715, 10**6) * z**3)


def cubic_slope(z):
    return 2 * sqrt(2 / pi) * (1 + 3 * Rational(44715, 10**6) * z**2)


def leaky_relu_formula(slope):
    return Formula(
        value=lambda z: Piecewise((z, z > 0), (slope * z, True)),
        derivative=lambda a: Piecewise((1, a > 0), (slope, True)),
    )


def elu_formula(alpha):
    return Formula(
        value=lambda z: Piecewise((z, z > 0), (alpha * (exp(z) - 1), True)),
        derivative=lambda z: Piecewise((1, z > 0), (alpha * exp(z), True)),
    )


FORMULAS = {
    sigmoid: Formula(logistic, lambda z: logistic(z) * logistic(-z)),
    tanh: Formula(sympy.tanh, lambda z: 4 * logistic(2 * z) * logistic(-2 * z)),
    relu: Formula(lambda z: Piecewise((z, z > 0), (0, True)), lambda a: Piecewise((1, a > 0), (0, True))),
    identity: Formula(lambda z: z, lambda a: sympy.Integer(1)),
    leaky_relu: leaky_relu_formula(Rational(1, 100)),
    leaky_relu_with(0.2): leaky_relu_formula(Rational(1, 5)),
    softplus: Formula(lambda z: log(1 + exp(z)), lambda a: 1 - exp(-a)),
    silu: Formula(lambda z: z * logistic(z), lambda z: logistic(z) + z * logistic(z) * logistic(-z)),
    gelu: Formula(
        value=lambda z: z * normal_distribution(z),
        derivative=lambda z: normal_distribution(z) + z * exp(-(z**2) / 2) / sqrt(2 * pi),
    ),
    gelu_tanh: Formula(
        value=lambda z: z * (1 + sympy.tanh(cubic(z) / 2)) / 2,
        derivative=lambda z: logistic(cubic(z)) + z * logistic(cubic(z)) * logistic(-cubic(z)) * cubic_slope(z),
    ),
    elu: elu_formula(sympy.Integer(1)),
    elu_with(0.5): elu_formula(Rational(1, 2)),
}
DIGITS = {"float64": 340, "float32": 60, "bfloat16": 60, "float16": 60}  # that 1 + the smallest number needs
TAILS = [1e-300, 1e-30, 1e-8, 0.1, 1, 3, 10, 20, 30, 80, 100, 500, 700, 1e4, 6e4]
every_activation = pytest.mark.parametrize("activation", FORMULAS, ids=lambda activation: activation.name)


def derivative_at(activation: Activation, z):
    """g'(z) as backpropagation computes it: from the output where `reads` says so."""
    return activation.derivative(activation.value(z) if activation.reads == "output" else z)


@functools.cache
def computed(dtype):
    """Points over the whole range of the dtype, and the value and derivative of every activation, compiled."""
    rng = np.random.default_rng(0)
    largest = float(jnp.finfo(dtype).max)
    points = np.concatenate([TAILS, rng.uniform(0, 5, 30), rng.uniform(5, 100, 20)])
    points = points[points < largest]
    z = jnp.asarray(np.concatenate([[largest, -largest, 0.0], points, -points]), dtype)
    return z, jax.jit(lambda z: {a.name: (a.value(z), derivative_at(a, z)) for a in FORMULAS})(z)


@functools.cache
def autodiff():
    """The derivative of every activation at 0, far out and at random points, by hand and by autodiff."""
    z = jnp.asarray(np.concatenate([[0.0, 1e3, -1e3], 3 * np.random.default_rng(0).normal(size=100)]))
    return jax.jit(lambda z: {a.name: (derivative_at(a, z), jax.vmap(jax.grad(a.value))(z)) for a in FORMULAS})(z)


@pytest.mark.parametrize("side", ["positive", "negative"])
@every_activation
def test_derivative_formula_is_the_symbolic_derivative_of_the_value(activation, side):
    z = sympy.Symbol("z", **{side: True})
    value, derivative = FORMULAS[activation]
    argument = value(z) if activation.reads == "output" else z
    difference = sympy.diff(value(z), z) - derivative(argument)
    assert sympy.simplify(difference.rewrite(exp)) == 0


def test_textbook_derivatives_are_the_same_functions():
    z = sympy.Symbol("z", real=True)
    e = exp(-z)
    a, b, c = logistic(z), sympy.tanh(z), exp(z) - 1
    for name, one, other in [
        ("sigmoid", a * (1 - a), logistic(z) * logistic(-z)),
        ("sigmoid from e^-|z|", e / (1 + e) ** 2, logistic(z) * logistic(-z)),
        ("sigmoid is even", e / (1 + e) ** 2, (1 / e) / (1 + 1 / e) ** 2),
        ("tanh", 1 - b**2, 4 * logistic(2 * z) * logistic(-2 * z)),
        ("elu", c + 1, exp(z)),
        ("softplus", 1 - exp(-log(1 + exp(z))), logistic(z)),
    ]:
        assert sympy.simplify((one - other).rewrite(exp)) == 0, name


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@every_activation
def test_value_and_derivative_are_finite_in_their_dtype_for_every_finite_input(activation, dtype):
    z, results = computed(dtype)
    for name, array in zip(["value", "derivative"], results[activation.name], strict=True):
        assert (array.shape, array.dtype) == (z.shape, z.dtype), name
        assert jnp.isfinite(array).all(), f"{name} at {z[~jnp.isfinite(array)]}"


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@every_activation
def test_value_and_derivative_equal_the_formulas_to_rounding(activation, dtype):
    """Within 8 units of rounding, elementwise, tails included, of the formulas in many digits.

    Rounding z²/2 in Φ(z) and φ(z) is a relative error z² times as large, and so it is in the tanh form of GELU. A sum
    is measured against its terms, for the derivatives of silu and gelu pass through 0. A result may underflow where it
    is below |z| times the smallest normal number, for then the factor that z multiplies does.
    """
    z, results = computed(dtype)
    symbol = sympy.Symbol("z", real=True)
    value, derivative = FORMULAS[activation]
    argument = value(symbol) if activation.reads == "output" else symbol
    terms = [derivative(argument)] if activation.reads == "output" else sympy.Add.make_args(derivative(symbol))
    info = jnp.finfo(dtype)
    wrong = []
    with mpmath.workdps(DIGITS[dtype]):
        for name, actual, summands in zip(
            ["value", "derivative"], results[activation.name], [[value(symbol)], terms], strict=True
        ):
            summands = [sympy.lambdify(symbol, term, "mpmath") for term in summands]
            for point, a in zip(np.asarray(z, float)[2:], np.asarray(actual, float)[2:], strict=True):
                point = mpmath.mpf(float(point))
                exact = [mpmath.mpf(term(point)) for term in summands]
                rounding = 8 * float(info.eps) * (1 + point**2 if activation in (gelu, gelu_tanh) else 1)
                allowed = rounding * sum(map(abs, exact)) + abs(point) * float(info.smallest_normal)
                if not abs(float(a) - sum(exact)) <= allowed:
                    wrong.append(f"{name}({float(point):g}) is {a:.9g}, not {float(sum(exact)):.9g}")
    assert not wrong, "; ".join(wrong)


@every_activation
def test_derivative_equals_autodiff_of_the_value(activation):
    derivative, reference = autodiff()[activation.name]
    assert_close(derivative, reference, 1e-14)
    assert_close(derivative[:1], reference[:1], 1e-14)  # at 0, a kink of |z|


def test_sigmoid_derivative_keeps_the_tail_that_the_textbook_form_loses():
    z = jnp.float32(20)
    a = sigmoid.value(z)
    assert a * (1 - a) == 0
    np.testing.assert_allclose(sigmoid.derivative(z), np.exp(-20) / (1 + np.exp(-20)) ** 2, rtol=1e-6)
    np.testing.assert_allclose(sigmoid.derivative(z), 2.06e-9, rtol=1e-3)


def test_tanh_derivative_keeps_the_tail_that_the_textbook_form_loses():
    z = jnp.float32(-10)
    assert 1 - np.tanh(np.float32(z)) ** 2 == 0
    np.testing.assert_allclose(tanh.derivative(z), 1 / np.cosh(10) ** 2, rtol=1e-6)


def test_derivatives_at_a_kink_follow_the_stated_conventions():
    zero = jnp.zeros([])
    assert derivative_at(relu, zero) == 0 == jax.grad(jax.nn.relu)(0.0)
    assert derivative_at(leaky_relu, zero) == 0.01
    assert derivative_at(leaky_relu_with(0.2), zero) == 0.2
    assert derivative_at(elu, zero) == 1
    assert derivative_at(elu_with(0.5), zero) == 0.5


def test_derivative_reads_the_output_where_that_loses_nothing():
    readers = {activation for activation in FORMULAS if activation.reads == "output"}
    assert readers == {relu, identity, leaky_relu, leaky_relu_with(0.2), softplus}
    assert {activation.reads for activation in FORMULAS.keys() - readers} == {"input"}


def test_factories_build_the_same_activation_once():
    assert leaky_relu_with(0.2) == leaky_relu_with(0.2) is not leaky_relu_with(0.3)
    assert elu_with(0.5) == elu_with(0.5) is not elu_with(0.6)
    assert (leaky_relu_with(0.01), elu_with(1.0)) == (leaky_relu, elu)


def test_activations_have_different_names():
    names = [activation.name for activation in FORMULAS]
    assert len(set(names)) == len(FORMULAS)
    assert {"leaky_relu(0.2)", "elu(0.5)"} < set(names)


@pytest.mark.parametrize("slope", [-1.0, float("nan")])
def test_leaky_relu_refuses_a_negative_slope(slope):
    with pytest.raises(ValueError, match=f"negative_slope of at least 0, got {slope}"):
        leaky_relu_with(slope)
