"""`verify_gradient`, `verify_vjp` and `verify_custom_vjp`: what they take, what they find, what they refuse."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from jaxnet.verify import verify_custom_vjp, verify_gradient, verify_vjp
from tests.compare import WIDEST
from tests.verify.rules import dense, dense_args, dense_rule, first, kind, normal, squares, squares_rule

pytestmark = pytest.mark.one_in(3)


class Params(NamedTuple):
    weight: jax.Array
    bias: jax.Array


def regression(params, x, y):
    """The squared error of a hidden layer of tanh and a linear one."""
    hidden = jnp.tanh(x @ params[0].weight.T + params[0].bias)
    return 0.5 * ((hidden @ params[1].weight.T + params[1].bias - y) ** 2).sum()


def regression_gradient(params, x, y, spoil=lambda gradient: gradient):
    hidden = jnp.tanh(x @ params[0].weight.T + params[0].bias)
    delta = hidden @ params[1].weight.T + params[1].bias - y
    below = (delta @ params[1].weight) * (1 - hidden**2)
    return spoil((Params(below.T @ x, below.sum(0)), Params(delta.T @ hidden, delta.sum(0))))


def regression_args():
    params = Params(normal(3, 4), normal(3, seed=1)), Params(normal(2, 3, seed=2), normal(2, seed=3))
    return params, normal(5, 4, seed=4), normal(5, 2, seed=5)


def product(x, y):
    return (x * y**2).sum()


PAIR = normal(3), normal(3, seed=1)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("argnums", "gradient"),
    [
        (0, lambda x, y: y**2),
        (1, lambda x, y: 2 * x * y),
        (-1, lambda x, y: 2 * x * y),
        ((0, 1), lambda x, y: (y**2, 2 * x * y)),
        ((1, 0), lambda x, y: (2 * x * y, y**2)),
        ([-2], lambda x, y: (y**2,)),
        (np.int64(1), lambda x, y: 2 * x * y),
    ],
    ids=["0", "1", "-1", "(0, 1)", "(1, 0)", "[-2]", "int64"],
)
def test_argnums_say_what_the_gradient_is_by(argnums, gradient, key, unchecked):
    verify_gradient(product, gradient, *PAIR, argnums=argnums, key=key).raise_if_failed()

    def of_the_other(x, y):
        right = gradient(x, y)
        return tuple(leaf + x for leaf in right) if isinstance(right, tuple) else right + x

    assert not verify_gradient(product, of_the_other, *PAIR, argnums=argnums, key=key)


def test_gradients_in_the_wrong_order_are_found(key):
    report = verify_gradient(product, lambda x, y: (2 * x * y, y**2), *PAIR, argnums=(0, 1), key=key)
    assert kind(report) == "structure"


def in_a_tree(tree):
    """A function of every float in the tree."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array | np.ndarray | float)]
    floats = [leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    return sum((jnp.sin(leaf) * (i + 1)).sum() for i, leaf in enumerate(floats))


def tree_gradient(tree, spoil=1.0):
    count = iter(range(9))

    def of_leaf(leaf):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return np.zeros(jnp.shape(leaf), jax.dtypes.float0)
        return (next(count) + 1) * jnp.cos(leaf) * spoil

    return jax.tree.map(of_leaf, tree)


TREES = {
    "array": normal(3),
    "NumPy array": np.asarray(normal(3)),
    "dict": {"w": normal(2, 3), "b": normal(3, seed=1)},
    "NamedTuple": Params(normal(2, 3), normal(2, seed=1)),
    "nested": [{"a": (normal(2), [normal(2, seed=1)])}, Params(normal(1, 2), normal(1))],
    "None inside": {"a": None, "b": (normal(2), None)},
    "integers inside": {"a": jnp.arange(3), "b": normal(3)},
    "a number inside": {"a": 0.5, "b": normal(3, dtype=WIDEST)},
    "scalar": jnp.float32(0.3),
}


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", TREES)
def test_any_tree_can_be_differentiated(name, key):
    verify_gradient(in_a_tree, tree_gradient, TREES[name], key=key).raise_if_failed()
    report = verify_gradient(in_a_tree, functools.partial(tree_gradient, spoil=-1), TREES[name], key=key)
    assert [finding.kind for finding in report.findings] == ["sign"] * len(report.leaves)


def test_what_holds_no_floats_is_handed_through(key):
    def function(x, labels, random_key, how, power, nothing):
        noise = jax.random.normal(random_key, x.shape, x.dtype)
        assert how == "sum"
        assert nothing is None
        return (x**power * labels.astype(x.dtype) + noise).sum()

    def gradient(x, labels, random_key, how, power, nothing):
        assert how == "sum"
        return power * x ** (power - 1) * labels.astype(x.dtype)

    args = normal(4), jnp.arange(4), jax.random.key(1), "sum", 3, None
    verify_gradient(function, gradient, *args, key=key).raise_if_failed()
    assert not verify_gradient(function, lambda *args: gradient(*args) / 3, *args, key=key)
    report = verify_vjp(function, lambda args, ct: (ct * gradient(*args), *[None] * 5), *args, key=key)
    report.raise_if_failed()


def test_vjp_takes_trees_of_outputs_with_integers(key):
    def function(x):
        return {"sorted": jnp.sort(x), "order": jnp.argsort(x), "sum": (x.sum(), None)}

    def backward(args, ct):
        (x,) = args
        return (jnp.zeros_like(x).at[jnp.argsort(x)].set(ct["sorted"]) + ct["sum"][0],)

    verify_vjp(function, backward, normal(5), key=key).raise_if_failed()
    assert not verify_vjp(function, lambda args, ct: (ct["sorted"] + ct["sum"][0],), normal(5), key=key)


@pytest.mark.parametrize("argnums", [0, (0,), (-1, 1)], ids=str)
def test_vjp_judges_the_entries_of_argnums_alone(argnums, key):
    def only(args, ct):
        right = dense_rule(args, ct)
        judged = {i % 3 for i in ((argnums,) if isinstance(argnums, int) else argnums)}
        return tuple(entry if i in judged else -entry for i, entry in enumerate(right))

    verify_vjp(dense, only, *dense_args(), argnums=argnums, key=key).raise_if_failed()
    assert not verify_vjp(dense, only, *dense_args(), key=key)


def test_none_stands_for_zeros(key):
    def function(x, y):
        return x + jnp.floor(y)

    verify_vjp(function, lambda args, ct: (ct, None), *PAIR, key=key).raise_if_failed()
    report = verify_vjp(function, lambda args, ct: (None, None), *PAIR, key=key)
    assert [(finding.path, finding.kind) for finding in report.findings] == [("[0]", "zero")]


def softplus_with(forward, backward):
    @jax.custom_vjp
    def softplus(z):
        return jax.nn.softplus(z)

    softplus.defvjp(forward, backward)
    return softplus


def softplus_forward(z):
    return jax.nn.softplus(z), z


def softplus_backward(z, ct):
    return (ct * jax.nn.sigmoid(z),)


def test_custom_vjp_passes_when_right(key):
    verify_custom_vjp(softplus_with(softplus_forward, softplus_backward), normal(4), key=key).raise_if_failed()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("forward", "backward", "path", "expected_kind"),
    [
        (softplus_forward, lambda z, ct: (-ct * jax.nn.sigmoid(z),), "[0]", "sign"),
        (softplus_forward, lambda z, ct: (jax.nn.sigmoid(z),), "[0]", "nonlinear"),
        (softplus_forward, lambda z, ct: ct * jax.nn.sigmoid(z), "", "structure"),
        (lambda z: (jax.nn.softplus(z), jax.nn.softplus(z)), softplus_backward, "[0]", "activation"),
        (lambda z: (jax.nn.relu(z), z), softplus_backward, "output", "unknown"),
    ],
    ids=["sign", "no cotangent", "no tuple", "wrong residual", "another value"],
)
def test_custom_vjp_is_found_wrong(forward, backward, path, expected_kind, key):
    found = first(verify_custom_vjp(softplus_with(forward, backward), normal(4), key=key))
    assert (found.path, found.kind) == (path, expected_kind)


