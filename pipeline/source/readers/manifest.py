"""Manifests: CSV, JSONL (compressed or not) or Parquet files whose rows name images by URI.

A manifest is cut into shards of a fixed number of records. A sample's key is its position in its shard, a path
without a scheme is one beside the manifest.
"""

import itertools
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from conf.errors import UserError
from conf.source import FetchConfig, RetryConfig
from conf.table import TableConfig
from pipeline.source.plan import ByteRange, Contents, Listing, Place, RowRange, Sample, Shard, Unit
from pipeline.source.readers.fetching.fetch import fetch_all, with_image
from pipeline.source.readers.fetching.uris import absolute, has_scheme
from pipeline.source.readers.reader import FirstFields, RawSample, not_recorded, read_failures, unreadable
from pipeline.source.readers.source_files import find_files
from pipeline.source.readers.tables.column_names import doubled, not_among, why_no_column
from pipeline.source.readers.tables.json_values import in_words
from pipeline.source.readers.tables.records import (
    BadRecord,
    column_names,
    format_of,
    places,
    read_records,
    schemas_of,
    text_table,
)
from pipeline.source.readers.unchanged import unless_changed, unless_replaced, verified
from pipeline.source.retrying import USUAL_PATIENCE, Exhausted, retry
from pipeline.source.shard_index import ShardIndex
from pipeline.source.shard_names import name_shards
from pipeline.source.source_types import common_types

RECORDS_PER_SHARD = 10_000
_LINE_END_BYTES = 2  # by which a last record without one may have grown


@dataclass(frozen=True)
class ManifestReader:
    """Reads manifests; `fields` are the columns of a Parquet manifest wanted beside the URI, "*" for all."""

    paths: tuple[str, ...]
    uri_column: str = "uri"
    fields: tuple[str, ...] = ()
    fetch: FetchConfig = field(default_factory=FetchConfig)
    patience: RetryConfig = USUAL_PATIENCE
    table: TableConfig = field(default_factory=TableConfig)

    def shards(self, known: Collection[Shard]) -> Listing:
        """Records that were appended to a manifest are shards of their own; the ranges of its earlier shards stay."""
        found = find_files(self.paths, self.patience, "manifest", known)
        urls = [file.url for file in found.files]
        self._check_columns(urls)
        earlier = _by_number(known)
        names = name_shards(urls, {url: base for url, (base, _) in earlier.items()})
        shards: list[Shard] = []
        for url, size_bytes, version in found.files:
            sizes = earlier[url][1] if url in earlier else ()
            with _manifests_mistakes(url):
                pieces = retry(lambda url=url, sizes=sizes: self._cut(url, sizes), f"reading {url}", self.patience)  # type: ignore[misc]
            whole = Shard(
                names[url],
                url,
                weight=0,
                version=version if size_bytes else "",  # without a size, growing cannot be told from changing
                file_bytes=size_bytes,
                unit=Unit.ROWS if format_of(url, self.table) == "parquet" else Unit.BYTES,
            )
            shards += [
                replace(whole, name=f"{whole.name}-{number:05d}", weight=records.size, records=records)
                for number, records in enumerate(pieces)
            ]
        return Listing(tuple(shards), found.left_out)

    def _cut(self, url: str, sizes: Sequence[int]) -> list[Place]:
        kind = RowRange if format_of(url, self.table) == "parquet" else ByteRange
        ranges = cut(places(url, table=self._table(url)), sizes)
        return [kind(first, end - first) for first, end in ranges]

    def _table(self, url: str) -> TableConfig:
        """A list of URIs has one column."""
        if format_of(url, self.table) != "txt":
            return self.table
        return self.table.model_copy(update={"columns": (self.uri_column,)})

    def _check_columns(self, urls: Sequence[str]) -> None:
        for url in urls:
            format_of(url, self.table)
        url = urls[0]
        with _manifests_mistakes(url):
            names = retry(lambda: column_names(url, self._table(url)), f"reading {url}", self.patience)
        if names is not None and self.uri_column not in names:
            advice = why_no_column(self.uri_column, names, text_table(url, self.table) is not None and self.table)
            raise UserError(not_among("source.uri_column", self.uri_column, url, names) + advice)
        if names is not None and names.count(self.uri_column) > 1:
            raise UserError(doubled("source.uri_column", self.uri_column, url))

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return common_types(schemas_of((shard.url for shard in shards), self.patience, self.table))

    def first_fields(self, shard: Shard, most_rows: int, until_s: float) -> FirstFields:
        table, records = self._table(shard.url), shard.records
        assert records is not None
        names = column_names(shard.url, table)
        found = list(itertools.islice(places(shard.url, records.begin, records.end, table), most_rows))
        read = read_records(shard.url, found, self._columns(shard), table)
        rows = tuple(record for record in read if not isinstance(record, BadRecord))
        return FirstFields(None if names is None else tuple(names), rows)

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        text = text_table(shard.url, self._table(shard.url))
        try:
            together = text is not None and retry(text.is_read_from_beginning, f"opening {shard.url}", self.patience)
        except Exception:  # storage back ends have no common base class; who reads the chunks will say it
            together = True
        return [list(todo)] if together else [[chunk_index] for chunk_index in todo]

    def with_patience(self, patience: RetryConfig) -> "ManifestReader":
        return replace(self, patience=patience)

    def index(self, shard: Shard) -> Contents:
        records = shard.records
        if records is None:
            return Contents(problems=(not_recorded(shard),))

        def look() -> list[Place]:
            return list(places(shard.url, records.begin, records.end, self._table(shard.url)))

        try:
            found = retry(look, f"reading {shard.url}", self.patience)
        except Exception as error:  # storage and decompressor errors have no common base class
            contents = Contents(problems=(unreadable(shard, error),))
        else:
            contents = Contents(tuple(Sample(row, f"{row:08d}", record=place) for row, place in enumerate(found)))
        return unless_changed(shard, contents, self.patience)

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        """A record is held from when its image is asked for until the image has come, and no longer."""
        waiting: deque[tuple[Sample, Any]] = deque()

        def uris() -> Iterator[str]:
            columns = None if "*" in self.fields else self._columns(shard)
            records = read_records(shard.url, _places_of(samples), columns, self._table(shard.url))
            for sample, record in zip(samples, verified(records, shard, _size_of), strict=True):
                waiting.append((sample, record))
                if (uri := self._uri(record)) is not None:
                    yield absolute(uri, shard.url)

        with read_failures():
            for image in unless_replaced(fetch_all(uris(), self.fetch, self.patience), shard):
                while self._uri(waiting[0][1]) is None:
                    yield self._without_uri(shard, *waiting.popleft())
                yield with_image(shard, *waiting.popleft(), image)
        for sample, record in waiting:
            yield self._without_uri(shard, sample, record)

    def uris(self, shard: Shard, keys: Collection[str]) -> Iterator[tuple[str, str | None]]:
        """Key and URI of these samples, in order; the URI as it is in the manifest, None where there is none."""
        samples = [sample for sample in self.index(shard).samples if sample.key in keys]
        records = read_records(shard.url, _places_of(samples), [self.uri_column], self._table(shard.url))
        for sample, record in zip(samples, records, strict=True):
            yield sample.key, self._uri(record)

    def _uri(self, record: Any) -> str | None:
        """None where there is none: no text, and no number that could be a file's name."""
        value = None if isinstance(record, BadRecord) else record.get(self.uri_column)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            return None
        return value.strip() if has_scheme(value.strip()) else value

    def _without_uri(self, shard: Shard, sample: Sample, record: Any) -> RawSample:
        place = f"{shard.name}/{sample.key}"
        if isinstance(record, BadRecord):
            return RawSample(sample, None, {}, "bad_record", f"{place}: {record}")
        value = record.get(self.uri_column)
        other = "; source.uri_column names the column that holds images" if self.uri_column not in record else ""
        kind = other if value is None or isinstance(value, str) else f", but {in_words(value)}"
        return RawSample(sample, None, record, "no_uri", f"{place}: no {self.uri_column!r} in this record{kind}")

    def _columns(self, shard: Shard) -> list[str] | None:
        if format_of(shard.url, self.table) != "parquet":
            return None
        names = column_names(shard.url, self.table) or []
        return [name for name in names if name == self.uri_column or name in self.fields]


