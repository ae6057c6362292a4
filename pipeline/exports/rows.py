"""The published results of a run, shard by shard, and whole files written beside or on any storage."""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import UserError
from pipeline.output.ending import Status
from pipeline.output.output import Output
from pipeline.output.publish import RESULTS, published_name
from pipeline.output.storage import Storage
from pipeline.source.file_systems import is_local, resolve
from pipeline.tables import results_schema, with_columns_of
from pipeline.text import storable

_BATCH_ROWS = 2048


class Published:
    """The results of one run; reads a batch of rows at a time, of the columns asked for."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        self.output = Output(self.storage)
        self.shards = sorted(self.output.published())
        if not self.shards:
            raise UserError(f"{url!r} holds no results of a run")
        schema = with_columns_of(results_schema(), self._schema().empty_table()).schema
        self.columns: tuple[str, ...] = tuple(schema.names)

    def source(self) -> dict[str, Any]:
        """Return the configuration of the run's source."""
        try:
            source: dict[str, Any] = (self.output.record() or {})["config"]["source"]
            return source
        except KeyError:
            raise UserError(f"{self.storage.url!r} has no run.json, which says where the images are") from None

    @property
    def is_complete(self) -> bool:
        return (self.output.record() or {}).get("status") == Status.COMPLETE.value

    def check_columns(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            raise UserError(f"the results have no column {unknown[0]!r}, only {', '.join(self.columns)}")

    def rows(self, shard: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield one shard's rows, in input order; a column that its file does not have is null."""
        fs, root = resolve(self.storage.url)
        with fs.open(f"{root}/{published_name(RESULTS, shard)}", "rb") as stream:
            for batch in pq.ParquetFile(stream).iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
                for row in batch.to_pylist():
                    yield {name: row.get(name) for name in columns}

    def all_rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        for shard in self.shards:
            yield from self.rows(shard, columns)

    def _schema(self) -> pa.Schema:
        fs, root = resolve(self.storage.url)
        with fs.open(f"{root}/{published_name(RESULTS, self.shards[0])}", "rb") as stream:
            return pq.ParquetFile(stream).schema_arrow


def json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


# What the user can mend: no space, no permission, a folder where a file should be. Other errors of files are odd names.
_USERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)


@contextmanager
def as_users_mistake(place: str) -> Iterator[None]:
    """A place that cannot be written to is one sentence, not a crash."""
    try:
        yield
    except OSError as error:
        if error.errno in _USERS:
            raise UserError(f"cannot write {storable(place)!r}: {os.strerror(error.errno)}") from None
        raise


@contextmanager
def whole_file(url: str) -> Iterator[IO[bytes]]:
    """A file for writing that appears when the context ends well, and not at all when it does not."""
    fs, inner = resolve(url)
    if not is_local(fs):
        stream = fs.open(inner, "wb")
        try:
            yield stream
        except BaseException:
            stream.discard()
            raise
        stream.close()  # an upload in parts becomes an object here
        return
    if os.path.isdir(inner):
        raise UserError(f"cannot write {storable(url)!r}: it is a folder")
    with as_users_mistake(url), whole_local_file(inner) as stream:
        yield stream


@contextmanager
def whole_local_file(path: str) -> Iterator[IO[bytes]]:
    """As `whole_file`, for a plain path, with the system's own errors."""
    temporary = os.path.join(os.path.dirname(path), f".tmp-{uuid.uuid4().hex}")
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(temporary, "wb") as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
