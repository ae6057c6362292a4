"""Every file below a folder, on any storage, found once: symbolic links are followed, and lead nowhere twice."""

import errno
import heapq
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec

from pipeline.source.file_systems import is_local
from pipeline.source.readers.file_kinds import is_hidden

_PIPES_AND_THE_LIKE = "special_files"
_CLOSED = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or what stands where one is expected; `name` is relative to the folder, as the system knows it.

    `problem`: why it is no input whatever it holds, as a reason of LeftOut.
    """

    name: str
    size: int = 0
    problem: str | None = None
    by_link: bool = False  # below a folder that is a symbolic link


def walk(fs: fsspec.AbstractFileSystem, root: str) -> list[Found]:
    """Return all of them, in no order. OSErrors are about the folder itself: FileNotFoundError, PermissionError, ..."""
    if is_local(fs):
        return list(_walk_here(root))
    files = fs.find(root, detail=True)
    if not files and not fs.isdir(root):
        raise FileNotFoundError(root)
    return [
        Found(posixpath.relpath(name, root), int(info.get("size") or 0))
        for name, info in files.items()
        if not name.endswith("/")  # object stores: what stands for an empty folder
    ]


def _walk_here(root: str) -> Iterator[Found]:
    """Real folders first, then those behind links, by name: so a folder that is both keeps its own name."""
    seen: set[tuple[int, int]] = set()
    links: list[str] = []
    real_root = os.path.realpath(root)
    yield from _walk_one(root, "", seen, links, by_link=False)
    while links:
        name = heapq.heappop(links)
        target = os.path.realpath(os.path.join(root, name))
        holds_root = real_root == target or real_root.startswith(target.rstrip("/") + "/")
        if holds_root or _identity(os.stat(target)) in seen:
            yield Found(name, problem="repeated_folder_links")
        else:
            yield from _walk_one(root, name, seen, links, by_link=True)


def _walk_one(root: str, top: str, seen: set[tuple[int, int]], links: list[str], *, by_link: bool) -> Iterator[Found]:
    """What is below one folder; links to folders are put on `links`."""
    todo = [top]
    while todo:
        folder = todo.pop()
        try:
            identity = _identity(os.stat(os.path.join(root, folder)))
            if identity in seen:  # mounted twice
                yield Found(folder, problem="repeated_folder_links")
                continue
            seen.add(identity)
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError as error:
            if not folder:
                raise
            if error.errno in _CLOSED:
                yield Found(folder, problem="unreadable_folders")
            elif not isinstance(error, FileNotFoundError | NotADirectoryError):  # gone meanwhile
                raise
            continue
        for entry in entries:
            name = posixpath.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                todo.append(name)
            elif entry.is_symlink() and _is_folder(entry) and not is_hidden(name):
                heapq.heappush(links, name)
            else:
                yield _file(entry, name, by_link)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _file(entry: os.DirEntry[str], name: str, by_link: bool) -> Found:
    try:
        found = entry.stat()
    except OSError as error:
        broken = entry.is_symlink() and (isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP)
        return Found(name, problem="broken_links" if broken else "unreadable_files", by_link=by_link)
    problem = None if stat.S_ISREG(found.st_mode) else _PIPES_AND_THE_LIKE
    return Found(name, found.st_size if problem is None else 0, problem, by_link)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
