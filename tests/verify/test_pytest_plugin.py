"""A failing `assert` of a report shows the report's table below the test."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("pytest_jaxnet"), reason="the plugin is not here")

ROOT = Path(__file__).parents[2]
TESTS = """
import jax
import jax.numpy as jnp
from jaxnet.verify import verify_gradient

KEY = jax.random.key(0)
X = jnp.array([1.0, 2.0, -0.5])


def squares(x):
    return (x**2).sum()


def test_call():
    assert verify_gradient(squares, lambda x: -2 * x, X, key=KEY)


def test_variable():
    report = verify_gradient(squares, lambda x: 6 * x, X, key=KEY)
    assert report


def test_right():
    assert verify_gradient(squares, lambda x: 2 * x, X, key=KEY)


def test_another_error():
    report = verify_gradient(squares, lambda x: 2 * x, X, key=KEY)
    assert report
    assert 1 + 1 == 3
"""


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """What pytest prints for each failing test."""
    folder = tmp_path_factory.mktemp("tests")
    (folder / "test_it.py").write_text(TESTS)
    installed = any(e.name == "jaxnet" for e in importlib.metadata.entry_points(group="pytest11"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        *([] if installed else ["-p", "pytest_jaxnet"]),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run([*command, "test_it.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert "3 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    _, failures = done.stdout.split("= FAILURES =")
    failures, _ = failures.split("= short test summary info =")
    return dict(zip(("call", "variable", "another"), failures.split("\n____")[1:], strict=True))


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [("call", "sign", "every entry has the wrong sign"), ("variable", "scale", "every entry is 3 times too large")],
)
def test_failing_assertion_shows_the_table(name, kind, words, sections):
    table = sections[name].split("jaxnet.verify -")[1]
    for part in ("FAILED: gradient", "gradient", kind, words, "device cpu"):
        assert part in table, sections[name]


def test_assertion_about_something_else_shows_no_table(sections):
    assert "jaxnet.verify -" not in sections["another"]
