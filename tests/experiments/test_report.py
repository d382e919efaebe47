"""The page of all that was measured: self-contained, escaped, and there for what fails too."""

import os
import re
import signal
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import jax
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from typer.testing import CliRunner

from experiments import runner
from experiments.__main__ import app
from experiments.experiment import Options, Result, Table, at_most
from experiments.report import Record


def experiment(run):
    def plot(result):
        """A line, <b>drawn</b>."""
        figure = Figure()
        figure.subplots().plot([0, 1])
        return figure

    return types.SimpleNamespace(CLAIM="It is <i>small</i> & true (S3, S5 to S7).", run=run, plot=plot)


def measured(value):
    table = Table("More <numbers>", ("name", "number"), (("a & b", 2.5),))
    return lambda options, track: Result((at_most("difference <x>", value, 1.0),), {}, (table,))


def broken(options, track):
    raise RuntimeError("no <such> thing")


EXPERIMENTS = {"first": experiment(measured(0.5)), "second": experiment(broken), "third": experiment(measured(2.0))}


def page_of(names, folder, monkeypatch):
    monkeypatch.setattr(runner, "load", EXPERIMENTS.__getitem__)
    tasks = dict.fromkeys(names, Options(jax.random.key(0), seeds=3))
    records = runner.run_all(tasks, folder, Console(quiet=True))
    return records, (folder / "index.html").read_text()


def test_an_experiment_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    records, page = page_of(["first", "second", "third"], tmp_path, monkeypatch)
    assert [record.holds for record in records] == [True, None, False]
    assert "1 of 3 claims hold" in page
    assert "no &lt;such&gt; thing" in page
    assert page.count('<p>The claim <span class="holds">holds') == 1
    assert page.count('<p>The claim <span class="fails">does not hold') == 1


def test_an_interrupt_leaves_a_page_of_what_was_finished(tmp_path, monkeypatch):
    def interrupted(options, track):
        raise KeyboardInterrupt

    monkeypatch.setitem(EXPERIMENTS, "stopped", experiment(interrupted))
    with pytest.raises(KeyboardInterrupt):
        page_of(["first", "stopped", "third"], tmp_path, monkeypatch)
    page = (tmp_path / "index.html").read_text()
    assert "1 of 1 claims hold" in page
    assert "third" not in page


def test_the_page_needs_no_other_file_and_escapes_every_text(tmp_path, monkeypatch):
    _, page = page_of(["first", "third"], tmp_path, monkeypatch)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {address.split(":")[0].split("#")[0] for address in addresses} == {"", "data"}
    for text in ("&lt;i&gt;small&lt;/i&gt; &amp; true", "difference &lt;x&gt;", "More &lt;numbers&gt;", "a &amp; b"):
        assert text in page
    assert page.count('alt="A line, &lt;b&gt;drawn&lt;/b&gt;."') == 2
    assert "python -m experiments run first --seeds 3" in page


def test_scripts_stay_text_wherever_they_come_from(tmp_path, monkeypatch):
    script = "<script>alert('it')</script>"
    hostile = f'"><img src=x onerror=alert(1)>{script}'

    def run(options, track):
        table = Table(hostile, (hostile, "value"), ((hostile, 1.0), (script, options.data.name)))
        return Result((at_most(hostile, 0.5, 1.0),), {hostile: [1.0]}, (table,))

    def fail(options, track):
        raise RuntimeError(f"{options.data}: {hostile}")

    hostile_experiments = {"runs": experiment(run), "fails": experiment(fail)}
    for one in hostile_experiments.values():
        one.CLAIM = f"{hostile} (S3)"
        one.plot.__doc__ = hostile
    monkeypatch.setattr(runner, "load", hostile_experiments.__getitem__)
    chosen = {"peers": [hostile]}
    options = Options(jax.random.key(0), data=Path(f"{script}.h5"), chosen=chosen)
    runner.run_all(dict.fromkeys(hostile_experiments, options), tmp_path, Console(quiet=True))
    page = Page()
    page.feed((tmp_path / "index.html").read_text())
    assert not {"script", "onerror"} & {*page.tags, *page.attributes}
    assert page.tags.count("img") == 1
    # The claim twice, the name of the table's column, a cell, the measurement, the command, the title, the traceback.
    assert "".join(page.text).count(script) >= 8


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


def test_statements_are_read_off_the_claim():
    assert Record("x", "One (S3, S5 to S7). Another (S12) of S99.", True).statements == [3, 5, 6, 7, 12]


def test_statements_lead_to_their_experiments(tmp_path, monkeypatch):
    _, page = page_of(["first"], tmp_path, monkeypatch)
    assert re.findall(r"<li>S(\d+):\n<a href=\"#(\w+)\"", page) == [(n, "first") for n in ("3", "5", "6", "7")]


def test_a_failure_is_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "load", EXPERIMENTS.__getitem__)
    monkeypatch.setattr(runner, "BY_DEFAULT", ("second", "first"))
    result = CliRunner().invoke(app, ["--out", str(tmp_path), "--jobs", "1"])
    assert result.exit_code == 1
    assert (tmp_path / "first.svg").exists()


def test_every_statement_of_the_lecture_is_measured_by_default():
    claims = [Record(name, runner.load(name).CLAIM, True) for name in runner.BY_DEFAULT]
    assert {s for record in claims for s in record.statements} == set(range(1, 22))


@pytest.fixture
def quick_run(tmp_path):
    """Two experiments at a time, each in a process of its own."""
    options = Options(jax.random.key(0), seeds=2, quick=True)
    tasks = {"image_classifier": options, "logistic_regression": options}
    return runner.run_all(tasks, tmp_path, Console(quiet=True), jobs=2), tmp_path


def test_records_of_other_processes_come_in_order_and_with_their_files(quick_run):
    records, folder = quick_run
    assert [(record.name, record.holds) for record in records] == [
        ("image_classifier", True),
        ("logistic_regression", True),
    ]
    assert {path.name for path in folder.iterdir()} >= {
        "index.html",
        "image_classifier.svg",
        "logistic_regression.json",
    }


# A suite that a script runs in the background ignores interrupts, and so would this process.
LONG_BESIDE_SHORT = """
import signal
import sys
from pathlib import Path
import jax
from rich.console import Console
from experiments import runner
from experiments.experiment import Options
signal.signal(signal.SIGINT, signal.default_int_handler)
options = Options(jax.random.key(0))
tasks = {"input_normalization": options._replace(seeds=10_000), "logistic_regression": options._replace(quick=True)}
runner.run_all(tasks, Path(sys.argv[1]), Console(), jobs=2)
"""


def test_an_interrupt_of_the_first_process_ends_the_others_and_leaves_the_page(tmp_path):
    command = [sys.executable, "-c", LONG_BESIDE_SHORT, str(tmp_path)]
    first = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        assert first.stdout is not None
        assert any("1 of 2" in line for line in first.stdout)  # the short one is finished
        first.send_signal(signal.SIGINT)
        assert "Report:" in first.communicate(timeout=60)[0]  # ends when no process is left that could write
        assert first.returncode not in (0, 1)
    except subprocess.TimeoutExpired:
        os.killpg(first.pid, signal.SIGKILL)
        raise
    assert "logistic regression" in (tmp_path / "index.html").read_text()
