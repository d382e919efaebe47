"""Training on many devices, in one process or in two, comes to the parameters of one device."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.compare import assert_close
from tests.in_one_of_two_processes import STEPS
from tests.parallel_training import FORMS, trained_on_one_device

ROOT = Path(__file__).parent.parent


def test_on_eight_simulated_devices():
    """The number of devices is fixed when JAX starts, hence a process with tests of its own."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_eight_devices.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained_by_two_processes(tmp_path_factory):
    """What two processes, which know of each other through `jax.distributed`, have trained."""
    path = tmp_path_factory.mktemp("two_processes") / "trained.npz"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.in_one_of_two_processes"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [
        subprocess.Popen([*command, str(process), coordinator, path], cwd=ROOT, env=environment, **pipes)
        for process in range(2)
    ]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return np.load(path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.float64
def test_two_processes_train_to_the_parameters_of_one(form, trained_by_two_processes):
    params, costs = trained_on_one_device(STEPS)
    assert_close(trained_by_two_processes[f"{form}: costs"], costs, 1e-12)
    leaves, structure = jax.tree.flatten(params)
    found = [trained_by_two_processes[f"{form}: {place}"] for place in range(len(leaves))]
    assert_close(structure.unflatten(found), params, 1e-12)


def test_example_of_the_readme_learns(capsys):
    section = (ROOT / "README.md").read_text().split("## Many devices")[1]
    exec(section.split("```python\n")[1].split("```")[0], {})
    printed = re.fullmatch(r"devices: (\d+), cost: (\S+)\n", capsys.readouterr().out)
    assert printed is not None
    assert int(printed[1]) == jax.device_count()
    assert float(printed[2]) < 1
