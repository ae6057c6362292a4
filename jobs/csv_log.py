"""Numbers of a training run as CSV, one number a row: read by spreadsheets, pandas and TensorBoard's CSV importers."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("stage", "step", "kind", "name", "value")


class CsvLog:
    """Appends to `<output>/log.csv`, made with the first rows; a resumed run continues the file."""

    def __init__(self, output: Path) -> None:
        self.path = output / "log.csv"

    def append(self, rows: Iterable[Sequence[Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.is_file()
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows] if is_new else rows)
