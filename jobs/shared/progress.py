"""Progress of a run on the terminal: a live bar on a tty, a plain line now and then anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pipeline.driver import Progress

_PLAIN_EVERY_S = 10.0
CostSoFar = Callable[[], tuple[float | None, str]]  # and its currency


def _unknown_cost() -> tuple[float | None, str]:
    return None, ""


@contextmanager
def show_progress(terminal: TextIO, cost_so_far: CostSoFar = _unknown_cost) -> "Iterator[Callable[[Progress], None]]":
    """A callback for the run, which shows its progress on `terminal`."""
    if not terminal.isatty():
        yield plain_lines(terminal, cost_so_far=cost_so_far)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bars(*columns, console=Console(file=terminal)) as bars:
        task = bars.add_task("starting Ray and loading the model", total=1.0)
        yield lambda progress: bars.update(
            task, completed=progress.fraction, description=describe(progress, *cost_so_far())
        )


def plain_lines(
    terminal: TextIO,
    every_s: float = _PLAIN_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
    cost_so_far: CostSoFar = _unknown_cost,
) -> "Callable[[Progress], None]":
    """Print at most one line per `every_s`, and the last one."""
    printed_s = -every_s

    def on_progress(progress: "Progress") -> None:
        nonlocal printed_s
        if clock() - printed_s >= every_s or is_last(progress):
            printed_s = clock()
            print(f"{progress.fraction:4.0%}  {describe(progress, *cost_so_far())}", file=terminal, flush=True)

    return on_progress


def is_last(progress: "Progress") -> bool:
    """Return whether everything is published; that all of it is computed may be true for a while."""
    return progress.num_shards_published >= progress.num_shards


def describe(progress: "Progress", cost: float | None = None, currency: str = "USD") -> str:
    """`1,200 images, 24.2/s, 1:15 left, depth 1.50, 5.03 computed, 3 errors, $0.0120, 1 of 4 shards`, if known."""
    from pipeline.report.number_formats import count, money

    speed = f"{progress.rows_per_s:.1f}/s" if progress.rows_per_s else ""
    left = "" if progress.eta_s is None or progress.fraction >= 1 else f"{duration(progress.eta_s)} left"
    depth = "" if progress.mean_depth is None else f"depth {progress.mean_depth:.2f}"
    computed = "" if progress.computed_depth is None else f"{progress.computed_depth:.2f} computed"
    errors = f"{count(progress.num_errors)} error{'' if progress.num_errors == 1 else 's'}"
    spent = "" if cost is None else money(cost, currency)
    shards = f"{progress.num_shards_published} of {progress.num_shards} shards"
    parts = (f"{count(progress.num_rows)} images", speed, left, depth, computed, errors, spent, shards)
    return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Format seconds: `75` -> `1:15`, `4000` -> `1:06:40`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
