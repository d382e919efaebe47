"""Kinds of cases that went wrong on public code: right rules that failed, wrong ones that passed, false words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.verify import verify_custom_vjp, verify_gradient, verify_vjp
from tests.verify.rules import first, kind, normal

pytestmark = pytest.mark.one_in(4)


def with_rule(function, forward, backward, **options):
    """A function with its rule."""
    found = jax.custom_vjp(function, **options)
    found.defvjp(forward, backward)
    return found


# Ties and singular points ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [[1.0, 1.0, 0.0], [2.0, 2.0, 2.0, -1.0], [0.0, 0.0]])
def test_ties_of_a_maximum_must_not_all_get_everything(x, key):
    report = verify_gradient(jnp.max, lambda x: (x == x.max()).astype(x.dtype), jnp.array(x, "float32"), key=key)
    assert kind(report) == "kink"
    assert "no mixture of the gradients beside a kink" in first(report).explanation


@pytest.mark.parametrize("weights", [(1, 0), (0, 1), (0.3, 0.7)])
def test_any_mixture_at_a_tie_is_right(weights, key):
    def gradient(x):
        return jnp.where(x[0] == x[1], jnp.asarray(weights, x.dtype), (x == x.max()).astype(x.dtype))

    verify_gradient(jnp.max, gradient, jnp.array([1.5, 1.5], "float32"), key=key).raise_if_failed()


def square_of_norms(x):
    return (jnp.linalg.norm(x, axis=-1) ** 2).sum()


@pytest.mark.parametrize("x", [jnp.zeros(3), jnp.array([[1.0, 2.0], [0.0, 0.0]])], ids=["all", "one row"])
def test_gradients_beside_the_point_judge_where_autodiff_is_nan(x, key):
    x = x.astype("float32")
    verify_gradient(square_of_norms, lambda x: 2 * x, x, key=key).raise_if_failed()
    rows = (x == 0).all(-1, keepdims=True)
    for there, expected in ((7.0, "partial"), (jnp.nan, "non_finite")):
        wrong = verify_gradient(
            square_of_norms,
            lambda x, there=there: jnp.where((x == 0).all(-1, keepdims=True), there, 2 * x).astype(x.dtype),
            x,
            key=key,
        )
        assert rows.any()
        assert kind(wrong) == expected


def test_singular_point_is_no_kink(key):
    def backward(args, ct):
        a, b = args
        adjoint = jnp.linalg.solve(a.T, ct)
        return -jnp.outer(adjoint, jnp.linalg.solve(a, b)), adjoint

    matrix = normal(3, 3) + 3 * jnp.eye(3, dtype="float32")
    report = verify_vjp(jnp.linalg.solve, backward, matrix, normal(3, seed=1), key=key)
    report.raise_if_failed()
    assert not any("kink" in note for note in report.notes)


# Domains --------------------------------------------------------------------------------------------------------------


def soft_cross_entropy(z, targets):
    return -(targets * jax.nn.log_softmax(z)).sum()


def soft_rule(factor=1.0):
    def backward(saved, ct):
        z, targets = saved
        return factor * ct * (jax.nn.softmax(z) - targets), -ct * jax.nn.log_softmax(z)

    return with_rule(soft_cross_entropy, lambda z, t: (soft_cross_entropy(z, t), (z, t)), backward)


@pytest.mark.parametrize("targets", [[0.0, 1.0, 0.0], [0.2, 0.5, 0.3]])
def test_soft_targets_are_judged_where_they_add_up_to_1(targets, key):
    args = normal(3), jnp.array(targets, "float32")
    report = verify_custom_vjp(soft_rule(), *args, key=key)
    report.raise_if_failed()
    assert any("add up to 1" in note for note in report.notes)
    assert kind(verify_custom_vjp(soft_rule(1.01), *args, key=key)) == "scale"


def test_rule_that_is_right_at_the_given_point_alone_is_told_so(key):
    """The targets add up to 2 and to 1: no domain that is recognized."""

    def function(z, w):
        return (w * z).sum() ** 2 / (w * w).sum()

    def gradient(z, w):
        return 2 * (w * z).sum() * w / 9  # ‖w‖² = 9 where it is given

    def divided(z, w):
        return w / (w * w).sum() * z

    w = jnp.array([2.0, -1.0, 2.0], "float32")
    wrong = first(verify_gradient(lambda w, z: function(z, w), lambda w, z: jnp.zeros(3) + w, w, normal(3), key=key))
    assert wrong.kind != "precision"
    off = verify_vjp(
        lambda z, w: w / (w * w).sum() * z, lambda args, ct: (ct * args[1] / 9, None), normal(3), w, key=key
    )
    assert "right at the given point and wrong off it" in first(off).explanation
    verify_vjp(
        lambda z, w: w / (w * w).sum() * z,
        lambda args, ct: (ct * args[1] / 9, None),
        normal(3),
        w,
        argnums=0,
        key=key,
    ).raise_if_failed()
    verify_gradient(function, gradient, normal(3), w, key=key).raise_if_failed()


def test_judged_at_the_given_point_alone(key):
    """The derivative of log det, A⁻¹ where A is symmetric, and A⁻ᵀ everywhere."""
    root = normal(3, 3)
    symmetric = root @ root.T + jnp.eye(3, dtype="float32")
    symmetric = (symmetric + symmetric.T) / 2

    def log_determinant(a):
        return jnp.linalg.slogdet(a)[1]

    verify_gradient(log_determinant, jnp.linalg.inv, symmetric, key=key, at="given").raise_if_failed()
    report = verify_gradient(log_determinant, jnp.linalg.inv, symmetric, key=key)
    report.raise_if_failed()
    assert any("symmetric" in note for note in report.notes)
    assert not verify_gradient(log_determinant, jnp.linalg.inv, symmetric + jnp.triu(root), key=key)
    assert not verify_gradient(log_determinant, lambda a: 2 * jnp.linalg.inv(a), symmetric, key=key, at="given")


def test_epsilon_that_is_neglected_is_named(key):
    def softmax(x, epsilon=1e-10):
        e = jnp.exp(x - x.max())
        return e / (e.sum() + epsilon)

    def backward(p, ct):
        return (p * (ct - (p * ct).sum()),)

    neglecting = with_rule(lambda x: softmax(x), lambda x: (softmax(x), softmax(x)), backward)
    report = verify_custom_vjp(neglecting, normal(3), key=key)
    report.raise_if_failed()
    assert any("neglects the function's ε = 1e-10" in note for note in report.notes)
    large = with_rule(lambda x: softmax(x, 1e-4), lambda x: (softmax(x, 1e-4), softmax(x, 1e-4)), backward)
    assert not verify_custom_vjp(large, normal(3), key=key)


# Functions without autodiff -------------------------------------------------------------------------------------------


def called_back(x):
    return jax.pure_callback(
        lambda v: np.sin(np.asarray(v)), jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"
    )


@pytest.mark.parametrize("native", [True, False])
def test_callback_is_judged_in_either_precision(native, key):
    verify_vjp(called_back, lambda a, ct: (ct * jnp.cos(a[0]),), normal(3), key=key, native=native).raise_if_failed()
    wrong = verify_vjp(called_back, lambda a, ct: (1.001 * ct * jnp.cos(a[0]),), normal(3), key=key, native=native)
    assert kind(wrong) == "scale"


def summed_in_float32(x):
    start = 0, jnp.zeros(x.shape, "float32")
    body = lambda c: (c[0] + 1, c[1] + x.astype("float32") ** 2)  # noqa: E731
    return jax.lax.while_loop(lambda c: c[0] < 3, body, start)[1].astype(x.dtype)


def test_loop_that_accumulates_in_float32_is_judged_in_float64(key):
    right = with_rule(summed_in_float32, lambda x: (summed_in_float32(x), x), lambda x, ct: (6 * x * ct,))
    verify_custom_vjp(right, normal(4, 4), key=key).raise_if_failed()
    wrong = with_rule(summed_in_float32, lambda x: (summed_in_float32(x), x), lambda x, ct: (6.00001 * x * ct,))
    assert kind(verify_custom_vjp(wrong, normal(4, 4), key=key)) == "scale"


def carrying(dtype):
    """h_t = tanh(W h_(t-1) + x_t), the h that is carried being of this dtype by name: no program of float64."""

    def states(W, x):  # noqa: N803
        def step(h, x):
            after = jnp.tanh(W @ h + x)
            return after, (h, after)

        return jax.lax.scan(step, jnp.zeros(3, dtype), x)[1]

    return states


def through_time(states, dtype, factor=1.0, before=0):
    """∂L/∂W = Σ_t δ_t h_(t-1)ᵀ and ∂L/∂x_t = δ_t, from the last step to the first."""

    def backward(args, ct):
        W, x = args  # noqa: N806

        def step(carry, saved):
            delta, gradient = carry
            *h, ct = saved
            delta = (delta + ct) * (1 - h[1] ** 2)
            return (W.T @ delta, gradient + jnp.asarray(factor, dtype) * jnp.outer(delta, h[before])), delta

        start = jnp.zeros(3, dtype), jnp.zeros((3, 3), dtype)
        (_, gradient), of_inputs = jax.lax.scan(step, start, (*states(W, x), ct), reverse=True)
        return gradient, of_inputs

    return backward


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loop_that_carries_a_dtype_by_name_is_judged_in_float64(dtype, key):
    states = carrying(dtype)
    args = normal(3, 3).astype(dtype), normal(5, 3, seed=1).astype(dtype)
    report = verify_vjp(lambda *args: states(*args)[1], through_time(states, dtype), *args, key=key)
    report.raise_if_failed()
    assert "in float64" in report.conditions["judged"]
    wrong = through_time(states, dtype, 1 + 2 * float(jnp.finfo(dtype).eps))
    assert kind(verify_vjp(lambda *args: states(*args)[1], wrong, *args, key=key)) == "scale"
    assert not verify_vjp(lambda *args: states(*args)[1], through_time(states, dtype, before=1), *args, key=key)


def test_function_in_numpy_is_judged_by_differences(key):
    x = np.asarray(normal(3))
    report = verify_gradient(lambda x: np.sum(np.sin(x)), np.cos, x, key=key)
    report.raise_if_failed()
    assert any("differences stand in for it" in note for note in report.notes)
    assert not verify_gradient(lambda x: np.sum(np.sin(x)), lambda x: 1.0001 * np.cos(x), x, key=key)


def fixed_point(theta, steps):
    """z = cos(θ z) by iteration."""
    return jax.lax.fori_loop(0, steps, lambda _, z: jnp.cos(theta * z), jnp.ones_like(theta))


def implicit_rule(scale, steps):
    def backward(args, ct):
        (theta,) = args
        z = fixed_point(theta, steps)
        slope = -jnp.sin(theta * z)
        return (scale * ct * slope * z / (1 - slope * theta),)

    return backward


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(3))
def test_residual_of_an_iteration_counts_as_rounding(seed):
    """The implicit function theorem at a z that is right to 1e-5: the derivative of the iteration differs as much."""
    theta = jnp.array([0.3, 0.5, 0.6], "float32")
    function = functools.partial(fixed_point, steps=14)
    key = jax.random.key(seed)
    verify_vjp(function, implicit_rule(1.0, 14), theta, key=key).raise_if_failed()
    assert not verify_vjp(function, implicit_rule(1.05, 14), theta, key=key)


# How rules are called -------------------------------------------------------------------------------------------------


def scaled(x, c=2.0):
    return c * x


def scaled_forward(x, c):
    return c * x, (x, c)


@pytest.mark.parametrize("factor", [1, 3])
def test_default_argument_may_be_left_out(factor, key):
    rule = with_rule(scaled, scaled_forward, lambda saved, ct: (factor * ct * saved[1], (ct * saved[0]).sum()))
    report = verify_custom_vjp(rule, normal(3), key=key)
    assert bool(report) == (factor == 1)
    assert set(report.leaves) == {"[0]"}


@pytest.mark.parametrize("keywords", [{}, {"c": 3.0}])
def test_fixed_argument_may_be_left_out_or_given_by_name(keywords, key):
    rule = with_rule(scaled, lambda x, c: (c * x, None), lambda c, _, ct: (ct * c,), nondiff_argnums=(1,))
    verify_custom_vjp(rule, normal(3), key=key, **keywords).raise_if_failed()
    wrong = with_rule(scaled, lambda x, c: (c * x, None), lambda c, _, ct: (ct * 2.5,), nondiff_argnums=(1,))
    assert not verify_custom_vjp(wrong, normal(3), key=key, **keywords)


def test_argument_by_name_is_judged(key):
    rule = with_rule(scaled, scaled_forward, lambda saved, ct: (ct * saved[1], 0.5 * (ct * saved[0]).sum()))
    found = first(verify_custom_vjp(rule, normal(3), c=jnp.float32(1.5), key=key))
    assert (found.path, found.kind) == ("[1]", "scale")


def test_unknown_argument_is_refused(key):
    rule = with_rule(scaled, scaled_forward, lambda saved, ct: (ct * saved[1], (ct * saved[0]).sum()))
    with pytest.raises(TypeError, match="nativ"):
        verify_custom_vjp(rule, normal(3), key=key, nativ=True)
    with pytest.raises(TypeError, match="unknown options"):
        verify_gradient(jnp.sum, jnp.ones_like, normal(3), key=key, nativ=True)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="kinds of findings"):
        verify_gradient(jnp.sum, jnp.ones_like, normal(3), key=key, allow=("nonsense",))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="around"):
        verify_gradient(jnp.sum, jnp.ones_like, normal(3), key=key, at="nowhere")  # pyright: ignore[reportArgumentType]


def test_kind_of_finding_may_be_waived(key):
    def doubled(x):
        return 4 * x

    report = verify_gradient(lambda x: (x**2).sum(), doubled, normal(3), key=key, allow=("scale",))
    report.raise_if_failed()
    assert any(note.startswith("waived: gradient: scale: every entry is 2 times too large") for note in report.notes)
    assert not verify_gradient(lambda x: (x**2).sum(), doubled, normal(3), key=key, allow=("sign",))


# Words ----------------------------------------------------------------------------------------------------------------


def test_outputs_are_compared_before_the_backward_pass_runs(key):
    def pair(x):
        return jnp.sin(x), jnp.cos(x)

    report = verify_custom_vjp(with_rule(pair, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * x,)), normal(3), key=key)
    assert [(f.path, f.kind, f.explanation) for f in report.findings] == [
        ("output", "structure", "the rule's forward pass returns 1 output, the function 2")
    ]


def test_wrong_output_is_shown_with_its_numbers(key):
    rule = with_rule(jnp.sin, lambda x: (jnp.sin(x) + 0.5, x), lambda x, ct: (ct * jnp.cos(x),))
    found = first(verify_custom_vjp(rule, normal(3), key=key))
    assert found.path == "output"
    assert found.candidate - found.expected == pytest.approx(0.5)
    assert "3 of 3 numbers are others" in found.explanation


@pytest.mark.parametrize("prefix", ["d", "grad_"])
def test_entries_named_after_derivatives_are_to_be_renamed(prefix, key):
    params = {"W1": normal(2, 3), "b1": normal(3)}
    report = verify_gradient(
        lambda p: (p["W1"] ** 2).sum() + p["b1"].sum(),
        lambda p: {f"{prefix}W1": 2 * p["W1"], f"{prefix}b1": jnp.ones(3)},
        params,
        key=key,
    )
    assert kind(report) == "structure"
    assert f"rename {prefix}W1 to W1, {prefix}b1 to b1" in first(report).explanation


def test_missing_and_unknown_entries_are_named(key):
    report = verify_gradient(lambda p: (p["w"] ** 2).sum(), lambda p: {"v": 2 * p["w"]}, {"w": normal(3)}, key=key)
    assert "it lacks ['w'] and has ['v'] that no parameter is called" in first(report).explanation


@pytest.mark.parametrize("factor", [0.5, -1.0])
def test_loop_that_cannot_be_reversed_has_its_mistakes_named(factor, key):
    def loop(a):
        step = lambda c: (c[0] + 1, jnp.tanh(0.5 * c[1] + a))  # noqa: E731
        return jax.lax.while_loop(lambda c: c[0] < 5, step, (0, a))[1]

    def backward(args, ct):
        return (factor * ct * jax.jvp(loop, args, (jnp.ones_like(args[0]),))[1],)

    report = verify_vjp(loop, backward, normal(3), key=key)
    assert kind(report) == ("sign" if factor < 0 else "scale")
    assert any("forward mode" in note for note in report.notes)


def balanced_cost(params, x, y):
    (w1, b1), (w2, b2) = params
    z = (jnp.tanh(x @ w1.T + b1) @ w2.T + b2)[:, 0]
    return jnp.mean(jax.nn.softplus(z) - y * z)


def balanced_gradient(params, x, y):
    (w1, b1), (w2, b2) = params
    a = jnp.tanh(x @ w1.T + b1)
    delta = ((jax.nn.sigmoid((a @ w2.T + b2)[:, 0]) - y) / len(y))[:, None]
    hidden = delta @ w2 * (1 - a**2)
    return [(hidden.T @ x, hidden.sum(0)), (delta.T @ a, delta.sum(0))]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(3))
def test_sums_that_cancel_are_nobody_s_mistake(seed, key):
    """As many 1s as 0s, and small weights: what is left of a bias gradient is as small as its rounding."""
    x, y = normal(24, 5, seed=seed), (jnp.arange(24) % 2).astype("float32")
    weights = [(normal(4, 5, seed=seed + 7, scale=1e-3), jnp.zeros(4, "float32"))]
    weights += [(normal(1, 4, seed=seed + 17, scale=1e-3), jnp.zeros(1, "float32"))]
    verify_gradient(balanced_cost, balanced_gradient, weights, x, y, key=key).raise_if_failed()


def course_cost(p, x, y):
    a1 = jnp.tanh(p["W1"] @ x + p["b1"])
    a2 = 1 / (1 + jnp.exp(-(p["W2"] @ a1 + p["b2"])))
    return -jnp.sum(y * jnp.log(a2) + (1 - y) * jnp.log(1 - a2)) / x.shape[1]


def test_mistake_is_named_where_the_cost_is_written_as_in_the_course(key):
    def gradient(p, x, y):
        a1 = jnp.tanh(p["W1"] @ x + p["b1"])
        d2 = (jax.nn.sigmoid(p["W2"] @ a1 + p["b2"]) - y) / x.shape[1]
        d1 = p["W2"].T @ d2 * (1 - a1)
        return {"W1": d1 @ x.T, "b1": d1.sum(1, keepdims=True), "W2": d2 @ a1.T, "b2": d2.sum(1, keepdims=True)}

    params = {"W1": normal(4, 2), "b1": normal(4, 1, seed=1), "W2": normal(1, 4, seed=2), "b2": normal(1, 1, seed=3)}
    x = normal(2, 9, seed=4)
    report = verify_gradient(course_cost, gradient, params, x, (x[:1] > 0).astype("float32"), key=key)
    assert {f.path: f.kind for f in report.findings} == {"['W1']": "activation", "['b1']": "activation"}
    assert "is replaced by 1 - a" in first(report).explanation


@pytest.mark.long
def test_diagnosis_of_a_deep_function_is_bounded(key):
    """Sixteen layers and a mistake that nobody simulates: the verdict comes all the same."""

    def deep(x, w):
        for _ in range(16):
            x = jnp.tanh(x @ w)
        return x

    def backward(args, ct):
        dx, dw = jax.vjp(deep, *args)[1](ct)
        return dx, dw + 0.01 * ct.sum() * jnp.exp(args[1])

    found = first(verify_vjp(deep, backward, normal(3, 4), normal(4, 4, seed=1, scale=0.4), key=key))
    assert (found.path, found.kind) == ("[1]", "unknown")


def test_array_that_another_program_holds_in_another_dtype_stops_nothing():
    """JAX knows an array of NumPy in one dtype as long as a program with it lives, such as the one compiled here."""
    indices = np.arange(3)[::-1] % 3

    def function(x):
        return x[:, np.arange(3), indices].sum(axis=1)

    def backward(args, ct):
        return (jnp.zeros_like(args[0]).at[:, np.arange(3), indices].add(ct[:, None]),)

    with jax.enable_x64(False):
        x = jnp.ones((2, 3, 3))
        users = jax.jit(function)
        users(x)
        report = verify_vjp(users, backward, x, key=jax.random.key(0))
    report.raise_if_failed()
    assert "in float64" in report.conditions["judged"]


def test_what_cancels_by_whatever_formula_is_nobody_s_mistake(key):
    """The larger of two has p (ct - Σ p ct); autodiff of a softmax that subtracts the maximum has no such sum."""

    def shifted_softmax(z):
        e = jnp.exp(z - z.max())
        return e / e.sum()

    def backward(args, ct):
        p = shifted_softmax(args[0])
        return (p * (ct - (p * ct).sum()),)

    verify_vjp(shifted_softmax, backward, jnp.asarray([0.0, 20.0], "float32"), key=key).raise_if_failed()


def sylvester(a, b, c):
    """The X that solves a X + X b = c."""
    m, n = c.shape
    system = jnp.kron(a, jnp.eye(n, dtype=a.dtype)) + jnp.kron(jnp.eye(m, dtype=a.dtype), b.T)
    return jnp.linalg.solve(system, c.reshape(-1)).reshape(m, n)


def sylvester_rule(args, ct):
    a, b, _ = args
    solution, pulled = sylvester(*args), sylvester(a.T, b.T, ct)
    return -pulled @ solution.T, -solution.T @ pulled, pulled


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, "float32")


@pytest.mark.parametrize("seed", [5, 11])
def test_nothing_is_right_beside_a_singular_matrix(seed):
    a, b = (2 * jnp.eye(n, dtype="float32") + 0.3 * draw(s, n, n) for n, s in ((3, seed), (2, seed + 100)))
    with jax.enable_x64(False):
        verify_vjp(sylvester, sylvester_rule, a, b, draw(seed + 200, 3, 2), key=jax.random.key(seed)).raise_if_failed()


def unit(x):
    return x / jnp.sqrt((x**2).sum())


def unit_rule(args, ct):
    (x,) = args
    length = jnp.sqrt((x**2).sum())
    return ((ct - x * (x @ ct) / length**2) / length,)


@pytest.mark.parametrize("seed", [3, 6])
def test_squares_that_underflow_lose_no_digits_that_count(seed):
    with jax.enable_x64(False):
        verify_vjp(unit, unit_rule, 2 + 0.5 * draw(seed, 4), key=jax.random.key(seed)).raise_if_failed()
