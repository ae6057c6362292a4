"""CSV, TSV, JSON lines, JSON arrays and lists of URIs: where each record is, and reading some of them.

A record's place is a byte range of the decompressed text. Finding the places parses nothing, so a table is cut at about
the speed of its decompression; a chunk then reads only its own range.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from conf.errors import UserError
from conf.table import TableConfig
from pipeline.source.plan import ByteRange
from pipeline.source.readers.tables.json_values import in_words, parse_json
from pipeline.source.readers.tables.record_places import element_places, line_places, quoted_places
from pipeline.source.readers.tables.text_streams import BOM, TextStream, open_text
from pipeline.source.retrying import Unavailable

csv.field_size_limit(2**31 - 1)  # records have a limit of their own


class BadRecord(Exception):
    """A record that cannot be parsed; the ones around it can."""


@dataclass(frozen=True)
class TextTable:
    """A text table; `form` is csv, tsv, jsonl, json or txt."""

    url: str
    form: str
    table: TableConfig

    @property
    def has_cells(self) -> bool:
        return self.form in ("csv", "tsv")

    def places(self, first: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        """Yield where the records are, in order: those that begin at `first` or later and before `end`."""
        with self._open() as (stream, form):
            skips_header = self._has_header and not first
            if first:
                stream.skip_to(first)
            for place in self._places(stream, form, first):
                if end is not None and place.begin >= end:
                    return
                if not skips_header:
                    yield place
                skips_header = False

    def read(self, places: Sequence[ByteRange]) -> Iterator[dict[str, Any] | BadRecord]:
        """Yield the record at each place; places must ascend."""
        with self._open() as (stream, form):
            names = self._names(stream, form) if self.has_cells else None
            for place in places:
                if place.size > self.table.max_record_bytes:
                    limit = f"source.table.max_record_bytes={self.table.max_record_bytes}"
                    yield BadRecord(f"{place.size} bytes are more than {limit}")
                    continue
                stream.skip_to(place.begin)
                data = stream.read(place.size)
                if len(data) < place.size:
                    raise Unavailable(f"{self.url} ends in the middle of the record at byte {place.begin}")
                yield self._parse(data.removeprefix(BOM) if place.begin == 0 else data, stream.encoding, names)

    def names(self) -> list[str] | None:
        """Return the columns; None where each record has its own."""
        if self.form == "txt":
            return list(self.table.columns or ())
        if not self.has_cells:
            return None
        with self._open() as (stream, form):
            return self._names(stream, form)

    def is_read_from_beginning(self) -> bool:
        with self._open() as (stream, _):
            return stream.from_beginning

    @contextmanager
    def _open(self) -> Iterator[tuple[TextStream, str]]:
        """The stream, and the form it has: a .json may hold an array or lines."""
        with open_text(self.url, self.table) as stream:
            yield stream, self._form_of_json(stream.head) if self.form == "json" else self.form

    def _form_of_json(self, head: bytes) -> str:
        text = head.removeprefix(BOM).lstrip()
        if text[:1] == b"[":
            return "json"
        line, newline, _ = text.partition(b"\n")
        if text[:1] == b"{" and newline:
            try:
                parse_json(line)
            except ValueError:
                text = b""
        if text[:1] not in (b"{", b""):
            text = b""
        if not text and head.strip():
            raise UserError(f"{self.url!r} is neither an array of objects ([{{...}}, ...]) nor one object a line")
        return "jsonl"

    def _places(self, stream: TextStream, form: str, first: int) -> Iterator[ByteRange]:
        if form == "json":
            if not first:
                first = stream.head.index(b"[") + 1
                stream.skip_to(first)
            return element_places(stream, first)
        newline = b"\r" if form != "jsonl" and b"\n" not in stream.head and b"\r" in stream.head else b"\n"
        if self.has_cells and self._quoting:
            return quoted_places(stream, first, newline, self.table.max_record_bytes)
        return line_places(stream, first, newline)

    @property
    def _has_header(self) -> bool:
        return self.has_cells and (self.table.columns is None if self.table.header is None else self.table.header)

    @property
    def _quoting(self) -> bool:
        return self.form == "csv" if self.table.quoting is None else self.table.quoting

    def _names(self, stream: TextStream, form: str) -> list[str]:
        """From a stream at its beginning; it is moved."""
        if self.table.columns is not None:
            return list(self.table.columns)
        header = io.BytesIO(stream.head)
        place = next(self._places(TextStream(stream.head, stream.encoding, True, header), form, 0), None)
        if place is None:
            return []
        if place.end >= len(stream.head) and place.size > 1 and len(stream.head) >= 64 * 1024:
            raise UserError(f"the first line of {self.url!r} is no header: it is longer than {len(stream.head)} bytes")
        data = stream.head[place.begin : place.end]
        return self._cells(data.removeprefix(BOM).decode(stream.encoding, "surrogateescape"))

    def _parse(self, data: bytes, encoding: str, names: list[str] | None) -> dict[str, Any] | BadRecord:
        # What is not of the encoding is carried along, byte by byte, as file names are (pipeline.text).
        text = data.decode(encoding, "surrogateescape")
        try:
            if self.form == "txt":
                (name,) = self.table.columns or ("uri",)
                return {name: text.strip()}
            if names is None:
                value = parse_json(text.encode("utf-8", "surrogatepass"), self.table.max_record_bytes)
                return value if isinstance(value, dict) else BadRecord(f"{in_words(value)}, not an object")
            cells = self._cells(text)
        except (ValueError, csv.Error) as error:
            return BadRecord(str(error))
        if len(cells) != len(names):
            return BadRecord(f"{len(cells)} cells where the header has {len(names)}")
        return dict(zip(names, (cell if cell != "" else None for cell in cells), strict=True))

    def _cells(self, text: str) -> list[str]:
        delimiter = self.table.delimiter or ("\t" if self.form == "tsv" else ",")
        line = text.removesuffix("\n").removesuffix("\r")
        if not self._quoting or '"' not in line:
            return line.split(delimiter)
        if "\r" not in line:
            rows = list(csv.reader(io.StringIO(line, newline=""), delimiter=delimiter, strict=True))
        else:  # which the parser takes for a line break outside quotes, but which has not ended the record
            stand_in = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in line)
            read = csv.reader(io.StringIO(line.replace("\r", stand_in), newline=""), delimiter=delimiter, strict=True)
            rows = [[cell.replace(stand_in, "\r") for cell in row] for row in read]
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} records where there should be one: a quote is not closed")
        return rows[0]
