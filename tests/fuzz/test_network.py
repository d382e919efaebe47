"""Any network, loss, data and parameters: the gradient is that of autodiff in float64, to what rounding explains."""

import functools
import itertools
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import event, given

from jaxnet import (
    binary_cross_entropy,
    cost,
    cost_and_gradient,
    gelu,
    mlp,
    relu,
    sigmoid,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.activations import (
    elu,
    gelu_tanh,
    identity,
    leaky_relu,
    silu,
    softplus,
)
from jaxnet.layers import Dense
from jaxnet.losses import squared_error_through
from jaxnet.readings import per_example_gradient_norms, per_example_gradients
from tests.fuzz.rounding import format_of, gradient_errors
from tests.fuzz.values import arrays, untouched

pytestmark = pytest.mark.usefixtures("unchecked")

# sizes, hidden activation, loss, and the output activation that a squared error goes through
NETWORKS = [
    ((3, 1), sigmoid, binary_cross_entropy, identity),
    ((3, 4, 1), relu, binary_cross_entropy, identity),
    ((1, 2, 2, 1), tanh, binary_cross_entropy, identity),
    ((3, 4, 2), sigmoid, binary_cross_entropy, identity),
    ((2, 3), tanh, softmax_cross_entropy, identity),
    ((3, 4, 3), gelu, softmax_cross_entropy, identity),
    ((2, 3, 3, 2), leaky_relu, softmax_cross_entropy, identity),
    ((3, 2, 4), gelu_tanh, softmax_cross_entropy, identity),
    ((3, 4, 2), silu, squared_error, identity),
    ((2, 3, 3, 1), elu, squared_error, identity),
    ((1, 1, 1, 1, 1), identity, squared_error, identity),
    ((3, 4, 1), softplus, squared_error_through(relu), relu),
    ((2, 2, 2), relu, squared_error_through(tanh), tanh),
]
EVERY = list(range(len(NETWORKS)))
EAGER = [1, 8]  # op by op takes a hundred times as long
DTYPES = ["float32", "float64"]


@st.composite
def problems(draw, numbers=EVERY):
    """A network by its number, parameters, and a batch or one example (m is None) with targets that suit the loss."""
    number, dtype = draw(st.sampled_from(numbers)), draw(st.sampled_from(DTYPES))
    m = draw(st.sampled_from([None, 3]))
    sizes, _, loss, _ = NETWORKS[number]
    batch = () if m is None else (m,)
    params = []
    for n_in, n_out in itertools.pairwise(sizes):
        params += [Dense(draw(arrays(dtype, (n_out, n_in))), draw(arrays(dtype, (n_out,)))), ()]
    x = draw(arrays(dtype, (*batch, sizes[0])))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    if loss is softmax_cross_entropy:
        y = generator.integers(sizes[-1], size=batch)
    elif loss is binary_cross_entropy:
        y = generator.choice([0, 1, 0.25], (*batch, sizes[-1])).astype(dtype)
    else:
        y = draw(arrays(dtype, (*batch, sizes[-1])))
    return number, tuple(params[:-1]), x, y


def network_of(number, dtype):
    sizes, hidden, _, _ = NETWORKS[number]
    return mlp(sizes, hidden, dtype=dtype)


def by_hand(number, dtype):
    """(params, x, y) -> (J, ∂J/∂params)."""
    return cost_and_gradient(network_of(number, dtype), NETWORKS[number][2])


@functools.cache
def compiled(number, dtype):
    """The same with the gradients and the norms of the examples, if there are several."""
    network, loss = network_of(number, dtype), NETWORKS[number][2]

    @jax.jit
    def function(params, x, y):
        value, gradient = cost_and_gradient(network, loss)(params, x, y)
        if x.ndim == 1:
            return value, gradient, None, None
        examples = per_example_gradients(network, loss)(params, x, y)
        return value, gradient, examples, per_example_gradient_norms(network, loss)(params, x, y)

    return function


@functools.cache
def automatic(number):
    """The cost and its gradient by autodiff, and the bounds of the gradient that is computed in a format."""
    _, hidden, loss, output = NETWORKS[number]
    reference = jax.value_and_grad(cost(network_of(number, "float64"), loss))

    @jax.jit
    def function(params, x, y, form):
        value, gradient = reference(params, x, y)
        batch = (x, y) if x.ndim == 2 else (x[None], jnp.asarray(y)[None])
        return value, gradient, gradient_errors(hidden, loss, output, params, *batch, form)

    return function


def assert_explained(actual, expected, bounds):
    """Every number with a bound is finite and within twice that, once for each side, of the expected one.

    Where autodiff itself overflows on its way there is none.
    """
    leaves = zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), jax.tree.leaves(bounds), strict=True)
    for (path, a), e, bound in leaves:
        subnormal = np.finfo(a.dtype).tiny  # what is smaller may be 0 on one side
        a, e, bound = (np.asarray(part, np.float64) for part in (a, e, bound))
        expected_there = np.where(np.isfinite(e), e, a)
        wrong = np.isfinite(bound) & ~(
            abs(np.where(np.isfinite(a), a, np.nan) - expected_there) <= 2 * bound + subnormal
        )
        for index in np.argwhere(wrong):
            i = tuple(index)
            raise AssertionError(f"{jax.tree_util.keystr(path)}{i}: {a[i]}, not {e[i]} ± {bound[i]}")


