"""Paths, globs, brace ranges and folders -> the files they stand for; a name that exists is not read as a pattern."""

import glob
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec

from conf.errors import UserError
from conf.source import RetryConfig
from conf.source_kinds import kind_in_folder
from pipeline.source.file_systems import is_local, resolve, unresolve
from pipeline.source.plan import LeftOut, Listing, Shard, sum_left_out
from pipeline.source.readers.file_kinds import is_hidden
from pipeline.source.readers.folders.folder_walk import walk
from pipeline.source.retrying import Exhausted, is_gone, retry, said_by
from pipeline.source.shard_names import name_shards
from pipeline.source.versions import version_of
from pipeline.text import storable

_LISTING_THREADS = 32
_MAGIC, _GLOB = re.compile(r"[*?[{]"), re.compile(r"[*?[]")
_SHARDS = {"webdataset": "tar shards", "parquet": "Parquet files", "manifest": "manifests"}


class SourceFile(NamedTuple):
    """A file of a source as it was listed."""

    url: str
    size_bytes: int
    version: str  # pipeline.source.versions


@dataclass(frozen=True)
class SourceFiles:
    """The files, sorted, each once; and what a folder among the paths holds beside them."""

    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...] = ()


def find_files(paths: Sequence[str], patience: RetryConfig, kind: str, known: Iterable[Shard] = ()) -> SourceFiles:
    """Every file the paths stand for; a path without a file is an error. Of a folder, the files of this source.kind.

    A path whose shards are all gone is none if an earlier run planned them (`known`), but a source of which nothing is
    there any more is one all the same.
    """
    planned = sorted(shard.url for shard in known)
    files: dict[str, SourceFile] = {}
    left_out: list[LeftOut] = []
    with ThreadPoolExecutor(min(_LISTING_THREADS, max(1, len(paths)))) as pool:
        whole = itertools.chain.from_iterable(pool.map(lambda path: _patterns(path, patience), paths))
        for found in pool.map(lambda pattern: pattern.find(patience, kind, planned), list(whole)):
            files.update((file.url, file) for file in found.files)
            left_out.extend(found.left_out)
    if not files:
        raise UserError(f"nothing is left of the source, which had {len(planned)} shards when this output was begun")
    return SourceFiles(tuple(sorted(files.values())), sum_left_out(left_out))


def list_shards(paths: Sequence[str], patience: RetryConfig, kind: str, known: Iterable[Shard]) -> Listing:
    """Return a shard for every file; those of `known` keep their names."""
    known = list(known)
    found = find_files(paths, patience, kind, known)
    names = name_shards([file.url for file in found.files], {shard.url: shard.name for shard in known})
    shards = (Shard(names[f.url], f.url, f.size_bytes, version=f.version) for f in found.files)
    return Listing(tuple(shards), found.left_out)


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `{x,y}.tar` -> every path they stand for, in order."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    head, body, tail = pattern[: match.start()], match.group(1), pattern[match.end() :]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if span is not None:
        first, last = span.groups()
        if int(last) < int(first):
            raise UserError(f"brace range {{{body}}} in {pattern!r} runs backwards")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    else:
        choices = body.split(",")
        if len(choices) < 2:
            raise UserError(f"{{{body}}} in {pattern!r} is neither a range like {{000..003}} nor a list like {{a,b}}")
    return list(itertools.chain.from_iterable(expand_braces(head + choice + tail) for choice in choices))


def cannot_list(path: str, error: Exception) -> UserError:
    """Return what to say of a path that is there, or may be, and yet cannot be listed."""
    shown = repr(storable(path))
    if isinstance(error, PermissionError):
        return UserError(f"not allowed to read {shown}: {storable(error.strerror or str(error))}")
    if isinstance(error, Exhausted):
        again = "nothing was changed: run the same command again when it answers"
        return UserError(f"cannot list {shown}: {storable(str(error))}; {again}")
    return UserError(f"cannot list {shown}: {storable(f'{type(error).__name__}: {error}')}")


