"""Parquet shards with the images inside: a column of bytes, of {bytes, path} structs as Hugging Face has them, or of
lists of either.

A sample's key is its row number, and the number of the image behind it where the column holds lists. Only the columns
that are asked for are read. Row groups are the split points: chunks that lie in one row group are read by one task, so
that no group is decompressed twice.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import pyarrow as pa

from conf.errors import UserError
from conf.source import FetchConfig, RetryConfig
from pipeline.source.plan import Contents, Listing, RowRange, Sample, Shard, ShardProblem
from pipeline.source.readers.fetching.fetch import fetch_all, with_image
from pipeline.source.readers.fetching.uris import absolute
from pipeline.source.readers.reader import FirstFields, RawSample, ReadFailure, read_failures, unreadable
from pipeline.source.readers.source_files import list_shards
from pipeline.source.readers.tables.column_names import did_you_mean, doubled, not_among
from pipeline.source.readers.tables.image_columns import advice_on_images, holds_lists, images_per_row, why_no_images
from pipeline.source.readers.tables.json_values import in_words
from pipeline.source.readers.tables.records import BadRecord, DamagedRow, open_parquet, read_parquet_rows, schemas_of
from pipeline.source.readers.unchanged import unless_changed, unless_replaced, verified
from pipeline.source.retrying import USUAL_PATIENCE, Exhausted, retry
from pipeline.source.shard_index import ShardIndex
from pipeline.source.source_types import common_types


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A sample whose image is in a file that the row names."""

    sample: Sample
    fields: dict[str, Any]
    uri: str


