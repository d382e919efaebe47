"""The person at the terminal while a program trains: a progress bar, and Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed; a second Ctrl-C raises `KeyboardInterrupt` as ever.

    An exception between the donation of a state and the return of the next would lose both, so the first is only noted.
    Outside the main thread, where Python delivers no signals, it is always False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = threading.Event()
    previous = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def note(number: int, frame: Any) -> None:
        requested.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def progress_bar(wanted: bool, epochs: int) -> Iterator[Callable[[float, float], None]]:
    """A function (finished epochs, last cost) -> None that shows them, if wanted.

    Raises:
        ImportError: if a bar is wanted and Rich is not installed.
    """
    if not wanted:
        yield lambda done, cost: None
        return
    try:
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError("a progress bar needs Rich: pip install 'jaxnet-by-hand[experiments]'") from error
    with Progress() as bar:
        task = bar.add_task("training", total=epochs)

        def show(done: int | float, cost: float) -> None:
            bar.update(task, completed=done, description=f"epoch {round(done, 2)}, cost {cost:.4g}")

        yield show
