"""Strict switches for every test: float64 available, no silent promotion of dtypes or ranks."""

import collections

import hypothesis
import jax
import jaxtyping
import pytest

from experiments.fast_compile import compile_fast

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_compilation_cache", False)  # the command switches it on
compile_fast()  # most of the suite's time is compilation

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


def pytest_configure(config):
    config.addinivalue_line("markers", "one_in(stride): of the cases one in so many is run, all with --full or -k")
    config.addinivalue_line("markers", "long: run with --full or -k alone")


def pytest_collection_modifyitems(config, items):
    """Leaves out most of the catalogues, whose cases stand side by side, and what needs a whole experiment.

    `python -m experiments` runs each of those and judges its claim; their premises are broken by tests that stay.
    """
    if config.getoption("--full") or config.option.keyword:
        return
    seen = collections.Counter()
    kept, left_out = [], []
    for item in items:
        marker = item.get_closest_marker("one_in")
        chosen = marker is None or seen[item.function] % marker.args[0] == 0
        chosen &= item.get_closest_marker("long") is None and "quick_run" not in item.fixturenames
        (kept if chosen else left_out).append(item)
        seen[item.function] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


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
