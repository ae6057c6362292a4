"""What a job says while it runs: a live line for people, nothing for cron, or one JSON object a line for schedulers.

    progress   stderr: a bar or now and then a line; then the summary on stdout
    quiet      stderr: mistakes, failures and what Ray itself complains about; nothing else
    json       stdout: the events below and nothing else

JSON events all have `event` and `utc`: `started` (output), `progress` (rows, errors, images_per_s, mean_depth,
computed_depth, fraction, eta_s, shards_published, shards, elapsed_s, cost, currency), `log` (message: one line that
would have gone to stderr) and `finished` (exit_code, status, message, rows_read, rows_ok, rows_error, wall_s, cost,
currency, left_out: files of the source that are no input rows, by reason). Unknown is null.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

from jobs.shared.progress import is_last, show_progress
from jobs.shared.quiet import without_ray_noise
from pipeline.text import json_text

if TYPE_CHECKING:
    from conf.schema import CostConfig
    from pipeline.driver import Progress

_JSON_EVERY_S = 10.0
_FROM_WORKER = re.compile(rb"^(\x1b\[\d+m)*\([^()]*\bpid=\d+")  # how Ray begins lines that it passes on
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class LogMode(str, Enum):
    PROGRESS = "progress"
    QUIET = "quiet"
    JSON = "json"


def add_log_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log",
        choices=[mode.value for mode in LogMode],
        default=LogMode.PROGRESS.value,
        help="progress: a line for people; quiet: failures only, for cron; json: one object a line, for schedulers "
        "(default: %(default)s)",
    )


class JobLog:
    """One job's voice. `session` goes around the run, `finished` comes once it has ended."""

    def __init__(self, mode: LogMode, cost: "CostConfig", output: str, clock: Callable[[], float] = time.monotonic):
        self.mode = mode
        self._cost, self._output, self._clock = cost, output, clock
        self._start_s = clock()

    @contextmanager
    def session(self) -> "Iterator[Callable[[Progress], None]]":
        """A callback for the run's progress; meanwhile stderr is filtered or turned into events."""
        if self.mode is LogMode.PROGRESS:
            with without_ray_noise() as terminal, show_progress(terminal, self.cost_so_far) as on_progress:
                yield on_progress
        elif self.mode is LogMode.QUIET:
            with without_ray_noise(lambda line: None if _FROM_WORKER.match(line) else line):
                yield lambda _: None
        else:
            self._say("started", output=self._output)
            with without_ray_noise(self._log_event):
                yield json_lines(self._say, self._clock)

    def cost_so_far(self) -> tuple[float | None, str]:
        """Of this start of the command, and its currency; None where no price is known."""
        price = self._cost.price_per_hour
        cost = None if price is None else price * (self._clock() - self._start_s) / 3600
        return cost, self._cost.currency

    def finished(self, exit_code: int, record: Mapping[str, Any] | None, message: str | None = None) -> None:
        """Emit the last event; people have the summary, or a sentence on stderr, instead."""
        if self.mode is not LogMode.JSON:
            return
        counts = (record or {}).get("counts", {})
        self._say(
            "finished",
            exit_code=exit_code,
            status=(record or {}).get("status"),
            message=message,
            **{name: counts.get(name) for name in ("rows_read", "rows_ok", "rows_error")},
            wall_s=(record or {}).get("time", {}).get("wall_s"),
            cost=(record or {}).get("cost", {}).get("total"),
            currency=self._cost.currency,
            left_out=(record or {}).get("left_out"),
        )

    def say(self, text: str) -> None:
        """Print a line for people; emit an event for programs."""
        if self.mode is LogMode.PROGRESS:
            print(text)
        elif self.mode is LogMode.JSON:
            self._say("log", message=text)

    def _log_event(self, line: bytes) -> None:
        text = _COLOURS.sub("", line.decode("utf-8", "replace")).rstrip()
        if text:
            self._say("log", message=text)

    def _say(self, event: str, **fields: Any) -> None:
        if event == "progress":
            cost, currency = self.cost_so_far()
            fields |= {"elapsed_s": round(self._clock() - self._start_s, 3), "cost": cost, "currency": currency}
        utc = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        sys.stdout.write(json_text({"event": event, "utc": utc, **fields}) + "\n")
        sys.stdout.flush()


def json_lines(
    say: Callable[..., None], clock: Callable[[], float] = time.monotonic, every_s: float = _JSON_EVERY_S
) -> "Callable[[Progress], None]":
    """Say at most one event per `every_s`, and the last one."""
    said_s = -every_s

    def on_progress(progress: "Progress") -> None:
        nonlocal said_s
        if clock() - said_s < every_s and not is_last(progress):
            return
        said_s = clock()
        say(
            "progress",
            rows=progress.num_rows,
            errors=progress.num_errors,
            images_per_s=progress.rows_per_s or None,
            mean_depth=progress.mean_depth,
            computed_depth=progress.computed_depth,
            fraction=progress.fraction,
            eta_s=progress.eta_s,
            shards_published=progress.num_shards_published,
            shards=progress.num_shards,
        )

    return on_progress
