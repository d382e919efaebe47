"""Strict switches for every test: float64 available, no silent promotion of dtypes or ranks."""

import collections

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption(
        "--data",
        metavar="PATH",
        help="the cat pictures, train_catvnoncat.h5, for the tests that reproduce results on them",
    )
    parser.addoption(
        "--full", action="store_true", help="judge every specimen of the verifier's catalogues, not one in a few"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "catalogue(stride): one specimen in so many is judged, all with --full or -k")


def pytest_collection_modifyitems(config, items):
    """Leaves out most of the catalogues, whose kinds of mistakes stand side by side, unless told not to."""
    if config.getoption("--full") or config.option.keyword:
        return
    seen = collections.Counter()
    kept, left_out = [], []
    for item in items:
        marker = item.get_closest_marker("catalogue")
        chosen = marker is None or seen[item.function] % marker.args[0] == 0
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
