"""Programs that nobody wrote: autodiff of any passes; any change of its derivative that changes the gradient fails.

A usual run draws a few. Hundreds of new ones, each time others, in a quarter of an hour a test:

    python -m pytest tests/fuzz/test_programs.py --hypothesis-profile long
"""

import collections
import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume, event, given, settings

from jaxnet.verify import verify_vjp
from jaxnet.verify.engine.places import Domain
from tests.fuzz.alterations import alterations, backward_of, is_float, wrong_at
from tests.fuzz.programs import LARGEST, REVERSIBLE, programs
from tests.specimens.differences import bounds_by_differences, widened

MATTERS = 1e-5  # a change of the gradient, relative to its largest element
BETWEEN_CLEARINGS = 100  # programs, after which what is compiled is thrown away
FEW = settings(max_examples=max(1, settings().max_examples - 4))  # in a usual run
COUNT: collections.Counter[str] = collections.Counter()


def any_programs():
    """Programs, some of which loops make irreversible."""
    return st.sampled_from([False] * 7 + [True]).flatmap(
        lambda loops: st.tuples(programs((*REVERSIBLE, "while"), "while") if loops else programs(), st.just(loops))
    )


def counted(what):
    COUNT[what] += 1
    if COUNT[what] % BETWEEN_CLEARINGS == 0:
        jax.clear_caches()


def as_users_run():
    """Some programs mix dtypes and ranks."""
    return jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")


def autodiff_passes(data):
    program, forward = data.draw(any_programs())
    dtypes, ranks = as_users_run()
    with dtypes, ranks:
        function, args = program.function(), program.values()
        assume(well_behaved(program, forward))
        counted("A")
        key = jax.random.key(data.draw(st.integers(0, 3)))
        options = data.draw(st.sampled_from([{}, {}, {}, {}, {"native": True}, {"at": "given"}]))
        try:
            report = verify_vjp(function, backward_of(function, forward), *args, key=key, **options)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n{program!r}") from error
        left = [finding for finding in report.findings if not lost_by_itself(finding)]
        if len(left) < len(report.findings):
            counted("A, lost by itself")
        if left and all(wrong_at_zeros(program, forward, finding.where) for finding in left):
            counted("A, wrong at zero")
            return
        assert not left, f"{report}\n{program!r}\n{options}, {key}"


def lost_by_itself(finding):
    """What the function loses in its dtype, whatever its derivative is; autodiff as well."""
    if finding.kind == "non_finite":
        return "magnitudes" in finding.where
    return finding.kind == "precision" and "it is 0 in" in finding.explanation


ZEROS = {"all zeros": np.zeros_like, "zeros": lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 2}


def wrong_at_zeros(program, forward, where):
    """Whether autodiff is, as differences say, too: a branch that is taken there alone, as `where(x == 0, x, x**2)`."""
    if where not in ZEROS:
        return False
    function = program.widened()
    args = jax.tree.map(
        lambda leaf: jnp.asarray(Domain(leaf, np.float32).with_zeros(ZEROS[where])) if is_float(leaf) else leaf,
        widened(program.values()),
    )
    cotangent = cotangent_like(jax.eval_shape(function, *args))
    bounds = bounds_by_differences(function, args, cotangent, range(len(args)))
    found = floats_of(backward_of(function, forward)(args, cotangent))
    return any(
        ((leaf < low - 1e-3) | (leaf > high + 1e-3)).any() for (low, high), leaf in zip(bounds, found, strict=True)
    )


def change_fails(data):
    program, forward = data.draw(any_programs())
    dtypes, ranks = as_users_run()
    with dtypes, ranks:
        assume(not program.uses("expm"))  # another program in each dtype
        function, args = program.function(), program.values()
        assume(well_behaved(program, forward))
        for alteration in data.draw(st.lists(alterations(function, args), min_size=1, max_size=4, unique=True)):
            counted("B, drawn")
            if not matters(program, forward, alteration):
                continue
            counted("B")
            key = jax.random.key(data.draw(st.integers(0, 3)))
            try:
                report = verify_vjp(function, backward_of(function, forward, alteration), *args, key=key)
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error}\n{program!r}\n{alteration!r}") from error
            if report and not contradicted(program, forward, alteration):
                counted("B, not wrong by differences")
                continue
            assert not report, f"{report}\n{program!r}\n{alteration!r}, {key}"


def cotangent_like(outputs, seed=0):
    """Normal numbers for outputs that are floats, float0 for others."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(generator.standard_normal(leaf.shape), leaf.dtype)
            if is_float(leaf)
            else np.zeros(leaf.shape, jax.dtypes.float0)
        ),
        outputs,
    )


def well_behaved(program, forward):
    """Whether values and gradients are finite and of ordinary size, in float64 and in the program's own dtype."""
    for function, args in [(program.widened(), widened(program.values())), (program.function(), program.values())]:
        try:
            backward = backward_of(function, forward)
            outputs, gradient = jax.jit(
                lambda *given, f=function, b=backward: (o := f(*given), b(given, cotangent_like(o)))
            )(*args)
        except (ValueError, NotImplementedError, TypeError) as error:  # an output that a loop makes of another dtype
            event(f"refused by JAX: {type(error).__name__}")
            return False
        leaves = [
            np.asarray(leaf, float) for leaf in jax.tree.leaves((outputs, gradient)) if leaf.dtype != jax.dtypes.float0
        ]
        if not all(np.isfinite(leaf).all() and (abs(leaf) < LARGEST).all() for leaf in leaves):
            return False
    return True


