"""As for the verifier's own tests."""

from tests.verify.conftest import ranks_are_promoted  # noqa: F401 (a fixture)
