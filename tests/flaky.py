"""Storages in memory that fail at a request of one's choice: `source://` for what is read, `output://` for a run."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from conf.source import RetryConfig
from pipeline.output import storage as storage_module

NO_PATIENCE = RetryConfig(outage_s=0)
_KINDS: dict[str, Callable[[str], Exception]] = {
    "away": lambda path: OSError(errno.EIO, "503 Service Unavailable", path),
    "refused": lambda path: PermissionError(errno.EACCES, "403 Forbidden", path),
    "gone": lambda path: FileNotFoundError(errno.ENOENT, "404 Not Found", path),
}


class Fuse:
    """Counts requests; fails the n-th (from 0), or all from the n-th on."""

    def __init__(self) -> None:
        self.mend()

    def mend(self) -> None:
        self.count, self.at, self.kind, self.for_good = 0, -1, "away", False

    def set(self, at: int, kind: str = "away", *, for_good: bool = True) -> None:
        self.count, self.at, self.kind, self.for_good = 0, at, kind, for_good

    @property
    def burnt(self) -> bool:
        return 0 <= self.at < self.count

    def request(self, path: str) -> None:
        number, self.count = self.count, self.count + 1
        if number == self.at or (self.for_good and 0 <= self.at < number):
            raise _KINDS[self.kind](path)


class _Flaky(MemoryFileSystem):
    cachable = False
    fuse: Fuse

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        path = path.removeprefix(f"{cls.protocol}://").strip("/")
        return f"/{path}" if path else ""

    def unstrip_protocol(self, name: str) -> str:
        return f"{self.protocol}://{name.lstrip('/')}"


def _asked_first(name: str) -> Callable[..., Any]:
    original = getattr(MemoryFileSystem, name)

    def call(self: _Flaky, path: Any, *arguments: Any, **named: Any) -> Any:
        self.fuse.request(str(path))
        return original(self, path, *arguments, **named)

    return call


for _name in ("info", "ls", "find", "cat_file", "_open", "pipe_file", "_rm"):
    setattr(_Flaky, _name, _asked_first(_name))


class SourceFileSystem(_Flaky):
    protocol = "source"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fuse = Fuse()


class OutputFileSystem(_Flaky):
    protocol = "output"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fuse = Fuse()


@contextmanager
def flaky_storages() -> Iterator[tuple[type[_Flaky], type[_Flaky]]]:
    """Both storages, empty and well; nobody waits for them."""
    kinds = (SourceFileSystem, OutputFileSystem)
    for kind in kinds:
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]
        kind.fuse.mend()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage_module, "USUAL_PATIENCE", NO_PATIENCE)
        yield kinds
    for kind in kinds:
        kind.store.clear()