def nearby(args, seed, spread=1e-3):
    """Arguments beside the given ones."""
    generator = np.random.default_rng(seed)

    def moved(leaf):
        if not is_float(leaf):
            return leaf
        size = np.where(leaf == 0, 1, np.abs(leaf))
        return leaf + spread * size * generator.standard_normal(leaf.shape)

    return jax.tree.map(moved, widened(args))


@functools.lru_cache(maxsize=1)
def right_beside(program, forward):
    """Points beside the given one, cotangents, and the gradients there, in float64."""
    function = program.widened()
    backward = backward_of(function, forward)
    run = jax.jit(lambda args, cotangent: floats_of(backward(args, cotangent)))
    found = []
    for seed in range(3):
        args = nearby(program.values(), seed)
        cotangent = cotangent_like(jax.eval_shape(function, *args), seed)
        found.append((args, cotangent, run(args, cotangent)))
    return found


def matters(program, forward, alteration):
    """Whether an alteration changes the gradient at every one of some points beside the given one."""
    backward = backward_of(program.widened(), forward, alteration)
    run = jax.jit(lambda args, cotangent: floats_of(backward(args, cotangent)))
    for args, cotangent, expected in right_beside(program, forward):
        overall = 1 + max(float(np.max(np.abs(leaf))) for leaf in expected)
        differs = [
            np.max(np.abs(a - b)) > max(MATTERS * np.max(np.abs(a)), 1e-8 * overall)
            for a, b in zip(expected, run(args, cotangent), strict=True)
        ]
        if not any(differs):
            return False
    return True


def floats_of(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0]


def contradicted(program, forward, alteration):
    """Whether differences say, too, that the altered gradient is wrong."""
    function = program.widened()
    backward = backward_of(function, forward, alteration)
    for args, cotangent, _ in right_beside(program, forward):
        bounds = bounds_by_differences(function, args, cotangent, range(len(args)))
        found = floats_of(backward(args, cotangent))
        for (low, high), leaf in zip(bounds, found, strict=True):
            slack = MATTERS / 10 * max(np.max(np.abs(low)), np.max(np.abs(high))) + 1e-9
            if ((leaf < low - slack) | (leaf > high + slack)).any():
                return True
    return False


def change_here_fails(data):
    program, forward = data.draw(any_programs())
    dtypes, ranks = as_users_run()
    with dtypes, ranks:
        function, args = program.function(), program.values()
        assume(well_behaved(program, forward))
        size = sum(leaf.size for leaf in jax.tree.leaves(args) if is_float(leaf))
        place, number = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from([0.5, -0.5, 2.0, -3.0]))
        counted("C, drawn")
        assume(outside_everything(program, forward, place, number))
        counted("C")
        key = jax.random.key(data.draw(st.integers(0, 3)))
        backward = wrong_at(args, backward_of(function, forward), place, number)
        options = data.draw(st.sampled_from([{}, {}, {"at": "given"}]))
        try:
            report = verify_vjp(function, backward, *args, key=key, **options)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n{program!r}\n{place}, {number}") from error
        assert not report, f"{report}\n{program!r}\nelement {place} moved by {number}, {options}, {key}"


def outside_everything(program, forward, place, number):
    """Whether differences at the given point on either side say that an element moved so is no gradient there."""
    function, args = program.widened(), widened(program.values())
    for seed in range(2):
        cotangent = cotangent_like(jax.eval_shape(function, *args), seed)
        bounds = bounds_by_differences(function, args, cotangent, range(len(args)))
        low, high = (np.concatenate([pair[side].ravel() for pair in bounds]) for side in (0, 1))
        right = backward_of(function, forward)
        true, wrong = (
            np.concatenate([np.ravel(leaf) for leaf in floats_of(backward(args, cotangent))])
            for backward in (right, wrong_at(args, right, place, number))
        )
        size = 1 + max(np.max(np.abs(low)), np.max(np.abs(high)))
        if not (size < LARGEST and ((low - 1e-6 * size <= true) & (true <= high + 1e-6 * size)).all()):
            return False  # differences do not see what there is
        if low[place] - 1e-3 * size <= wrong[place] <= high[place] + 1e-3 * size:
            return False
    return True


@given(st.data())
def test_autodiff_passes(data):
    autodiff_passes(data)


@FEW
@given(st.data())
def test_change_of_a_derivative_that_changes_the_gradient_fails(data):
    change_fails(data)


@FEW
@given(st.data())
def test_change_at_the_given_point_alone_fails_unless_a_kink_explains_it(data):
    change_here_fails(data)