@pytest.mark.parametrize("position", [0, 1])
def test_custom_vjp_passes_over_nondiff_argnums(position, key):
    def cubed(args, ct, factor=3):
        return ct * factor * args ** (factor - 1)

    def made(rule):
        swap = (lambda power, x: x**power) if position == 0 else (lambda x, power: x**power)
        function = jax.custom_vjp(swap, nondiff_argnums=(position,))

        def forward(*args):
            return swap(*args), args[1 - position]

        function.defvjp(forward, rule)
        return function

    args = (3, normal(4)) if position == 0 else (normal(4), 3)
    verify_custom_vjp(made(lambda power, x, ct: (power * x ** (power - 1) * ct,)), *args, key=key).raise_if_failed()
    assert kind(verify_custom_vjp(made(lambda power, x, ct: (x ** (power - 1) * ct,)), *args, key=key)) == "scale"


def test_custom_vjp_with_symbolic_zeros_is_judged(key):
    def made(sign):
        function = jax.custom_vjp(jnp.sin)
        function.defvjp(
            lambda x: (jnp.sin(x.value), x.value), lambda x, ct: (sign * ct * jnp.cos(x),), symbolic_zeros=True
        )
        return function

    verify_custom_vjp(made(1), normal(4), key=key).raise_if_failed()
    assert kind(verify_custom_vjp(made(-1), normal(4), key=key)) == "sign"


