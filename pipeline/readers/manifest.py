"""Manifests: CSV, JSONL (compressed or not) or Parquet files whose rows name images by URI.

A manifest is cut into shards of a fixed number of records. A sample's key is its position in its shard, a path
without a scheme is one beside the manifest.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from conf.errors import UserError
from conf.schema import FetchConfig, RetryConfig
from pipeline.plan import Contents, Listing, Part, Sample, Shard, ShardIndex, find_files, name_shards
from pipeline.readers import RawSample, ReadFailure, not_recorded, unreadable
from pipeline.readers.fetch import fetch_all
from pipeline.readers.records import (
    BadRecord,
    column_names,
    format_of,
    is_compressed,
    places,
    read_records,
    schemas_of,
)
from pipeline.readers.uris import absolute
from pipeline.readers.web import FetchProblem
from pipeline.retrying import USUAL_PATIENCE, Exhausted, retry
from pipeline.source_types import common_types

RECORDS_PER_SHARD = 10_000


@dataclass(frozen=True)
class ManifestReader:
    """Reads manifests; `fields` are the columns of a Parquet manifest wanted beside the URI, "*" for all."""

    paths: tuple[str, ...]
    uri_column: str = "uri"
    fields: tuple[str, ...] = ()
    fetch: FetchConfig = field(default_factory=FetchConfig)
    patience: RetryConfig = USUAL_PATIENCE

    def shards(self, known: Collection[Shard]) -> Listing:
        files = find_files(self.paths, self.patience, known)
        self._check_columns([url for url, _ in files])
        names = name_shards([url for url, _ in files])
        shards: list[Shard] = []
        for url, _ in files:
            with _manifests_mistakes(url):
                pieces = retry(lambda url=url: list(cut(places(url))), f"reading {url}", self.patience)  # type: ignore[misc]
            for number, (first, end) in enumerate(pieces):
                shards.append(Shard(f"{names[url]}-{number:05d}", url, end - first, (str(first), str(end))))
        return Listing(tuple(shards))

    def _check_columns(self, urls: Sequence[str]) -> None:
        for url in urls:
            format_of(url)
        with _manifests_mistakes(urls[0]):
            names = retry(lambda: column_names(urls[0]), f"reading {urls[0]}", self.patience)
        if names is not None and self.uri_column not in names:
            known = ", ".join(names)
            raise UserError(f"source.uri_column={self.uri_column!r} is no column of {urls[0]!r}, which has {known}")

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return common_types(schemas_of((shard.url for shard in shards), self.patience))

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        return [list(todo)] if is_compressed(shard.url) else [[chunk_index] for chunk_index in todo]

    def index(self, shard: Shard) -> Contents:
        if not shard.members:
            return Contents(problems=(not_recorded(shard),))
        first, end = map(int, shard.members)
        try:
            found = retry(lambda: list(places(shard.url, first, end)), f"reading {shard.url}", self.patience)
        except Exception as error:  # storage and decompressor errors have no common base class
            return Contents(problems=(unreadable(shard, error),))
        return Contents(tuple(Sample(row, f"{row:08d}", (place,)) for row, place in enumerate(found)))

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        try:
            columns = None if "*" in self.fields else self._columns(shard)
            parts = [sample.parts[0] for sample in samples]
            records = list(read_records(shard.url, parts, columns))
        except Exception as error:  # storage and decompressor errors have no common base class
            raise ReadFailure(f"{type(error).__name__}: {error}") from error
        asked = [record for record in records if not isinstance(record, BadRecord) and self._uri(record)]
        uris = (absolute(str(self._uri(record)), shard.url) for record in asked)
        images = fetch_all(uris, self.fetch, self.patience)
        for sample, record in zip(samples, records, strict=True):
            yield self._raw(shard, sample, record, images)

    def uris(self, shard: Shard, keys: Collection[str]) -> Iterator[tuple[str, str | None]]:
        """Key and URI of these samples, in order; the URI as it is in the manifest, None where there is none."""
        samples = [sample for sample in self.index(shard).samples if sample.key in keys]
        records = read_records(shard.url, [sample.parts[0] for sample in samples], [self.uri_column])
        for sample, record in zip(samples, records, strict=True):
            uri = None if isinstance(record, BadRecord) else self._uri(record)
            yield sample.key, None if uri is None else str(uri)

    def _raw(self, shard: Shard, sample: Sample, record: Any, images: Iterator[bytes | FetchProblem]) -> RawSample:
        place = f"{shard.name}/{sample.key}"
        if isinstance(record, BadRecord):
            return RawSample(sample, None, {}, "bad_record", f"{place}: {record}")
        if not self._uri(record):
            return RawSample(sample, None, record, "no_uri", f"{place}: no {self.uri_column!r} in this record")
        image = next(images)
        if isinstance(image, FetchProblem):
            return RawSample(sample, None, record, image.error_type, f"{place}: {image.message}", image.attempts)
        return RawSample(sample, image, record)

    def _uri(self, record: dict[str, Any]) -> Any:
        return record.get(self.uri_column)

    def _columns(self, shard: Shard) -> list[str] | None:
        if format_of(shard.url) != "parquet":
            return None
        names = column_names(shard.url) or []
        return [name for name in names if name == self.uri_column or name in self.fields]


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


def cut(records: Iterator[Part]) -> Iterator[tuple[int, int]]:
    """Places -> (begin, end) of shards of RECORDS_PER_SHARD records; a manifest without records is one empty shard."""
    first: int | None = None
    end = count = 0
    for place in records:
        if count == RECORDS_PER_SHARD and first is not None:
            yield first, place.offset
            first, count = None, 0
        first = place.offset if first is None else first
        end, count = place.offset + place.size, count + 1
    yield first or 0, end
