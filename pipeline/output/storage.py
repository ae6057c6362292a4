"""One output location, local or remote: whole files appear or do not appear, there is nothing in between."""

import contextlib
import copy
import errno
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import OutputFailed, UserError
from pipeline.output.formats import KEY, STAMP, VERSION, version_of
from pipeline.source.file_systems import is_local, resolve, unresolve
from pipeline.source.retrying import USUAL_PATIENCE, Exhausted, is_refusal, retry
from pipeline.text import json_text

Result = TypeVar("Result")
Permit = Callable[[], None]

_TEMPORARY = ".tmp-"  # hidden while being written: readers of Parquet folders skip names that start with a dot
_PLACE_TRIES = 5
_NO_LINKS = {
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EMLINK,
}  # as FAT and some networks say it
_SAFE = "nothing is half-written and what was committed is safe"
_MAKE_ROOM, _MAKE_WRITABLE = "make room there", "make it writable"
# What a file system says that takes no more, and what to do about it; anything else is a programmer's mistake.
_FAILURES = {
    getattr(errno, name): remedy
    for names, remedy in (
        (("ENOSPC", "EDQUOT", "EFBIG"), _MAKE_ROOM),
        (("EROFS", "EACCES", "EPERM"), _MAKE_WRITABLE),
        (("EIO", "ESTALE", "ENOTCONN", "ENODEV", "ENXIO"), "see to the disk or the mount"),
    )
    for name in names
    if hasattr(errno, name)
}


