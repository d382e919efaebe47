"""Runs experiments: progress, the measured numbers, a figure and a JSON file for each, and one page of all."""

import contextlib
import importlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.experiment import DataError, Experiment, Options, Result, Track
from experiments.report import Record, write

BY_DEFAULT = (
    "logistic_regression",
    "image_classifier",
    "gradient_check",
    "backprop_by_hand",
    "activation_functions",
    "output_activations",
    "identity_collapse",
    "input_normalization",
    "vanishing_exploding",
    "initialization",
    "symmetry",
    "batch_sizes",
    "momentum",
    "optimizers",
    "verification_power",
    "optimizers_vs_optax",
)
REDUCED = ("verification_power", "optimizers_vs_optax")  # in their quick form unless run by name
TAKE_DATA = ("image_classifier", "output_activations")
NAMES = (*BY_DEFAULT, "benchmark")


def load(name: str) -> Experiment:
    """The module of an experiment."""
    return importlib.import_module(f"experiments.{name}")  # pyright: ignore[reportReturnType]


def run_all(tasks: Mapping[str, Options], folder: Path, console: Console, jobs: int = 1) -> list[Record]:
    """Runs experiments; one that fails is reported and does not stop the others.

    Args:
        tasks: how to run each experiment, by name; the page is in their order.
        folder: where figures, numbers and index.html are written.
        console: where progress and results are shown.
        jobs: how many run at a time, each in a process of its own; 1 is this process.
    """
    finished = _one_by_one(tasks, folder, console) if jobs == 1 else _in_processes(tasks, folder, console, jobs)
    records: dict[str, Record] = {}
    try:
        with contextlib.closing(finished):  # at once, if an interrupt arrives while a record is shown
            for record in finished:
                records[record.name] = record
                _show(record, console, f"{len(records)} of {len(tasks)}")
    finally:  # also of what was finished when the rest was interrupted
        ordered = [records[name] for name in tasks if name in records]
        if ordered:
            console.print(f"Report: {write(ordered, folder)}", highlight=False)
    return ordered


def _one_by_one(tasks: Mapping[str, Options], folder: Path, console: Console) -> Generator[Record]:
    for name, options in tasks.items():

        def show(steps: Iterable[Any], description: str, name: str = name) -> Iterable[Any]:
            return track(steps, f"{name}: {description}", console=console, transient=True)

        yield run(name, options, folder, show)


def _in_processes(tasks: Mapping[str, Options], folder: Path, console: Console, jobs: int) -> Generator[Record]:
    """The records in the order in which the experiments finish."""
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    shares = context.SimpleQueue()
    for share in range(jobs):
        shares.put(share)
    with ProcessPoolExecutor(jobs, context, _keep_to_a_share, (shares, jobs)) as executor:
        last_first = reversed(list(tasks.items()))  # the long ones stand last: the short ones fill the gaps at the end
        futures = [executor.submit(run, name, options, folder) for name, options in last_first]
        try:
            every = track(as_completed(futures), f"{jobs} at a time", len(futures), console=console, transient=True)
            for future in every:
                yield future.result()
        except BaseException:  # among them GeneratorExit
            for process in multiprocessing.active_children():
                process.terminate()  # an experiment may be minutes from its end
            raise
        finally:
            executor.shutdown(cancel_futures=True)


def _keep_to_a_share(shares: Any, jobs: int) -> None:
    """Binds a process to its share of the cores, since XLA starts a thread for every core that it may use."""
    if hasattr(os, "sched_setaffinity"):  # on Linux
        cores = sorted(os.sched_getaffinity(0))[shares.get() :: jobs]
        os.sched_setaffinity(0, cores or os.sched_getaffinity(0))


def _alone(steps: Iterable[Any], description: str) -> Iterable[Any]:
    """No progress bar: several processes share the terminal."""
    del description
    return steps


def run(name: str, options: Options, folder: Path, track: Track = _alone) -> Record:
    """Runs one experiment and saves what it measured; what it raises is recorded."""
    experiment, started = load(name), time.perf_counter()
    try:
        result = experiment.run(options, track)
        return _save(name, experiment, result, options, time.perf_counter() - started, folder)
    except (DataError, OSError):
        raise
    except Exception:
        return Record(name, experiment.CLAIM, None, error=traceback.format_exc(limit=-3))


def _show(record: Record, console: Console, place: str) -> None:
    console.rule(f"[bold]{record.name}[/] {place}", align="left")
    console.print(record.claim, highlight=False)
    if record.error:
        console.print(f"It failed:\n{record.error}", style="red", markup=False, highlight=False)
        return
    console.print(_measurements(record.numbers["measurements"]))
    for table in record.numbers["tables"]:
        console.print(_table(**table))
    verdict = "[green]holds" if record.holds else "[red]does not hold"
    form = ", in its quick form" * record.numbers["quick"]
    console.print(f"The claim [bold]{verdict}[/]{form}. {record.numbers['seconds']:.1f} s.\n", highlight=False)


def _measurements(measured: Iterable[dict[str, Any]]) -> Table:
    table = Table("measured", "value", "claimed", "holds", box=SIMPLE_HEAD)
    marks = {None: "", True: "[green]yes", False: "[red]no"}
    for one in measured:
        value = "not finite" if one["value"] is None else f"{one['value']:.4g}"
        table.add_row(one["name"], value, one["expected"], marks[one["holds"]])
    return table


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(f"{cell:.2g}" if isinstance(cell, float) else str(cell) for cell in row))
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
        "chosen": dict(options.chosen),
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
