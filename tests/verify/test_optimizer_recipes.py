"""Recipes reproduce the optimizers they are read off, and conventions are told apart by them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet.verify.optimizers.conventions import CHOICES, IN_FLOAT64, Exhibit, identify, identify_two, variations
from jaxnet.verify.optimizers.program import compiled_steps, traced
from jaxnet.verify.optimizers.recipe import Recipe, simulate
from jaxnet.verify.optimizers.recognition import recipe_of
from jaxnet.verify.optimizers.settings import changing_rate
from jaxnet.verify.optimizers.values import NUMBERS, rounded, solved, with_number

STEPS = 40
GENERATOR = np.random.default_rng(3)
GRADIENTS = GENERATOR.standard_normal((STEPS, 5)) * 10 ** GENERATOR.uniform(-3, 1, (STEPS, 1))
PARAMETERS = np.cumsum(GENERATOR.standard_normal((STEPS, 5)), axis=0)


@pytest.fixture(autouse=True, scope="module")
def dtypes_are_promoted():
    with jax.numpy_dtype_promotion("standard"):
        yield


def optimizer_of(init: Any, update: Any):
    return optax.GradientTransformation(init, update)


def described(factory, rate=changing_rate, **options):
    return functools.partial(factory, rate, **options)


def closure_of_adam(lr, beta1, beta2, epsilon):
    def init(params):
        return jnp.zeros((), int), jnp.zeros_like(params), jnp.zeros_like(params)

    def update(g, state, params=None):
        t, m, v = state
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1 ** (t + 1)), v / (1 - beta2 ** (t + 1))
        return -lr * m_hat / (jnp.sqrt(v_hat) + epsilon), (t + 1, m, v)

    return optimizer_of(init, update)


def closure_of_rmsprop(alpha, rho, eps):
    def update(g, state, params=None):
        state = rho * state + (1 - rho) * g**2
        return -alpha * g / jnp.sqrt(state + eps), state

    return optimizer_of(jnp.zeros_like, update)


def closure_of_heavy_ball(learning_rate, beta):
    def update(g, state, params=None):
        state = beta * state + g
        return -learning_rate(0) * state, state

    return optimizer_of(jnp.zeros_like, update)


def closure_of_descent(rate):
    return optimizer_of(lambda params: (), lambda g, state, params=None: (-rate * g, state))


def ema(learning_rate, debias):
    return optax.chain(optax.ema(0.8, debias), optax.scale_by_learning_rate(learning_rate))


MOMENTS = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
RMS = {"decay": 0.8, "eps": 1e-3}
RATE = 0.02
OPTIMIZERS = {
    "gradient_descent": described(jaxnet.gradient_descent),
    "momentum": described(jaxnet.optimizers.momentum, momentum=0.8),
    "heavy_ball": described(jaxnet.optimizers.heavy_ball, momentum=0.8),
    "nesterov": described(jaxnet.optimizers.nesterov, momentum=0.8),
    "adagrad": described(jaxnet.optimizers.adagrad, initial_accumulator_value=0.3, eps=1e-3),
    "rmsprop": described(jaxnet.optimizers.rmsprop, **RMS),
    "rmsprop started": described(jaxnet.optimizers.rmsprop, initial_scale=0.5, **RMS),
    "rmsprop outside": described(jaxnet.optimizers.rmsprop, eps_in_sqrt=False, **RMS),
    "rmsprop centered": described(jaxnet.optimizers.rmsprop, centered=True, **RMS),
    "rmsprop momentum": described(jaxnet.optimizers.rmsprop, momentum=0.7, **RMS),
    "rmsprop nesterov": described(jaxnet.optimizers.rmsprop, momentum=0.7, nesterov=True, **RMS),
    "rmsprop corrected": described(jaxnet.optimizers.rmsprop, bias_correction=True, **RMS),
    "adam": described(jaxnet.adam, eps_root=1e-3, **MOMENTS),
    "adamw": described(jaxnet.optimizers.adamw, weight_decay=0.1, **MOMENTS),
    "nadam": described(jaxnet.optimizers.nadam, **MOMENTS),
    "amsgrad": described(jaxnet.optimizers.amsgrad, **MOMENTS),
    "amsgrad uncorrected": described(
        jaxnet.optimizers.amsgrad, bias_correction_mu=False, bias_correction_nu=False, **MOMENTS
    ),
    "adamax": described(jaxnet.optimizers.adamax, **MOMENTS),
    "lion": described(jaxnet.optimizers.lion, b1=0.8, b2=0.9, weight_decay=0.1),
    "optax sgd": described(optax.sgd),
    "optax sgd at one rate": described(optax.sgd, RATE),
    "optax sgd momentum": described(optax.sgd, momentum=0.8),
    "optax sgd nesterov": described(optax.sgd, momentum=0.8, nesterov=True),
    "optax ema": described(ema, debias=False),
    "optax ema debiased": described(ema, RATE, debias=True),
    "optax adagrad": described(optax.adagrad, initial_accumulator_value=0.3, eps=1e-3),
    "optax rmsprop": described(optax.rmsprop, **RMS),
    "optax rmsprop started": described(optax.rmsprop, initial_scale=0.5, **RMS),
    "optax rmsprop outside": described(optax.rmsprop, eps_in_sqrt=False, **RMS),
    "optax rmsprop centered": described(optax.rmsprop, centered=True, **RMS),
    "optax rmsprop momentum": described(optax.rmsprop, momentum=0.7, **RMS),
    "optax rmsprop nesterov": described(optax.rmsprop, momentum=0.7, nesterov=True, **RMS),
    "optax rmsprop corrected": described(optax.rmsprop, bias_correction=True, **RMS),
    "optax adam": described(optax.adam, eps_root=1e-3, **MOMENTS),
    "optax adam nesterov": described(optax.adam, RATE, nesterov=True, **MOMENTS),
    "optax adamw": described(optax.adamw, weight_decay=0.1, **MOMENTS),
    "optax nadam": described(optax.nadam, **MOMENTS),
    "optax amsgrad": described(optax.amsgrad, **MOMENTS),
    "optax adamax": described(optax.adamax, **MOMENTS),
    "optax lion": described(optax.lion, b1=0.8, b2=0.9, weight_decay=0.1),
    "closure of adam": described(closure_of_adam, RATE, beta1=0.8, beta2=0.95, epsilon=1e-3),
    "closure of rmsprop": described(closure_of_rmsprop, RATE, rho=0.8, eps=1e-3),
    "closure of heavy ball": described(closure_of_heavy_ball, lambda count: RATE, beta=0.8),
    "closure of descent": described(closure_of_descent, RATE),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.float64
def test_recipe_reproduces_the_optimizer(name):
    optimizer = OPTIMIZERS[name]()
    recipe = recipe_of(optimizer, STEPS)
    assert recipe is not None
    state = optimizer.init(PARAMETERS[0])
    program = traced(optimizer, GRADIENTS[0], state, PARAMETERS[0])
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(state)]
    updates = compiled_steps(program, leaves, [GRADIENTS], [PARAMETERS]).updates[0]
    np.testing.assert_allclose(simulate(recipe, GRADIENTS, PARAMETERS), updates, rtol=1e-12, atol=1e-14)


def test_optimizer_that_says_nothing_has_no_recipe():
    nameless = optimizer_of(lambda params: (), lambda g, state, params=None: (-0.1 * g, state))
    assert recipe_of(nameless, STEPS) is None


# Conventions ----------------------------------------------------------------------------------------------------------

RATES = np.asarray([float(changing_rate(step)) for step in range(-1, STEPS + 2)])
ADAM = Recipe(
    RATES,
    first="average",
    second="average",
    b1=0.7,
    b2=0.9,
    eps=0.03,
    correct_first=True,
    correct_second=True,
    decay=0.1,
)
BASES = {
    "adam": ADAM,
    "uncorrected": ADAM._replace(correct_first=False, correct_second=False),
    "amsgrad": ADAM._replace(largest="corrected"),
    "nadam": ADAM._replace(ahead="corrected"),
    "heavy ball": Recipe(RATES, first="sum", b1=0.7),
    "nesterov": Recipe(RATES, first="sum", b1=0.7, ahead="moment"),
    "rmsprop": Recipe(RATES, second="average", b2=0.9, eps=0.03, eps_at="inside", trail=0.7),
    "centered": Recipe(RATES, second="average", b2=0.9, eps=0.03, centered=True, trail=0.7, trail_ahead=True),
    "adagrad": Recipe(RATES, second="sum", eps=0.03, eps_at="inside", initial=0.3),
    "adamax": ADAM._replace(second="maximum", correct_second=False),
    "lion": Recipe(RATES, lion=True, b1=0.7, b2=0.9, decay=0.1),
    "ascent": Recipe(RATES, ascends=True),
    "trail": Recipe(RATES, rate_at="trail", trail=0.7),
    "constant rate": ADAM._replace(rate_step=None),
    "late": ADAM._replace(late=True),
    "decay missing": ADAM._replace(decay_at="nowhere"),
    "exchanged": ADAM._replace(corrected_by="b1", kept="corrected", of="|g|", stale="first", counted=1),
    "stale": ADAM._replace(stale="both"),
    "rootless": ADAM._replace(root=False),
    "multiplied, begun whole": ADAM._replace(corrected_as="multiplied", begins="whole", eps_in_gradient=True),
    "ε_root": ADAM._replace(eps_root=0.02),
    "ε_root in the state": ADAM._replace(eps_root=0.02, eps_root_at="state"),
    "sign of the momentum": Recipe(RATES, first="average", b1=0.7, sign=True),
    "unsigned": Recipe(RATES, lion=True, b1=0.7, b2=0.9, signed=False),
}
VALUES = [(field, value) for field, values in CHOICES.items() for value in values]


def named(pair):
    return f"{pair[0]} {pair[1]}"


def exhibit(recipe, variant):
    updates = [simulate(each, GRADIENTS, PARAMETERS) for each in (variant, recipe)]
    return Exhibit(recipe, GRADIENTS, PARAMETERS, *updates)


def said(explanations):
    return [explanation.sentence for explanation in explanations]


def test_choices_are_of_fields_whose_default_is_one_of_them():
    assert all(getattr(Recipe(RATES), field) in values for field, values in CHOICES.items())


@pytest.mark.one_in(8)
@pytest.mark.parametrize("choice", VALUES, ids=named)
def test_choice_changes_updates_and_is_named(choice):
    field, value = choice
    words = CHOICES[field][value]
    bases = [base for base in BASES.values() if getattr(base, field) != value]
    sentences = []
    for base in bases:
        shown = exhibit(base, base._replace(**{field: value}))
        if not np.allclose(shown.candidate, shown.reference, rtol=1e-6, equal_nan=True):
            sentences.append(said(identify([shown], IN_FLOAT64)))
            if any(sentence.startswith(f"{words}; in the reference, ") for sentence in sentences[-1]):
                return
    pytest.fail(f"{named(choice)} is never named; instead {sentences}")


PAIRS = {
    "sign and epsilon": ({"ascends": True, "eps_at": "inside"}, ("climbs", "ε is inside")),
    "epsilon and correction": ({"eps_at": "inside", "correct_first": False}, ("ε is inside", "m has no")),
}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("pair", PAIRS)
def test_two_changes_are_named(pair):
    changes, words = PAIRS[pair]
    shown = [exhibit(ADAM, ADAM._replace(**changes))]
    assert identify(shown, IN_FLOAT64) == []
    (sentence,) = said(identify_two(shown, IN_FLOAT64))
    assert sentence.startswith("two things differ. ")
    assert all(word in sentence for word in words)


OTHERS = {
    "rates exchanged": ({"b1": 0.9, "b2": 0.7}, "the two decay rates β₁ and β₂ are exchanged"),
    "one rate": ({"b2": 0.7}, "β₁ stands where β₂ should"),
    "other rate": ({"b1": 0.9}, "β₂ stands where β₁ should"),
    "complement": ({"b1": 1 - ADAM.b1}, "1 - β₁ stands where β₁ should"),
    "no correction": (
        {"correct_first": False, "correct_second": False},
        "bias correction is absent; in the reference, m and v have it",
    ),
    "decay of the other sign": ({"decay": -ADAM.decay}, "weight decay has the wrong sign: it makes the weights grow"),
    "counter stands": (
        {"counted": None, "rate_step": None},
        "the step counter never advances; in the reference, it counts the steps",
    ),
    "rate twice": ({"rate": ADAM.rate**2}, "the learning rate is applied twice"),
    "rate not at all": ({"rate": ADAM.rate**0}, "the learning rate is not applied"),
    "rounded": (
        {"b2": float(jnp.asarray(ADAM.b2, "bfloat16"))},
        "β₂ is rounded to bfloat16, 0.8984375; in the reference, it is 0.9",
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("other", OTHERS)
def test_numbers_and_several_fields_are_named(other):
    changes, sentence = OTHERS[other]
    sentences = said(identify([exhibit(ADAM, ADAM._replace(**changes))], IN_FLOAT64))
    assert sentence in sentences
    assert len(sentences) <= 2


def test_variations_change_the_recipe():
    for variation in variations(ADAM):
        changed = variation.change(ADAM)
        differing = {f for f in Recipe._fields if not np.array_equal(getattr(changed, f), getattr(ADAM, f))}
        assert differing <= set(variation.fields)


def test_default_is_named_where_it_alone_differs():
    usual = ADAM._replace(eps=1e-8)
    shown = [exhibit(usual, usual._replace(eps=1e-7)), exhibit(ADAM, ADAM)]
    assert identify(shown, IN_FLOAT64) == [("value", "ε is 1e-07; in the reference, it is 1e-08")]
    everywhere = [exhibit(usual, usual._replace(eps=1e-7)), exhibit(ADAM, ADAM._replace(eps=1e-7))]
    sentence = "ε is 1e-07, whatever it is set to; in the reference, it is 0.03"
    assert identify(everywhere, IN_FLOAT64) == [("value", sentence)]


def test_unknown_rule_is_not_named():
    noise = np.random.default_rng(9).standard_normal(GRADIENTS.shape)
    plain = Recipe(RATES)
    for find in (identify, identify_two):
        assert find([exhibit(plain, plain)._replace(candidate=noise).until(3)], IN_FLOAT64) == []
        assert find([exhibit(plain, plain._replace(ascends=True))._replace(recipe=None)], IN_FLOAT64) == []
        assert find([exhibit(ADAM, ADAM)], IN_FLOAT64) == []


# Values ---------------------------------------------------------------------------------------------------------------

STEADY = ADAM._replace(rate=np.full(STEPS + 3, 0.02), eps_root=0.01, initial=0.3)
OTHER_VALUES = {
    "rate": (STEADY, (0.0037, 1.7)),
    "b1": (STEADY, (0.12345, 0.98765)),
    "b2": (STEADY, (0.5123, 0.97, 0.99987)),
    "eps": (STEADY, (1.234e-5, 0.7)),
    "eps_root": (STEADY, (2.5e-4, 3.0)),
    "initial": (STEADY, (0.0, 0.0123, 4.4)),
    "decay": (STEADY, (3.3e-3, -0.045)),
    "trail": (BASES["rmsprop"]._replace(rate=STEADY.rate), (0.33, 0.995)),
}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("field", OTHER_VALUES)
def test_another_value_is_solved_for(field):
    recipe, values = OTHER_VALUES[field]
    assert list(OTHER_VALUES) == list(NUMBERS)
    for value in values:
        shown = exhibit(recipe, with_number(recipe, field, value))
        assert solved(recipe, field, *shown[1:4]) == pytest.approx(value, rel=1e-9)
        (kind, sentence), *_ = identify([shown], IN_FLOAT64)
        assert kind == "value"
        assert sentence.startswith(f"{NUMBERS[field].symbol} is {value:.9g}; in the reference, it is ")


def test_values_of_all_numbers_are_simulated_at_once():
    for field in NUMBERS:
        recipe, values = OTHER_VALUES[field]
        together = simulate(with_number(recipe, field, np.asarray(values)[:, None]), GRADIENTS, PARAMETERS)
        apart = [simulate(with_number(recipe, field, value), GRADIENTS, PARAMETERS) for value in values]
        np.testing.assert_allclose(np.moveaxis(together, 1, 0), apart, rtol=1e-12)


def test_value_has_as_few_digits_as_say_it():
    assert [rounded(x) for x in (0.97 + 1e-12, 0.99987, 0.8984375, 1e-8 * (1 + 1e-9))] == [
        0.97,
        0.99987,
        0.8984375,
        1e-8,
    ]


def test_every_mistake_that_explains_the_updates_is_listed_the_value_first():
    steady = ADAM._replace(rate=np.full(STEPS + 3, 0.01), decay=1e-4)
    assert said(identify([exhibit(steady, steady._replace(decay=0.01))], IN_FLOAT64)) == [
        "weight decay λ is 0.01; in the reference, it is 0.0001",
        "weight decay is not multiplied by the learning rate; in the reference, weight decay is decoupled, added to the"
        " direction as αλθ",
    ]
    descent = Recipe(np.full(STEPS + 3, 0.1))
    assert said(identify([exhibit(descent, with_number(descent, "rate", 0.01))], IN_FLOAT64)) == [
        "the learning rate α is 0.01; in the reference, it is 0.1",
        "the learning rate is applied twice",
    ]


def test_schedule_is_read_before_its_start():
    rising = Recipe(np.arange(-1.0, STEPS + 2))
    assert said(identify([exhibit(rising, rising._replace(rate_step="held"))], IN_FLOAT64)) == [
        "the schedule is read one step late, its first rate twice; in the reference, the schedule is read with the "
        "number of finished steps"
    ]
    updates = simulate(rising._replace(rate_step=-1), GRADIENTS[:2], PARAMETERS[:2])
    np.testing.assert_allclose(updates, np.array([[1.0], [0.0]]) * GRADIENTS[:2])
