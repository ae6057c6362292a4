"""The rows of one chunk in an actor: prepared ones go out in blocks, finished ones are packed as they come."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ops.duplicates import Answer, Key, answers_of, as_copy, repeats_of
from pipeline.packing import Blocks, pack
from pipeline.report.work import caught_up
from pipeline.tables import staging_schema

BLOCK_ROWS = 256


class ChunkRows:
    """`collapse`: rows with the same image and prompt are answered once (pipeline.ops.duplicates)."""

    def __init__(self, shard: str, prepared: pa.Table, passthrough: Sequence[str], *, collapse: bool) -> None:
        self._shard, self._prepared = shard, prepared
        self._schema = staging_schema(passthrough)
        asked = pc.indices_nonzero(pc.is_valid(prepared["pixel_index"])).to_pylist()
        self._repeats = repeats_of(prepared, asked) if collapse else {}  # position -> the one answered for it
        self.to_run = [position for position in asked if position not in self._repeats]
        self.answers: dict[Key, Answer] = {}  # to be remembered, where duplicates collapse
        self._collapse, self._originals = collapse, frozenset(self._repeats.values())
        self._columns: dict[int, Mapping[str, Any]] = {}  # of the originals
        self._finished = Blocks(self._packed, BLOCK_ROWS)
        self._errors: Counter[str] = Counter()
        self._num_layers = self._num_caught_up = self._num_steps = 0

    def prepared(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._prepared.take(pa.array(positions, pa.int64())).to_pylist()
        return rows

    def finish(self, position: int, row: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
        """Take the outcome of a row."""
        if position in self._originals:
            self._columns[position] = columns
        self._finished.add({**row, "shard": self._shard, **columns})

    def table(self) -> pa.Table:
        """Return the chunk as it is staged, once every row of `to_run` is finished."""
        done = set(self.to_run)
        others = [position for position in range(self._prepared.num_rows) if position not in done]
        for first in range(0, len(others), BLOCK_ROWS):
            block = others[first : first + BLOCK_ROWS]
            for position, row in zip(block, self.prepared(block), strict=True):
                self.finish(position, row, self._columns_without_engine(position, row))
        return self._finished.table(sort=True)

    def summary(self) -> dict[str, Any]:
        """Return the part of tables.SUMMARY that counts."""
        return {
            "num_rows": self._prepared.num_rows,
            "num_errors": self._errors.total(),
            "num_layers_run": self._num_layers,
            "num_layers_caught_up": self._num_caught_up,
            "num_steps": self._num_steps,
            "error_types": json.dumps(self._errors),
        }

    def _columns_without_engine(self, position: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if position not in self._repeats:  # it failed before
            return {"attempts": row["attempts"] or 1}
        original = self._repeats[position]
        columns, (first,) = self._columns[original], self.prepared([original])
        if columns.get("stage") is not None:  # its message names the other row
            message = str(columns["message"]).replace(first["sample_id"], row["sample_id"], 1)
            return {**columns, "message": message}
        return as_copy(columns, first["sample_id"])

    def _packed(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Return a block of finished rows, counted and remembered."""
        table = pack(rows, self._schema, "engine")
        failed = pc.is_valid(table["stage"])
        bad, good = table.filter(failed), table.filter(pc.invert(failed))
        self._errors.update(
            map("/".join, zip(*(bad[name].to_pylist() for name in ("stage", "error_type")), strict=True))
        )
        own = good["exit_layers"].filter(pc.is_null(good["duplicate_of"]))
        layers = pc.list_flatten(own).to_numpy().astype(np.int64)
        lengths = pc.fill_null(pc.list_value_length(own), 0).to_numpy()
        self._num_layers += int(layers.sum())
        self._num_caught_up += int(caught_up(layers, lengths).sum())
        self._num_steps += layers.size
        if self._collapse:
            self.answers |= answers_of(rows)
        return table
