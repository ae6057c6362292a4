"""Source columns that are copied to the results: their types, settled once for an output, and their values in rows.

The types are settled when an output is begun, from the source as it is then, and kept in the output: what is added to
the source later is cast to them, and a row whose value does not fit becomes an errors row, `bad_passthrough`.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import types

from conf.source import SourceConfig
from pipeline.output.storage import Storage
from pipeline.packing import pack
from pipeline.source.plan import Shard
from pipeline.source.source_types import TEXT, column_of
from pipeline.tables import SOURCE_PREFIX, Passthrough, prepared_schema

COLUMNS_NAME = "_state/columns.json"
_MOST_LOOKED_AT = 16  # files whose types are compared when an output is begun


class HasTypes(Protocol):
    """The part of a reader that is asked here."""

    def field_types(self, shards: Sequence[Shard]) -> Mapping[str, pa.DataType]: ...


def settle(
    storage: Storage, reader: HasTypes, source: SourceConfig, shards: Sequence[Shard], *, begun: bool
) -> tuple[pa.Field, ...]:
    """The passthrough fields of this output, recorded there. `begun`: it holds rows already; if nothing is recorded,
    they are of a version that wrote text only. Needs the lease."""
    names = source.passthrough
    if not names:
        return ()
    recorded = _load(storage)
    if recorded is not None and {field.name for field in recorded} == set(names):
        return tuple(recorded.field(name) for name in names)
    known = {} if begun else without_items(reader.field_types(_spread(shards)), source.prompt.list_field)
    fields = tuple(pa.field(name, known.get(name, TEXT)) for name in names)
    schema = base64.b64encode(pa.schema(fields).serialize()).decode()
    shown = {SOURCE_PREFIX + field.name: str(field.type) for field in fields}
    storage.write(COLUMNS_NAME, json.dumps({"columns": shown, "arrow_schema": schema}, indent=2).encode())
    return fields


def _load(storage: Storage) -> pa.Schema | None:
    try:
        content = json.loads(storage.read(COLUMNS_NAME))
    except FileNotFoundError:
        return None
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(content["arrow_schema"])))


def _spread(shards: Sequence[Shard]) -> list[Shard]:
    """Return the first, the last, and some between: those whose types stand for all."""
    if len(shards) <= _MOST_LOOKED_AT:
        return list(shards)
    return [shards[n * (len(shards) - 1) // (_MOST_LOOKED_AT - 1)] for n in range(_MOST_LOOKED_AT)]


def without_items(known: Mapping[str, pa.DataType], list_field: str | None) -> dict[str, pa.DataType]:
    """The types of fields that mean the same in every prompt: not the list of prompts, nor what its objects have."""
    items = None if list_field is None else known.get(list_field)
    left_out = {list_field}
    if items is not None and types.is_list(items) and types.is_struct(items.value_type):
        left_out |= {field.name for field in items.value_type}
    return {name: own for name, own in known.items() if name not in left_out}


def prepared_table(rows: Sequence[dict[str, Any]], passthrough: Passthrough) -> pa.Table:
    """Return the rows whose source columns hold values of any kind -> the table that goes to the engine.

    No value can make this fail: a row with one that its column cannot hold is turned into an errors row.
    """
    columns: dict[str, pa.Array] = {}
    for field in prepared_schema(passthrough):
        if field.name.startswith(SOURCE_PREFIX):
            columns[field.name], misfits = column_of([row.get(field.name) for row in rows], field.type)
            for position, message in misfits.items():
                _fail(rows[position], f"{field.name}: {message}")
    table = pack(rows, prepared_schema(), "preprocess")
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _fail(row: dict[str, Any], message: str) -> None:
    if row.get("stage") is None:
        said = f"{row['sample_id']}: {message}"
        row.update(stage="read", error_type="bad_passthrough", message=said, pixel_index=None, sha256=None)
    else:
        row["message"] = f"{row.get('message') or ''}; {message}"