class Storage:
    """Files below one directory or URL, by relative name. Travels to workers; opens its filesystem where it is used.

    `incarnation` is not part of any name here; it travels along for those who stage chunks (incarnation.py). A
    `permit` (lease.py) is asked before every change and raises where none may be made any more; locally between
    writing a temporary file and its rename, so that whoever takes the output over, and then removes the temporary
    files, has nothing more to fear from a writer that was asleep. Changes raise OutputFailed where the storage takes
    no more.
    """

    def __init__(self, url: str, incarnation: str = "") -> None:
        fs, root = resolve(url)
        self.url = unresolve(fs, root.rstrip("/") or "/")
        self.incarnation = incarnation
        self._root = root.rstrip("/")
        self._permit: Permit | None = None

    def of_incarnation(self, incarnation: str) -> "Storage":
        other = copy.copy(self)
        other.incarnation = incarnation
        return other

    def permitted_by(self, permit: Permit | None) -> "Storage":
        """Return the same files, changed only while `permit` lets us; None: always."""
        other = copy.copy(self)
        other._permit = permit
        return other

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
        if self.is_local:
            self._place(path, data, os.replace)
        else:
            self._ask()
            self._retry(lambda: self._fs.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if nobody has: False when it exists already. Atomic where the store has conditional PUTs
        (S3 and most that speak it); elsewhere it checks first, which can race."""
        path = self.path(name)
        try:
            if self.is_local:
                self._place(path, data, _link)
            elif self.exists(name):
                return False
            else:
                self._ask()
                self._retry(lambda: self._fs.pipe_file(path, data, mode="create"))
        except FileExistsError:
            # equal: it was us, and the answer to an earlier attempt was lost
            return not self.is_local and self.read(name) == data
        return True

    def _place(self, path: str, data: bytes, put: Callable[[str, str], None]) -> None:
        """A temporary file beside it, whole and on the disk, then `put`; what fails leaves nothing behind.

        A clean-up of another run may take the folder, or the temporary file itself, at any moment.
        """
        temporary = os.path.join(os.path.dirname(path), f"{_TEMPORARY}{uuid.uuid4().hex}")
        for tries_left in reversed(range(_PLACE_TRIES)):
            try:
                with self._failures_explained():
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    _write_synced(temporary, data)
                    self._ask()
                    put(temporary, path)
                return
            except FileNotFoundError as error:
                if not tries_left:
                    raise UserError(f"cannot write to {self.url!r}: {error.filename!r} cannot be made") from None
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _ask(self) -> None:
        if self._permit is not None:
            self._permit()

    def read(self, name: str) -> bytes:
        """Return the whole file; FileNotFoundError when there is none. Never served from a listing cache."""
        try:
            return self._retry(lambda: bytes(self._fs.cat_file(self.path(name))))
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None

    def write_json(self, name: str, content: Mapping[str, Any], indent: int | None = None) -> None:
        self.write(name, json_text({**content, KEY: VERSION}, indent=indent).encode())

    def read_json(self, name: str) -> Any:
        """Return what a JSON file holds; None when there is none or it is damaged, but never because the storage fails.

        UserError if a newer version has written it.
        """
        try:
            data = self.read(name)
        except FileNotFoundError:
            return None
        try:
            content = json.loads(data)
        except ValueError:
            return None
        if isinstance(content, dict):
            version_of(content, self.path(name))
        return content

    def write_table(self, name: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **STAMP})
        pq.write_table(table, buffer, compression="zstd")
        self.write(name, buffer.getvalue())

    def read_table(self, name: str) -> pa.Table:
        """In this thread alone. Threads of Arrow that still hold a Python object when the process ends abort it.

        UserError if a newer version has written it.
        """
        with pq.ParquetFile(pa.BufferReader(self.read(name))) as file:
            version_of(file.schema_arrow.metadata, self.path(name))
            return file.read(use_threads=False)

    def read_metadata(self, name: str) -> dict[bytes, bytes]:
        """Key-value metadata of a Parquet file, without reading its rows."""

        def read() -> dict[bytes, bytes]:
            with self._fs.open(self.path(name), "rb") as stream:
                return dict(pq.ParquetFile(stream).schema_arrow.metadata or {})

        metadata = self._retry(read)
        version_of(metadata, self.path(name))
        return metadata

    def modified_s(self, name: str) -> float | None:
        """When a file was last written, by the clock of the storage; None where the back end does not say."""
        self._fs.invalidate_cache()
        try:
            return float(self._retry(lambda: self._fs.modified(self.path(name))).timestamp())
        except (FileNotFoundError, NotImplementedError):
            return None

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
        """Return every file below a folder, relative to it, sorted; temporary files of a killed writer included."""
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
        self._ask()
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._failures_explained():
                self._retry(partial(self._fs.rm_file, self.path(name)))

    def remove_folder(self, folder: str) -> None:
        """Delete a folder and everything in it; one that is not there is fine."""
        self._ask()
        with contextlib.suppress(FileNotFoundError), self._failures_explained():
            self._fs.invalidate_cache()
            self._retry(lambda: self._fs.rm(self.path(folder), recursive=True))

    def _retry(self, call: Callable[[], Result]) -> Result:
        if self.is_local:
            return call()
        try:
            return retry(call, f"a request to {self.url}", USUAL_PATIENCE)
        except Exhausted as error:
            raise OutputFailed(f"cannot use {self.url!r}: {error}; {_SAFE}, see to the storage") from None
        except Exception as error:  # each storage back end has its own exceptions
            if not is_refusal(error):
                raise
            raise UserError(f"cannot use {self.url!r}: {type(error).__name__}: {error}") from None

    @contextlib.contextmanager
    def _failures_explained(self) -> Iterator[None]:
        """For changes on a local file system."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except NotADirectoryError as error:
            raise UserError(f"cannot write to {self.url!r}: {error.filename!r} is below a file") from None
        except OSError as error:
            if not self.is_local or error.errno not in _FAILURES:
                raise
            said = os.strerror(error.errno or 0)
            raise OutputFailed(f"cannot write to {self.url!r}: {said}; {_SAFE}, {_FAILURES[error.errno]}") from error


def _find_locally(folder: str) -> list[str]:
    """Every file below a folder. fsspec's `find` leaves out a folder that cannot be read, which must not look empty."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    walked = os.walk(folder, onerror=fail, followlinks=True)
    return [os.path.join(parent, name) for parent, _, names in walked for name in names]


def is_temporary(name: str) -> bool:
    """Return whether a file is what a killed writer left behind."""
    return name.rsplit("/", 1)[-1].startswith(_TEMPORARY)


def _write_synced(path: str, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())  # a rename that survives a power cut must not point at bytes that did not


def _link(temporary: str, path: str) -> None:
    """FileExistsError if there is a file. Where there are no hard links a reader may see it before it is whole."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with open(temporary, "rb") as source, open(path, "xb") as target:
            target.write(source.read())
