"""Checkpoints: a resumed run ends bit for bit as one that never stopped; what is damaged or of others is told."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxnet
from jaxnet.training import checkpoint
from tests.checkpointed_run import EPOCHS, NETWORK, OPTIMIZER, numbers, run
from tests.compare import WIDEST

FIT = import_module("jaxnet.training.fit")  # the attribute of this name is the function
SCRIPT = Path(__file__).with_name("checkpointed_run.py")


@pytest.fixture(scope="module")
def whole():
    return numbers(*run())


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, strict=True)


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_resumed_run_equals_the_uninterrupted_one(tmp_path, whole):
    run(checkpoint=tmp_path, checkpoint_every=4, epochs=6, keep=2)
    assert steps(tmp_path) == [20, 30]
    assert_same(numbers(*run(checkpoint=tmp_path, checkpoint_every=4, keep=2)), whole)
    assert steps(tmp_path) == [40, 50]
    assert_same(numbers(*run(checkpoint=tmp_path)), whole)


def test_interrupted_run_saves_where_it_stopped(tmp_path, whole, monkeypatch):
    original = FIT._run_epochs

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(FIT, "_run_epochs", interrupted)
    state, history = run(checkpoint=tmp_path, checkpoint_every=1000)
    assert history.interrupted
    assert steps(tmp_path) == [int(state.step)] == [5]
    monkeypatch.undo()
    assert_same(numbers(*run(checkpoint=tmp_path)), whole)


def test_run_interrupted_before_its_first_step_resumes_with_the_same_costs(tmp_path, whole):
    with jaxnet.training.Checkpoints(tmp_path, NETWORK) as saved:
        start = jax.jit(jaxnet.init_state, static_argnums=0)(NETWORK, OPTIMIZER, jax.random.key(0))
        saved.save(start, jaxnet.training.History(np.zeros(0, np.complex64)))
    assert_same(numbers(*run(checkpoint=tmp_path)), whole)


# Kills in a row, each as event, n, step, complete: before the n-th such event of this step's checkpoint, when that of
# the step `complete` is the newest that is whole.
KILLS = [
    [("os.rename", 3, 5, 0), ("open", 5, 20, 15)],
    [("os.mkdir", 1, 5, 0)],
    [("os.rename", 1, 30, 25)] * 3,
    [("os.rename", 3, 40, 35), ("shutil.rmtree", 1, 40, 35), ("os.rmdir", 1, 40, 35)],  # removing what the last left
    [("os.rename", 3, 50, 45), ("shutil.rmtree", 1, 35, 50)],  # at the end
    *([("os.mkdir", n, 20, 15)] for n in (1, 2, 3)),
    *([("open", n, 20, 15)] for n in range(1, 9)),
    *([("outgrow", size, 20, 15)] for size in (100, 500, 1000, 2000)),
    *([("os.rename", n, 20, 15)] for n in (1, 2, 3)),  # of its arrays, of their description, of the whole
    *([(event, 1, 20, 35)] for event in ("shutil.rmtree", "os.rmdir")),  # too old to keep
]


@pytest.mark.parametrize("kills", KILLS, ids=str)
@pytest.mark.one_in(len(KILLS))
def test_killed_run_resumes_to_the_same_end(tmp_path, whole, kills):
    folder, result = tmp_path / "run", tmp_path / "result.npz"
    environment = os.environ | {"PYTHONPATH": os.fspath(SCRIPT.parents[1]), "JAX_ENABLE_X64": str(WIDEST == "float64")}

    def start(*options):
        return subprocess.run([sys.executable, SCRIPT, folder, result, *map(str, options)], env=environment).returncode

    newest = 0  # also the seed of the next start: whatever its key, it goes on with the one that was saved
    for *death, complete in kills:
        assert start(newest, *death) in (-signal.SIGKILL, -signal.SIGXFSZ)
        newest = max(steps(folder), default=0)
        assert newest == complete
    assert start(newest) == 0
    assert not list(folder.glob("damaged-*"))  # none was taken for complete that was not
    with np.load(result) as saved:
        outcome = dict(saved)
    assert outcome.pop("epochs") == EPOCHS - newest // 5
    assert_same(outcome, whole)


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def altered(folder):
    path = largest_file(folder / "arrays")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(folder):
    path = largest_file(folder / "arrays")
    path.write_bytes(path.read_bytes()[:-7])


def renumbered(folder):
    path = folder / "content" / "metadata"
    path.write_text(path.read_text().replace("dense 4", "dense 5"))


def emptied(folder):
    (folder / "content" / "metadata").write_text("")


def exchanged(folder):
    """Whole files, but of another step."""
    shutil.rmtree(folder / "arrays")
    shutil.copytree(folder.with_name("10") / "arrays", folder / "arrays")


@pytest.mark.parametrize("damage", [altered, truncated, renumbered, emptied, exchanged])
@pytest.mark.one_in(2)
def test_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path, whole, damage):
    run(checkpoint=tmp_path, epochs=3)
    damage(tmp_path / "15")
    with pytest.warns(UserWarning, match=r"checkpoint of step 15 in .* is damaged and was renamed damaged-15"):
        resumed = run(checkpoint=tmp_path)
    assert_same(numbers(*resumed), whole)
    assert (tmp_path / "damaged-15").is_dir()


def test_a_checkpoint_may_be_damaged_again(tmp_path, whole):
    for _ in range(2):
        run(checkpoint=tmp_path, epochs=3)
        truncated(tmp_path / "15")
        with pytest.warns(UserWarning, match="was renamed damaged-15"):
            run(checkpoint=tmp_path, epochs=3)
    assert_same(numbers(*run(checkpoint=tmp_path)), whole)


@pytest.mark.float64
@pytest.mark.usefixtures("nans_allowed")
def test_a_run_that_ends_within_an_epoch_leaves_checkpoints_of_whole_epochs(tmp_path):
    x = np.random.default_rng(0).standard_normal((70, 4))
    options: Any = {"batch_size": 16, "epochs": 60, "on_nonfinite": "stop", "checkpoint": tmp_path, "keep": 99}
    state, _ = jaxnet.fit(
        jaxnet.mlp((4, 2)),
        jaxnet.squared_error,
        jaxnet.gradient_descent(20.0),  # the cost grows until it overflows
        x,
        x[:, :2],
        key=jax.random.key(0),
        checkpoint_every=1,
        **options,
    )
    assert int(state.step) % 5 > 0
    assert steps(tmp_path) == list(range(5, int(state.step), 5))


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    run(checkpoint=tmp_path, epochs=1)
    emptied(tmp_path / "5")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(jaxnet.training.CheckpointError, match="name another folder"),
    ):
        run(checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("network", "optimizer", "difference"),
    [
        (jaxnet.mlp((4, 9, 3)), OPTIMIZER, r"layer 0 is \[0\] dense 4→8 there and \[0\] dense 4→9 here"),
        (jaxnet.mlp((4, 8, 3), jaxnet.tanh), OPTIMIZER, r"layer 1 is \[1\] relu there and \[1\] tanh here"),
        (NETWORK, jaxnet.optimizers.momentum(0.1), rf"\.opt_state\..* is {WIDEST}\[8, 4\] there and nothing here"),
        (
            jaxnet.mlp((4, 8, 3), dtype="bfloat16"),
            OPTIMIZER,
            rf"weight is {WIDEST}\[8, 4\] there and bfloat16\[8, 4\] here",
        ),
    ],
)
def test_checkpoint_of_another_run_is_refused(tmp_path, network, optimizer, difference):
    run(checkpoint=tmp_path, epochs=1)
    with jaxnet.training.Checkpoints(tmp_path, network) as saved:
        state = jaxnet.init_state(network, optimizer, jax.random.key(1))
        with pytest.raises(ValueError, match=difference):
            saved.restore(state)
    assert steps(tmp_path) == [5]


def test_other_batches_are_refused(tmp_path):
    run(checkpoint=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="after 5 steps, which are no whole epochs of 2 steps"):
        run(checkpoint=tmp_path, batch_size=35)


def test_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(jaxnet.training.CheckpointError, match=r"checkpoints cannot be kept in .*file"):
        run(checkpoint=tmp_path / "file" / "folder")


@contextlib.contextmanager
def full_disk():
    """No file can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Orbax reports the failure of its threads twice.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_full_disk_loses_nothing(tmp_path, whole):
    run(checkpoint=tmp_path, epochs=2)
    with (
        full_disk(),
        pytest.raises(
            jaxnet.TrainingError, match=r"could not be saved in .*; those before it are kept: .*too large"
        ) as caught,
    ):
        run(checkpoint=tmp_path, checkpoint_every=3)
    error = caught.value
    assert int(error.state.step) == len(error.history.cost) >= 15
    np.testing.assert_array_equal(error.history.cost, whole["cost"][: len(error.history.cost)])
    assert_same(numbers(*run(checkpoint=tmp_path)), whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.float64
def test_full_disk_and_a_number_that_is_not_finite_lose_nothing(tmp_path):
    options: Any = {"key": jax.random.key(0), "batch_size": None, "epochs": 3, "checkpoint_every": 1}
    x, y = np.ones((3, 2)), np.ones((3, 1))
    with full_disk(), pytest.raises(jaxnet.TrainingError, match="could not be saved") as caught:
        jaxnet.fit(
            jaxnet.mlp((2, 1)),
            jaxnet.squared_error,
            jaxnet.gradient_descent(1e200),
            x,
            y,
            checkpoint=tmp_path,
            **options,
        )
    assert int(caught.value.state.step) == len(caught.value.history.cost) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_full_disk_at_the_end_of_the_batches_loses_nothing(tmp_path):
    batches = [(np.ones((3, 2)), np.ones((3, 1)))] * 4
    network, optimizer = jaxnet.mlp((2, 1)), jaxnet.gradient_descent(0.1)
    with full_disk(), pytest.raises(jaxnet.TrainingError, match="could not be saved") as caught:
        jaxnet.fit_batches(
            network, jaxnet.squared_error, optimizer, batches, key=jax.random.key(0), checkpoint=tmp_path
        )
    assert int(caught.value.state.step) == len(caught.value.history.cost) == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_full_disk_is_told_at_the_end_of_a_block(tmp_path):
    saved, state = (
        jaxnet.training.Checkpoints(tmp_path, NETWORK),
        jaxnet.init_state(NETWORK, OPTIMIZER, jax.random.key(3)),
    )
    refused = pytest.raises((jaxnet.training.CheckpointError, jaxnet.TrainingError), match="could not be saved in")
    with full_disk(), refused, saved:
        saved.save(state, jaxnet.training.History(np.zeros(3)))


def test_checkpoints_say_what_they_need(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"checkpoints need Orbax: pip install 'jaxnet-by-hand\[checkpoint\]'"):
        run(checkpoint=tmp_path)


def test_without_an_interval_a_run_saves_by_the_clock(tmp_path, whole, monkeypatch):
    options: Any = {"checkpoint_every": None, "keep": 99}
    run(checkpoint=tmp_path / "short", **options)
    assert steps(tmp_path / "short") == [50]
    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)
    assert_same(numbers(*run(checkpoint=tmp_path / "long", **options)), whole)
    assert len(steps(tmp_path / "long")) > 1


