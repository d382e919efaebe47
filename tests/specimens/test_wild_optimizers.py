"""The truth about public optimizers without the verifier: their updates beside the reference's, in float64.

The references that Optax lacks are held against PyTorch's or against a loop in NumPy.
"""

import collections
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.specimens.optimizers import wholes
from experiments.specimens.wild.optimizers import SPECIMENS, WILD_OPTIMIZER_FAULTS, WILD_RIGHT_OPTIMIZERS
from experiments.specimens.wild.optimizers.adam import ADABELIEF, HALF
from experiments.specimens.wild.optimizers.momentum import NORMALIZED
from experiments.specimens.wild.optimizers.others import WARMED_UP_AVERAGE
from jaxnet.verify.optimizers.adapters import StepDifference

ABOUT_FORM = ("structure", "shape", "dtype", "impure")
ABOUT_DIGITS = ("precision", "non_finite")
STEPS, MANY = 30, 300  # the latter is more than bfloat16 can count
TELLING = {
    "b1": 0.8,
    "b2": 0.95,
    "eps": 1e-3,
    "decay": 0.8,
    "momentum": 0.7,
    "dampening": 0.3,
    "beta": 0.8,
    "rho": 0.8,
    "weight_decay": 0.05,
}


@pytest.fixture(autouse=True)
def promoting():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def built(case):
    """Pairs of optimizers: as they are, or at a constant rate, and at a changing one with other hyperparameters."""
    if hasattr(case.candidate, "init"):
        return [(case.candidate, case.reference)]
    shared = [set(inspect.signature(f).parameters) for f in (case.candidate, case.reference)]
    numbers = {name: value for name, value in TELLING.items() if name in shared[0] & shared[1]}

    def rate(count):
        return 0.1 / (1 + jnp.asarray(count, jnp.result_type(float)) % 7)

    return [
        (case.candidate(0.1), case.reference(0.1)),
        (case.candidate(rate, **numbers), case.reference(rate, **numbers)),
    ]


def gradients_for(params, steps):
    """Normal numbers of a size for each element, 1e-4 to 10, some of them zero, such as the first two of the first."""
    generator = np.random.default_rng(3)
    leaves, tree = jax.tree.flatten(params)
    sizes = [10 ** generator.uniform(-4, 1, np.shape(leaf)) for leaf in leaves]
    for step in range(steps):
        drawn = [s * generator.standard_normal(s.shape) * (generator.random(s.shape) > 0.1) for s in sizes]
        if step < 2:
            for leaf in drawn:
                leaf.flat[0] = 0
        yield tree.unflatten(drawn)


def run(optimizer, params, trajectory, gradients):
    """The updates, at the parameters of the trajectory; everything in the dtypes of the parameters."""
    array = np.array if isinstance(optimizer.update, StepDifference) else jnp.asarray

    def like(tree):
        return jax.tree.map(lambda leaf, p: array(leaf, p.dtype), tree, params)

    state, updates = optimizer.init(like(params)), []
    for at, gradient in zip(trajectory, gradients, strict=True):
        update, state = optimizer.update(like(gradient), state, like(at))
        updates.append(jax.tree.map(lambda u: np.asarray(u, np.float64), update))
    return updates


def truth(reference, params, gradients):
    """The reference's updates in float64, and the parameters before each step."""
    state, at, updates, trajectory = reference.init(params), params, [], []
    for gradient in gradients:
        trajectory.append(at)
        update, state = reference.update(jax.tree.map(jnp.asarray, gradient), state, jax.tree.map(jnp.asarray, at))
        updates.append(jax.tree.map(np.asarray, update))
        at = jax.tree.map(lambda p, u: p + u, at, updates[-1])
    return updates, trajectory


def apart(found, expected):
    """The largest difference of any element over its largest update."""
    worst = 0.0
    for f, e in zip(*(_stacked(updates) for updates in (found, expected)), strict=True):
        if f.shape != e.shape or not np.isfinite(f).all():
            return np.inf
        worst = max(worst, (np.abs(f - e).max(axis=0) / np.maximum(np.abs(e).max(axis=0), 1e-12)).max())
    return worst


def _stacked(updates):
    return [np.stack(steps) for steps in zip(*map(jax.tree.leaves, updates), strict=True)]


