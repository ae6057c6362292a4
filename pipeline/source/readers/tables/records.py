"""Records of table files, texts (text_tables.py) or Parquet: where each one is, and reading some.

A record's place is a byte range of the decompressed text, or a row number of the Parquet file.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import UserError
from conf.source import RetryConfig
from conf.table import TableConfig
from pipeline.source.file_systems import resolve
from pipeline.source.plan import ByteRange, Place, RowRange
from pipeline.source.readers.fetching.files import open_file
from pipeline.source.readers.tables.text_tables import BadRecord as BadRecord
from pipeline.source.readers.tables.text_tables import TextTable
from pipeline.source.retrying import Exhausted, retry
from pipeline.source.source_types import python_values

_FORMATS = {
    "csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "txt": "txt", "parquet": "parquet",
}  # fmt: skip
_COMPRESSION = re.compile(r"\.(gz|bz2|xz|zst)$", re.IGNORECASE)
_BATCH_ROWS = 32  # of a row group at once: with images in them, more is a lot of memory
_USUAL = TableConfig()


class DamagedRow(BadRecord):
    """A row of a Parquet file whose row group is damaged; those of other groups can be read."""


def format_of(url: str, table: TableConfig = _USUAL) -> str:
    """`m.jsonl.gz` -> jsonl; a UserError for anything else than the known formats."""
    if table.format != "auto":
        return table.format
    name = url.partition("?")[0] if url.lower().startswith(("http://", "https://")) else url
    suffix = _COMPRESSION.sub("", name).rsplit(".", 1)[-1].lower()
    if suffix not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise UserError(f"cannot tell the format of {url!r} by its name; known are {known}, or set source.table.format")
    return _FORMATS[suffix]


def text_table(url: str, table: TableConfig = _USUAL) -> TextTable | None:
    """None for Parquet."""
    form = format_of(url, table)
    return None if form == "parquet" else TextTable(url, form, table)


def places(url: str, first: int = 0, end: int | None = None, table: TableConfig = _USUAL) -> Iterator[Place]:
    """Yield where the records are, in order; of text files those that begin at `first` or later and before `end`."""
    text = text_table(url, table)
    if text is not None:
        yield from text.places(first, end)
        return
    with open_parquet(url) as parquet:
        num_rows = parquet.metadata.num_rows
    yield from (RowRange(row, 1) for row in range(first, num_rows if end is None else min(end, num_rows)))


def read_records(
    url: str, where: Sequence[Place], columns: Sequence[str] | None = None, table: TableConfig = _USUAL
) -> Iterator[Any]:
    """Yield the record (a dict) or BadRecord at each place; places must ascend. Of Parquet, only `columns` are read."""
    text = text_table(url, table)
    if text is not None:
        yield from text.read([place for place in where if isinstance(place, ByteRange)])
    else:
        yield from read_parquet_rows(url, [place.begin for place in where], columns)


def column_names(url: str, table: TableConfig = _USUAL) -> list[str] | None:
    """Return the columns of a CSV or Parquet file; None for JSON, whose records are all their own."""
    text = text_table(url, table)
    if text is not None:
        return text.names()
    with open_parquet(url) as parquet:
        return list(parquet.schema_arrow.names)


def open_parquet(url: str) -> pq.ParquetFile:
    """Return a Parquet file read in pieces: neither the file nor a row group is held as a whole."""
    fs, inner = resolve(url)
    return pq.ParquetFile(open_file(fs, inner), pre_buffer=False, buffer_size=1 << 20)


def schemas_of(
    urls: Iterable[str | None], patience: RetryConfig, table: TableConfig = _USUAL
) -> Iterator[pa.Schema | None]:
    """The Arrow schema of each file, None where it is no Parquet or none; a file that cannot be opened is left out,
    because that is said where its rows are read."""
    for url in dict.fromkeys(urls):
        if url is None or not _is_parquet(url, table):
            yield None
            continue
        try:
            with retry(lambda url=url: open_parquet(url), f"opening {url}", patience) as parquet:  # type: ignore[misc]
                yield parquet.schema_arrow
        except (OSError, pa.ArrowException, Exhausted):
            continue


def _is_parquet(url: str, table: TableConfig) -> bool:
    """A file of any name may hold images in Parquet; only manifests are told by their suffix."""
    try:
        return format_of(url, table) == "parquet"
    except UserError:
        return True


def read_parquet_rows(
    url: str, rows: Sequence[int], columns: Sequence[str] | None
) -> Iterator[dict[str, Any] | BadRecord]:
    """Yield the given rows, which must ascend; only the row groups they are in are touched, each once.

    A damaged row group costs the rows from the damage to its end, which are DamagedRow; no other group.
    """
    with open_parquet(url) as table:
        wanted = list(rows)
        done = group_first = 0
        for group in range(table.metadata.num_row_groups):
            group_end = group_first + table.metadata.row_group(group).num_rows
            own = wanted[done : bisect_left(wanted, group_end)]
            done += len(own)
            given = 0
            try:
                for record in _rows_of_group(table, group, [row - group_first for row in own], columns):
                    given += 1
                    yield record
            except Exception as error:
                if not is_damage(error):
                    raise
                for _ in own[given:]:
                    yield DamagedRow(f"row group {group} cannot be read: {type(error).__name__}: {error}")
            group_first = group_end
        if done < len(wanted):
            raise OSError(f"{url} has no row {wanted[done]}")


def _rows_of_group(
    table: pq.ParquetFile, group: int, positions: Sequence[int], columns: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    first = done = 0
    if not positions:
        return
    # Not by threads of Arrow: one that still holds a Python object when the process ends aborts it.
    for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
        while done < len(positions) and positions[done] < first + batch.num_rows:
            one = batch.slice(positions[done] - first, 1)
            # by place: two columns may have one name
            yield {name: python_values(column)[0] for name, column in zip(one.schema.names, one.columns, strict=True)}
            done += 1
        if done == len(positions):
            return
        first += batch.num_rows
    raise OSError(f"it ends after {first} rows")


def is_damage(error: Exception) -> bool:
    """Return whether it is what is in the file that cannot be read, and not the file: Arrow says both by an OSError."""
    if isinstance(error, pa.ArrowException | UnicodeDecodeError):
        return True
    return type(error) is OSError and error.errno is None and error.__cause__ is None
