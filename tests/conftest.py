"""Strict switches for every test: float64 available, no silent promotion of dtypes or ranks."""

import collections

import hypothesis
import jax
import jaxtyping
import pytest

from experiments.fast_compile import compile_fast

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_compilation_cache", False)  # the command switches it on
compile_fast(optimization_level=0)  # most of the suite's time is compilation; OPTIMIZED is for last bits

# Few cases, the same in every run; `--hypothesis-profile long` draws over 20,000 new ones in all. One fixture does for
# all cases of a test, and compiling takes as long as it takes.
FUZZ = {
    "deadline": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
    "print_blob": True,
}
hypothesis.settings.register_profile("fast", max_examples=5, derandomize=True, **FUZZ)
hypothesis.settings.register_profile("long", max_examples=900, **FUZZ)
hypothesis.settings.load_profile("fast")


def pytest_addoption(parser):
    parser.addoption(
        "--data",
        metavar="PATH",
        help="the cat pictures, train_catvnoncat.h5, for the tests that reproduce results on them",
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="every case of the catalogues, not one in a few, every experiment in its quick form, and a million steps",
    )
    parser.addoption(
        "--float32",
        action="store_true",
        help="JAX without float64, as it is by default; without the tests that need float64",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "one_in(stride): of a test's cases, or a module's tests, one in so many is run, all with --full or -k",
    )
    config.addinivalue_line("markers", "long: run with --full or -k alone")
    config.addinivalue_line("markers", "float64: left out with --float32, as are cases that have it for a parameter")
    jax.config.update("jax_enable_x64", not config.getoption("--float32"))


def pytest_collection_modifyitems(config, items):
    """Leaves out most of the catalogues, whose cases stand side by side, and what needs a whole experiment.

    `python -m experiments` runs each of those and judges its claim; their premises are broken by tests that stay.
    """
    everything = config.getoption("--full") or config.option.keyword
    seen = collections.Counter()
    kept, left_out = [], []
    for item in items:
        of, marker = next(item.iter_markers_with_node("one_in"), (item, None))
        of = item.function if of is item else of
        chosen = marker is None or seen[of] % marker.args[0] == 0
        chosen &= item.get_closest_marker("long") is None and "quick_run" not in item.fixturenames
        can_run = not (config.getoption("--float32") and needs_float64(item))
        (kept if can_run and (chosen or everything) else left_out).append(item)
        seen[of] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def needs_float64(item):
    """Whether a test is marked so, or a case has such a dtype among its parameters."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = any(str(getattr(value, "__name__", value)) in ("float64", "complex128") for value in parameters)
    return named or item.get_closest_marker("float64") is not None


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def unchecked():
    """Without the type checks that only tests switch on: bad input must get the library's own error."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def nans_allowed():
    """For tests that make NaN on purpose, where the whole run has JAX_DEBUG_NANS."""
    with jax.debug_nans(False):
        yield
