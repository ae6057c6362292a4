"""Numbers of a training run on disk: log.csv for spreadsheets, pandas and TensorBoard's CSV importers; log.jsonl whole.

A run that was killed redoes the steps since its last saved state, so a resumed log is first cut back to that state:
in the end it is the log of a run that was never interrupted.
"""

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("stage", "step", "kind", "name", "value")


class TrainingLog:
    """Appends to `<output>/log.csv` (one number a row) and `<output>/log.jsonl`, made with the first rows."""

    def __init__(self, output: Path) -> None:
        self.table, self.lines = output / "log.csv", output / "log.jsonl"
        self._known: set[tuple[str, ...]] = set()

    def rewind(self, step: int) -> None:
        """Forget what came after `step`, from which the run goes on, and a line that was cut by a kill."""
        if self.table.is_file():
            kept = _keep(self.table, lambda line: line == _csv([COLUMNS]) or _row_step(line) <= step)
            self._known = {tuple(row[:4]) for row in csv.reader(kept)}
        if self.lines.is_file():
            _keep(self.lines, lambda line: int(json.loads(line).get("step", 0)) <= step)

    def append(self, rows: Iterable[Sequence[Any]], values: dict[str, Any]) -> None:
        """Add rows of COLUMNS that are not there yet, and the report they are from."""
        fresh = [row for row in rows if tuple(map(str, row[:4])) not in self._known]
        if not fresh:
            return
        self.table.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.table.is_file()
        with open(self.table, "a", newline="", encoding="utf-8") as file:
            file.write(_csv([COLUMNS, *fresh] if is_new else fresh))
        with open(self.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **values}) + "\n")


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _row_step(line: str) -> int:
    return int(next(csv.reader([line]))[1])


def _keep(path: Path, wanted: Callable[[str], bool]) -> list[str]:
    """Leave only whole lines that are wanted; return them."""
    kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n") and wanted(line)
    ]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
    return kept