def test_the_clock_begins_anew_with_every_checkpoint(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(checkpoint, "time", types.SimpleNamespace(monotonic=lambda: now))
    state = jaxnet.init_state(NETWORK, OPTIMIZER, jax.random.key(3))
    with jaxnet.training.Checkpoints(tmp_path, NETWORK) as saved:
        assert not saved.is_due(1, None)
        now = checkpoint.SECONDS + 1.0
        assert saved.is_due(1, None)
        saved.save(state, jaxnet.training.History(np.zeros(3)))
        assert not saved.is_due(2, None)
        now *= 2
        assert saved.is_due(3, None)


def test_state_is_restored_onto_another_number_of_devices(tmp_path):
    flags = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.fspath(SCRIPT.parents[1]),
    }
    command = [sys.executable, SCRIPT.with_name("checkpoints_on_eight_devices.py"), tmp_path]
    finished = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("name", ["checkpoint_every", "keep"])
def test_counts_below_one_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        run(checkpoint=tmp_path, **{name: 0})


@pytest.mark.parametrize("kind_of_key", ["threefry2x32", "rbg"])
def test_a_state_is_saved_and_restored_by_hand(tmp_path, kind_of_key):
    state = jaxnet.init_state(NETWORK, OPTIMIZER, jax.random.key(3, impl=kind_of_key))
    with jaxnet.training.Checkpoints(tmp_path / "new", NETWORK) as saved:
        assert saved.restore(state) is None
        saved.save(state, jaxnet.training.History(np.arange(3.0)))
    with jaxnet.training.Checkpoints(tmp_path / "new", NETWORK) as saved:
        assert saved.steps == (0,)
        found = saved.restore(jaxnet.init_state(NETWORK, OPTIMIZER, jax.random.key(4, impl=kind_of_key)))
    assert found is not None
    restored, history = found
    np.testing.assert_array_equal(history.cost, np.arange(3.0))
    assert_same(numbers(restored, history), numbers(state, history))


def test_checkpoint_of_an_older_version_is_told_and_left_where_it_is(tmp_path, monkeypatch):
    run(checkpoint=tmp_path, epochs=1)
    description = checkpoint.Checkpoints._description

    def older(self, step):
        return {name: part for name, part in description(self, step).items() if name != "measured"}

    monkeypatch.setattr(checkpoint.Checkpoints, "_description", older)
    with pytest.raises(ValueError, match=r"of step 5 in .* is of jaxnet 0.1: finish the run with that"):
        run(checkpoint=tmp_path)
    assert steps(tmp_path) == [5]
