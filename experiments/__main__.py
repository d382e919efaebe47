"""The command: `python -m experiments`, and its `list`, `run NAME` and `benchmark`."""

import enum
import os
from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from rich.console import Console
from rich.table import Table

from experiments import runner
from experiments.experiment import DataError, Options
from experiments.fast_compile import compile_fast

app = typer.Typer(
    add_completion=False,
    help="The lecture's claims as measured experiments. Without a command some run; `list` names them all.",
    pretty_exceptions_enable=False,
)
console = Console()

MOST_JOBS = 4  # each holds about a gigabyte


class Platform(enum.StrEnum):
    """Where JAX can compute."""

    CPU = "cpu"
    GPU = "gpu"
    TPU = "tpu"


Out = Annotated[Path, typer.Option(help="Where figures and numbers are written.")]
Seeds = Annotated[int, typer.Option(min=1, help="Repetitions, where chance plays a part.")]
Where = Annotated[Platform | None, typer.Option(help="Where to compute; by default where JAX does.")]
Quick = Annotated[bool, typer.Option("--quick", help="A smaller run, for a look.")]
JOBS_HELP = (
    f"How many run at a time. By default one for each core of a CPU, at most {MOST_JOBS}, and 1 on a GPU or TPU."
)
DATA_HELP = (
    "Other data than the experiment's own: for image_classifier an h5 file of pictures or a folder with cat/ and "
    "non_cat/, for output_activations the word california."
)


def _refuse(message: str) -> typer.Exit:
    """Says in one line what is wrong with the command; exit code 2."""
    Console(stderr=True).print(f"error: {message}", soft_wrap=True, highlight=False, markup=False)
    return typer.Exit(2)


def _use(platform: Platform | None, fast: bool = True) -> None:
    """Decides where JAX computes and how it compiles, in this process and in those that it starts."""
    if platform is not None:
        _set("jax_platforms", platform.value)
    if fast:
        compile_fast()
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnet"
        _set("jax_compilation_cache_dir", str(kept))
        _set("jax_persistent_cache_min_compile_time_secs", 0.1)
    try:
        jax.devices()
    except RuntimeError as error:
        raise _refuse(f"JAX finds no device: {error}") from error


def _set(option: str, value: Any) -> None:
    os.environ[option.upper()] = str(value)
    jax.config.update(option, value)


def _run(tasks: dict[str, Options], out: Path, jobs: int = 1) -> None:
    """Runs the experiments; exit code 1 if a claim does not hold or an experiment fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        verdicts = [record.holds is True for record in runner.run_all(tasks, out, console, jobs)]
    except (DataError, OSError) as error:
        raise _refuse(str(error)) from error
    except KeyboardInterrupt:
        console.print(f"Interrupted. What was finished is in {out}/", highlight=False)
        raise typer.Exit(130) from None
    console.print(f"{sum(verdicts)} of {len(verdicts)} claims hold. Figures and numbers are in {out}/", highlight=False)
    if not all(verdicts):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    out: Out = Path("results"),
    seeds: Seeds = 5,
    quick: Quick = False,
    jobs: Annotated[int | None, typer.Option(min=1, help=JOBS_HELP)] = None,
    platform: Where = None,
) -> None:
    """Runs all experiments but the benchmark, the longest in a quick form, unless a command is given."""
    if context.invoked_subcommand is None:
        _use(platform)
        if jobs is None:
            jobs = min(os.cpu_count() or 1, MOST_JOBS) if jax.default_backend() == "cpu" else 1
        names = runner.BY_DEFAULT
        options = Options(jax.random.key(0), seeds, quick)
        _run({name: options._replace(quick=quick or name in runner.REDUCED) for name in names}, out, jobs)


@app.command("list")
def list_experiments() -> None:
    """Lists the experiments and their claims."""
    table = Table("experiment", "claim")
    for name in runner.NAMES:
        table.add_row(name, runner.load(name).CLAIM)
    console.print(table)


@app.command("run")
def run_experiment(
    name: Annotated[str, typer.Argument(help="Which one; `list` names them.")],
    out: Out = Path("results"),
    seeds: Seeds = 5,
    quick: Quick = False,
    data: Annotated[Path | None, typer.Option(help=DATA_HELP)] = None,
    test_data: Annotated[Path | None, typer.Option(help="Its test set, if not found beside it.")] = None,
    platform: Where = None,
) -> None:
    """Runs one experiment."""
    if name not in runner.NAMES:
        raise _refuse(f"no experiment is named {name!r}; there are {', '.join(runner.NAMES)}")
    if data is not None and name not in runner.TAKE_DATA:
        raise _refuse(f"{name} runs on its own data; only {' and '.join(runner.TAKE_DATA)} take --data")
    if test_data is not None and data is None:
        raise _refuse("--test-data goes with --data")
    _use(platform)
    _run({name: Options(jax.random.key(0), seeds, quick, data, test_data)}, out)


@app.command("benchmark")
def benchmark(
    peers: Annotated[
        str, typer.Option(help="Beside whom, separated by commas; by default all that are installed.")
    ] = "",
    workloads: Annotated[str, typer.Option(help="What to measure, separated by commas; by default everything.")] = "",
    out: Out = Path("results"),
    quick: Quick = False,
    platform: Where = None,
) -> None:
    """Measures speed and memory, beside plain JAX and beside other libraries."""
    from experiments.benchmark import CHOICES
    from experiments.benchmark.peers import importable

    chosen: dict[str, list[str]] = {}
    for option, given in (("peers", peers), ("workloads", workloads)):
        names = [name.strip() for name in given.split(",") if name.strip()]
        for name in names:
            if name not in CHOICES[option]:
                raise _refuse(f"no {option[:-1]} is named {name!r}; there are {', '.join(CHOICES[option])}")
            if option == "peers" and not importable(name):
                raise _refuse(f"{name} is not installed; the extra `benchmark` installs every peer but PyTorch")
        if names:
            chosen[option] = names
    _use(platform, fast=False)
    _run({"benchmark": Options(jax.random.key(0), quick=quick, chosen=chosen)}, out)


if __name__ == "__main__":
    app()
