"""Parquet shards with the images inside: a bytes column, or the {bytes, path} struct of Hugging Face data sets.

A sample's key is its row number. Only the columns that are asked for are read. Row groups are the split points: chunks
that lie in one row group are read by one task, so that no group is decompressed twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from conf.errors import UserError
from conf.schema import RetryConfig
from pipeline.plan import Contents, Listing, Part, Sample, Shard, ShardIndex, ShardProblem, find_files, name_shards
from pipeline.readers import RawSample, ReadFailure
from pipeline.readers.records import open_parquet, read_parquet_rows, schemas_of
from pipeline.retrying import USUAL_PATIENCE, Exhausted, retry
from pipeline.source_types import common_types


@dataclass(frozen=True)
class ParquetReader:
    """Reads Parquet files; `fields` are the other columns wanted, "*" for all; absent ones are left out."""

    paths: tuple[str, ...]
    image_column: str = "image"
    fields: tuple[str, ...] = ()
    patience: RetryConfig = USUAL_PATIENCE
    max_bytes: int = 500_000_000

    def shards(self, known: Iterable[Shard]) -> Listing:
        files = find_files(self.paths, self.patience)
        names = name_shards([url for url, _ in files], {shard.url: shard.name for shard in known})
        self._check_columns(files[0][0])
        return Listing(tuple(Shard(names[url], url, size) for url, size in files))

    def _check_columns(self, url: str) -> None:
        """A wrong column name is a user's mistake and shows in the first file; a broken first file is only bad data."""
        try:
            with retry(lambda: open_parquet(url), f"opening {url}", self.patience) as table:
                schema = table.schema_arrow
        except (OSError, pa.ArrowException, Exhausted):
            return
        if self.image_column not in schema.names:
            names = ", ".join(schema.names)
            raise UserError(f"source.image_column={self.image_column!r} is no column of {url!r}, which has {names}")

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return common_types(schemas_of((shard.url for shard in shards), self.patience))

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        def group_of(chunk_index: int) -> int:
            samples = index.chunk_samples(chunk_index)
            return samples[0].parts[0].offset if samples else 0

        return [list(chunks) for _, chunks in groupby(todo, group_of)]

    def index(self, shard: Shard) -> Contents:
        try:
            with retry(lambda: open_parquet(shard.url), f"opening {shard.url}", self.patience) as table:
                if self.image_column not in table.schema_arrow.names:
                    problem = f"{shard.name}: no column {self.image_column!r} among {table.schema_arrow.names}"
                    return Contents(problems=(ShardProblem("no_image_column", problem),))
                groups = [table.metadata.row_group(n).num_rows for n in range(table.metadata.num_row_groups)]
        except (OSError, pa.ArrowException, Exhausted) as error:
            broken = ShardProblem("unreadable_shard", f"{shard.name}: {type(error).__name__}: {error}")
            return Contents(problems=(broken,))
        rows = ((group, position) for group, num_rows in enumerate(groups) for position in range(num_rows))
        samples = (
            Sample(row, f"{row:08d}", (Part("row_group", group, position),))
            for row, (group, position) in enumerate(rows)
        )
        return Contents(tuple(samples))

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        try:
            with open_parquet(shard.url) as table:
                names = table.schema_arrow.names
            wanted = [name for name in names if name == self.image_column or name in self.fields or "*" in self.fields]
            rows = read_parquet_rows(shard.url, [sample.row for sample in samples], wanted)
            for sample, values in zip(samples, rows, strict=True):
                yield self._raw(shard, sample, values)
        except Exception as error:  # storage back ends and decompressors have no common base class
            raise ReadFailure(f"{type(error).__name__}: {error}") from error

    def _raw(self, shard: Shard, sample: Sample, values: dict[str, Any]) -> RawSample:
        image: Any = values.pop(self.image_column)
        path = None
        if isinstance(image, dict):
            image, path = image.get("bytes"), image.get("path")
        if isinstance(image, bytes | bytearray | memoryview) and len(image) > self.max_bytes:
            size = f"{len(image)} bytes are more than source.max_bytes={self.max_bytes}"
            return RawSample(sample, None, values, "too_large", f"{shard.name}/{sample.key}: {size}")
        if isinstance(image, bytes | bytearray | memoryview):
            return RawSample(sample, bytes(image), values)
        if image is not None:
            found = f"{self.image_column!r} holds {type(image).__name__}, not bytes"
        else:
            found = f"{self.image_column!r} is null" + (f", only its path {path!r} is known" if path else "")
        return RawSample(sample, None, values, "no_image", f"{shard.name}/{sample.key}: {found}")
