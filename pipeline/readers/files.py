"""One file from any storage, as long as it is not too large and does not take too long."""

import errno
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import fsspec
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError

from pipeline.plan import is_local
from pipeline.retrying import Unavailable


class TooLarge(Exception):
    """The file has more bytes than are wanted; no more than those were read."""


def read_file(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, timeout_s: float | None = None) -> bytes:
    """The file's bytes, or TooLarge. `timeout_s` holds on every storage but plain files; over it: Unavailable."""
    try:
        data = _cat(fs, path, timeout_s, start=0, end=max_bytes + 1)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        data = _cat(fs, path, timeout_s)  # an empty object has no range that could be asked for
    if len(data) > max_bytes:
        raise TooLarge(f"more than {max_bytes} bytes")
    return bytes(data)  # the same object where it is bytes already


def _cat(fs: fsspec.AbstractFileSystem, path: str, timeout_s: float | None, **span: int) -> Any:
    if timeout_s is None or is_local(fs):
        return fs.cat_file(path, **span)
    try:
        if getattr(fs, "async_impl", False):
            return sync(fs.loop, fs._cat_file, path, timeout=timeout_s, **span)
        return _within(timeout_s, lambda: fs.cat_file(path, **span))
    except FSTimeoutError:
        raise Unavailable(f"nothing within {timeout_s:g} s") from None


def _within(timeout_s: float, call: Callable[[], Any]) -> Any:
    """A call that cannot be broken off is left behind in its thread when it takes too long."""
    answer: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            answer.put((call(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=run, name="read-with-timeout", daemon=True).start()
    try:
        result, error = answer.get(timeout=timeout_s)
    except Empty:
        raise FSTimeoutError from None
    if error is not None:
        raise error
    return result
