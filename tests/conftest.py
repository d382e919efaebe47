"""Strict switches for every test: float64 available, no silent promotion of dtypes or ranks."""

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


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def unchecked():
    """Without the type checks that only tests switch on: bad input must get the library's own error."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
