"""Files of any storage, whole or in pieces; no request to a storage may take for ever, and no file be too large."""

import errno
import io
import os
import stat
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import IO, Any, TypeVar

import fsspec
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError

from pipeline.source.file_systems import is_local
from pipeline.source.retrying import Unavailable

Result = TypeVar("Result")
REQUEST_S = 300.0  # for one request, of at most some tens of megabytes: a storage that drips is one that is away
_BUFFER_BYTES = 4 << 20
_LEAST_BYTES = 256 * 1024  # of a stream within that time


class TooLarge(Exception):
    """The file has more bytes than are wanted; no more than those were read."""


class NotAFile(Exception):
    """A folder, a pipe, a device: reading it would not end, or not begin."""


def read_file(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, timeout_s: float | None = None) -> bytes:
    """The file's bytes, or TooLarge. `timeout_s` (none: REQUEST_S) holds on every storage but plain files; over it:
    Unavailable."""
    try:
        data = cat(fs, path, timeout_s, start=0, end=max_bytes + 1)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        data = cat(fs, path, timeout_s)  # an empty object has no range that could be asked for
    if len(data) > max_bytes:
        raise TooLarge(f"more than {max_bytes} bytes")
    return bytes(data)  # the same object where it is bytes already


def read_plain(path: str, max_bytes: int) -> bytes:
    """Return the bytes of a file on this machine, TooLarge or NotAFile."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile("no regular file")
    with open(path, "rb") as stream:
        data = stream.read(min(status.st_size, max_bytes) + 1)  # a read takes all the memory it is allowed to need
    if len(data) > max_bytes:
        raise TooLarge(f"more than {max_bytes} bytes")
    return data


def cat(fs: fsspec.AbstractFileSystem, path: str, timeout_s: float | None = None, **span: int) -> Any:
    """fsspec's cat_file. `timeout_s` (none: REQUEST_S) holds on every storage but plain files; over it: Unavailable."""
    timeout_s = REQUEST_S if timeout_s is None else timeout_s
    if is_local(fs):
        return fs.cat_file(path, **span)
    if not getattr(fs, "async_impl", False):
        return within(timeout_s, lambda: fs.cat_file(path, **span))
    try:
        return sync(fs.loop, fs._cat_file, path, timeout=timeout_s, **span)
    except FSTimeoutError:
        raise Unavailable(f"nothing within {timeout_s:g} s") from None


def open_file(fs: fsspec.AbstractFileSystem, path: str) -> IO[bytes]:
    """Return the file, read in requests that may take REQUEST_S each; over it: Unavailable.

    It can be sought in, unless a web server gives no byte ranges: then it is a stream.
    """
    if is_local(fs):
        return fs.open(path, "rb")  # type: ignore[no-any-return]
    size = within(REQUEST_S, lambda: fs.info(path)).get("size")
    if size is not None and within(REQUEST_S, lambda: _gives_ranges(fs, path, int(size))):
        return io.BufferedReader(_InRanges(fs, path, int(size)), _BUFFER_BYTES)
    return io.BufferedReader(_AsStream(within(REQUEST_S, lambda: _open_stream(fs, path))), _BUFFER_BYTES)


def _is_web(fs: fsspec.AbstractFileSystem) -> bool:
    return "http" in ((fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol))


def _gives_ranges(fs: fsspec.AbstractFileSystem, path: str, size: int) -> bool:
    """Object stores do; some web servers send the whole file, whatever they are asked for."""
    if not _is_web(fs):
        return True
    if size < 2:
        return False
    try:
        with fs.open(path, "rb", block_size=1, cache_type="none") as stream:
            stream.seek(size - 1)
            return len(stream.read(1)) == 1
    except (ValueError, io.UnsupportedOperation):
        return False


def _open_stream(fs: fsspec.AbstractFileSystem, path: str) -> Any:
    if not _is_web(fs):
        return fs.open(path, "rb")
    import aiohttp
    from fsspec.implementations.http import HTTPStreamFile

    # The client's own limit is for the whole of a stream, however large; here each of its reads has one.
    no_limit, session = aiohttp.ClientTimeout(total=None), sync(fs.loop, fs.set_session)
    return HTTPStreamFile(fs, path, loop=fs.loop, session=session, **{**fs.kwargs, "timeout": no_limit})


class _InRanges(io.RawIOBase):
    """A file whose reads are requests for byte ranges."""

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str, size: int) -> None:
        self._fs, self._path, self._size, self._position = fs, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size - self._position))
        if not wanted:
            return 0
        data = cat(self._fs, self._path, start=self._position, end=self._position + wanted)
        if len(data) > wanted:
            raise OSError(f"{len(data)} bytes came for {wanted}: no byte ranges are given")
        if not data:
            raise Unavailable(f"nothing came for the bytes from {self._position}")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _AsStream(io.RawIOBase):
    """A file that can only be read from its beginning."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if hasattr(self._stream, "_read"):  # of fsspec's web client, whose calls can be broken off
            wanted = min(len(buffer), _LEAST_BYTES)
            try:
                data = sync(self._stream.loop, self._fill, wanted, timeout=REQUEST_S)
            except FSTimeoutError:
                raise Unavailable(f"fewer than {wanted} bytes within {REQUEST_S:g} s") from None
        else:
            data = within(REQUEST_S, lambda: self._stream.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    async def _fill(self, wanted: int) -> bytes:
        """As many bytes as that, or the last ones: those that come now and then are not enough."""
        data = b""
        while len(data) < wanted and (more := await self._stream._read(wanted - len(data))):
            data += more
        return data

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def within(timeout_s: float, call: Callable[[], Result]) -> Result:
    """The call's result, or Unavailable: what takes too long cannot be broken off and is left behind in its thread."""
    worker = getattr(_own, "worker", None) or _Worker()
    _own.worker = None
    answer: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    worker.calls.put((call, answer))
    try:
        result, error = answer.get(timeout=timeout_s)
    except Empty:
        raise Unavailable(f"nothing within {timeout_s:g} s") from None
    _own.worker = worker
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


class _Worker:
    """A thread that makes one call after the other, until nobody knows it any more."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=_work, args=(self.calls,), name="read-with-timeout", daemon=True).start()
        weakref.finalize(self, self.calls.put, None)


def _work(calls: SimpleQueue[Any]) -> None:
    while (given := calls.get()) is not None:
        call, answer = given
        try:
            answer.put((call(), None))
        except BaseException as error:
            answer.put((None, error))
        del given, call, answer  # a result must not be kept until the next call


_own = threading.local()  # the worker of each thread that waits
