"""Records of table files, CSV, JSONL (compressed or not) and Parquet: where each one is, and reading some of them.

A record's place is a byte range of the decompressed text, or a row number of the Parquet file. Finding the places
parses nothing, so a manifest is cut at about the speed of its decompression; a chunk then reads only its own range.
"""

import csv
import io
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import smart_open
from smart_open.compression import compression_wrapper

from conf.errors import UserError
from conf.schema import RetryConfig
from pipeline.plan import Part, resolve
from pipeline.readers.json_values import parse_json
from pipeline.retrying import Exhausted, Unavailable, retry
from pipeline.source_types import python_values

FORMATS = ("csv", "tsv", "jsonl", "ndjson", "parquet")
_COMPRESSION = re.compile(r"\.(gz|bz2|xz|zst)$", re.IGNORECASE)
_HTTP_TIMEOUT_S = 60.0
_BATCH_ROWS = 32  # of a row group at once: with images in them, more is a lot of memory


class BadRecord(Exception):
    """A record that cannot be parsed; the ones around it can."""


class DamagedRow(BadRecord):
    """A row of a Parquet file whose row group is damaged; those of other groups can be read."""


def format_of(url: str) -> str:
    """`m.jsonl.gz` -> jsonl; a UserError for anything else than the known formats."""
    suffix = _COMPRESSION.sub("", url).rsplit(".", 1)[-1].lower()
    if suffix not in FORMATS:
        raise UserError(f"cannot tell the format of {url!r} by its name; known are {', '.join(FORMATS)}")
    return suffix


def is_compressed(url: str) -> bool:
    return format_of(url) != "parquet" and _COMPRESSION.search(url) is not None


def places(url: str, first: int = 0, end: int | None = None) -> Iterator[Part]:
    """Where the records are, in order; of text files those that begin at `first` or later and before `end`."""
    form = format_of(url)
    if form == "parquet":
        with open_parquet(url) as table:
            num_rows = table.metadata.num_rows
        yield from (Part("row", row, 1) for row in range(first, num_rows if end is None else min(end, num_rows)))
        return
    with _open_text(url) as stream:
        has_header = form in ("csv", "tsv")
        if first:
            stream.seek(first)
            has_header = False
        for place in _text_places(stream, first, quoted=form in ("csv", "tsv")):
            if end is not None and place.offset >= end:
                return
            if has_header:
                has_header = False
                continue
            yield place


def _text_places(stream: IO[bytes], position: int, *, quoted: bool) -> Iterator[Part]:
    """Lines that hold something; a line break inside quotes does not end a record (an odd number of quotes so far)."""
    start, odd = position, False
    for line in stream:
        position += len(line)
        if quoted and line.count(b'"') % 2:
            odd = not odd
        if odd:
            continue
        if position - start > len(line) or line.strip():
            yield Part("record", start, position - start)
        start = position
    if position > start:  # a quote that never closes swallows the rest: one record, which will not parse
        yield Part("record", start, position - start)


def read_records(url: str, parts: Sequence[Part], columns: Sequence[str] | None = None) -> Iterator[Any]:
    """The record (a dict) or BadRecord at each place; places must ascend. Of Parquet, only `columns` are read."""
    form = format_of(url)
    if form == "parquet":
        yield from read_parquet_rows(url, [part.offset for part in parts], columns)
        return
    with _open_text(url) as stream:
        names = _header(stream, form) if form in ("csv", "tsv") else None
        for part in parts:
            stream.seek(part.offset)
            data = stream.read(part.size)
            if len(data) < part.size:
                raise Unavailable(f"{url} ends in the middle of the record at byte {part.offset}")
            yield _parse(data, form, names)


def column_names(url: str) -> list[str] | None:
    """The columns of a CSV or Parquet file; None for JSONL, whose records are all their own."""
    form = format_of(url)
    if form == "parquet":
        with open_parquet(url) as table:
            return list(table.schema_arrow.names)
    if form not in ("csv", "tsv"):
        return None
    with _open_text(url) as stream:
        return _header(stream, form)


def _header(stream: IO[bytes], form: str) -> list[str]:
    first = next(_text_places(stream, 0, quoted=True), None)
    if first is None:
        return []
    stream.seek(first.offset)
    return _cells(stream.read(first.size).removeprefix(b"\xef\xbb\xbf"), form)


def _parse(data: bytes, form: str, names: list[str] | None) -> dict[str, Any] | BadRecord:
    try:
        if names is None:
            value = parse_json(data)
            return value if isinstance(value, dict) else BadRecord(f"a JSON {type(value).__name__}, not an object")
        cells = _cells(data, form)
    except (ValueError, csv.Error) as error:
        return BadRecord(str(error))
    if len(cells) != len(names):
        return BadRecord(f"{len(cells)} cells where the header has {len(names)}")
    return dict(zip(names, (cell if cell != "" else None for cell in cells), strict=True))


def _cells(data: bytes, form: str) -> list[str]:
    text = io.StringIO(data.decode("utf-8"), newline="")
    rows = list(csv.reader(text, delimiter="\t" if form == "tsv" else ",", strict=True))
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} records where there should be one: a quote is not closed")
    return rows[0]


def _open_text(url: str) -> Any:
    """A seekable stream of the decompressed text: by smart_open where it knows the scheme, else by fsspec (hf, az, and
    gs without Google's client), whose file smart_open decompresses."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in smart_open.transport.SUPPORTED_SCHEMES:
        fs, inner = resolve(url)
        return compression_wrapper(fs.open(inner, "rb"), "rb", filename=url)
    params = {"timeout": _HTTP_TIMEOUT_S} if scheme in ("http", "https") else {}
    return smart_open.open(url, "rb", transport_params=params)


def open_parquet(url: str) -> pq.ParquetFile:
    """A Parquet file read in pieces: neither the file nor a row group is held as a whole."""
    fs, inner = resolve(url)
    return pq.ParquetFile(fs.open(inner, "rb"), pre_buffer=False, buffer_size=1 << 20)


def schemas_of(urls: Iterable[str | None], patience: RetryConfig) -> Iterator[pa.Schema | None]:
    """The Arrow schema of each file, None where it is no Parquet or none; a file that cannot be opened is left out,
    because that is said where its rows are read."""
    for url in dict.fromkeys(urls):
        if url is None or _COMPRESSION.sub("", url).rsplit(".", 1)[-1].lower() in FORMATS[:-1]:
            yield None
            continue
        try:
            with retry(lambda url=url: open_parquet(url), f"opening {url}", patience) as table:  # type: ignore[misc]
                yield table.schema_arrow
        except (OSError, pa.ArrowException, Exhausted):
            continue


def read_parquet_rows(
    url: str, rows: Sequence[int], columns: Sequence[str] | None
) -> Iterator[dict[str, Any] | BadRecord]:
    """The given rows, which must ascend; only the row groups they are in are touched, each once.

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
    for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
        while done < len(positions) and positions[done] < first + batch.num_rows:
            one = batch.slice(positions[done] - first, 1)
            yield {name: python_values(one[name])[0] for name in one.schema.names}
            done += 1
        if done == len(positions):
            return
        first += batch.num_rows
    raise OSError(f"it ends after {first} rows")


def is_damage(error: Exception) -> bool:
    """Whether it is what is in the file that cannot be read, and not the file: Arrow says both by an OSError."""
    if isinstance(error, pa.ArrowException | UnicodeDecodeError):
        return True
    return type(error) is OSError and error.errno is None and error.__cause__ is None
