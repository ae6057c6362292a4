"""One reader per kind of source, all with the same three methods: `shards`, `index`, `read`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from conf.errors import UserError
from conf.schema import SourceConfig, SourceKind
from pipeline.plan import Sample, Shard, ShardProblem


@dataclass(frozen=True, slots=True)
class RawSample:
    """What was read for a sample: its image bytes and fields, or why they could not be read."""

    sample: Sample
    image: bytes | None
    fields: dict[str, Any] = field(default_factory=dict)
    error_type: str | None = None
    message: str | None = None


class ReadFailure(Exception):
    """Storage failed in the middle of a chunk; the caller makes errors rows of the samples not yet read."""


class Reader(Protocol):
    """How one kind of source is listed, indexed and read. Readers travel to workers: they hold configuration only."""

    def shards(self, known_names: dict[str, str]) -> list[Shard]:
        """Every shard of the source, sorted; a source that is not there is a UserError."""

    def random_access(self, shard: Shard) -> bool:
        """False where a chunk can only be reached by reading everything before it (compressed archives)."""

    def index(self, shard: Shard) -> tuple[list[Sample], list[ShardProblem]]:
        """All samples of the shard in input order. Never raises for bad data: that is a ShardProblem."""

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        """The given samples, in the given order, each exactly once. Bad data is a RawSample with an error, only a
        storage failure raises (ReadFailure)."""


def make_reader(source: SourceConfig) -> Reader:
    """The reader of a source's kind."""
    from pipeline.readers.images import ImageFolderReader
    from pipeline.readers.webdataset import WebDatasetReader

    if source.kind is SourceKind.WEBDATASET:
        return WebDatasetReader(source.paths, wants_fields=wants_fields(source))
    if source.kind is SourceKind.IMAGES:
        return ImageFolderReader(source.paths)
    raise UserError(f"source.kind={source.kind.value} is not supported yet; use webdataset or images")


def wants_fields(source: SourceConfig) -> bool:
    """Whether anything beside the image is needed: if not, JSON and text members are never fetched."""
    return bool(source.passthrough or source.id_column or source.prompt.list_field or "{" in source.prompt.template)
