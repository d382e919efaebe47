"""The README's example runs as printed, and says the truth about itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_example_runs_as_printed():
    """In a process of its own, since tests change JAX's defaults."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    printed = subprocess.run(
        [sys.executable, "-c", example], check=True, capture_output=True, text=True, env=environment
    ).stdout.splitlines()
    differences, summary = printed
    numbers = [float(number) for number in re.findall(r"\d+\.\d+(?:e-?\d+)?", differences)]
    assert numbers
    assert max(numbers) < 1e-5
    accuracy = re.search(r"test accuracy (\d+\.\d)%", summary)
    assert accuracy is not None
    assert float(accuracy[1]) > 90


def test_every_path_named_exists():
    root = Path(__file__).parent.parent
    for path in re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE):
        assert (root / path).exists(), path
