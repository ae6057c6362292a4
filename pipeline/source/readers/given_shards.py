"""A source of which only some shards are wanted."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from conf.source import RetryConfig
from pipeline.source.plan import Contents, Listing, Sample, Shard
from pipeline.source.readers.reader import FirstFields, RawSample, Reader
from pipeline.source.shard_index import ShardIndex


@dataclass(frozen=True)
class GivenShards:
    """A source's reader that lists these shards alone; a pipeline.source.readers.Reader.

    They are listed as the source has them now, under the names that they were given: what else is in the source, or
    has come since, is never looked at.
    """

    base: Reader
    given: tuple[Shard, ...]

    def shards(self, known: Collection[Shard]) -> Listing:
        named = {shard.name: shard for shard in (*self.given, *known)}
        listing = self.base.shards(named.values())
        wanted = {shard.name for shard in self.given}
        return replace(listing, shards=tuple(shard for shard in listing.shards if shard.name in wanted))

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return self.base.field_types(shards)

    def first_fields(self, shard: Shard, most_rows: int, until_s: float) -> FirstFields:
        return self.base.first_fields(shard, most_rows, until_s)

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        return self.base.spans(shard, index, todo)

    def index(self, shard: Shard) -> Contents:
        return self.base.index(shard)

    def with_patience(self, patience: RetryConfig) -> "GivenShards":
        return replace(self, base=self.base.with_patience(patience))

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        return self.base.read(shard, samples)
