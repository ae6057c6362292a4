"""Progress of a run on the terminal: a live bar on a tty, a plain line now and then anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pipeline.driver import Progress

_PLAIN_EVERY_S = 10.0


@contextmanager
def show_progress(terminal: TextIO) -> "Iterator[Callable[[Progress], None]]":
    """A callback for the run, which shows its progress on `terminal`."""
    if not terminal.isatty():
        yield plain_lines(terminal)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bars(*columns, console=Console(file=terminal)) as bars:
        task = bars.add_task("starting Ray and loading the model", total=1.0)
        yield lambda progress: bars.update(task, completed=progress.fraction, description=describe(progress))


def plain_lines(
    terminal: TextIO, every_s: float = _PLAIN_EVERY_S, clock: Callable[[], float] = time.monotonic
) -> "Callable[[Progress], None]":
    """Prints at most one line per `every_s`, and the last one."""
    printed_s = -every_s

    def on_progress(progress: "Progress") -> None:
        nonlocal printed_s
        if clock() - printed_s >= every_s or progress.fraction >= 1.0:
            printed_s = clock()
            print(f"{progress.fraction:4.0%}  {describe(progress)}", file=terminal, flush=True)

    return on_progress


def describe(progress: "Progress") -> str:
    depth = "" if progress.mean_depth is None else f", depth {progress.mean_depth:.2f}"
    eta = "" if progress.eta_s is None or progress.fraction >= 1 else f", {duration(progress.eta_s)} left"
    return (
        f"{progress.num_rows} rows ({progress.num_errors} errors), {progress.rows_per_s:.1f}/s{depth}, "
        f"{progress.num_shards_published} of {progress.num_shards} shards{eta}"
    )


def duration(seconds: float) -> str:
    """`75` -> `1:15`, `4000` -> `1:06:40`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