@dataclass(frozen=True)
class ParquetReader:
    """Reads Parquet files; `fields` are the other columns wanted, "*" for all; absent ones are left out."""

    paths: tuple[str, ...]
    image_column: str = "image"
    fields: tuple[str, ...] = ()
    patience: RetryConfig = USUAL_PATIENCE
    max_bytes: int = 500_000_000
    fetch: FetchConfig = field(default_factory=FetchConfig)

    def shards(self, known: Collection[Shard]) -> Listing:
        listing = list_shards(self.paths, self.patience, "parquet", known)
        self._check_columns(listing.shards[0].url)
        return listing

    def _check_columns(self, url: str) -> None:
        """A wrong column is a user's mistake and shows in the first file; a broken first file is only bad data."""
        try:
            with retry(lambda: open_parquet(url), f"opening {url}", self.patience) as table:
                schema = table.schema_arrow
        except (OSError, pa.ArrowException, Exhausted):
            return
        if self.image_column not in schema.names:
            said = not_among("source.image_column", self.image_column, url, schema.names)
            raise UserError(said + (advice_on_images(schema) or did_you_mean(self.image_column, schema.names)))
        if schema.names.count(self.image_column) > 1:
            raise UserError(doubled("source.image_column", self.image_column, url))
        problem = why_no_images(schema.field(self.image_column).type)
        if problem is not None:
            raise UserError(f"source.image_column={self.image_column!r} of {url!r} holds {problem}")

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return common_types(schemas_of((shard.url for shard in shards), self.patience))

    def first_fields(self, shard: Shard, most_rows: int, until_s: float) -> FirstFields:
        with open_parquet(shard.url) as table:
            names, num_rows = table.schema_arrow.names, table.metadata.num_rows
        wanted = [name for name in names if name in self.fields and name != self.image_column]
        records = read_parquet_rows(shard.url, range(min(most_rows, num_rows)), wanted) if wanted else ()
        return FirstFields(tuple(names), tuple(row for row in records if not isinstance(row, BadRecord)))

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        def group_of(chunk_index: int) -> int:
            samples = index.chunk_samples(chunk_index)
            return (samples[0].row_group or 0) if samples else 0

        return [list(chunks) for _, chunks in groupby(todo, group_of)]

    def with_patience(self, patience: RetryConfig) -> "ParquetReader":
        return replace(self, patience=patience)

    def index(self, shard: Shard) -> Contents:
        try:
            contents = retry(lambda: self._index(shard), f"listing {shard.url}", self.patience)
        except (OSError, pa.ArrowException, Exhausted) as error:
            contents = Contents(problems=(unreadable(shard, error),))
        return unless_changed(shard, contents, self.patience)

    def _index(self, shard: Shard) -> Contents:
        samples: list[Sample] = []
        with open_parquet(shard.url) as table:
            schema, first = table.schema_arrow, 0
            if self.image_column not in schema.names:
                problem = f"{shard.name}: no column {self.image_column!r} among {schema.names}"
                return Contents(problems=(ShardProblem("no_image_column", problem),))
            lists = holds_lists(schema.field(self.image_column).type)
            for group in range(table.metadata.num_row_groups):
                num_rows = table.metadata.row_group(group).num_rows
                counts = images_per_row(table, group, self.image_column) if lists else [0] * num_rows
                for file_row, count in enumerate(counts, first):
                    # 0: not a list, an empty one, or one that cannot be read
                    for nth in range(count) if count else (None,):
                        key = f"{file_row:08d}" if nth is None else f"{file_row:08d}.{nth}"
                        record = RowRange(file_row, 1)
                        samples.append(Sample(len(samples), key, record=record, row_group=group, nth=nth))
                first += num_rows
        return Contents(tuple(samples))

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        # From the first image elsewhere, so that several are fetched at once.
        waiting: list[RawSample | _Elsewhere] = []
        failure: ReadFailure | None = None
        try:
            with read_failures():
                for raw in unless_replaced(self._from_rows(shard, samples), shard):
                    if isinstance(raw, RawSample) and not waiting:
                        yield raw
                        continue
                    waiting.append(raw)
                    if len(waiting) == self.fetch.max_concurrent:
                        yield from self._fetched(shard, waiting)
                        waiting = []
        except ReadFailure as error:
            failure = error
        yield from self._fetched(shard, waiting)
        if failure is not None:
            raise failure

    def _from_rows(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample | _Elsewhere]:
        with open_parquet(shard.url) as table:
            names = table.schema_arrow.names
        wanted = [name for name in names if name == self.image_column or name in self.fields or "*" in self.fields]
        by_row = [(row, list(own)) for row, own in groupby(samples, _file_row)]
        records = read_parquet_rows(shard.url, [row for row, _ in by_row], wanted)
        for (_, own), record in zip(by_row, verified(records, shard, self._size_of), strict=True):
            for sample in own:
                yield self._raw(shard, sample, record)

    def _size_of(self, record: dict[str, Any] | BadRecord) -> int:
        image: Any = None if isinstance(record, BadRecord) else record[self.image_column]
        held = [one.get("bytes") if isinstance(one, dict) else one for one in _as_list(image)]
        return sum(len(one) for one in held if isinstance(one, bytes))

    def _raw(self, shard: Shard, sample: Sample, record: dict[str, Any] | BadRecord) -> RawSample | _Elsewhere:
        place = f"{shard.name}/{sample.key}"
        if isinstance(record, BadRecord):
            error_type = "damaged_row_group" if isinstance(record, DamagedRow) else "bad_record"
            return RawSample(sample, None, {}, error_type, f"{place}: {record}")
        values = dict(record)
        image: Any = values.pop(self.image_column)
        if isinstance(image, list):
            if sample.nth is None and image:
                return RawSample(sample, None, values, "damaged_row_group", f"{place}: its images could not be counted")
            if sample.nth is None:
                return RawSample(sample, None, values, "no_image", f"{place}: {self.image_column!r} is an empty list")
            image = image[sample.nth]
        path = None
        if isinstance(image, dict):
            image, path = image.get("bytes"), image.get("path")
        if isinstance(image, bytes | bytearray | memoryview) and len(image) > self.max_bytes:
            size = f"{len(image)} bytes are more than source.max_bytes={self.max_bytes}"
            return RawSample(sample, None, values, "too_large", f"{place}: {size}")
        if isinstance(image, bytes | bytearray | memoryview):
            return RawSample(sample, bytes(image), values)
        if image is None and isinstance(path, str) and path:
            return _Elsewhere(sample, values, absolute(path, shard.url))
        found = "is null" if image is None else f"holds {in_words(image)}, not bytes"
        return RawSample(sample, None, values, "no_image", f"{place}: {self.image_column!r} {found}")

    def _fetched(self, shard: Shard, waiting: Sequence[RawSample | _Elsewhere]) -> Iterator[RawSample]:
        images = fetch_all((one.uri for one in waiting if isinstance(one, _Elsewhere)), self.fetch, self.patience)
        for one in waiting:
            yield one if isinstance(one, RawSample) else with_image(shard, one.sample, one.fields, next(images))


def _as_list(image: Any) -> list[Any]:
    return image if isinstance(image, list) else [image]


def _file_row(sample: Sample) -> int:
    assert sample.record is not None
    return sample.record.begin
