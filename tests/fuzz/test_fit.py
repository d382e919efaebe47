"""Training on any data: the loop of single steps, in one call or in several; nothing changed, bad data refused."""

import functools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from jaxnet import (
    adam,
    binary_cross_entropy,
    fit,
    gelu,
    gradient_descent,
    init_state,
    mlp,
    relu,
    softmax_cross_entropy,
    squared_error,
    tanh,
)
from jaxnet.optimizers import nesterov
from jaxnet.training import train_step
from tests.fuzz.values import DOCUMENTED, arrays, untouched

pytestmark = pytest.mark.usefixtures("unchecked")

# sizes, hidden activation, loss, optimizer, dtype
RUNS = [
    ((2, 3, 1), tanh, binary_cross_entropy, adam, "float32"),
    ((2, 3), relu, softmax_cross_entropy, nesterov, "float64"),
    ((2, 3, 2), gelu, squared_error, gradient_descent, "float32"),
]
M = 5
step = jax.jit(train_step, static_argnums=(0, 1))


@st.composite
def problems(draw):
    sizes, hidden, loss, optimizer, dtype = draw(st.sampled_from(RUNS))
    x = draw(arrays(dtype, (M, 2), 1e4))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    targets = {
        "softmax_cross_entropy": lambda: generator.integers(sizes[-1], size=M),
        "binary_cross_entropy": lambda: generator.integers(2, size=(M, 1)).astype(dtype),
        "squared_error": lambda: generator.normal(size=(M, 2)).astype(dtype),
    }
    rate = draw(st.sampled_from([0.0, 1e-3, 0.5]))
    key = jax.random.key(draw(st.integers(0, 2**63 - 1)))
    return mlp(sizes, hidden, dtype=dtype), loss, optimizer(rate), x, targets[loss.name](), key


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(data_of, tree) for tree in (ours, theirs)))


def data_of(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@given(problems(), st.sampled_from([None, 2]))
def test_epochs_in_one_call_are_those_in_several_and_change_no_argument(problem, batch_size):
    network, loss, optimizer, x, y, key = problem
    options = {"key": key, "batch_size": batch_size, "on_nonfinite": "ignore"}
    train = functools.partial(fit, network, loss, optimizer, x, y, **options)
    with untouched(x, y, optimizer):
        at_once, history = train(epochs=3)
        first, one = train(epochs=1)
    with untouched(first.params, first.opt_state, x, y):
        last, two = train(epochs=2, key=None, state=first)
    steps = 3 * (1 if batch_size is None else -(-M // batch_size))
    assert (history.cost.shape, int(at_once.step), history.interrupted) == ((steps,), steps, False)
    same(last, at_once)
    np.testing.assert_array_equal(np.concatenate([one.cost, two.cost]), history.cost)


@given(problems())
def test_full_batches_are_single_steps(problem):
    network, loss, optimizer, x, y, key = problem
    state, history = fit(network, loss, optimizer, x, y, key=key, batch_size=None, epochs=1, on_nonfinite="ignore")
    start = jax.jit(init_state, static_argnums=0)(network, optimizer, key)
    expected, cost = step(network, loss, optimizer, start, x, y)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4 if x.dtype == np.float32 else 1e-11, atol=1e-5)
    close(history.cost[0], cost)
    jax.tree.map(close, state.params, expected.params)


KINDS = ["float32", "float64", "int64", "uint8", "bool", "complex64"]
ROWS = st.lists(st.integers(0, 3), max_size=3).map(tuple)
DATA = hnp.arrays(st.sampled_from(KINDS), ROWS)
COUNT = st.one_of(st.integers(-1, 0), st.floats(), st.booleans(), st.text(max_size=2))


@given(st.sampled_from(RUNS), DATA, DATA, st.none() | COUNT, COUNT)
def test_bad_data_and_counts_are_refused_by_a_documented_error(run, x, y, batch_size, epochs):
    """A count that is good is none here, so that nothing is trained."""
    sizes, hidden, loss, optimizer, _ = run
    with untouched(x, y), pytest.raises(DOCUMENTED) as error:
        fit(mlp(sizes, hidden), loss, optimizer(0.1), x, y, key=jax.random.key(0), batch_size=batch_size, epochs=epochs)
    assert str(error.value)


@given(st.sampled_from(RUNS), DATA, DATA)
def test_data_fit_the_network_and_the_loss_or_are_refused_by_a_documented_error(run, x, y):
    sizes, hidden, loss, optimizer, _ = run
    network = mlp(sizes, hidden)
    good = x.ndim >= 2 and x.shape[-1] == 2 and len(x) and x.dtype.kind != "c" and np.isfinite(x).all()
    with untouched(x, y):
        try:
            state, _ = fit(
                network,
                loss,
                optimizer(0.1),
                x,
                y,
                key=jax.random.key(0),
                batch_size=None,
                epochs=1,
                on_nonfinite="ignore",
            )
        except DOCUMENTED:
            return
        assert good
        assert int(state.step) == 1
