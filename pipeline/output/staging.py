"""What is staged of an output: chunks, the index of each shard and the mark of a published shard that is open again.

_staging/INCARNATION/SHARD/index.parquet          the shard's first listing, by which it is cut
_staging/INCARNATION/SHARD/chunk-000012.parquet   results and errors of one chunk, whole or absent
_staging/INCARNATION/SHARD/reopened               the shard is published, and worked on once more
"""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from conf.errors import UserError
from pipeline.output.storage import Storage
from pipeline.source.shard_index import ShardIndex
from pipeline.tables import Passthrough, staging_schema, to_table, with_columns_of

STAGING, REOPENED = "_staging", "reopened"
_CHUNK_NAME = re.compile(r"chunk-(\d{6})\.parquet")
_THREADS = 16


@dataclass(slots=True)
class Staged:
    """The files of one shard that are staged."""

    chunks: set[int] = field(default_factory=set)
    reopened: bool = False


def staging(storage: Storage) -> str:
    """Return the folder of what is staged in this incarnation of the output (pipeline.output.incarnation)."""
    return f"{STAGING}/{storage.incarnation}" if storage.incarnation else STAGING


def chunk_name(storage: Storage, shard_name: str, chunk_index: int) -> str:
    return f"{staging(storage)}/{shard_name}/chunk-{chunk_index:06d}.parquet"


def index_name(storage: Storage, shard_name: str) -> str:
    return f"{staging(storage)}/{shard_name}/index.parquet"


def reopened_name(storage: Storage, shard_name: str) -> str:
    """The mark of a published shard that is being worked on again; what is staged then replaces what is published."""
    return f"{staging(storage)}/{shard_name}/{REOPENED}"


def staged_shards(storage: Storage) -> dict[str, Staged]:
    """Return every shard of which something is staged, by name."""
    found: dict[str, Staged] = {}
    for path in storage.walk(staging(storage)):
        shard_name, _, file_name = path.rpartition("/")
        own = found.setdefault(shard_name, Staged())
        if match := _CHUNK_NAME.fullmatch(file_name):
            own.chunks.add(int(match.group(1)))
        own.reopened |= file_name == REOPENED
    return found


def save_index(storage: Storage, shard_name: str, index: ShardIndex) -> None:
    storage.write_table(index_name(storage, shard_name), index.to_table())


def load_index(storage: Storage, shard_name: str) -> ShardIndex | None:
    """Return the index saved when the shard was first listed; None if there is none or it cannot be read."""
    try:
        return ShardIndex.from_table(storage.read_table(index_name(storage, shard_name)))
    except UserError:  # the storage cannot be used
        raise
    except (FileNotFoundError, pa.ArrowException, KeyError, ValueError):
        return None


def load_indexes(storage: Storage, shard_names: Iterable[str]) -> dict[str, ShardIndex]:
    """Return those that are there and can be read."""
    names = list(shard_names)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = zip(names, pool.map(lambda name: load_index(storage, name), names), strict=True)
        return {name: index for name, index in found if index is not None}


def rows_table(rows: Sequence[dict[str, Any]], passthrough: Passthrough = ()) -> pa.Table:
    """Result and error rows of one chunk -> its staged table; what a row does not have is null."""
    return to_table(rows, staging_schema(passthrough))


def stage_chunk(storage: Storage, shard_name: str, chunk_index: int, rows: pa.Table) -> None:
    """Commit one chunk. Committing it again replaces the file by an equivalent one."""
    storage.write_table(chunk_name(storage, shard_name, chunk_index), rows)


def read_chunk(storage: Storage, shard_name: str, chunk_index: int) -> pa.Table | None:
    """Return the staged table; None if there is none or it is damaged."""
    try:
        return with_columns_of(staging_schema(), storage.read_table(chunk_name(storage, shard_name, chunk_index)))
    except (FileNotFoundError, pa.ArrowException):
        return None


def mark_reopened(storage: Storage, shard_name: str) -> None:
    storage.write(reopened_name(storage, shard_name), b"1")


def remove_staging(storage: Storage, shard_name: str, *, marked: bool = False) -> None:
    """Drop everything staged of a shard. A mark goes first: without it the rest counts for nothing."""
    if marked:
        storage.remove([reopened_name(storage, shard_name)])
    storage.remove_folder(f"{staging(storage)}/{shard_name}")


def remove_other_incarnations(storage: Storage) -> None:
    """Drop what workers of a run that was overwritten have staged since."""
    if storage.incarnation:
        strangers = (path for path in storage.walk(STAGING) if path.partition("/")[0] != storage.incarnation)
        storage.remove(f"{STAGING}/{path}" for path in strangers)
