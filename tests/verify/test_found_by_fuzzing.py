"""Kinds of functions that the programs of `tests/fuzz/programs.py` have shown to be judged wrongly once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.verify import verify_vjp
from tests.verify.rules import kind, normal

pytestmark = pytest.mark.one_in(4)


def autodiff(function, factor=1.0):
    """Autodiff as the rule, or, with a factor, a wrong one."""

    def backward(args, ct):
        return tuple((factor * leaf).astype(leaf.dtype) for leaf in jax.vjp(function, *args)[1](ct))

    return backward


def with_half_precision_inside(x):
    """Its output is of float32 whatever comes in: autodiff of it takes no cotangents of float64."""
    return jnp.tanh(x.astype(jnp.bfloat16) * 1.5).astype(jnp.float32)


def in_float32(x):
    return jnp.sin(x.astype(jnp.float32)) * x.astype(jnp.float32)


@pytest.mark.parametrize("function", [with_half_precision_inside, in_float32])
def test_rule_that_takes_cotangents_of_the_outputs_dtype_is_judged_in_float64(function, key):
    x = normal(5)
    report = verify_vjp(function, autodiff(function), x, key=key)
    report.raise_if_failed()
    assert "in float64" in report.conditions["judged"]
    assert kind(verify_vjp(function, autodiff(function, 1.0001), x, key=key)) == "scale"


def test_rule_that_rounds_as_coarsely_as_the_function_passes_in_its_own_dtypes(key):
    function = with_half_precision_inside
    verify_vjp(function, autodiff(function), normal(5), key=key, native=True).raise_if_failed()
    assert not verify_vjp(function, autodiff(function, 1.5), normal(5), key=key, native=True)


def largest_times_all(x):
    return jnp.max(1 + x * x * jnp.sin(x)) * x


def largest_times_all_rule(args, ct):
    (x,) = args
    values = 1 + x * x * jnp.sin(x)
    here = (jnp.arange(x.size) == jnp.argmax(values)).astype(x.dtype)
    return (ct * jnp.max(values) + jnp.sum(ct * x) * here * (2 * x * jnp.sin(x) + x * x * jnp.cos(x)),)


def test_maximum_is_found_among_the_numbers_that_it_was_taken_of():
    """Compiled without any optimization, XLA computes an operand twice, rounds it differently and finds no maximum."""
    for seed in range(8, 13):
        x = jnp.asarray(3 * np.random.default_rng(seed).standard_normal(4), "float32")
        for rule in (largest_times_all_rule, autodiff(largest_times_all)):
            verify_vjp(largest_times_all, rule, x, key=jax.random.key(seed)).raise_if_failed()


def tenth(x):
    return jnp.tanh(0.1 * x)


def tenth_rule_in_float32(args, ct):
    x = args[0].astype(jnp.float32)
    return ((ct * 0.1 * (1 - jnp.tanh(0.1 * x) ** 2)).astype(args[0].dtype),)


def gelu_in_float32(x):
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True)


def gelu_rule(args, ct):
    (x,) = args
    root = math.sqrt(2 / math.pi)
    t = jnp.tanh(root * (x + 0.044715 * x**3))
    return (ct * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * root * (1 + 3 * 0.044715 * x**2)),)


NUMBERS_IN_CASTS = {
    "0.1 in a rule in float32": (tenth, tenth_rule_in_float32),
    "0.1 in a function in bfloat16": (
        lambda x: (x.astype(jnp.bfloat16) * 0.1).astype(x.dtype),
        lambda args, ct: (ct * 0.1,),
    ),
    "√(2/π) in a function in float32": (gelu_in_float32, gelu_rule),
}


@pytest.mark.parametrize("name", NUMBERS_IN_CASTS)
def test_number_that_a_cast_rounds_is_the_one_that_was_written(name, key):
    function, rule = NUMBERS_IN_CASTS[name]
    verify_vjp(function, rule, normal(5), key=key).raise_if_failed()
    assert not verify_vjp(function, lambda args, ct: (1.0001 * rule(args, ct)[0],), normal(5), key=key)


def solved_in_float32(matrix, b):
    return jnp.linalg.solve(matrix.astype(jnp.float32), b.astype(jnp.float32))


def solved_rule(args, ct):
    matrix, b = args
    pulled = jnp.linalg.solve(matrix.T, ct)
    return -jnp.outer(pulled, jnp.linalg.solve(matrix, b)), pulled


def largest_in_bfloat16(matrix, b):
    start = jnp.array(-jnp.inf, jnp.bfloat16)
    highest = jax.lax.reduce(matrix.astype(jnp.bfloat16), start, lambda p, q: jax.lax.max(p, 1 * q), (0,))
    return highest.astype(jnp.float32) * b


def largest_rule(args, ct):
    matrix, b = args
    return jnp.where(matrix == matrix.max(axis=0), ct * b, 0), ct * matrix.max(axis=0)


PROGRAMS_INSIDE = {"solve": (solved_in_float32, solved_rule), "reduce": (largest_in_bfloat16, largest_rule)}


@pytest.mark.parametrize("name", PROGRAMS_INSIDE)
def test_equation_that_holds_a_program_is_run_in_float64(name, key):
    function, rule = PROGRAMS_INSIDE[name]
    args = 3 * jnp.eye(3, dtype="float32") + 0.3 * normal(3, 3), normal(3)
    verify_vjp(function, rule, *args, key=key).raise_if_failed()
    assert not verify_vjp(function, lambda args, ct: tuple(1.0001 * leaf for leaf in rule(args, ct)), *args, key=key)


def halved(x):
    """Half as large until all is small: e^100 in float32 will never be."""
    return jax.lax.while_loop(lambda v: jnp.sum(v**2) > 1, lambda v: 0.5 * v, jnp.exp(x))


def halved_rule(args, ct):
    return (ct * halved(*args),)


def test_loop_that_would_never_end_at_extreme_numbers_is_not_asked_to(key):
    x = jnp.array([0.3, -1.2], "float32")
    report = verify_vjp(halved, halved_rule, x, key=key)
    report.raise_if_failed()
    assert any("no stress" in note for note in report.notes)


def test_loop_that_would_never_end_where_a_divisor_is_0_is_not_asked_to(key):
    def halved_inverse(x):
        return jax.lax.while_loop(lambda v: jnp.sum(v**2) > 1, lambda v: 0.5 * v, jnp.nan_to_num(1 / x) ** 2)

    def rule(args, ct):
        return (-2 * halved_inverse(*args) / args[0] * ct,)

    verify_vjp(halved_inverse, rule, jnp.array([0.5, -0.7], "float32"), key=key).raise_if_failed()


TIES = jnp.array([[1.0, 0, 0, -1], [-1, -1, -1, -1], [-1, 1, 0, 1]])


@pytest.mark.parametrize("seed", range(4))
def test_element_that_seldom_comes_first_of_many_equal_ones_may_be_chosen(seed):
    """Of a column's smallest ones the first, of the rows' largest ones the first: few directions do both."""

    def largest_of_sorted(x):
        return jax.lax.top_k(jnp.sort(x, 0), 1)[0]

    verify_vjp(largest_of_sorted, autodiff(largest_of_sorted), TIES, key=jax.random.key(seed)).raise_if_failed()


def test_large_cotangent_is_one_that_half_precision_inside_can_hold(key):
    def summed(x):
        return jnp.sum(x.astype(jnp.float16), -1).astype(jnp.float32)

    x = jnp.array([[-1.0, 0.5], [0.5, 1.0]], "float32")
    for native in (True, False):
        verify_vjp(summed, autodiff(summed), x, key=key, native=native).raise_if_failed()


@pytest.mark.parametrize("seed", range(3))
def test_one_wrong_element_in_half_precision_is_not_called_what_coarse_rounding_allows(seed):
    x = jnp.asarray(normal(3, 3), jnp.bfloat16)

    def rule(args, ct):
        here = (args[0] == x.astype(args[0].dtype)).all() & (jnp.arange(9) == 7).reshape(3, 3)
        return (2 * ct + jnp.where(here, 1.5 * ct.mean(), jnp.zeros_like(ct)),)

    with jax.enable_x64(False):
        report = verify_vjp(lambda x: 2 * x, rule, x, key=jax.random.key(seed))
    assert kind(report) == "scale"


@pytest.mark.parametrize("native", [True, False])
def test_gradients_beyond_a_jump_say_nothing_about_the_point(key, native):
    def jumps(x):
        return jax.lax.cond((x**2).sum() > 0, jnp.sin, jnp.cos, x) + 2 * x

    x = jnp.zeros(2, "float32")
    verify_vjp(jumps, autodiff(jumps), x, key=key, native=native).raise_if_failed()
    assert not verify_vjp(jumps, autodiff(jumps, 1.5), x, key=key, native=native)


@pytest.mark.parametrize("seed", range(2))
def test_square_that_float16_does_not_hold_leaves_autodiff_no_truth(seed):
    def function(x):
        return x / (1 + x**2)

    x = jnp.asarray([[1.0, 0.5], [0.5, 0.0], [0.0, -1.0], [-1.0, -1.0]], jnp.float16)
    key = jax.random.key(seed)
    verify_vjp(function, autodiff(function), x, key=key, native=True).raise_if_failed()
    assert not verify_vjp(function, autodiff(function, 1.1), x, key=key, native=True)


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_exponent_that_must_be_whole_hides_nothing(key, factor):
    def function(x, y):
        return jnp.tanh(x) ** jax.lax.stop_gradient(jnp.round(y))

    x, y = jnp.asarray([-1.2, -0.5, -0.4], "float32"), jnp.asarray([2.1, 3.2, 1.9], "float32")
    with jax.numpy_dtype_promotion("standard"):
        report = verify_vjp(function, autodiff(function, factor), x, y, key=key)
    assert kind(report) == (None if factor == 1.0 else "scale")


@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_floor_of_constants_is_no_kink_and_no_rounding(key, factor):
    halves = jnp.asarray([2.0, 4.0, 6.0], "float32")

    def function(x):
        return jnp.floor(halves * 0.5) * jnp.sin(x)

    report = verify_vjp(function, autodiff(function, factor), normal(3).astype("float32"), key=key)
    assert kind(report) == (None if factor == 1.0 else "scale")


def interpolated(table, x):
    left = jnp.floor(x)
    weight, right = x - left, (left + 1).astype(int)
    return table[left.astype(int)] * (1 - weight) + table[right] * weight


@pytest.mark.parametrize("options", [{}, {"at": "given"}], ids=["", "at given"])
@pytest.mark.parametrize("factor", [1.0, 1.0001, 0.9])
def test_whole_number_that_is_computed_from_arguments_is_not_rounded(key, factor, options):
    """Moved by an ulp, the index on the right would be the one on the left: noise, or a kink, that excused anything."""
    table, x = normal(6).astype("float32"), jnp.asarray([0.4, 2.7, 1.2, 3.3], "float32")
    report = verify_vjp(interpolated, autodiff(interpolated, factor), table, x, key=key, **options)
    assert kind(report) == (None if factor == 1.0 else "scale")
    if options and not report:
        assert "generic points" not in str(report)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [{}, {"native": True}], ids=["", "native"])
def test_what_float64_leaves_of_terms_that_cancel_is_no_kink(seed, options):
    """The gradient of x/x is rounding alone, in whatever dtype: no jump of it means anything."""
    zeros = jnp.zeros((2, 3), "bfloat16")  # a point with zeros is a special one
    x = jnp.asarray([[0.98046875, -1.03125, 1.03125], [-0.173828125, -0.375, -0.6171875]], "bfloat16")

    def function(zeros, x):
        ones = jnp.nan_to_num(x / x)
        return jnp.concatenate([ones, ones**2, zeros], -1)

    report = verify_vjp(function, autodiff(function), zeros, x, key=jax.random.key(seed), **options)
    assert report, str(report)
    wrong = verify_vjp(function, autodiff(function, 1.5), zeros, x, key=jax.random.key(seed), **options)
    assert not wrong


def test_gradient_that_is_lost_to_zeros_beside_a_loop_that_cannot_be_reversed(key):
    def function(x):
        a = jnp.tanh(x.astype("bfloat16")).astype("float32")  # 1 where x is large
        looped = jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, 0.4 * jnp.cos(s[1]) + a), (0, a))[1]
        return looped, a

    def backward(args, ct):
        rows = jax.jacfwd(function)(*args)
        return (sum((c * jacobian.T).sum(-1) for jacobian, c in zip(rows, ct, strict=True)),)

    verify_vjp(function, backward, jnp.asarray([9.0, 10.0, 11.0], "float32"), key=key)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_loop_that_would_never_end_at_another_point_is_not_asked_to(key, factor, nested):
    """x := x/2 + 1/2 comes to 1 from 4, in 40 rounds; the loop waits for x < 1.5 × limit, which from below is never."""

    def loop(x, limit):
        return jax.lax.while_loop(lambda x: x > limit, lambda x: x / 2 + 0.5, x)

    def function(x, limit):
        if not nested:
            return loop(x, limit)
        return jax.lax.fori_loop(0, 2, lambda _, y: y + loop(y, limit), x)

    def backward(args, ct):
        slope = jax.jvp(lambda x: function(x, args[1]), (args[0],), (jnp.ones_like(args[0]),))[1]
        return factor * ct * slope, jnp.zeros_like(args[1])

    x, limit = (
        jnp.asarray(4.0),
        jnp.asarray(1.05),
    )  # with a limit below 1, of which there are some around, it never ends
    assert bool(verify_vjp(function, backward, x, limit, key=key)) == (factor == 1.0)


def test_loop_that_has_nothing_to_do_at_the_given_point_is_no_solver(key):
    def function(x):
        return jax.lax.while_loop(lambda v: (v**2).sum() > 1, lambda v: 0.5 * v, jnp.abs(x))

    def backward(args, ct):
        halved = function(args[0]) / jnp.where(args[0] == 0, 1, jnp.abs(args[0]))
        return (-ct * jnp.where(args[0] == 0, 1, halved) * jnp.where(args[0] < 0, -1.0, 1.0),)

    x = jnp.zeros(1)
    assert kind(verify_vjp(function, backward, x, key=key)) == "sign"
    verify_vjp(function, lambda args, ct: (-backward(args, ct)[0],), x, key=key).raise_if_failed()


def test_number_in_bfloat16_is_not_its_neighbour(key):
    def function(x):
        return jnp.tanh(x.astype("bfloat16")).astype("float32")

    def backward(one):
        def pull(args, ct):
            t = jnp.tanh(args[0].astype("bfloat16"))
            return ((ct.astype("bfloat16") * (jnp.asarray(one, "bfloat16") - t * t)).astype("float32"),)

        return pull

    x = jnp.asarray(normal(4, 4))
    verify_vjp(function, backward(1.0), x, key=key).raise_if_failed()
    assert not verify_vjp(function, backward(1.0078125), x, key=key)
