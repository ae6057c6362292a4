"""One output location, local or remote: whole files appear or do not appear, there is nothing in between."""

import contextlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import UserError
from pipeline.plan import is_local, resolve, unresolve
from pipeline.retrying import USUAL_PATIENCE, is_refusal, retry

Result = TypeVar("Result")

_TEMPORARY = ".tmp-"  # hidden while being written: readers of Parquet folders skip names that start with a dot


class Storage:
    """Files below one directory or URL, by relative name. Travels to workers; opens its filesystem where it is used.

    `generation` is no part of any name here; it travels along for those who stage chunks (pipeline.generation).
    """

    def __init__(self, url: str, generation: str = "") -> None:
        fs, root = resolve(url)
        self.url = unresolve(fs, root.rstrip("/") or "/")
        self.generation = generation
        self._root = root.rstrip("/")

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        return resolve(self.url)[0]  # fsspec caches instances per process

    @property
    def is_local(self) -> bool:
        return is_local(self._fs)

    def path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def write(self, name: str, data: bytes) -> None:
        """Replace or create a file in one atomic step: a rename locally, a single PUT on object storage."""
        path = self.path(name)
        if not self.is_local:
            self._retry(lambda: self._fs.pipe_file(path, data))
            return
        temporary = os.path.join(os.path.dirname(path), f"{_TEMPORARY}{uuid.uuid4().hex}")
        for attempt in (1, 2):  # a folder may be removed by a clean-up between makedirs and open
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                _write_synced(temporary, data)
                break
            except FileNotFoundError:
                if attempt == 2:
                    raise
        os.replace(temporary, path)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if nobody has: False when it exists already. Atomic where the store has conditional PUTs
        (S3 and most that speak it); elsewhere it checks first, which can race."""
        path = self.path(name)
        if not self.is_local:
            if self.exists(name):
                return False
            try:
                self._retry(lambda: self._fs.pipe_file(path, data, mode="create"))
            except FileExistsError:
                return self.read(name) == data  # equal: it was us, and the answer to an earlier attempt was lost
            return True
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = os.path.join(os.path.dirname(path), f"{_TEMPORARY}{uuid.uuid4().hex}")
        _write_synced(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def read(self, name: str) -> bytes:
        """The whole file; FileNotFoundError when there is none. Never served from a listing cache."""
        return self._retry(lambda: bytes(self._fs.cat_file(self.path(name))))

    def read_json(self, name: str) -> Any:
        """What a JSON file holds; None when there is none or it is damaged, but never because the storage fails."""
        try:
            data = self.read(name)
        except FileNotFoundError:
            return None
        try:
            return json.loads(data)
        except ValueError:
            return None

    def write_table(self, name: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self.write(name, buffer.getvalue())

    def read_table(self, name: str) -> pa.Table:
        return pq.read_table(io.BytesIO(self.read(name)))

    def read_metadata(self, name: str) -> dict[bytes, bytes]:
        """Key-value metadata of a Parquet file, without reading its rows."""

        def read() -> dict[bytes, bytes]:
            with self._fs.open(self.path(name), "rb") as stream:
                return dict(pq.ParquetFile(stream).schema_arrow.metadata or {})

        return self._retry(read)

    def exists(self, name: str = "") -> bool:
        """Not asked of fsspec's `exists`, which says no as well where the storage fails."""
        self._fs.invalidate_cache()
        try:
            self._retry(lambda: self._fs.info(self.path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def names(self, folder: str) -> list[str]:
        """File names directly in a folder, sorted; none if it does not exist."""
        return sorted(name for name in self.walk(folder) if "/" not in name)

    def walk(self, folder: str) -> list[str]:
        """Every file below a folder, relative to it, sorted; temporary files of a killed writer included."""
        self._fs.invalidate_cache()
        prefix = self.path(folder).rstrip("/") + "/"
        find = _find_locally if self.is_local else self._fs.find
        try:
            found = self._retry(lambda: find(prefix.rstrip("/")))
        except FileNotFoundError:
            return []
        return sorted(path.removeprefix(prefix) for path in found if path.startswith(prefix))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; those already gone are fine."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._retry(partial(self._fs.rm_file, self.path(name)))

    def remove_folder(self, folder: str) -> None:
        """Delete a folder and everything in it; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._retry(lambda: self._fs.rm(self.path(folder), recursive=True))

    def _retry(self, call: Callable[[], Result]) -> Result:
        if self.is_local:
            return call()
        try:
            return retry(call, f"a request to {self.url}", USUAL_PATIENCE)
        except Exception as error:  # each storage back end has its own exceptions
            if not is_refusal(error):
                raise
            raise UserError(f"cannot use {self.url!r}: {type(error).__name__}: {error}") from None


def _find_locally(folder: str) -> list[str]:
    """Every file below a folder. fsspec's `find` leaves out a folder that cannot be read, which must not look empty."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    walked = os.walk(folder, onerror=fail, followlinks=True)
    return [os.path.join(parent, name) for parent, _, names in walked for name in names]


def is_temporary(name: str) -> bool:
    """Whether a file is what a killed writer left behind."""
    return name.rsplit("/", 1)[-1].startswith(_TEMPORARY)


def _write_synced(path: str, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())  # a rename that survives a power cut must not point at bytes that did not