def _places_of(samples: Sequence[Sample]) -> list[Place]:
    return [sample.record for sample in samples if sample.record is not None]


def _size_of(record: dict[str, Any] | BadRecord) -> int:
    values: Any = () if isinstance(record, BadRecord) else record.values()
    return sum(len(value) for value in values if isinstance(value, str | bytes))


def _by_number(known: Iterable[Shard]) -> Mapping[str, tuple[str, Sequence[int]]]:
    """url -> what the names of its shards begin with, and their sizes in order."""
    found: dict[str, dict[int, Shard]] = {}
    for shard in known:
        number = shard.name.rpartition("-")[2]
        if number.isdecimal():
            found.setdefault(shard.url, {})[int(number)] = shard
    return {
        url: (pieces[min(pieces)].name.rpartition("-")[0], [pieces[number].weight for number in sorted(pieces)])
        for url, pieces in found.items()
    }


@contextmanager
def _manifests_mistakes(url: str) -> Iterator[None]:
    """A manifest that cannot be read when the run starts is its user's mistake, however its storage puts it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, Exhausted) else f"{type(error).__name__}: {error}"
        raise UserError(f"cannot read manifest {url!r}: {said}") from None


def cut(records: Iterable[Place], known_sizes: Sequence[int] = ()) -> Iterator[tuple[int, int]]:
    """Places -> (begin, end) of shards of RECORDS_PER_SHARD records; a manifest without records is one empty shard.

    The first shards are cut to the sizes they are known to have, as long as the records allow it; what was appended to
    the manifest begins behind them.
    """
    sizes = deque(known_sizes)
    first: int | None = None
    end = count = 0
    for place in records:
        first = place.begin if first is None else first
        while (place.begin >= first + sizes[0]) if sizes else count == RECORDS_PER_SHARD:
            known_end = first + sizes.popleft() if sizes else place.begin
            yield first, known_end if end <= known_end + _LINE_END_BYTES else end
            first, count = place.begin, 0
        end, count = place.end, count + 1
    known_end = (first or 0) + sizes[0] if sizes else end
    yield first or 0, known_end if known_end <= end <= known_end + _LINE_END_BYTES else end
