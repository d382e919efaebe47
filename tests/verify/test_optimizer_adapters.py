"""Optimizers in other forms, and the parts of their verdict: fields, differences, sequences, form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet.verify import from_step, from_torch, verify_optimizer
from jaxnet.verify.optimizers import form
from jaxnet.verify.optimizers.differences import Pair
from jaxnet.verify.optimizers.fields import Field, fields
from jaxnet.verify.optimizers.sequences import STEPS, sequences
from jaxnet.verify.optimizers.sides import Way
from tests.verify.rules import normal

pytestmark = pytest.mark.one_in(2)

PARAMS = {"b": normal(2), "w": normal(3, 2, seed=1)}
DESCENT = jaxnet.gradient_descent(0.1)
HEAVY_BALL = jaxnet.optimizers.heavy_ball(0.1, 0.5)


def optimizer_of(init: Any, update: Any):
    return optax.GradientTransformation(init, update)


# Adapters ------------------------------------------------------------------------------------------------------------


def zeros(params):
    return jax.tree.map(lambda p: 0 * p, params)


def in_jax(params, gradients, velocity):
    velocity = jax.tree.map(lambda v, g: 0.5 * v + g, velocity, gradients)
    return jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity), velocity


def in_numpy(params, gradients, velocity):
    velocity = {name: 0.5 * v + np.asarray(gradients[name]) for name, v in velocity.items()}
    return {name: np.asarray(p) - np.asarray(0.1, p.dtype) * velocity[name] for name, p in params.items()}, velocity


def in_place(params, gradients, velocity):
    for name, p in params.items():
        velocity[name] *= 0.5
        velocity[name] += gradients[name]
        p[...] -= 0.1 * velocity[name]
    return None, velocity


STEPPED: dict[str, Any] = {
    "in JAX": (in_jax, None),
    "in NumPy": (in_numpy, "cannot trace"),
    "in NumPy in place": (in_place, "takes NumPy's arrays"),
}


@pytest.mark.parametrize("name", STEPPED)
def test_from_step(name):
    step, note = STEPPED[name]
    report = verify_optimizer(from_step(zeros, step), HEAVY_BALL, PARAMS, key=jax.random.key(1), steps=16)
    report.raise_if_failed()
    assert note is None or note in " ".join(report.notes)


def test_update_from_step_is_the_difference():
    given = {"b": np.ones(2), "w": np.ones((3, 2))}
    optimizer = from_step(zeros, in_place)
    updates: Any = optimizer.update(given, zeros(given), given)[0]
    np.testing.assert_allclose(np.asarray(updates["w"]), -0.1)
    assert (given["w"] == 1).all()


def torch_verdict(make, reference):
    return verify_optimizer(from_torch(make), reference, PARAMS, key=jax.random.key(1), steps=24)


def test_from_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch_verdict(lambda tensors: torch.optim.Adam(tensors, lr=0.01), jaxnet.adam(0.01)).raise_if_failed()
    decayed = torch_verdict(
        lambda tensors: torch.optim.AdamW(tensors, lr=0.01, weight_decay=0.1),
        jaxnet.optimizers.adamw(0.01, weight_decay=0.1),
    )
    decayed.raise_if_failed()
    coupled = torch_verdict(
        lambda tensors: torch.optim.Adam(tensors, lr=0.01, weight_decay=0.1),
        jaxnet.optimizers.adamw(0.01, weight_decay=0.1),
    )
    assert coupled.findings[0].kind == "convention"
    assert "coupled" in coupled.findings[0].explanation
    outside = torch_verdict(
        lambda tensors: torch.optim.RMSprop(tensors, lr=0.01, alpha=0.9),
        jaxnet.optimizers.rmsprop(0.01, eps_in_sqrt=False),
    )
    outside.raise_if_failed()
    inside = torch_verdict(
        lambda tensors: torch.optim.RMSprop(tensors, lr=0.01, alpha=0.9), jaxnet.optimizers.rmsprop(0.01)
    )
    assert "ε is outside the square root" in inside.findings[0].explanation


# Fields --------------------------------------------------------------------------------------------------------------


class Slots(NamedTuple):
    t: Any
    exp_avg: Any
    key: Any


def test_fields_have_names_and_owners():
    found = fields(Slots(jnp.int32(0), PARAMS, jax.random.key(0)), PARAMS)
    assert [(f.path, f.of, f.name, f.shape, f.whole) for f in found] == [
        (".t", None, "t", (), True),
        (".exp_avg['b']", "['b']", "exp_avg", (2,), False),
        (".exp_avg['w']", "['w']", "exp_avg", (3, 2), False),
        (".key", None, "key", (2,), True),
    ]


def test_fields_of_bare_and_scalar_parameters():
    (bare,) = fields({"mu": jnp.ones(3)}, jnp.ones(3))
    assert (bare.of, bare.name) == ("", "mu")
    (scalar,) = fields({"mu": {"s": jnp.ones(())}}, {"s": jnp.ones(())})
    assert (scalar.of, scalar.name, scalar.shape) == ("['s']", "mu", ())
    (other,) = fields({"mu": {"s": jnp.ones(4)}}, {"s": jnp.ones(())})
    assert (other.of, other.shape) == (None, (4,))


def test_the_longest_path_owns_a_field():
    inner = {"w": jnp.ones(2), "x": {"w": jnp.ones(2)}}
    assert [f.of for f in fields({"mu": inner}, inner)] == ["['w']", "['x']['w']"]


def test_namesakes():
    mu = Field(".mu['b']", "['b']", "mu", (2,), False)
    assert mu.alike(mu._replace(name="other"))
    assert not mu.alike(mu._replace(shape=(3,)))
    assert not mu.alike(mu._replace(of="['w']"))
    assert mu.namesake(mu)
    assert mu.namesake(mu._replace(name="exp_avg"))
    assert not mu.namesake(mu._replace(name="exp_avg_sq"))
    assert not mu.namesake(mu._replace(name="exp_avg", shape=(3,)))
    rare = mu._replace(name="rare")
    assert rare.namesake(rare)
    assert not rare.namesake(mu)


# Differences ---------------------------------------------------------------------------------------------------------

EXPECTED = np.arange(1.0, 7).reshape(3, 2)
NOISE = np.full((3, 2), 1e-3)


def seen(found, expected=EXPECTED, limit=4.0):
    pair = Pair()
    pair.see("here", 10, found, expected, NOISE, limit)
    return pair


def test_units_and_first_step():
    found = EXPECTED.copy()
    found[0, 0] += 0.002
    assert seen(found).first is None
    assert seen(found).units == pytest.approx(2)
    found[1, 1] += 0.008
    found[2, 0] -= 0.1
    pair = seen(found)
    assert pair.units == pytest.approx(100)
    assert pair.places == {"here"}
    assert pair.first is not None
    assert pair.first[:5] == ("here", 12, (1,), found[1, 1], 4.0)
    assert pair.first.error == pytest.approx(0.008 / 5)
    assert pair.first.rounding == pytest.approx(np.sqrt(2) * 1e-3 / 5)


def test_sequence_in_which_it_stands_out_most_is_shown():
    pair = Pair()
    for where, factor in (("a", 1.1), ("b", 1.5), ("c", 1.2)):
        pair.see(where, 0, factor * EXPECTED, EXPECTED, NOISE, 4.0)
    assert pair.first is not None
    assert (pair.first.where, pair.places) == ("b", {"a", "b", "c"})


def test_numbers_that_are_not_finite():
    found = EXPECTED.copy()
    found[1, 0] = np.nan
    assert seen(found).units == np.inf
    first = seen(found).first
    assert first is not None
    assert (first.step, first.index) == (12, (0,))
    unknown = np.where(np.isnan(found), np.inf, EXPECTED)
    assert seen(found, unknown).first is None
    assert seen(np.where(np.isnan(found), 9, found), unknown).first is None


def test_factor_and_shift():
    assert seen(1.5 * EXPECTED).factor == pytest.approx(1.5)
    assert seen(EXPECTED).factor is None
    assert seen(EXPECTED + 2).factor is None
    assert seen(EXPECTED + 2).shift == 2
    assert seen(EXPECTED).shift is None
    assert seen(1.5 * EXPECTED).shift is None


# Sequences -----------------------------------------------------------------------------------------------------------


def drawn(sequence, seed=0, steps=30):
    return np.stack([leaf for (leaf,) in sequence.draw(np.random.default_rng(seed), [(50,)], steps)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_sequences(dtype):
    limits = jnp.finfo(dtype)
    found = sequences(limits)
    assert STEPS > 300
    assert len(found) == (6 if dtype == "float16" else 7)  # small and tiny are one where squares underflow
    for sequence in found:
        gradients = drawn(sequence)
        assert (gradients == drawn(sequence)).all()
        assert (gradients != drawn(sequence, seed=1)).any()
        assert (gradients**2).max() < float(limits.max)
        sizes = np.abs(gradients[gradients != 0])
        assert np.median(sizes) ** 2 > float(limits.tiny)


def test_sequences_have_zeros_signs_and_sizes():
    by_name = {sequence.name: drawn(sequence, steps=300) for sequence in sequences(jnp.finfo(np.float32))}
    assert len(by_name) == 7
    paused = by_name["sparse gradients with pauses"]
    assert (paused[:3] == 0).all()
    assert (paused[100:200] == 0).all()
    assert 0.6 < (paused[3:100] == 0).mean() < 0.8
    one_sign = by_name["gradients of one sign"]
    assert (np.abs(one_sign.mean(axis=0)) > 1).mean() > 0.5
    assert {1e-4, 1e-8, 1e6} <= {10.0 ** np.round(np.log10(np.abs(gradients).mean())) for gradients in by_name.values()}
    changing = np.abs(by_name["gradients of changing size"]).mean(axis=1)
    assert changing.max() > 1e5 * changing.min()


# Form ----------------------------------------------------------------------------------------------------------------


class Counter:
    calls = 0


def counting(gradients, state, params=None):
    Counter.calls += 1
    return jax.tree.map(lambda g: Counter.calls * g, gradients), state


def in_place_on_gradients(gradients, state, params=None):
    for g in gradients.values():
        np.multiply(g, -1, out=g)
    return {name: g.copy() for name, g in gradients.items()}, state


def raising(gradients, state, params=None):
    raise KeyError("bad luck")


def same(gradients, state, params=None):
    return gradients, state


def state_to(change):
    return lambda gradients, state, params=None: (gradients, change(state))


def updates_to(change):
    return lambda gradients, state, params=None: (change(gradients), state)


FORMS: dict[str, Any] = {
    "raises": (raising, "updates", "unknown", "the candidate raises KeyError: 'bad luck'"),
    "a list": (updates_to(lambda g: list(g.values())), "updates", "structure", "must be a tree like the parameters"),
    "transposed": (updates_to(lambda g: g | {"w": g["w"].T}), "updates['w']", "shape", "[2, 3] where [3, 2]"),
    "integers": (
        updates_to(lambda g: g | {"b": g["b"].astype("int32")}),
        "updates['b']",
        "dtype",
        "int32, the parameter float32",
    ),
    "tree of state": (state_to(lambda s: (s, s)), "state", "structure", "changes its tree in a step"),
    "shape of state": (state_to(lambda s: jnp.append(s, 0.0)), "state", "shape", "from [2] to [3]"),
    "wider updates": (
        updates_to(lambda g: g | {"b": g["b"].astype("float64")}),
        "updates['b']",
        "dtype",
        "the update is float64, the parameter float32",
    ),
    "dtype of state": (state_to(lambda s: s.astype("bfloat16")), "state", "dtype", "from float32 to bfloat16"),
    "counter in Python": (counting, "updates", "impure", "the same step taken twice gives two answers"),
    "gradients in place": (in_place_on_gradients, "updates", "impure", "changes the gradients in place"),
}


@pytest.mark.parametrize("name", FORMS)
def test_form(name):
    update, path, kind, says = FORMS[name]
    candidate = optimizer_of(lambda params: jnp.zeros(2, "float32"), update)
    finding = form.check(candidate, PARAMS, np.random.default_rng(0)).findings[0]
    assert (finding.path, finding.kind) == (path, kind)
    assert says in finding.explanation


def test_dtypes_of_the_reference_and_of_the_state_are_allowed():
    half = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), PARAMS)
    wide = updates_to(lambda g: jax.tree.map(lambda leaf: leaf.astype("float32"), g))
    stateless = optimizer_of(lambda params: (), wide)
    assert {f.kind for f in form.check(stateless, half, np.random.default_rng(0)).findings} == {"dtype"}
    usual = [jnp.dtype("float32")] * 2
    assert form.check(stateless, half, np.random.default_rng(0), usual).findings == ()
    averaged = optimizer_of(lambda params: jnp.zeros(2, "float32"), wide)
    assert form.check(averaged, half, np.random.default_rng(0)).findings == ()


@pytest.mark.float64
def test_states_of_numpy_may_change_between_its_floats():
    def stepping(change):
        return optimizer_of(lambda params: np.zeros(2, "float32"), lambda g, s, p=None: (g, change(s)))

    check = form.check
    assert check(stepping(lambda s: s.astype("float64")), PARAMS, np.random.default_rng(0)).findings == ()
    for change in (lambda s: jnp.asarray(s, "float64"), lambda s: s.astype(int)):
        (finding,) = check(stepping(change), PARAMS, np.random.default_rng(0)).findings
        assert finding.kind == "dtype"


def test_right_form():
    found = form.check(DESCENT, PARAMS, np.random.default_rng(0))
    assert found == form.Form(())


def test_form_of_the_untraceable_and_of_numpy():
    def plain(gradients, state, params=None):
        return jax.tree.map(lambda g: -float(g.sum()) * g, gradients), state

    found = form.check(optimizer_of(lambda params: (), plain), PARAMS, np.random.default_rng(0))
    assert (found.findings, found.way) == ((), Way())
    assert found.notes[0].startswith("jax.jit cannot trace the candidate (ConcretizationTypeError)")
    found = form.check(from_step(zeros, in_place), PARAMS, np.random.default_rng(0))
    assert (found.findings, found.way) == ((), Way(np.array))
    assert found.notes[-1] == "the candidate takes NumPy's arrays, not JAX's"


def test_state_made_in_the_first_step_is_compared_from_there():
    def late(gradients, state, params=None):
        return gradients, {"step": jnp.float32(1)} if state else {"step": jnp.float32(0)}

    assert form.check(optimizer_of(lambda params: {}, late), PARAMS, np.random.default_rng(0)).findings == ()
