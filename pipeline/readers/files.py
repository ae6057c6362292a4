"""One file from any storage, as long as it is not too large and does not take too long."""

import errno
import os
import stat
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError

from pipeline.plan import is_local
from pipeline.retrying import Unavailable

Result = TypeVar("Result")


class TooLarge(Exception):
    """The file has more bytes than are wanted; no more than those were read."""


class NotAFile(Exception):
    """A folder, a pipe, a device: reading it would not end, or not begin."""


def read_file(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, timeout_s: float | None = None) -> bytes:
    """The file's bytes, or TooLarge. `timeout_s` holds on every storage but plain files; over it: Unavailable."""
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
    """The bytes of a file on this machine, TooLarge or NotAFile."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile("no regular file")
    with open(path, "rb") as stream:
        data = stream.read(min(status.st_size, max_bytes) + 1)  # a read takes all the memory it is allowed to need
    if len(data) > max_bytes:
        raise TooLarge(f"more than {max_bytes} bytes")
    return data


def cat(fs: fsspec.AbstractFileSystem, path: str, timeout_s: float | None, **span: int) -> Any:
    """fsspec's cat_file. `timeout_s` holds on every storage but plain files; over it: Unavailable."""
    if timeout_s is None or is_local(fs):
        return fs.cat_file(path, **span)
    if not getattr(fs, "async_impl", False):
        return within(timeout_s, lambda: fs.cat_file(path, **span))
    try:
        return sync(fs.loop, fs._cat_file, path, timeout=timeout_s, **span)
    except FSTimeoutError:
        raise Unavailable(f"nothing within {timeout_s:g} s") from None


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
