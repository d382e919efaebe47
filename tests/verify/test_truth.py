"""Measured rounding is about what rounding really does; interpreted programs are the programs."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.verify.engine.case import Candidate, Options, Statement, state
from jaxnet.verify.engine.differentiator import Differentiator
from jaxnet.verify.engine.lifting import is_narrow, lifted
from jaxnet.verify.engine.places import Place
from jaxnet.verify.engine.precision import DOUBLE
from jaxnet.verify.engine.program import interpret
from tests.verify.rules import normal


def truth_of(function, *args, unit=DOUBLE, cotangent=None):
    every = tuple(range(len(args)))
    case = state(Statement(function, Candidate(lambda args, ct: args), args, every, every, ""), Options())
    point = [np.asarray(arg, np.float64) for arg in args]
    shape = jax.eval_shape(function, *args).shape
    cotangent = np.ones(shape) if cotangent is None else cotangent
    return Differentiator(case, "reverse", True, np.random.default_rng(0)).truth(
        Place("here", point, [cotangent]), unit
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.float64
def test_noise_is_about_the_error_that_float64_makes(seed):
    """Of f = ½ Σ_i (Σ_j w_ij x_j)², whose gradient by x is rational."""
    w, x = normal(6, 20, dtype="float64", seed=seed), normal(20, dtype="float64", seed=seed + 10)
    found = truth_of(lambda x: 0.5 * ((w @ x) ** 2).sum(), x)
    rows = [[Fraction(float(a)) for a in row] for row in w]
    products = [sum(a * Fraction(float(b)) for a, b in zip(row, x, strict=True)) for row in rows]
    exact = [sum(rows[i][j] * products[i] for i in range(6)) for j in range(20)]
    errors = np.array([float(abs(Fraction(float(g)) - e)) for g, e in zip(found.gradient[0], exact, strict=True)])
    noise = found.noise[0]
    assert (errors <= 30 * noise).all()
    assert np.linalg.norm(errors) / 100 < np.linalg.norm(noise) < 100 * np.linalg.norm(errors)


@pytest.mark.float64
def test_noise_of_a_cancellation_is_not_0():
    """1 - σ(40) is 4e-18, and σ(40) is rounded to a multiple of 1e-16: the product with it is noise."""
    z = jnp.float64(40.0)
    found = truth_of(lambda z, y: (1 - jax.nn.sigmoid(z)) * y, z, jnp.float64(1.0))
    assert 1e-17 < found.noise[1] < 1e-15


@pytest.mark.float64
def test_noise_grows_with_the_unit():
    x = normal(5, dtype="float64")
    fine, coarse = (truth_of(lambda x: jnp.sin(x) ** 2, x, unit=unit).noise[0] for unit in (DOUBLE, 2.0**-23))
    ratio = np.linalg.norm(coarse) / np.linalg.norm(fine)
    assert 2.0**29 / 10 < ratio < 2.0**29 * 10


@pytest.mark.float64
def test_truth_is_the_gradient():
    x = normal(5, dtype="float64")
    ct = np.asarray(normal(5, dtype="float64", seed=1))
    found = truth_of(jnp.sin, x, cotangent=ct)
    np.testing.assert_allclose(found.gradient[0], np.cos(x) * ct, rtol=1e-15)
    np.testing.assert_allclose(found.outputs[0], np.sin(x), rtol=1e-15)
    assert (found.noise[0] > 0).all()


@jax.custom_jvp
def doubled(x):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (2 * primals[0], 2 * tangents[0]))

PROGRAMS = {
    "plain": lambda x: jnp.sin(x) @ x,
    "jit": jax.jit(lambda x: jax.jit(jnp.sin)(x) + 1),
    "scan": lambda x: jax.lax.scan(lambda carry, a: (jnp.tanh(carry + a), carry * a), x.sum(), x),
    "cond": lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "while": lambda x: jax.lax.while_loop(lambda y: y.sum() < 5, lambda y: 2 * jnp.abs(y), x),
    "custom_jvp": lambda x: doubled(jax.nn.relu(x)),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
    "gradient": jax.grad(lambda x: jax.nn.logsumexp(jax.checkpoint(jnp.sin)(x))),
    "constant": lambda x: x * np.arange(4.0),
    "nothing": lambda x: x,
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.float64
def test_interpreted_program_is_the_program(name):
    x, function = normal(4, dtype="float64"), PROGRAMS[name]
    visited = []

    def visit(equation, inputs, run):
        visited.append(equation.primitive.name)
        return run(*inputs)

    found = interpret(jax.make_jaxpr(function)(x), [x], visit)
    for actual, expected in zip(found, jax.tree.leaves(function(x)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-15)
    assert bool(visited) == (name != "nothing")


@pytest.mark.parametrize("name", ["jit", "checkpoint"])
@pytest.mark.float64
def test_visitor_sees_into_calls_and_may_change_them(name):
    x = normal(4, dtype="float64")

    def halve_sines(equation, inputs, run):
        outputs = run(*inputs)
        return [output / 2 for output in outputs] if equation.primitive.name == "sin" else outputs

    program = jax.make_jaxpr(PROGRAMS[name])(x)
    changed = jnp.sin(x) / 2 + 1 if name == "jit" else jnp.sin(jnp.sin(x) / 2) / 2
    np.testing.assert_allclose(interpret(program, [x], halve_sines)[0], changed, rtol=1e-15)


NARROW = {
    "cast": lambda x: (x.astype("bfloat16") * 3).astype(x.dtype),
    "product": lambda x: jnp.dot(x.astype("float16"), x.astype("float16"), preferred_element_type=jnp.float32),
    "scan": lambda x: jax.lax.scan(lambda c, a: (c + a.astype("float32"), a), jnp.zeros((), "float32"), x)[0],
    "while": lambda x: jax.lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 1.5), (0, x.astype("float32"))
    )[1],
    "cond": lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x.astype("bfloat16")),
    "scatter": lambda x: jnp.zeros(3, "float32").at[jnp.array([0, 2, 2, 0])].add(x.astype("float32")),
    "rounded": lambda x: jax.lax.reduce_precision(x, 8, 7),
    "with a rule": lambda x: jax.nn.relu(x.astype("float16")),
}


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.float64
def test_lifted_program_computes_in_float64(name):
    """What casts to narrower dtypes gives what it would without them."""
    x, function = normal(4, dtype="float64"), NARROW[name]
    program = jax.make_jaxpr(function)(x)
    (found,) = jax.jit(lambda x: lifted(program, [x]))(x)
    with_casts = np.asarray(function(x), np.float64)
    assert found.dtype == np.float64
    assert is_narrow(program) or name == "rounded"
    np.testing.assert_allclose(found, with_casts, rtol=0.02)
    assert not np.array_equal(found, with_casts)
    exact = {"cast": 3 * x, "scatter": jnp.array([x[0] + x[3], 0, x[1] + x[2]]), "rounded": x, "scan": x.sum()}
    if name in exact:
        np.testing.assert_allclose(found, exact[name], rtol=1e-14)
