"""The verdict on optimizers, in reports: what passes, what is found, where, and what is said of it."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet.verify import verify_optimizer
from jaxnet.verify.optimizers import comparison
from tests.verify.rules import normal

pytestmark = pytest.mark.one_in(3)

PARAMS = {"b": normal(2), "w": normal(3, 2, seed=1)}
REFERENCE = jaxnet.optimizers.heavy_ball(0.01)
KEY = jax.random.key(5)


def optimizer_of(init: Any, update: Any):
    return optax.GradientTransformation(init, update)


class Nameless:
    """The reference without what says its numbers: no convention is looked for, which takes long."""

    def init(self, params):
        return REFERENCE.init(params)

    def update(self, gradients, state, params=None):
        return REFERENCE.update(gradients, state, params)


NAMELESS = Nameless()


def changed(change, reference: Any = REFERENCE):
    """The reference with its updates changed: (update, gradient, parameter, count) -> update, leaf by leaf."""

    def update(gradients, state, params=None):
        updates, state = reference.update(gradients, state, params)
        return jax.tree.map(lambda u, g, p: change(u, g, p, state.count), updates, gradients, params), state

    return optimizer_of(reference.init, update)


def verified(candidate: Any, reference: Any = REFERENCE, params: Any = PARAMS, **options: Any):
    return verify_optimizer(candidate, reference, params, **(dict[str, Any](key=KEY) | options))


def heavy_ball(learning_rate, momentum, state_of=lambda velocity: {"velocity": velocity}, through=lambda v: v):
    """A plain closure; the state holds the velocity times something, `through` undoes it."""

    def init(params):
        return state_of(jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        velocity = through(jax.tree.leaves(state))
        leaves, tree = jax.tree.flatten(gradients)
        velocity = [momentum * v + g for v, g in zip(velocity, leaves, strict=True)]
        return tree.unflatten([-learning_rate * v for v in velocity]), state_of(tree.unflatten(velocity))

    return optimizer_of(init, update)


# A report ------------------------------------------------------------------------------------------------------------


def test_right_optimizer_passes():
    report = verified(heavy_ball(0.01, 0.9))
    report.raise_if_failed()
    assert report.subject == "optimizer"
    assert report.notes == ()
    leaves = {"updates['b']", "updates['w']", "state.velocity['b']", "state.velocity['w']"}
    assert set(report.leaves) >= leaves
    assert all(0 <= units < 4 for units in report.leaves.values())
    rounded = verified(heavy_ball(0.01, 0.9, through=lambda v: [x * 3 / 3 for x in v]))
    assert any(0 < units < 4 for units in rounded.leaves.values())
    assert report.conditions["dtype"] == "float32"
    assert report.conditions["gradients"] == "7 sequences of 320 steps"
    assert report.conditions["device"].startswith(jax.devices()[0].platform)
    assert json.loads(report.to_json())["passed"] is True
    again = verified(heavy_ball(0.01, 0.9))
    assert again == report
    other = verified(heavy_ball(0.01, 0.9, through=lambda v: [x * 3 / 3 for x in v]), key=jax.random.key(6))
    assert other.leaves != rounded.leaves


def test_one_wrong_element_of_one_leaf_is_found():
    wrong = changed(lambda u, g, p, count: u.at[1, 1].multiply(1.001) if u.ndim == 2 else u)
    report = verified(wrong)
    assert not report
    (finding,) = report.findings
    assert (finding.path, finding.kind, finding.index) == ("updates['w']", "partial", (1, 1))
    assert "(in 1 of 2 leaves: ['w'])" in finding.explanation
    assert finding.where.startswith("step 1, ")
    assert finding.candidate == pytest.approx(1.001 * finding.expected, rel=1e-9)
    assert finding.rounding < 1e-12 < finding.error
    assert json.loads(report.to_json())["findings"][0]["index"] == [1, 1]
    assert report.leaves["updates['b']"] < 4 < report.leaves["updates['w']"]


def test_mistake_that_begins_late_is_found_there():
    finding = verified(changed(lambda u, g, p, count: jnp.where(count > 257, 2 * u, u)), NAMELESS).findings[0]
    assert finding.where.startswith("step 258, ")
    assert finding.candidate == pytest.approx(2 * finding.expected)


WRONG = {
    "large gradients": (lambda u, g, p, count: jnp.where(abs(g) > 1e5, 1.01 * u, u), "unknown", "no convention", "e+"),
    "zero gradients": (lambda u, g, p, count: jnp.where(g == 0, 0 * u, u), "unknown", "no convention", "pauses"),
    "negative gradients": (lambda u, g, p, count: jnp.where(g < 0, 1.01 * u, u), "unknown", "no convention", ""),
    "a factor": (lambda u, g, p, count: 1.01 * u, "scale", "1.01 times", ""),
    "ascent": (lambda u, g, p, count: -u, "convention", "the sign is wrong", ""),
    "new parameters": (lambda u, g, p, count: p + u, "convention", "returns the new parameters", ""),
    "zeros": (lambda u, g, p, count: 0 * u, "zero", "zero in every step", ""),
    "not a number": (lambda u, g, p, count: jnp.where(g == 0, jnp.nan, u), "non_finite", "not a number", "pauses"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_update_is_found(name):
    change, kind, says, where = WRONG[name]
    finding = verified(changed(change), NAMELESS).findings[0]
    assert finding.path in ("updates['b']", "updates['w']")
    assert finding.kind == kind
    assert says in finding.explanation
    assert where in finding.where


def test_convention_is_named_and_the_state_beside_it():
    candidate = heavy_ball(0.01, 0.5)
    updates, state = verified(candidate).findings
    assert updates.kind == state.kind == "value"
    assert "0.5" in updates.explanation
    assert state.path == "state['velocity']['b']"
    assert state.explanation == "it is another than the reference's; see the updates"


# Precision -----------------------------------------------------------------------------------------------------------


def in_bfloat16(u, g, p, count):
    return u if u.dtype == jnp.float64 else u.astype(jnp.bfloat16).astype(u.dtype)


@pytest.mark.parametrize("native", [False, True], ids=["float64 first", "native"])
def test_loss_of_precision_is_found(native):
    finding = verified(changed(in_bfloat16), native=native).findings[0]
    assert finding.path == "updates['b']"
    assert 1e-4 < finding.error < 1e-2
    if not native:
        assert finding.kind == "precision"
        assert "right in float64" in finding.explanation


def test_native_runs_in_float64_never():
    seen = []
    verified(changed(lambda u, g, p, count: seen.append(u.dtype) or u), native=True).raise_if_failed()
    assert set(seen) == {jnp.dtype("float32")}
    finding = verified(changed(lambda u, g, p, count: -u), native=True).findings[0]
    assert "the sign is wrong" in finding.explanation


def refusing(u, g, p, count):
    if u.dtype == jnp.float64:
        raise TypeError("float32 only")
    return u


def test_what_does_not_run_in_float64_is_judged_in_its_own_dtype():
    report = verified(changed(refusing))
    report.raise_if_failed()
    assert "does not run in float64 (TypeError: float32 only)" in report.notes[0]
    finding = verified(changed(lambda u, g, p, count: refusing(-u, g, p, count))).findings[0]
    assert "the sign is wrong" in finding.explanation


def test_casts_inside_are_lifted():
    report = verified(changed(lambda u, g, p, count: u.astype(jnp.float32).astype(u.dtype)))
    report.raise_if_failed()
    assert report.notes == ()
    assert max(report.leaves.values()) < 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_parameters(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    report = verified(REFERENCE, params=params, steps=64)
    report.raise_if_failed()
    assert report.conditions["dtype"] == dtype
    assert report.conditions["gradients"].endswith(" of 64 steps")


@pytest.mark.float64
def test_own_dtype_is_float32_where_the_parameters_are_float64():
    seen = set()

    def noted(u, g, p, count):
        seen.add(str(p.dtype))
        return u

    verified(changed(noted), params=jax.tree.map(lambda leaf: leaf.astype("float64"), PARAMS)).raise_if_failed()
    assert seen == {"float32", "float64"}


# The state -----------------------------------------------------------------------------------------------------------


def test_state_of_another_form_passes_with_a_note():
    candidate = heavy_ball(
        0.01, 0.9, lambda v: {"velocity_": jax.tree.map(lambda x: 0.25 * x, v)}, lambda v: [4 * x for x in v]
    )
    report = verified(candidate)
    report.raise_if_failed()
    note = "the reference's state field velocity has no counterpart of equal value: the candidate's velocity_ is 0.25"
    assert any(line.startswith(note) for line in report.notes)


def test_state_under_another_name_is_known_by_its_value():
    report = verified(heavy_ball(0.01, 0.9, lambda v: {"rolling": v}))
    report.raise_if_failed()
    assert "the reference's state field velocity is the candidate's rolling, by value" in report.notes


def test_wrong_field_beside_right_updates_is_found():
    candidate = heavy_ball(
        0.01, 0.9, lambda v: {"velocity": jax.tree.map(lambda x: 0.25 * x, v)}, lambda v: [4 * x for x in v]
    )
    (finding,) = verified(candidate).findings
    assert (finding.path, finding.kind) == ("state['velocity']['b']", "convention")
    assert "0.25 times the reference's in every step, while the updates agree" in finding.explanation


# What the candidate does becomes a finding; bad input raises ---------------------------------------------------------


def raising(*arguments):
    raise KeyError("no such thing")


def test_candidate_that_raises_is_a_finding():
    (finding,) = verified(optimizer_of(raising, REFERENCE.update)).findings
    assert (finding.kind, finding.explanation) == ("unknown", "the candidate raises KeyError: 'no such thing'")


def test_candidate_that_cannot_be_built_is_a_finding():
    (finding,) = verified(lambda learning_rate, more: REFERENCE, jaxnet.optimizers.heavy_ball).findings
    assert finding.kind == "unknown"
    assert "the candidate cannot be built: it raises TypeError" in finding.explanation
    assert "'more'" in finding.explanation


def test_reference_that_jax_cannot_trace():
    def update(gradients, state, params=None):
        assert float(jax.tree.leaves(gradients)[0].sum()) is not None
        return REFERENCE.update(gradients, state, params)

    untraceable = optimizer_of(REFERENCE.init, update)
    verified(REFERENCE, untraceable, steps=4).raise_if_failed()
    assert verified(changed(lambda u, g, p, count: 1.01 * u), untraceable, steps=4).findings[0].kind == "scale"


BAD: dict[str, Any] = {
    "mixture": ((jaxnet.adam, REFERENCE, PARAMS), {}, TypeError, "not a mixture"),
    "no optimizer": ((3, REFERENCE, PARAMS), {}, TypeError, "candidate must be an optax.GradientTransformation"),
    "no reference": ((REFERENCE, "adam", PARAMS), {}, TypeError, "reference must be an optax.GradientTransformation"),
    "integers": ((REFERENCE, REFERENCE, {"n": jnp.arange(3)}), {}, TypeError, "params.'n'. must be real floating"),
    "empty": ((REFERENCE, REFERENCE, {}), {}, ValueError, "params are empty"),
    "empty leaf": ((REFERENCE, REFERENCE, {"w": jnp.ones((0, 3))}), {}, ValueError, "finite and not empty"),
    "not finite": ((REFERENCE, REFERENCE, {"w": jnp.asarray([jnp.inf])}), {}, ValueError, "must be finite"),
    "no key": ((REFERENCE, REFERENCE, PARAMS), {"key": 0}, TypeError, "key"),
    "no steps": ((REFERENCE, REFERENCE, PARAMS), {"steps": 0}, ValueError, "steps"),
    "half a step": ((REFERENCE, REFERENCE, PARAMS), {"steps": 1.5}, TypeError, "steps"),
    "reference raises": (
        (REFERENCE, optimizer_of(raising, raising), PARAMS),
        {},
        ValueError,
        "the reference raises KeyError: 'no such thing'",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises(name):
    arguments, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        verify_optimizer(*arguments, **(dict[str, Any](key=KEY) | options))


def test_factories_are_compared_at_two_settings():
    report = verified(jaxnet.optimizers.heavy_ball, jaxnet.optimizers.heavy_ball)
    report.raise_if_failed()
    assert report.subject == "optimizer heavy_ball"
    assert report.conditions["compared at"] == "learning rate 0.013; changing learning rate, momentum=0.7"


def test_number_that_one_setting_hides_is_found():
    def deaf(learning_rate: Any, momentum: float = 0.9):
        return jaxnet.optimizers.heavy_ball(learning_rate, 0.9)

    finding = verified(deaf, jaxnet.optimizers.heavy_ball).findings[0]
    assert finding.kind == "value"
    assert "changing learning rate, momentum=0.7" in finding.where


def test_parameters_of_numpy_and_any_tree():
    verified(REFERENCE, params=[np.ones(2, np.float32), (normal(), None)], steps=4).raise_if_failed()


def test_long_runs_are_cut_into_stretches(monkeypatch):
    monkeypatch.setattr(comparison, "NUMBERS_AT_ONCE", 300)
    verified(heavy_ball(0.01, 0.9), steps=64).raise_if_failed()
    finding = verified(changed(lambda u, g, p, count: jnp.where(count > 57, 2 * u, u)), NAMELESS, steps=64).findings[0]
    assert finding.where.startswith("step 58, ")
