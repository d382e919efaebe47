"""The command, its data readers and its verdicts; the experiments themselves run by the README's first command."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

import jaxnet
from experiments import data, experiment, gradient_check, gradient_judges, runner, verification_power
from experiments.__main__ import app
from experiments.experiment import Options, Result, at_least, at_most
from experiments.gradient_check import NETWORKS
from experiments.specimens.gradients.derivative import Derivative
from experiments.specimens.specimen import Specimen

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 0, 1, 1, 0])


def command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


def write_h5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def test_list_names_every_experiment_and_its_claim():
    code, output = command("list")
    assert code == 0
    for name in runner.NAMES:
        assert name in output
        assert runner.load(name).CLAIM.split()[0] in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nonsense"], "error: no experiment is named 'nonsense'; there are logistic_regression, "),
        (["run", "image_classifier", "--data", "missing.h5"], "error: missing.h5: no such file or folder"),
        (["run", "image_classifier", "--test-data", "x.h5"], "error: --test-data goes with --data"),
        (["run", "gradient_check", "--data", "x.h5"], "error: gradient_check runs on its own data"),
    ],
)
def test_command_refuses_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = command(*arguments)
    assert code == 2
    assert message in output


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["run"], ["run", "gradient_check", "--seeds", "many"]])
def test_command_refuses_bad_options(arguments):
    assert command(*arguments)[0] == 2


def test_a_platform_that_is_not_there_is_said_in_one_line(tmp_path):
    absent = "gpu" if jax.default_backend() == "tpu" else "tpu"
    arguments = ["run", "logistic_regression", "--platform", absent, "--out", str(tmp_path)]
    ran = subprocess.run([sys.executable, "-m", "experiments", *arguments], check=False, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "error: JAX finds no device:" in ran.stderr
    assert "Traceback" not in ran.stderr


class Claim:
    """An experiment whose claim holds or not, as told."""

    CLAIM = "One is at most a bound."

    def __init__(self, bound):
        self.bound = bound

    def run(self, options, track):
        return Result((at_most("one", 1.0, self.bound),), {"steps": np.array(list(track(range(3), "steps")))})

    def plot(self, result):
        figure = Figure()
        figure.subplots().plot(result.drawn["steps"])
        return figure


def test_interrupt_is_said_in_one_line(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_all", interrupted)
    code, output = command("run", "gradient_check", "--out", tmp_path)
    assert code == 130
    assert "Interrupted. What was finished is in" in output


@pytest.mark.parametrize(("bound", "holds", "code"), [(2.0, True, 0), (0.5, False, 1)])
def test_run_saves_what_it_measured_and_reports_the_verdict(bound, holds, code, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "load", lambda name: Claim(bound))
    status, output = command("run", "gradient_check", "--out", tmp_path / "new")
    assert status == code
    assert ("The claim holds" in output) is holds
    record = json.loads((tmp_path / "new" / "gradient_check.json").read_text())
    assert record["holds"] is holds
    assert record["drawn"] == {"steps": [0, 1, 2]}
    assert record["measurements"] == [{"name": "one", "value": 1.0, "expected": f"≤ {bound:g}", "holds": holds}]
    assert "<svg" in (tmp_path / "new" / "gradient_check.svg").read_text()


def test_same_figure_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "load", lambda name: Claim(2.0))
    figures = []
    for folder in ("a", "b"):
        command("run", "gradient_check", "--out", tmp_path / folder)
        figures.append((tmp_path / folder / "gradient_check.svg").read_bytes())
    assert figures[0] == figures[1]


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "load", lambda name: Claim(float("nan")))
    monkeypatch.setattr(Claim, "run", lambda *_: Result((at_most("n", np.nan, 1),), {"steps": np.array([np.inf, 1])}))
    assert command("run", "gradient_check", "--out", tmp_path)[0] == 1
    record = json.loads((tmp_path / "gradient_check.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert record["measurements"][0]["value"] is None
    assert record["drawn"] == {"steps": [None, 1]}


def test_nan_never_holds():
    assert at_most("", float("nan"), 1).holds is False
    assert at_least("", float("nan"), 1).holds is False


@pytest.mark.parametrize("factor", [1.0, 1.0 + 1e-9])
def test_gradient_check_sees_a_gradient_off_by_a_billionth(factor, key, monkeypatch):
    loss = jaxnet.squared_error
    scaled = loss._replace(gradient=lambda z, y: factor * loss.gradient(z, y))
    monkeypatch.setattr(gradient_check, "NETWORKS", {"a net": ((5, 4, 2), jaxnet.tanh, scaled)})
    result = gradient_check.run(Options(key, seeds=2), lambda steps, description: steps)
    assert result.measurements[0].name.startswith("float64")
    assert result.measurements[0].holds is (factor == 1.0)


def test_gradient_check_covers_several_depths_activations_and_losses():
    assert len({len(sizes) for sizes, _, _ in NETWORKS.values()}) >= 4
    assert len({hidden.name for _, hidden, _ in NETWORKS.values()}) >= 4
    assert len({loss.name for _, _, loss in NETWORKS.values()}) >= 4


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_every_judge_differentiates_by_the_rule_under_judgement(factor, key):
    def backward(args, ct):
        x, weight = args
        return factor * (ct @ weight), factor * (ct.T @ x)

    def arguments(generator, scale):
        x, weight = (scale * generator.standard_normal(shape) for shape in ((5, 4), (3, 4)))
        return jnp.asarray(x, "float32"), jnp.asarray(weight, "float32")

    case = Derivative(lambda x, weight: x @ weight.T, backward, arguments)
    specimen = Specimen("dense: without bias", None, case)
    judges = gradient_judges.by_peers(gradient_judges.at_point(specimen, 1.0, key))
    assert judges == dict.fromkeys(gradient_judges.PEERS, factor == 2.0)


@pytest.fixture
def quick_run(key, monkeypatch):
    for name in ("MISTAKES", "RIGHT_RULES", "WILD_FAULTS", "WILD_RIGHT_RULES"):
        monkeypatch.setattr(verification_power, name, getattr(verification_power, name)[8:13])
    return verification_power.run(Options(key, quick=True), lambda steps, description: steps)


def test_verification_power_in_a_quick_run(quick_run):
    result = quick_run
    assert result.holds
    by_judge, _, by_kind, names = result.tables
    assert [row[0] for row in by_judge.rows] == list(verification_power.JUDGES)
    assert {row[0] for row in by_kind.rows} >= {"sign", "transpose"}
    assert [of["jaxnet.verify"] for of in result.drawn["detected"].values()] == [1.0, 1.0]
    assert [row[0] for row in names.rows] == [s.source for s in verification_power.WILD_FAULTS[::4]]
    assert max(result.drawn["units_right"]) < result.drawn["limit"] < min(result.drawn["units_wrong"])
    assert len(verification_power.plot(result).axes) == 3


def test_h5_pictures_are_read_and_the_test_file_is_found_beside_them(tmp_path):
    train = write_h5(tmp_path / "train_pets.h5", train_set_x=PIXELS, train_set_y=LABELS, list_classes=[b"no", b"cat"])
    write_h5(tmp_path / "test_pets.h5", test_set_x=PIXELS[:2], test_set_y=LABELS[:2])
    split = data.pictures(train, None, seed=0)
    np.testing.assert_allclose(split.x, PIXELS / 255, rtol=1e-6)
    np.testing.assert_array_equal(split.y, LABELS)
    np.testing.assert_allclose(split.x_test, PIXELS[:2] / 255, rtol=1e-6)
    given = data.pictures(train, train, seed=0)
    assert len(given.x_test) == len(PIXELS)


def test_pictures_of_two_sizes_are_refused(tmp_path):
    train = write_h5(tmp_path / "train.h5", x_x=PIXELS, x_y=LABELS)
    test = write_h5(tmp_path / "test.h5", x_x=PIXELS[:, :3], x_y=LABELS)
    with pytest.raises(
        experiment.DataError, match=r"test\.h5: pictures of shape \(3, 4, 3\), but those in .* have \(4"
    ):
        data.pictures(train, test, seed=0)


def test_h5_pictures_without_a_test_file_are_split(tmp_path):
    split = data.pictures(write_h5(tmp_path / "pets.h5", x_x=PIXELS, y_y=LABELS), None, seed=0)
    assert (len(split.y), len(split.y_test)) == (4, 2)
    assert set(split.y_test) == {0, 1}


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"pixels": PIXELS}, "needs datasets named *_x and *_y, has pixels"),
        ({}, "has nothing"),
        ({"a_x": PIXELS[..., :2], "a_y": LABELS}, "must be uint8 (m, height, width, 3), got uint8 (6, 4, 4, 2)"),
        ({"a_x": PIXELS / 255, "a_y": LABELS}, "must be uint8 (m, height, width, 3), got float64"),
        ({"a_x": PIXELS, "a_y": LABELS[:4]}, "must be one integer for each of 6 pictures, got int64 (4,)"),
        ({"a_x": PIXELS, "a_y": LABELS / 1}, "must be one integer for each of 6 pictures, got float64"),
        ({"a_x": PIXELS, "a_y": LABELS + 1}, "labels must be 0 or 1, got [1, 2]"),
        ({"a_x": PIXELS[:0], "a_y": LABELS[:0]}, "got uint8 (0, 4, 4, 3)"),
        ({"a_x": PIXELS[:2], "a_y": LABELS[:2]}, "at least two pictures of either kind"),
    ],
)
def test_malformed_h5_files_are_refused_in_one_line(datasets, message, tmp_path):
    path = write_h5(tmp_path / "pets.h5", **datasets)
    with pytest.raises(experiment.DataError) as error:
        data.pictures(path, None, seed=0)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_not_h5_are_refused(tmp_path):
    path = tmp_path / "train.h5"
    path.write_bytes(b"not a file of pictures")
    code, output = command("run", "image_classifier", "--data", path, "--out", tmp_path)
    assert code == 2
    assert "not a readable HDF5 file" in output


def write_pictures(folder, kind, count, size=(90, 70)):
    (folder / kind).mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", size, (40 * i, 100, 200)).save(folder / kind / f"{i}.png")


def test_folders_of_pictures_are_read_at_one_size(tmp_path):
    write_pictures(tmp_path, "cat", 5)
    write_pictures(tmp_path, "non_cat", 5, size=(30, 200))
    split = data.pictures(tmp_path, None, seed=0)
    assert split.x.shape == (8, 64, 64, 3)
    assert split.x_test.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(split.x[..., 1], 100 / 255, rtol=1e-6)
    assert sorted(split.y_test) == [0, 1]


def test_folders_without_pictures_or_with_broken_ones_are_refused(tmp_path):
    with pytest.raises(
        experiment.DataError, match="needs folders cat/ and non_cat/ with pictures, found none in non_cat/"
    ):
        data.pictures(tmp_path, None, seed=0)
    write_pictures(tmp_path, "cat", 2)
    write_pictures(tmp_path, "non_cat", 2)
    (tmp_path / "cat" / "broken.png").write_bytes(b"\x89PNG nothing more")
    with pytest.raises(experiment.DataError, match=r"broken\.png: not a readable picture"):
        data.pictures(tmp_path, None, seed=0)
    Image.new("I;16", (8, 8)).save(tmp_path / "cat" / "broken.png")
    with pytest.raises(experiment.DataError, match=r"broken\.png: needs 8 bits a channel, has mode I;16"):
        data.pictures(tmp_path, None, seed=0)


def test_logistic_regression_on_the_cat_pictures_reproduces_the_published_numbers(request):
    """Pixels / 255, zero start, full batch, rate 0.005: J = 0.584508 after 100 steps, 70% right after 2000."""
    path = request.config.getoption("--data")
    if path is None:
        pytest.skip("needs --data=PATH/train_catvnoncat.h5, the cat pictures, which are not part of this project")
    split = data.pictures(Path(path), None, seed=0)
    x, x_test = (jaxnet.preprocessing.flatten_images(images) for images in (split.x, split.x_test))
    network, loss = (
        jaxnet.mlp((12288, 1), initializer=jaxnet.initializers.zeros, dtype="float32"),
        jaxnet.binary_cross_entropy,
    )
    options = {"key": jax.random.key(0), "batch_size": None}
    state, history = jaxnet.fit(network, loss, jaxnet.gradient_descent(0.005), x, split.y, epochs=2000, **options)
    assert history.cost[100] == pytest.approx(0.584508, abs=1e-6)
    prediction = jaxnet.predict(network, loss)(state.params, jnp.asarray(x_test))
    assert jaxnet.is_correct(prediction, split.y_test).mean() == pytest.approx(0.70)