def both(problem):
    """What is computed by hand for a problem, by autodiff in float64, and the bounds for the problem's dtype."""
    number, params, x, y = problem
    wide = jax.tree.map(lambda leaf: leaf.astype("float64" if leaf.dtype.kind == "f" else leaf.dtype), (params, x, y))
    with untouched(params, x, y):
        results = compiled(number, x.dtype.name)(params, x, y)
    return results, *automatic(number)(*wide, format_of(x.dtype))


@given(problems())
def test_gradients_are_those_of_autodiff_and_of_a_batch_the_mean_over_its_examples(problem):
    (_, gradient, examples, norms), _, expected, bounds = both(problem)
    shapes = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (gradient, problem[1])]
    assert shapes[0] == shapes[1]
    event("bounded" if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bounds)) else "may overflow")
    assert_explained(gradient, expected, bounds)
    if examples is not None:
        assert_mean_and_norms(examples, norms if _squares_fit(problem) else None, expected, bounds)


def _squares_fit(problem):
    """Whether no square of an activation can overflow, of which the norms of the examples are made."""
    number, params, x, _ = problem
    numbers = max(1.0, *(float(abs(np.asarray(leaf, np.float64)).max()) for leaf in jax.tree.leaves((params, x))))
    return len(NETWORKS[number][0]) * math.log(8 * numbers) < math.log(format_of(x.dtype).largest) / 2


def assert_mean_and_norms(examples, norms, expected, bounds):
    """The mean over the examples is the expected gradient, and each has its norm."""
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, where nothing is bounded
        mean = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).mean(0), examples)
    assert_explained(mean, expected, bounds)
    if norms is None:
        return
    leaves = [np.asarray(leaf, np.float64).reshape(len(norms), -1) for leaf in jax.tree.leaves(examples)]
    together = np.concatenate(leaves, axis=1)
    bound = len(norms) * sum(np.asarray(leaf).sum() for leaf in jax.tree.leaves(bounds))
    form, norms = format_of(norms.dtype), np.asarray(norms, np.float64)
    # Each square may underflow, or overflow.
    if np.isfinite(bound) and (abs(together) < math.sqrt(form.largest) / 1e3).all():
        expected_norms = np.linalg.norm(together, axis=1)
        slack = 32 * form.unit * expected_norms + math.sqrt(together.size * form.tiny)
        assert (abs(norms - expected_norms) <= 2 * bound + slack).all()


@given(problems(numbers=EAGER))
def test_compiled_and_eager_agree(problem):
    number, params, x, y = problem
    _, _, expected, bounds = both(problem)
    with untouched(params, x, y):
        _, gradient = by_hand(number, x.dtype.name)(*jax.tree.map(jnp.asarray, (params, x, y)))
    assert_explained(gradient, expected, bounds)
