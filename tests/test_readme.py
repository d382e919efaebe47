"""The README's example runs as printed, and says the truth about itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()


def printed_by(example):
    """What an example prints in a process of its own, since tests change JAX's defaults."""
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", example]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def examples():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_example_of_a_network_runs_as_printed():
    differences, summary = printed_by(examples()[0]).splitlines()
    numbers = [float(number) for number in re.findall(r"\d+\.\d+(?:e-?\d+)?", differences)]
    assert numbers
    assert max(numbers) < 1e-5
    accuracy = re.search(r"test accuracy (\d+\.\d)%", summary)
    assert accuracy is not None
    assert float(accuracy[1]) > 90


def test_example_of_a_layer_of_ones_own_learns():
    network, costs = printed_by(examples()[1]).splitlines()
    assert network == "serial(repeat(residual(Centre(), dense(8, 8), elementwise(gelu)), 4), dense(8, 2))"
    first, last = map(float, re.findall(r"\d+\.\d+", costs))
    assert last < 0.5 * first


def test_example_of_a_language_model_learns_more_than_frequencies():
    first, last, alone = map(float, re.findall(r"\d+\.\d+", printed_by(examples()[-1])))
    assert last < alone < first


@pytest.mark.parametrize("number", [0, 1], ids=["gradient", "optimizer"])
def test_example_of_a_verification_prints_the_report_shown(number):
    """But for the numbers at random points and the device."""
    shown = re.findall(r"```\n(FAILED.*?)```", README, re.DOTALL)[number]
    printed = printed_by(examples()[2 + number])
    explained = [line for line in shown.splitlines() if re.match(r"FAILED|\S+: ", line)]
    assert len(explained) > 1
    assert [line for line in explained if line not in printed.splitlines()] == []
    assert [row.split()[:2] for row in shown.splitlines()[2:6]] == [
        row.split()[:2] for row in printed.splitlines()[2:6]
    ]


def test_verification_passes_after_the_two_changes_named():
    example = examples()[2].replace("delta.T @ x / len(x), delta\n", "delta.T @ x, delta.sum(0)\n")
    assert printed_by(example).startswith("PASSED")


def test_example_of_diagnostics_prints_what_is_told():
    *layers, failure = printed_by(examples()[4]).splitlines()
    gradients = [float(number) for number in re.findall(r"dense .* gradient (\S+),", "\n".join(layers))]
    assert len(gradients) == 5
    told = re.search(r"from (\S+) in layer \[8\] to\s(\S+) in layer \[0\]", README)
    assert told is not None
    assert [gradients[-1], gradients[0]] == pytest.approx([float(told[1]), float(told[2])], rel=0.5)
    assert gradients == sorted(gradients)
    assert f"`{failure}`" in README


def test_example_of_validation_stops_early_and_keeps_the_best():
    shown, accuracy = printed_by(examples()[5]).splitlines()
    told = re.fullmatch(r"History\((\d+) steps, .*, validation accuracy (\S+), validation cost (\S+)\)", shown)
    assert told is not None
    assert int(told[1]) < 500 * 19
    assert float(accuracy) > 0.9


def test_example_of_a_sweep_finds_a_rate_that_learns():
    costs, fitted = printed_by(examples()[6]).splitlines()
    found = re.fullmatch(r"lowest cost (\S+) at a rate of (\S+); at 1, (\S+)", costs)
    assert found is not None
    lowest, rate, at_one = map(float, found.groups())
    assert lowest < 0.01 < 1 < at_one
    assert 1e-4 < rate < 0.5
    told = re.fullmatch(r"it fits (\S+)%; before training, batches far above (\d+) examples were a waste", fitted)
    assert told is not None
    assert float(told[1]) > 99
    assert 5 < int(told[2]) < 500


def test_example_of_a_bad_day_prints_what_is_shown():
    printed = printed_by(examples()[7])
    assert "good one" in printed
    assert f"```\n{printed}```" in README


def test_every_path_named_exists():
    root = Path(__file__).parent.parent
    for path in re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE):
        assert (root / path).exists(), path
