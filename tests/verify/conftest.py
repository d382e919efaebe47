"""Rules are written as users write them: ranks are promoted, dtypes are not."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def ranks_are_promoted():
    with jax.numpy_rank_promotion("allow"):
        yield