@dataclass(frozen=True)
class _Pattern:
    """A path within its storage: folders that exist under just this name, then what may hold a glob."""

    shown: str
    fs: fsspec.AbstractFileSystem
    head: str
    rest: str

    @property
    def whole(self) -> str:
        return f"{self.head}{self.rest}"

    def find(self, patience: RetryConfig, kind: str, planned: Sequence[str]) -> SourceFiles:
        fixed = unresolve(self.fs, self.head + _GLOB.split(self.rest)[0])
        has_glob = fixed != unresolve(self.fs, self.whole)
        below = fixed if has_glob else f"{fixed.rstrip('/')}/"
        is_planned = any(url == fixed or url.startswith(below) for url in planned)
        try:
            found = retry(lambda: self._list(kind), f"listing {storable(self.shown)}", patience)
        except UserError:
            raise
        except FileNotFoundError as error:
            if not is_gone(error):
                raise cannot_list(self.shown, said_by(error)) from None
            if is_planned:
                return SourceFiles(())
            raise UserError(f"shard not found: {storable(self.shown)!r}") from None
        except Exception as error:  # each storage back end has its own exceptions
            raise cannot_list(self.shown, error) from None
        if not found.files and not is_planned:
            raise UserError(f"no shard matches {storable(self.shown)!r}")
        return found

    def _list(self, kind: str) -> SourceFiles:
        if not _GLOB.search(self.rest):
            info = self.fs.info(self.whole)
            if info["type"] == "directory":
                return self._of_folder(kind)
            if not _is_file(self.fs, self.whole):
                raise UserError(f"{storable(self.shown)!r} is no file that could be read again")
            return SourceFiles((_source_file(self.fs, self.whole, info),))
        found = self.fs.glob(glob.escape(self.head) + self.rest, detail=True)
        names = [name for name, info in found.items() if info["type"] != "directory"]
        special = [name for name in names if not _is_file(self.fs, name)]
        files = (_source_file(self.fs, name, found[name]) for name in names if name not in special)
        left_out = [LeftOut.of("special_files", special)] if special else []
        return SourceFiles(tuple(files), tuple(left_out))

    def _of_folder(self, kind: str) -> SourceFiles:
        files: list[SourceFile] = []
        others: dict[str, list[str]] = {}
        accepted = {kind, "parquet"} if kind == "manifest" else {kind}  # manifests may be Parquet
        for file in sorted(walk(self.fs, self.whole.rstrip("/") or "/"), key=lambda file: file.name):
            reason = "hidden_files" if is_hidden(file.name) else file.problem
            if reason is None and kind_in_folder(file.name) not in accepted:
                reason = "other_files"
            if reason is not None:
                others.setdefault(reason, []).append(file.name)
            else:
                name = f"{self.whole.rstrip('/')}/{file.name}"
                files.append(_source_file(self.fs, name, self.fs.info(name)))
        if not files:
            raise UserError(f"the folder {storable(self.shown)!r} holds no {_SHARDS[kind]}")
        return SourceFiles(tuple(files), tuple(LeftOut.of(*other) for other in others.items()))


def _source_file(fs: fsspec.AbstractFileSystem, name: str, info: Mapping[str, Any]) -> SourceFile:
    if info.get("islink"):  # a listing says when the link was made, not when the file it leads to was written
        info = fs.info(name)
    return SourceFile(unresolve(fs, name), int(info.get("size") or 0), version_of(info))


def _is_file(fs: fsspec.AbstractFileSystem, name: str) -> bool:
    """Not a pipe, a socket or a device, which would be read for ever, or once."""
    return not is_local(fs) or stat.S_ISREG(os.stat(name).st_mode)


def _patterns(path: str, patience: RetryConfig) -> Iterator[_Pattern]:
    """Braces expanded; but a file or folder that is there under just this name is meant by it."""
    fs, inner = resolve(path)
    if not _MAGIC.search(inner):
        yield _Pattern(path, fs, inner, "")
        return

    def exists(name: str) -> bool:
        try:
            return bool(retry(lambda: fs.exists(name), f"looking for {storable(path)}", patience))
        except Exception:  # the listing will say what is wrong
            return False

    if exists(inner):
        yield _Pattern(path, fs, inner, "")
        return
    head, rest = "", inner
    while (match := re.match(r"[^/]*/+", rest)) is not None:
        piece = match.group()
        if _MAGIC.search(piece) and not exists((head + piece).rstrip("/")):
            break
        head, rest = head + piece, rest[len(piece) :]
    for expanded in expand_braces(rest):
        yield _Pattern(path if expanded == rest else f"{head}{expanded}", fs, head, expanded)
