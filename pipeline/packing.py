"""Rows -> Arrow, where a value that its column cannot hold costs its row and not the chunk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.tables import IN_ORDER, to_table
from pipeline.text import storable
from pipeline.unexpected_errors import one_line

UNSTORABLE = "unstorable_value"


class Blocks:
    """Rows packed as they come, so many at a time.

    A chunk may have several hundred thousand rows, the questions of one image; as Python objects they would take
    gigabytes.
    """

    def __init__(self, to_table: Callable[[list[dict[str, Any]]], pa.Table], block_rows: int) -> None:
        self._to_table, self._block_rows = to_table, block_rows
        self._waiting: list[dict[str, Any]] = []
        self._packed: list[pa.Table] = []

    def add(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)
        if len(self._waiting) >= self._block_rows:
            self._pack()

    def table(self, *, sort: bool) -> pa.Table:
        """Return all rows: in the order they came, or in that of the source."""
        self._pack()
        whole = pa.concat_tables(self._packed)
        return whole.sort_by(IN_ORDER) if sort else whole

    def _pack(self) -> None:
        self._packed.append(self._to_table(self._waiting))
        self._waiting = []


def pack(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, stage: str) -> pa.Table:
    """Return a table of the rows, in order; what a row does not have is null.

    A row that cannot be stored as it is becomes an errors row of `stage` with everything of it that can.
    """
    try:
        return to_table(rows, schema)
    except Exception as error:  # Arrow has an exception for each way in which a value may not fit
        if len(rows) == 1:
            return pa.Table.from_pylist([_without_misfits(rows[0], schema, stage, error)], schema=schema)
    middle = len(rows) // 2
    return pa.concat_tables([pack(rows[:middle], schema, stage), pack(rows[middle:], schema, stage)])


def _without_misfits(row: Mapping[str, Any], schema: pa.Schema, stage: str, error: Exception) -> dict[str, Any]:
    kept = {field.name: row.get(field.name) for field in schema if _fits(row.get(field.name), field.type)}
    misfits = [name for name in schema.names if name not in kept]
    for name in ("sample_id", "key"):
        if name in misfits:
            kept[name] = storable(str(row[name]))
    message = f"{kept['sample_id']}: {', '.join(misfits)} cannot be stored: {one_line(error)}"
    failed = {"stage": stage, "error_type": UNSTORABLE, "message": message, "attempts": 1}
    return {**kept, "pixel_index": None, **failed}


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except Exception:
        return False
    return True
