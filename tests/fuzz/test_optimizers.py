"""Every optimizer, with any hyperparameters and gradients: Optax's, finite, or refused by a documented error."""

import functools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from tests.fuzz.values import DOCUMENTED, arrays, untouched
from tests.optimizer_cases import FACTORIES

pytestmark = pytest.mark.usefixtures("unchecked")

STEPS = 5
# Hyperparameters by name that are drawn, and the choices that decide the form.
NUMBERS = {
    "gradient_descent": {},
    "momentum": {"momentum": "rate"},
    "heavy_ball": {"momentum": "rate"},
    "nesterov": {"momentum": "rate"},
    "adagrad": {"initial_accumulator_value": "eps", "eps": "eps"},
    "rmsprop": {"decay": "rate", "eps": "eps", "initial_scale": "eps"},
    "adam": {"b1": "rate", "b2": "rate", "eps": "eps", "eps_root": "eps"},
    "adamw": {"b1": "rate", "b2": "rate", "eps": "eps", "eps_root": "eps", "weight_decay": "eps"},
    "nadam": {"b1": "rate", "b2": "rate", "eps": "eps", "eps_root": "eps"},
    "amsgrad": {"b1": "rate", "b2": "rate", "eps": "eps", "eps_root": "eps"},
    "adamax": {"b1": "rate", "b2": "rate", "eps": "eps"},
    "lion": {"b1": "rate", "b2": "rate", "weight_decay": "eps"},
}
FORMS = {
    "rmsprop": [{}, {"centered": True}, {"eps_in_sqrt": False, "centered": True}, {"momentum": 0.7, "nesterov": True}],
    "amsgrad": [{}, {"bias_correction_mu": False, "bias_correction_nu": False}],
}
CASES = [(name, number) for name in FACTORIES for number in range(len(FORMS.get(name, [{}])))]
DRAWN = {"rate": st.sampled_from([0.0, 0.5, 0.9, 0.99]), "eps": st.sampled_from([1e-8, 1e-3, 0.5])}


@functools.cache
def run(case, side):
    """(learning rate, hyperparameters, params, gradients) -> the updates, and the state's slots, of every step."""
    name, form = case
    factory, choices = FACTORIES[name][side], FORMS.get(name, [{}])[form]

    def trajectory(rate, numbers, params, gradients):
        optimizer = factory(rate, **numbers, **choices)

        def step(state, gradient):
            updates, state = optimizer.update(gradient, state, params)
            return state, updates

        with jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes
            return jax.lax.scan(step, optimizer.init(params), gradients)[1]

    return jax.jit(trajectory)


@st.composite
def problems(draw, dtypes, largest):
    case, dtype = draw(st.sampled_from(CASES)), draw(st.sampled_from(dtypes))
    numbers = {name: draw(DRAWN[kind]) for name, kind in NUMBERS[case[0]].items()}
    rate = draw(st.sampled_from([0.0, 1e-3, 0.5]))
    params = draw(arrays(dtype, (3,), 10.0))
    gradients = draw(
        arrays(dtype, (STEPS, 3), largest) | arrays(dtype, (3,), largest).map(lambda g: np.stack([g] * STEPS))
    )
    return case, rate, numbers, params, gradients


@given(problems(["float64"], 1e100))
def test_updates_are_those_of_optax(problem):
    """Relative to what the same optimizer does with |g|, where nothing cancels."""
    case, rate, numbers, params, gradients = problem
    with untouched(params, gradients):
        ours = np.asarray(run(case, 0)(rate, numbers, params, gradients))
    theirs = np.asarray(run(case, 1)(rate, numbers, params, gradients))
    if FORMS.get(case[0], [{}])[case[1]].get("centered"):
        return  # a variance that cancels is off by more than itself
    terms = abs(np.asarray(run(case, 0)(rate, numbers, abs(params), abs(gradients))))
    if case[0] == "lion":  # a sign flips where an average is rounded across 0
        terms = np.where(abs(ours - theirs) > rate, np.inf, terms)
    wrong = ~(abs(ours - theirs) <= 64 * np.finfo(float).eps * terms + 1e-300)
    assert not wrong.any(), (ours[wrong], theirs[wrong], terms[wrong])


@given(problems(["float32"], 1e15) | problems(["float64"], 1e100))
def test_updates_are_finite_where_the_squares_of_gradients_are(problem):
    case, rate, numbers, params, gradients = problem
    with untouched(params, gradients):
        updates = run(case, 0)(rate, numbers, params, gradients)
    assert (updates.shape, updates.dtype) == (gradients.shape, gradients.dtype)
    assert np.isfinite(updates).all(), updates
    if rate == 0:
        assert not np.asarray(updates).any()


ANYTHING = st.one_of(
    st.floats(), st.integers(-2, 2), st.booleans(), st.none(), st.text(max_size=3), st.just([0.5, 2.0])
)


@given(st.sampled_from(sorted(FACTORIES)), st.data())
def test_hyperparameters_are_in_range_or_refused_by_a_documented_error(name, data):
    names = ["learning_rate", *NUMBERS[name]]
    numbers = {"learning_rate": 0.1, data.draw(st.sampled_from(names)): data.draw(ANYTHING)}
    (changed,) = [value for name, value in numbers.items() if name in names][-1:]
    try:
        optimizer = FACTORIES[name][0](**numbers)
    except DOCUMENTED:
        return
    assert (np.asarray(changed if changed is not None else 0) >= 0).all()
    assert callable(optimizer.update)


@given(st.sampled_from(sorted(FACTORIES)), st.data())
def test_trees_match_or_are_refused_by_a_documented_error(name, data):
    shapes = st.lists(st.sampled_from([(), (2,), (2, 3), (0,)]), min_size=1, max_size=2)
    dtypes = st.sampled_from(["float32", "float64", "int32", "bool", "complex64"])
    trees = [[jax.ShapeDtypeStruct(shape, data.draw(dtypes)) for shape in data.draw(shapes)] for _ in range(2)]
    optimizer = FACTORIES[name][0](0.1)
    try:
        state = jax.eval_shape(optimizer.init, trees[0])
        updates, new = jax.eval_shape(optimizer.update, trees[1], state, trees[0])
    except DOCUMENTED:
        return
    assert [leaf.shape for leaf in updates] == [leaf.shape for leaf in trees[0]]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
