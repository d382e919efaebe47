"""Runs experiments: progress, the measured numbers, a figure and a JSON file for each, and one page of all."""

import importlib
import importlib.metadata
import json
import math
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments import experiment as model
from experiments.data import DataError
from experiments.experiment import Experiment, Options, Result
from experiments.report import Record, write

BY_DEFAULT = ("logistic_regression", "image_classifier", "gradient_check")
BY_NAME = (
    "backprop_by_hand",
    "identity_collapse",
    "vanishing_exploding",
    "symmetry",
    "batch_sizes",
    "momentum",
    "optimizers",
    "activation_functions",
    "output_activations",
    "input_normalization",
    "verification_power",
    "optimizers_vs_optax",
    "benchmark",
)
NAMES = (*BY_DEFAULT, *BY_NAME)


def load(name: str) -> Experiment:
    """The module of an experiment."""
    return importlib.import_module(f"experiments.{name}")  # pyright: ignore[reportReturnType]


def run_all(names: Sequence[str], options: Options, folder: Path, console: Console) -> list[Record]:
    """Runs experiments one after the other; one that fails is reported and does not stop the others."""
    records = []
    for number, name in enumerate(names, start=1):
        console.rule(f"[bold]{name}[/] {number} of {len(names)}", align="left")
        try:
            records.append(run(name, options, folder, console))
        except DataError:
            raise
        except Exception:
            console.print_exception()
            records.append(Record(name, load(name).CLAIM, None, error=traceback.format_exc(limit=-3)))
    command = f"python -m experiments run {{name}} --seeds {options.seeds}{' --quick' * options.quick}"
    console.print(f"Report: {write(records, folder, command)}", highlight=False)
    return records


def run(name: str, options: Options, folder: Path, console: Console) -> Record:
    """Runs one experiment, shows and saves what it measured."""
    experiment = load(name)
    console.print(experiment.CLAIM)

    def show(steps: Iterable[Any], description: str) -> Iterable[Any]:
        return track(steps, description, console=console, transient=True)

    started = time.perf_counter()
    result = experiment.run(options, show)
    seconds = time.perf_counter() - started
    for table in (_measurements(result), *map(_table, result.tables)):
        console.print(table)
    record = _save(name, experiment, result, options, seconds, folder)
    verdict = "[green]holds" if record.holds else "[red]does not hold"
    console.print(f"The claim [bold]{verdict}[/]. {seconds:.1f} s. Figure: {folder / name}.svg\n", highlight=False)
    return record


def _measurements(result: Result) -> Table:
    table = Table("measured", "value", "claimed", "holds", box=SIMPLE_HEAD)
    marks = {None: "", True: "[green]yes", False: "[red]no"}
    for name, value, expected, holds in result.measurements:
        table.add_row(name, f"{value:.4g}", expected, marks[holds])
    return table


def _table(numbers: model.Table) -> Table:
    table = Table(*numbers.columns, title=numbers.title, title_justify="left", box=SIMPLE_HEAD)
    for row in numbers.rows:
        table.add_row(*(cell if isinstance(cell, str) else f"{cell:.2g}" for cell in row))
    return table


def _save(name: str, experiment: Experiment, result: Result, options: Options, seconds: float, folder: Path) -> Record:
    """Writes NAME.svg and NAME.json, which holds every number of the figure."""
    from experiments import figures

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    figures.save(lambda: experiment.plot(result), path)
    device = jax.devices()[0]
    numbers = {
        "experiment": name,
        "claim": experiment.CLAIM,
        "holds": result.holds,
        "measurements": [measurement._asdict() for measurement in result.measurements],
        "tables": [table._asdict() for table in result.tables],
        "drawn": result.drawn,
        "seeds": options.seeds,
        "quick": options.quick,
        "data": None if options.data is None else options.data.name,
        "seconds": round(seconds, 3),
        "device": f"{device.platform}: {device.device_kind}",
        "versions": {package: importlib.metadata.version(package) for package in ("jax", "numpy", "optax")},
    }
    numbers = _plain(numbers)
    text = json.dumps(numbers, ensure_ascii=False, allow_nan=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    shows = " ".join((experiment.plot.__doc__ or "").split())
    return Record(name, experiment.CLAIM, result.holds, shows, numbers)


def _plain(value: Any) -> Any:
    """Arrays as lists, and numbers that are not finite as None, which JSON has no names for."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