def error(case, own_dtype=False, steps=STEPS):
    """How far the candidate is from its reference, in the worst of its settings."""
    worst = 0.0
    for candidate, reference in built(case):
        wide = jax.tree.map(lambda p: np.asarray(p, np.float64), case.params)
        gradients = list(gradients_for(case.params, steps))
        if own_dtype:
            gradients = jax.tree.map(lambda p, *gs: [np.asarray(g, p.dtype) for g in gs], case.params, *gradients)
            gradients = _transposed(gradients, case.params)
        with jax.enable_x64(True):
            expected, trajectory = truth(reference, wide, [_wide(g) for g in gradients])
        with jax.enable_x64(not own_dtype):
            found = run(candidate, case.params if own_dtype else wide, trajectory, gradients)
        worst = max(worst, apart(found, expected))
    return worst


def _wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def _transposed(lists, params):
    tree = jax.tree.structure(params)
    return [tree.unflatten(leaves) for leaves in zip(*tree.flatten_up_to(lists), strict=True)]


def named(specimens):
    return pytest.mark.parametrize("specimen", specimens, ids=lambda specimen: specimen.name)


@pytest.mark.one_in(90)
@pytest.mark.float64
@named([s for s in WILD_OPTIMIZER_FAULTS if s.kind not in ABOUT_FORM + ABOUT_DIGITS])
def test_fault_is_wrong(specimen):
    assert error(specimen.case) > 1e-6


@pytest.mark.one_in(2)
@pytest.mark.float64
@named([s for s in WILD_OPTIMIZER_FAULTS if s.kind in ABOUT_DIGITS])
def test_fault_loses_digits(specimen):
    assert error(specimen.case, own_dtype=True, steps=MANY if specimen.kind == "precision" else STEPS) > 2e-3


@pytest.mark.one_in(90)
@pytest.mark.float64
@named(WILD_RIGHT_OPTIMIZERS)
def test_mended_or_unusual_optimizer_is_right(specimen):
    assert error(specimen.case) < 1e-9


@named([s for s in WILD_OPTIMIZER_FAULTS if s.kind == "dtype"])
def test_fault_changes_a_dtype(specimen):
    case = specimen.case
    candidate = case.candidate(0.1)
    params = jax.tree.map(jnp.asarray, case.params)
    state = candidate.init(params)
    updates, after = candidate.update(params, state, params)
    assert dtypes((updates, after)) != dtypes((params, state))


def dtypes(tree):
    return [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]


@named([s for s in SPECIMENS if s.source == "ml-explore/mlx#4426"])
def test_fault_changes_its_arguments(specimen):
    params = jax.tree.map(np.array, specimen.case.params)
    gradients = jax.tree.map(np.ones_like, params)
    specimen.case.candidate.update(gradients, (), params)
    changed = any((g != 1).any() for g in jax.tree.leaves(gradients))
    assert changed == (specimen.kind == "impure")


@pytest.mark.float64
@named([s for s in WILD_RIGHT_OPTIMIZERS if s.name.endswith("that vanishes, mended")])
def test_mended_form_is_finite_in_its_own_dtype(specimen):
    assert error(specimen.case, own_dtype=True) < np.inf


def test_names_are_distinct_and_sources_are_given():
    names = collections.Counter(specimen.name for specimen in SPECIMENS)
    assert [name for name, count in names.items() if count > 1] == []
    assert all("#" in specimen.source or " " in specimen.source for specimen in SPECIMENS)
    assert len(WILD_OPTIMIZER_FAULTS) >= 34
    assert sum(not s.name.endswith(", mended") for s in WILD_RIGHT_OPTIMIZERS) >= 12


# The references that Optax lacks --------------------------------------------------------------------------------------


def drawn(family, rate=0.1):
    """The reference's updates in float64, the parameters before each step, and the gradients."""
    params = _wide(family.params)
    gradients = list(gradients_for(params, STEPS))
    with jax.enable_x64(True):
        return *truth(family.reference(rate), params, gradients), gradients


def by_torch(make, params, gradients):
    """The updates of an optimizer of PyTorch in float64."""
    torch = pytest.importorskip("torch")
    leaves, tree = jax.tree.flatten(params)
    tensors = [torch.tensor(leaf).requires_grad_() for leaf in leaves]
    optimizer, found = make(torch.optim, tensors), []
    for gradient in gradients:
        before = [tensor.detach().numpy().copy() for tensor in tensors]
        for tensor, g in zip(tensors, jax.tree.leaves(gradient), strict=True):
            tensor.grad = torch.tensor(g)
        optimizer.step()
        found.append(tree.unflatten([t.detach().numpy() - b for t, b in zip(tensors, before, strict=True)]))
    return found


