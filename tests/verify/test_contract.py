"""Whatever a candidate does becomes a finding, never an error of the verifier."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from jaxnet.verify import verify_gradient, verify_vjp
from tests.verify.rules import first, kind, normal, squares, squares_rule

X = normal(3)


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def raising(error):
    def gradient(x):
        raise error

    return gradient


def leaking():
    kept = []
    jax.make_jaxpr(lambda x: kept.append(x) or x)(X)
    return lambda x: kept[0]


def counting():
    calls = []

    def gradient(x):
        calls.append(0)
        return len(calls) * x

    return gradient


generator = np.random.default_rng(0)


def unlucky(x):
    return 2 * x + jnp.asarray(generator.standard_normal(x.shape), x.dtype)


WRONG = {
    "raises ValueError": (raising(ValueError("bad luck")), "unknown", "raises ValueError: bad luck"),
    "raises KeyError": (raising(KeyError("w")), "unknown", "raises KeyError"),
    "raises about shapes": (lambda x: x @ jnp.ones((7, 7), x.dtype), "shape", "raises TypeError"),
    "raises the unprintable": (raising(UnprintableError()), "unknown", "raises UnprintableError"),
    "None": (lambda x: None, None, ""),
    "string": (lambda x: "2x", "structure", "expected an array of floats, got str"),
    "number": (lambda x: 2.0, "shape", "shape [] where [3] is expected"),
    "list": (lambda x: [2 * x], "structure", ""),
    "dict": (lambda x: {"x": 2 * x}, "structure", ""),
    "too many": (lambda x: (2 * x, x), "structure", ""),
    "integers": (lambda x: jnp.arange(3), "dtype", "int"),
    "complex": (lambda x: jax.lax.complex(2 * x, x), "dtype", "real part"),
    "key": (lambda x: jax.random.key(0), "structure", ""),
    "float0": (lambda x: np.zeros(3, jax.dtypes.float0), "structure", ""),
    "object": (lambda x: object(), "structure", ""),
    "tracer": (leaking(), "impure", "tracer"),
    "NaN": (lambda x: 2 * x * jnp.nan, "non_finite", "NaN"),
    "one NaN": (lambda x: (2 * x).at[1].set(jnp.nan), "non_finite", "1 of 3 elements"),
    "float64": (lambda x: (2 * x).astype("float64"), "dtype", "float64"),
    "bfloat16": (lambda x: (2 * x).astype("bfloat16"), "dtype", "bfloat16"),
    "wrong shape": (lambda x: 2 * x[:2], "shape", "shape [2] where [3] is expected"),
    "a row": (lambda x: 2 * x[None], "shape", "reshape"),
    "counter": (counting(), "impure", "two answers"),
    "random": (unlucky, "impure", "two answers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answer_is_a_finding(name, key):
    gradient, expected, words = WRONG[name]
    found = first(verify_gradient(squares, gradient, X, key=key))
    assert expected in (found.kind, None)
    assert words in found.explanation


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda x, y: [y, x], "structure"),
        (lambda x, y: (y,), "structure"),
        (lambda x, y: (y, x, x), "structure"),
        (lambda x, y: y, "structure"),
        (lambda x, y: (y, {"x": x}), "structure"),
        (lambda x, y: None, "structure"),
        (lambda x, y: (y, "x"), "structure"),
    ],
    ids=["list", "too few", "too many", "no tuple", "dict", "None", "string"],
)
def test_wrong_tuple_is_a_finding(answer, expected, key):
    report = verify_vjp(lambda x, y: x * y, lambda args, ct: answer(*(ct * arg for arg in args)), X, X + 1, key=key)
    assert kind(report) == expected


@pytest.mark.parametrize("answer", [lambda p: {"v": p["w"]}, lambda p: {}, lambda p: p["w"], lambda p: [p["w"]]])
def test_wrong_dict_is_a_finding(answer, key):
    assert kind(verify_gradient(lambda p: squares(p["w"]), answer, {"w": X}, key=key)) == "structure"


class Callable:
    """A callable that cannot be hashed."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x


def times(factor, x):
    return factor * x


FORMS = {
    "NumPy": lambda factor: lambda x: factor * np.asarray(x),
    "unhashable": Callable,
    "partial": lambda factor: functools.partial(times, factor),
    "jitted": lambda factor: jax.jit(lambda x: factor * x),
    "bound method": lambda factor: Callable(factor).__call__,
    "if": lambda factor: lambda x: factor * x if float(x.sum()) > 0 else x * factor,
    "assert": lambda factor: lambda x: factor * x if bool(jnp.isfinite(x).all()) else x,
}


@pytest.mark.parametrize("name", FORMS)
def test_any_form_of_callable_is_judged(name, key):
    report = verify_gradient(squares, FORMS[name](2), X, key=key)
    report.raise_if_failed()
    assert any("jax.jit cannot trace" in note for note in report.notes) == (name in ("NumPy", "if", "assert"))
    assert kind(verify_gradient(squares, FORMS[name](-2), X, key=key)) == "sign"


def test_python_number_is_a_gradient_of_a_scalar(key):
    verify_gradient(lambda x: 3 * x, lambda x: 3.0, jnp.float32(0.5), key=key).raise_if_failed()
    verify_gradient(lambda x: 3 * x, lambda x: 3.0, 0.5, key=key).raise_if_failed()
    assert not verify_gradient(lambda x: 3 * x, lambda x: 4.0, 0.5, key=key)


def doubling_in_place(x):
    x *= 2
    return x


def test_changing_the_input_is_found_and_harmless(key):
    x = np.asarray([1.0, -2.0, 3.0], np.float32)
    found = first(verify_gradient(squares, doubling_in_place, x, key=key))
    assert found.kind == "impure"
    assert "in place" in found.explanation
    assert x.tolist() == [1, -2, 3]


def test_changing_another_argument_is_found_and_harmless(key):
    def gradient(x, scale):
        result = 2 * x * scale
        scale[:] = 0
        return result

    scale = np.ones(3, np.float32)
    report = verify_gradient(lambda x, scale: (x**2 * scale).sum(), gradient, X, scale, key=key)
    assert kind(report) == "impure"
    assert scale.tolist() == [1, 1, 1]


def test_numpy_arguments_stay_numpy_arrays_for_the_candidate(key):
    def gradient(x):
        assert isinstance(x, np.ndarray | Tracer)
        return 2 * x

    verify_gradient(squares, gradient, np.asarray(X), key=key).raise_if_failed()


@pytest.mark.parametrize("setting", [True, False])
def test_the_users_settings_stay_as_they_are(setting, key):
    config: Any = jax.config
    with jax.debug_nans(setting), jax.default_matmul_precision("bfloat16"):
        verify_gradient(squares, squares_rule, X, key=key).raise_if_failed()
        assert config.jax_debug_nans == setting
        assert config.jax_default_matmul_precision == "bfloat16"


def test_rule_that_differs_when_compiled_is_found(key):
    def gradient(x):
        return 2 * x if not isinstance(x, Tracer) else 2 * x + 1e-3

    assert not verify_gradient(squares, gradient, X, key=key)


def test_rule_that_differs_under_vmap_is_found(key):
    @jax.custom_batching.custom_vmap
    def twice(x):
        return 2 * x

    @twice.def_vmap
    def batched(size, mapped, x):
        return 3 * x, mapped[0]

    found = first(verify_gradient(squares, lambda x: twice(x), X, key=key))
    assert found.kind == "impure"
    assert "jax.vmap" in found.explanation