def test_custom_vjp_is_held_against_the_reference(key):
    rule = softplus_with(softplus_forward, softplus_backward)
    verify_custom_vjp(
        rule, normal(4), reference=lambda z: jnp.logaddexp(z, jnp.zeros_like(z)), key=key
    ).raise_if_failed()
    report = verify_custom_vjp(rule, normal(4), reference=jax.nn.relu, key=key)
    assert {"output", "[0]"} <= {finding.path for finding in report.findings}


REFUSED: Any = 0  # no key


def called_back_in_float32(x):
    """Which JAX cannot differentiate, and which does not take float64."""
    if x.dtype != jnp.float32:
        raise TypeError("float32 alone")
    return jax.pure_callback(lambda x: np.square(x).sum(), jax.ShapeDtypeStruct((), x.dtype), x)


ERRORS = {
    "empty": (lambda key: verify_gradient(squares, squares_rule, jnp.zeros((0, 3)), key=key), ValueError, "empty"),
    "NaN": (lambda key: verify_gradient(squares, squares_rule, jnp.float32(jnp.nan), key=key), ValueError, "finite"),
    "infinite": (lambda key: verify_gradient(squares, squares_rule, jnp.inf, key=key), ValueError, "finite"),
    "complex": (
        lambda key: verify_gradient(squares, squares_rule, jnp.ones(2, complex), key=key),
        TypeError,
        "complex",
    ),
    "complex output": (
        lambda key: verify_vjp(lambda x: jax.lax.complex(x, x), dense_rule, jnp.ones(2), key=key),
        TypeError,
        "complex",
    ),
    "no floats": (lambda key: verify_gradient(squares, squares_rule, jnp.arange(3), key=key), TypeError, "nothing"),
    "no arguments": (lambda key: verify_gradient(squares, squares_rule, key=key), TypeError, "no arguments"),
    "argnums beyond": (
        lambda key: verify_gradient(squares, squares_rule, jnp.ones(2), argnums=1, key=key),
        ValueError,
        "argnums has 1",
    ),
    "argnums below": (
        lambda key: verify_gradient(squares, squares_rule, jnp.ones(2), argnums=-2, key=key),
        ValueError,
        "argnums has -2",
    ),
    "argnums twice": (
        lambda key: verify_gradient(product, squares_rule, *PAIR, argnums=(0, 0), key=key),
        ValueError,
        "argnums must name each argument once",
    ),
    "argnums floats": (
        lambda key: verify_gradient(squares, squares_rule, jnp.ones(2), argnums=(0.0,), key=key),  # pyright: ignore[reportArgumentType]
        TypeError,
        "argnums",
    ),
    "argnums bool": (
        lambda key: verify_gradient(squares, squares_rule, jnp.ones(2), argnums=True, key=key),
        TypeError,
        "argnums",
    ),
    "argnums string": (
        lambda key: verify_gradient(squares, squares_rule, jnp.ones(2), argnums="0", key=key),  # pyright: ignore[reportArgumentType]
        TypeError,
        "argnums",
    ),
    "neither in float64 nor by JAX": (
        lambda key: verify_gradient(called_back_in_float32, squares_rule, jnp.ones(2, "float32"), key=key),
        ValueError,
        "neither run in float64 nor be differentiated by JAX .* give a plain JAX function",
    ),
    "not scalar": (lambda key: verify_gradient(jnp.sin, jnp.cos, jnp.ones(2), key=key), TypeError, "one number"),
    "two scalars": (
        lambda key: verify_gradient(lambda x: (x, x), jnp.cos, jnp.float32(1), key=key),
        TypeError,
        "one number",
    ),
    "integers returned": (
        lambda key: verify_gradient(lambda x: 1, jnp.cos, jnp.float32(1), key=key),
        TypeError,
        "floating-point",
    ),
    "function raises": (
        lambda key: verify_gradient(lambda x: x @ jnp.ones(7), squares_rule, jnp.ones(2), key=key),
        ValueError,
        "the function itself raises TypeError",
    ),
    "integer key": (lambda key: verify_gradient(squares, squares_rule, jnp.ones(2), key=REFUSED), TypeError, "key"),
    "several keys": (
        lambda key: verify_gradient(squares, squares_rule, jnp.ones(2), key=jax.random.split(key, 2)),
        TypeError,
        "key",
    ),
    "no rule": (lambda key: verify_custom_vjp(jax.custom_vjp(jnp.sin), jnp.ones(2), key=key), ValueError, "defvjp"),
    "no custom_vjp": (lambda key: verify_custom_vjp(jnp.sin, jnp.ones(2), key=key), TypeError, "custom_vjp"),
    "jitted custom_vjp": (
        lambda key: verify_custom_vjp(jax.jit(softplus_with(softplus_forward, softplus_backward)), 1.0, key=key),
        TypeError,
        "what is inside",
    ),
    "strings": (
        lambda key: verify_gradient(squares, squares_rule, np.array(["a"]), key=key),
        TypeError,
        "JAX cannot hold",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_for(name, key, unchecked):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call(key)


@pytest.mark.parametrize("old_style", [jax.random.PRNGKey(3), np.asarray([0, 3], np.uint32)], ids=["JAX", "NumPy"])
def test_old_style_keys_are_keys(old_style, unchecked):
    assert verify_gradient(squares, squares_rule, normal(3), key=old_style)


def test_finding_says_where_and_by_how_much(key):
    """A linear function has the same gradient at every point, so that its numbers can be foretold."""
    slopes = normal(3, 4, seed=7)

    def function(params, slopes):
        return (params["w"] * slopes).sum()

    def gradient(params, slopes):
        return {"w": slopes.at[2, 1].add(0.5).at[0, 3].add(-0.25)}

    report = verify_gradient(function, gradient, {"w": normal(3, 4)}, slopes, key=key)
    found = first(report)
    assert (found.path, found.kind, found.index, found.part) == ("['w']", "partial", (2, 1), "")
    assert found.candidate == float(slopes[2, 1]) + 0.5
    assert found.expected == float(slopes[2, 1])
    scale = np.linalg.norm(np.asarray(slopes, np.float64))
    assert found.error == pytest.approx(np.hypot(0.5, 0.25) / scale, rel=1e-12)
    assert 1e-17 < found.rounding < 1e-14
    assert found.where


def negated_first_weight(gradient):
    return gradient[0]._replace(weight=-gradient[0].weight), gradient[1]


def test_finding_names_the_leaf(key):
    args = regression_args()
    verify_gradient(regression, regression_gradient, *args, key=key).raise_if_failed()
    wrong = functools.partial(regression_gradient, spoil=negated_first_weight)
    report = verify_gradient(regression, wrong, *args, key=key)
    assert [(finding.path, finding.kind) for finding in report.findings] == [("[0].weight", "sign")]
    assert set(report.leaves) == {"[0].weight", "[0].bias", "[1].weight", "[1].bias"}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("factor", "kind"), [(0.0, "mask"), (1.001, "scale")])
def test_one_wrong_element_of_200704_is_found(factor, kind, key):
    def function(weight, x):
        return 0.5 * ((x @ weight.T) ** 2).sum()

    def gradient(weight, x):
        return ((x @ weight.T).T @ x).at[100, 300].multiply(factor)

    found = first(verify_gradient(function, gradient, normal(256, 784, scale=0.05), normal(2, 784, seed=1), key=key))
    assert (found.kind, found.index) == (kind, (100, 300))


class Scaled:
    """A rule with a number that can be changed."""

    factor = 2.0

    def __call__(self, x):
        return self.factor * x


def test_changed_rule_is_judged_anew(key):
    rule = Scaled()
    verify_gradient(squares, rule, normal(3), key=key).raise_if_failed()
    rule.factor = 1.0
    assert not verify_gradient(squares, rule, normal(3), key=key)
    rule.factor = 2.0
    verify_gradient(squares, rule, normal(3), key=key).raise_if_failed()


def test_changed_function_is_judged_anew(key):
    factor = {"is": 1.0}

    def function(x):
        return factor["is"] * squares(x)

    verify_gradient(function, squares_rule, normal(3), key=key).raise_if_failed()
    factor["is"] = 2.0
    assert kind(verify_gradient(function, squares_rule, normal(3), key=key)) == "scale"


@pytest.mark.parametrize("array", [np.ones, jnp.ones])
def test_compiled_functions_may_close_over_arrays(key, array):
    data = array(3, WIDEST)
    function, gradient = jax.jit(lambda x: (x**2 * data).sum()), jax.jit(lambda x: 2 * x * data)
    report = verify_gradient(function, gradient, normal(3, dtype=WIDEST), key=key)
    report.raise_if_failed()
    assert "autodiff" not in str(report)


def closing_over(arrays):
    """A function and its gradient, each of which closes over an array."""
    return (lambda x: (x**2 * arrays[0]).sum()), (lambda x: 2 * x * arrays[1])


@pytest.mark.parametrize("numpy_in", [(0,), (1,), (0, 1)])
def test_numpy_arrays_are_met_in_float64_by_who_runs_in_float32(key, numpy_in):
    arrays = [np.ones(3) if i in numpy_in else jnp.ones(3, "float32") for i in (0, 1)]
    with jax.enable_x64(False):
        report = verify_gradient(*closing_over(arrays), normal(3), key=key)
    report.raise_if_failed()
    assert not report.notes
    assert "float32 and float64" in str(report)


@pytest.mark.parametrize(("jitted", "what"), [(0, "function"), (1, "candidate")])
def test_numpy_arrays_in_compiled_code_are_named(key, jitted, what):
    pair = list(closing_over([np.ones(3), np.ones(3)]))
    pair[jitted] = jax.jit(pair[jitted])
    with jax.enable_x64(False):
        report = verify_gradient(*pair, normal(3), key=key)
    report.raise_if_failed()
    (note,) = report.notes
    assert note.startswith(f"the {what} does not run in float64")
    assert note.endswith("NumPy arrays of float64 that it closes over may cause this: give them as arguments")


@pytest.mark.float64  # under `jit` JAX keeps the dtype that a NumPy array had when it was met with float64 at hand
def test_changed_constant_array_is_judged_anew(key):
    data, old = np.arange(3.0), jnp.arange(3.0)

    def function(x):
        return (x**2 * jnp.asarray(data)).sum()

    def gradient(x):
        return 2 * x * old

    verify_gradient(function, gradient, normal(3, dtype=WIDEST), key=key).raise_if_failed()
    data[1] = 7
    found = first(verify_gradient(function, gradient, normal(3, dtype=WIDEST), key=key))
    assert (found.kind, found.index) == ("scale", (1,))


def float32_only(factor):
    def gradient(x):
        if x.dtype == jnp.float64:
            raise TypeError("no float64 here")
        return factor * x

    return gradient


@pytest.mark.parametrize("native", [True, False])
def test_rule_that_refuses_float64_is_traced_as_the_user_runs_it(native, key):
    report = verify_gradient(squares, float32_only(2), normal(3), key=key, native=native)
    report.raise_if_failed()
    assert native or "in float64" in report.conditions["judged"]
    assert kind(verify_gradient(squares, float32_only(-2), normal(3), key=key, native=native)) == "sign"
    assert not verify_gradient(squares, float32_only(2.001), normal(3), key=key, native=native)


def dropout(x, random_key):
    return jnp.where(jax.random.bernoulli(random_key, 0.5, x.shape), x**2, 0).sum()


def dropout_gradient(x, random_key):
    return jnp.where(jax.random.bernoulli(random_key, 0.5, x.shape), 2 * x, 0)


def test_function_with_a_random_key_is_judged(key):
    args = normal(8), jax.random.key(5)
    verify_gradient(dropout, dropout_gradient, *args, key=key).raise_if_failed()
    assert not verify_gradient(dropout, lambda x, random_key: 2 * x, *args, key=key)
    assert not verify_gradient(dropout, lambda x, k: dropout_gradient(x, jax.random.key(6)), *args, key=key)


def test_straight_through_estimator_is_judged_by_autodiff(key):
    def function(x):
        return ((x + jax.lax.stop_gradient(jnp.round(x) - x)) ** 2).sum()

    report = verify_gradient(function, lambda x: 2 * jnp.round(x), normal(5, scale=3), key=key)
    report.raise_if_failed()
    assert any("stop_gradient" in note for note in report.notes)
    assert not verify_gradient(function, lambda x: jnp.zeros_like(x), normal(5, scale=3), key=key)


@pytest.mark.parametrize("factor", [2.0, 2.001])
def test_same_key_gives_the_same_report(factor, key):
    reports = [verify_gradient(squares, lambda x: factor * x, normal(3), key=key) for _ in range(2)]
    assert reports[0].to_json() == reports[1].to_json()


@pytest.mark.parametrize("seed", range(3))
def test_verdict_is_the_same_for_every_key(seed):
    key = jax.random.key(seed)
    verify_vjp(dense, dense_rule, *dense_args(), key=key).raise_if_failed()
    wrong = verify_vjp(dense, lambda args, ct: (*dense_rule(args, ct)[:2], ct[0]), *dense_args(), key=key)
    assert kind(wrong) == "missing_reduction"


def test_random_points_are_not_the_users_own(key):
    """Data of numpy.random.default_rng(0) must not be the cotangent: the gradient of x/‖x‖ along x is 0."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal(6))
    drawn = []

    def backward(args, ct):
        drawn.append(np.asarray(ct))
        return (ct,)

    with jax.disable_jit():
        verify_vjp(lambda x: x, backward, x, key=key)
    assert not any(np.allclose(x, ct) for ct in drawn if ct.shape == x.shape and not isinstance(ct, Tracer))


def test_custom_vjp_whose_forward_pass_returns_too_many_outputs_is_found(key):
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: ((x**2, x), x), lambda x, ct: (2 * x * ct,))
    report = verify_custom_vjp(square, jnp.arange(1.0, 4.0, dtype="float32"), key=key)
    assert [(finding.path, finding.kind) for finding in report.findings] == [("output", "structure")]