@pytest.mark.float64
@pytest.mark.parametrize(
    ("family", "make"),
    [
        (wholes.SCHEDULED_NADAM, lambda optim, tensors: optim.NAdam(tensors, 0.1)),
        (wholes.RPROP, lambda optim, tensors: optim.Rprop(tensors, 0.1)),
        (wholes.ASGD, lambda optim, tensors: optim.ASGD(tensors, 0.1)),
        (wholes.DAMPENED, lambda optim, tensors: optim.SGD(tensors, 0.1, 0.9, dampening=0.5)),
    ],
    ids=lambda given: getattr(given, "area", ""),
)
def test_reference_by_hand_is_pytorchs(family, make):
    expected, trajectory, gradients = drawn(family)
    assert apart(by_torch(make, trajectory[0], gradients), expected) < 1e-6  # PyTorch keeps some numbers in float32


@pytest.mark.float64
def test_reference_in_float16_is_optaxs_where_it_can_be():
    expected, trajectory, gradients = drawn(HALF)
    with jax.enable_x64(True):
        assert apart(run(optax.adam(0.1), trajectory[0], trajectory, gradients), expected) < 1e-9


def normalized_steps(gradients, thetas):
    m = np.zeros_like(thetas[0])
    for g in gradients:
        m = 0.9 * m + 0.1 * g
        yield -0.1 * m / np.linalg.norm(m) if m.any() else 0 * m


def sophia_steps(gradients, thetas):
    m = h = np.zeros_like(thetas[0])
    for g in gradients:
        m, h = 0.965 * m + 0.035 * g, 0.99 * h + 0.01 * g * g
        quotient = m / np.maximum(0.04 * h, 1e-12)
        yield -0.1 * np.sign(quotient) * np.minimum(np.abs(quotient), 1)


def adopt_steps(gradients, thetas):
    v, m = gradients[0] ** 2, np.zeros_like(thetas[0])
    yield 0 * m
    for g in gradients[1:]:
        m = 0.9 * m + 0.1 * g / np.maximum(np.sqrt(v), 1e-6)
        v = 0.9999 * v + 0.0001 * g * g
        yield -0.1 * m


def adabelief_steps(gradients, thetas):
    m = s = np.zeros_like(thetas[0])
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * (g - m) ** 2
        yield -0.1 * (m / (1 - 0.9**t)) / (np.sqrt((s + 1e-8) / (1 - 0.999**t)) + 1e-8)


def moving_average_steps(gradients, thetas):
    for w, theta in zip(gradients, thetas, strict=True):
        yield 0.99 * theta + 0.01 * w - theta


def running_mean_steps(gradients, thetas):
    for t in range(len(gradients)):
        yield np.mean([thetas[0], *gradients[: t + 1]], axis=0) - thetas[t]


def warmed_up_average_steps(gradients, thetas):
    for t, (w, theta) in enumerate(zip(gradients, thetas, strict=True), start=1):
        decay = min(0.9999, (1 + t) / (10 + t))
        yield decay * theta + (1 - decay) * w - theta


@pytest.mark.float64
@pytest.mark.parametrize(
    ("family", "steps"),
    [
        (NORMALIZED, normalized_steps),
        (wholes.SOPHIA, sophia_steps),
        (wholes.ADOPT, adopt_steps),
        (ADABELIEF, adabelief_steps),
        (wholes.MOVING_AVERAGE, moving_average_steps),
        (wholes.RUNNING_MEAN, running_mean_steps),
        (WARMED_UP_AVERAGE, warmed_up_average_steps),
    ],
    ids=lambda given: getattr(given, "area", ""),
)
def test_reference_by_hand_is_a_loop_in_numpy(family, steps):
    expected, trajectory, gradients = drawn(family)
    tree = jax.tree.structure(expected[0])
    columns = [
        list(steps(list(gs), list(thetas)))
        for gs, thetas in zip(
            *(zip(*map(jax.tree.leaves, rows), strict=True) for rows in (gradients, trajectory)), strict=True
        )
    ]
    assert apart([tree.unflatten(row) for row in zip(*columns, strict=True)], expected) < 1e-9
