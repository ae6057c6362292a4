"""What a Parquet column of images may hold, and how many images each of its rows has."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from pipeline.source.readers.tables.records import is_damage

_BATCH_ROWS = 32  # where the images themselves have to be read to be counted, all of these are held
_BYTES = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
_LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list)
_TEXT = (types.is_string, types.is_large_string, types.is_string_view)


def holds_lists(column: pa.DataType) -> bool:
    """Return whether each row has a list of images."""
    return any(belongs(_plain(column)) for belongs in _LISTS)


def why_no_images(column: pa.DataType) -> str | None:
    """Return what a column holds in place of images; None: images, or nothing but null."""
    plain = _plain(column)
    one = _plain(plain.value_type) if holds_lists(plain) else plain
    if types.is_null(one) or any(belongs(one) for belongs in _BYTES):
        return None
    if types.is_struct(one) and {"bytes", "path"} & {child.name for child in one}:
        return None
    if any(belongs(one) for belongs in _TEXT):
        return "text; of paths and URIs make it a manifest: source.kind=manifest, source.uri_column=that column"
    return f"{column}, not image bytes or {{bytes, path}} structs"


def advice_on_images(schema: pa.Schema) -> str:
    """Where a file's images might be, for somebody who has named another column; empty if nothing looks like it."""
    held = [field.name for field in schema if not types.is_null(field.type) and why_no_images(field.type) is None]
    if held:
        return f"; did you mean {' or '.join(map(repr, held[:3]))}?"
    texts = [field.name for field in schema if any(belongs(_plain(field.type)) for belongs in _TEXT)]
    if not texts:
        return ""
    return "; if one of them holds paths or URIs: source.kind=manifest, and its name as source.uri_column"


def images_per_row(table: pq.ParquetFile, group: int, column: str) -> list[int]:
    """Return how long the list of each row of a row group is, 0 for null; all 0 where the group is damaged.

    Of lists of structs only the paths are read, where there are paths; of others all that they hold.
    """
    paths = (table.schema.column(n).path for n in range(len(table.schema)))
    leaves = [path for path in paths if f"{path}.".startswith(f"{column}.")]
    leaf = next((path for path in leaves if path.endswith(".path")), leaves[0])
    counts: list[int] = []
    try:
        for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[leaf], use_threads=False):
            counts += pc.fill_null(pc.list_value_length(batch.column(0)), 0).to_pylist()
    except Exception as error:
        if not is_damage(error):
            raise
        return [0] * table.metadata.row_group(group).num_rows
    return counts


def _plain(column: pa.DataType) -> pa.DataType:
    while isinstance(column, pa.BaseExtensionType) or types.is_dictionary(column):
        column = column.storage_type if isinstance(column, pa.BaseExtensionType) else column.value_type
    return column
