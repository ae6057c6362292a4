"""What every reader is and gives: `shards`, `index` and `read`, and what to do when one fails half-way."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from conf.source import RetryConfig
from pipeline.source.plan import MISSING_SHARD, UNREADABLE_SHARD, Contents, Listing, Sample, Shard, ShardProblem
from pipeline.source.retrying import Tries, is_gone, is_passing, is_transient
from pipeline.source.shard_index import ShardIndex


@dataclass(frozen=True, slots=True)
class RawSample:
    """What was read for a sample: its image bytes and fields, or why they could not be read."""

    sample: Sample
    image: bytes | None
    fields: dict[str, Any] = field(default_factory=dict)
    error_type: str | None = None
    message: str | None = None
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class FirstFields:
    """What is known beforehand of the fields of a shard: its columns, where it has a schema, and those of some rows.

    `says_all`: whether a field that none of the rows has is one that rows of its kind do not have.
    """

    columns: tuple[str, ...] | None
    rows: tuple[dict[str, Any], ...]
    says_all: bool = True


class ReadFailure(Exception):
    """Storage failed in the middle of a chunk; the caller decides what becomes of the samples not yet read."""

    attempts = 1

    @property
    def error_type(self) -> str:
        """Of the rows not yet read."""
        return MISSING_SHARD if is_gone(self.__cause__) else "storage_error"


@contextmanager
def read_failures(what: str = "") -> Iterator[None]:
    """Whatever is raised inside is a ReadFailure: storage back ends and decompressors have no common base class."""
    try:
        yield
    except ReadFailure:
        raise
    except Exception as error:
        raise ReadFailure(f"{what}{type(error).__name__}: {error}") from error


def unreadable(shard: Shard, error: Exception) -> ShardProblem:
    """Return what is wrong with a shard that cannot be listed."""
    error_type = MISSING_SHARD if is_gone(error) else UNREADABLE_SHARD
    return ShardProblem(error_type, f"{shard.name} ({shard.url}): {type(error).__name__}: {error}", is_passing(error))


def not_recorded(shard: Shard) -> ShardProblem:
    """Return a shard that is gone, of a plan that an older version made."""
    return ShardProblem(
        MISSING_SHARD, f"{shard.name} ({shard.url}) is gone, and which files were in it is not recorded"
    )


class Reader(Protocol):
    """How one kind of source is listed, indexed and read. Readers travel to workers: they hold configuration only."""

    def shards(self, known: Collection[Shard]) -> Listing:
        """Return every shard of the source, sorted; a source that is not there is a UserError.

        `known`: the shards that earlier runs under this output have named; those names are kept.
        """

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        """Field -> Arrow type of its column, where these shards say so (pipeline.source.source_types.common_types)."""

    def first_fields(self, shard: Shard, most_rows: int, until_s: float) -> FirstFields:
        """The fields of so many of its first rows, without their images, as far as they can be found by `until_s` of
        time.monotonic(). May raise whatever storage raises."""

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        """The chunks still to do, in the groups in which they are read: one by one where each can be reached by itself,
        together where they share what has to be read (a compressed archive, a row group)."""

    def index(self, shard: Shard) -> Contents:
        """Return all samples of the shard in input order. Never raises for bad data: that is a ShardProblem."""

    def with_patience(self, patience: RetryConfig) -> "Reader":
        """Return the same reader, waiting for its storage as long as that."""

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        """The given samples, in the given order, each exactly once. Bad data is a RawSample with an error, only a
        storage failure raises (ReadFailure)."""


def read_patiently(
    reader: Reader, shard: Shard, samples: Sequence[Sample], patience: RetryConfig
) -> Iterator[RawSample]:
    """The reader's samples. When storage fails half-way it is asked for the rest again, until patience is at its end:
    then the ReadFailure is raised."""
    done, tries = 0, Tries(patience)
    while True:
        try:
            for raw in reader.read(shard, samples[done:]):
                done += 1
                tries.succeeded()
                yield raw
            assert done == len(samples), f"{shard.name}: the reader gave {done} of {len(samples)} samples"
            return
        except ReadFailure as failure:
            cause = failure.__cause__
            wait_s = tries.failed(cause, f"reading {shard.url}", None if is_transient(cause) else 1)
            if wait_s is None:
                failure.attempts = tries.failures
                raise
        time.sleep(wait_s)
