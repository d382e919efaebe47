"""Runs experiments one after another: progress, a table of the measured numbers, a figure and a JSON file for each."""

import importlib
import importlib.metadata
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments import experiment as model
from experiments.experiment import Experiment, Options, Result

BY_DEFAULT = ("logistic_regression", "image_classifier", "gradient_check")
NAMES = (*BY_DEFAULT, "verification_power", "optimizers_vs_optax", "benchmark")


def load(name: str) -> Experiment:
    """The module of an experiment."""
    return importlib.import_module(f"experiments.{name}")  # pyright: ignore[reportReturnType]


def run(name: str, options: Options, folder: Path, console: Console) -> bool:
    """Runs one experiment, shows and saves what it measured, and says whether its claim holds."""
    experiment = load(name)
    console.rule(f"[bold]{name}", align="left")
    console.print(experiment.CLAIM)

    def show(steps: Iterable[Any], description: str) -> Iterable[Any]:
        return track(steps, description, console=console, transient=True)

    started = time.perf_counter()
    result = experiment.run(options, show)
    seconds = time.perf_counter() - started
    for table in (_measurements(result), *map(_table, result.tables)):
        console.print(table)
    figure = _save(name, experiment, result, options, seconds, folder)
    verdict = "[green]holds" if result.holds else "[red]does not hold"
    console.print(f"The claim [bold]{verdict}[/]. {seconds:.1f} s. Figure: {figure}\n", highlight=False)
    return result.holds


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


def _save(name: str, experiment: Experiment, result: Result, options: Options, seconds: float, folder: Path) -> Path:
    """Writes NAME.svg and NAME.json, which holds every number of the figure; returns the figure's path."""
    from experiments import figures

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    figures.save(lambda: experiment.plot(result), path)
    device = jax.devices()[0]
    record = {
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
    text = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    """Arrays as lists, and numbers that are not finite as None, which JSON has no names for."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
