"""The command: `python -m experiments`, `python -m experiments list`, `python -m experiments run NAME`."""

from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.table import Table

from experiments import runner
from experiments.data import DataError
from experiments.experiment import Options

app = typer.Typer(
    add_completion=False,
    help="The lecture's claims as measured experiments. Without a command some run; `list` names them all.",
    pretty_exceptions_enable=False,
)
console = Console()

Out = Annotated[Path, typer.Option(help="Where figures and numbers are written.")]
Seeds = Annotated[int, typer.Option(min=1, help="Repetitions, where chance plays a part.")]
Quick = Annotated[bool, typer.Option("--quick", help="A smaller run, for a look.")]
DATA_HELP = "An h5 file of pictures, or a folder with cat/ and non_cat/, instead of the experiment's own data."


def _refuse(message: str) -> typer.Exit:
    """Says in one line what is wrong with the command; exit code 2."""
    Console(stderr=True).print(f"error: {message}", soft_wrap=True, highlight=False, markup=False)
    return typer.Exit(2)


def _run(names: tuple[str, ...], options: Options, out: Path) -> None:
    """Runs the experiments; exit code 1 if a claim does not hold or an experiment fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        verdicts = [record.holds is True for record in runner.run_all(names, options, out, console)]
    except (DataError, OSError) as error:
        raise _refuse(str(error)) from error
    except KeyboardInterrupt:
        console.print(f"Interrupted. What was finished is in {out}/", highlight=False)
        raise typer.Exit(130) from None
    console.print(f"{sum(verdicts)} of {len(verdicts)} claims hold. Figures and numbers are in {out}/", highlight=False)
    if not all(verdicts):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def everything(context: typer.Context, out: Out = Path("results"), seeds: Seeds = 5, quick: Quick = False) -> None:
    """Runs the shorter experiments, unless a command is given; `run` runs any of them."""
    if context.invoked_subcommand is None:
        _run(runner.BY_DEFAULT, Options(jax.random.key(0), seeds, quick), out)


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
) -> None:
    """Runs one experiment."""
    if name not in runner.NAMES:
        raise _refuse(f"no experiment is named {name!r}; there are {', '.join(runner.NAMES)}")
    if data is not None and name != "image_classifier":
        raise _refuse(f"{name} runs on its own data; only image_classifier takes --data")
    if test_data is not None and data is None:
        raise _refuse("--test-data goes with --data")
    _run((name,), Options(jax.random.key(0), seeds, quick, data, test_data), out)


if __name__ == "__main__":
    app()
