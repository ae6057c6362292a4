"""Tar archives read as a stream: which files are in one, and where each one's bytes are.

Nothing is trusted: an archive may be cut anywhere, claim any size, or be no archive at all. Headers are hopped over in
the order they have. Links stand for the file they lead to; what has no bytes of its own in one piece says why.
"""

import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import IO

from pipeline.source.readers.compression import read_up_to
from pipeline.text import storable

_BLOCK = 512
_PAX, _GNU_LONG = (b"x", b"g", tarfile.SOLARIS_XHDTYPE), (b"L", b"K")  # headers that describe the next member
_HEADERS = (*_PAX, *_GNU_LONG)
_GNU_BOOKS = (b"D", b"M", b"N", b"V")  # lists of a folder, parts of files in other volumes, old long names, labels
_MAX_HEADER_BYTES = 1 << 20
_MOST_PADDING_BYTES = 1 << 20  # zeros behind an end marker that are looked through for another archive
_MOST_LINKS = 40  # from one link to the next, as file systems have it
HEAD_BYTES = 64  # kept of each file that is looked into
_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


class CutArchive(Exception):
    """The archive ended before its end marker."""


class Kind(Enum):
    FILE = "file"
    HARD_LINK = "hard link"
    SYMBOLIC_LINK = "symbolic link"
    BROKEN_LINK = "broken_link"  # leads out of the archive, to nothing in it, or round in a circle
    SPARSE = "sparse_file"  # its holes are left out, so that its bytes are in pieces
    FOLDER = "folder"
    SPECIAL = "special_file"  # a device, a pipe, a part of a file that began in another archive
    AFTER_END = "bytes_after_the_end"  # whatever follows the end marker and is no archive


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a tar: its name, and of a file the range of its bytes and its first ones where they were wanted."""

    name: str
    offset: int
    size: int
    kind: Kind = Kind.FILE
    target: str = ""  # of a link
    head: bytes = b""


_LINKS = (Kind.HARD_LINK, Kind.SYMBOLIC_LINK)
_KINDS = {
    tarfile.LNKTYPE: Kind.HARD_LINK,
    tarfile.SYMTYPE: Kind.SYMBOLIC_LINK,
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.GNUTYPE_SPARSE: Kind.SPARSE,
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, *_GNU_BOOKS), Kind.SPECIAL),
}


def iter_members(stream: IO[bytes], wants_head: Callable[[str], bool] = lambda _: False) -> Iterator[Member]:
    """Everything in a tar, in archive order; raises CutArchive when the end marker is missing.

    Archives that were put one behind the other (`cat a.tar b.tar`) are read as one.
    `wants_head` says of which files, by name, the first 64 bytes are to be kept.
    """
    own: dict[str, str] = {}  # from pax and GNU headers, for the next member only
    for_all: dict[str, str] = {}
    position = 0
    peeked = b""
    while True:
        block = peeked or read_exactly(stream, _BLOCK, position)
        peeked = b""
        if block.count(0) == _BLOCK:
            position += _BLOCK
            peeked, padding = _after_end(stream)
            position += padding
            if not peeked:
                return
            if not _is_header(peeked):
                yield Member(f"from byte {position}", position, 0, Kind.AFTER_END)
                return
            continue
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        position += _BLOCK
        if header.type in _HEADERS:
            if _checked(header.size, position) > _MAX_HEADER_BYTES:
                raise ValueError(f"a tar header at byte {position} claims {header.size} bytes")
            payload = read_exactly(stream, _padded(header.size), position)[: header.size]
            position += _padded(header.size)
            if header.type in _GNU_LONG:
                found = {"path" if header.type == b"L" else "linkpath": _text(payload.partition(b"\0")[0])}
            else:
                found = _pax_records(payload)
            if header.type == b"g":
                for_all.update(found)
            else:
                own = {**found, **own}  # the outer header holds, as for other readers
            continue
        known = for_all | own
        own = {}
        name = storable(known.get("GNU.sparse.name", known.get("path", header.name)))
        size = _checked(int(known.get("size", header.size)), position)
        kind = _KINDS.get(header.type, Kind.FILE)  # types that nobody knows are files, by the standard
        if header.type == tarfile.GNUTYPE_SPARSE:
            position += _skip_sparse_map(stream, block, position)
        elif known and kind is Kind.FILE and any(key.startswith("GNU.sparse.") for key in known):
            kind = Kind.SPARSE
        if kind not in (Kind.FILE, Kind.SPARSE) and header.type not in _GNU_BOOKS and size:
            # Headers of links, folders and devices may have a size, and mostly nothing follows it; links of pax
            # archives may bring the file all the same. What follows tells: the next header, or something else.
            peeked = read_exactly(stream, _BLOCK, position)
            if _is_header(peeked):
                size = 0
            else:
                kind = Kind.FILE if kind is Kind.HARD_LINK else kind
        target = storable(known.get("linkpath", header.linkname)) if kind in _LINKS else ""
        head = b""
        if kind is Kind.FILE and size and wants_head(name):
            peeked = peeked or read_exactly(stream, _BLOCK, position)
            head = peeked[: min(size, HEAD_BYTES)]
        yield_at = position
        if size:
            _skip(stream, _padded(size) - len(peeked), position + len(peeked))
            position += _padded(size)
            peeked = b""
        yield Member(name, yield_at, size, kind, target, head)


def _after_end(stream: IO[bytes]) -> tuple[bytes, int]:
    """Return the first block behind an end marker that is not all zeros, and the bytes before it; none: b""."""
    for size in range(0, _MOST_PADDING_BYTES, _BLOCK):
        try:
            block = read_up_to(stream, _BLOCK)
        except EOFError:  # compressed data that are cut behind the end marker lack nothing
            break
        if block.count(0) < len(block):
            return block, size
        if len(block) < _BLOCK:
            break
    return b"", 0


def _is_header(block: bytes) -> bool:
    if block.count(0) == _BLOCK:
        return True  # the end of the archive
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _skip_sparse_map(stream: IO[bytes], header: bytes, position: int) -> int:
    """Return how many bytes of the map of an old GNU sparse file follow its header."""
    more, size = header[482], 0
    while more:
        block = read_exactly(stream, _BLOCK, position + size)
        more, size = block[504], size + _BLOCK
    return size


def _pax_records(payload: bytes) -> dict[str, str]:
    """Up to the first one that is malformed, as other readers do it."""
    records: dict[str, str] = {}
    position = 0
    while match := _PAX_RECORD.match(payload, position):
        length = int(match.group(1))
        if length < 5:
            raise ValueError("malformed pax header")
        records[match.group(2).decode("utf-8", "replace")] = _text(payload[match.end() : position + length - 1])
        position += length
    if "path" in records:
        records["path"] = records["path"].rstrip("/")
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _checked(size: int, position: int) -> int:
    """A size may be written in base 256 and be negative, which would lead the reader round in circles."""
    if size < 0:
        raise ValueError(f"a tar header at byte {position} claims {size} bytes")
    return size


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def read_exactly(stream: IO[bytes], size: int, position: int) -> bytes:
    data = read_up_to(stream, size)
    if len(data) < size:
        raise CutArchive(f"the archive ends at byte {position + len(data)} without an end marker")
    return data


def _skip(stream: IO[bytes], size: int, position: int) -> None:
    """Move over a member's bytes, making sure that they exist."""
    if size == 0:
        return
    if stream.seekable():
        stream.seek(position + size - 1)
        read_exactly(stream, 1, position + size - 1)
    else:
        skip_forward(stream, size, position)


def skip_forward(stream: IO[bytes], size: int, position: int) -> None:
    while size > 0:
        step = min(size, 1 << 20)
        read_exactly(stream, step, position)
        size, position = size - step, position + step


def follow_links(members: Sequence[Member]) -> list[Member]:
    """The same entries; a link has the bytes of the file it leads to, or is BROKEN_LINK, or FOLDER if it leads to one.

    A hard link leads to the last file of that name before it, a symbolic one to the last in the archive.
    """
    if not any(member.kind in _LINKS for member in members):
        return list(members)
    places: dict[str, list[int]] = {}
    for n, member in enumerate(members):
        places.setdefault(posixpath.normpath(member.name), []).append(n)
    folders = {parent for name in places for parent in _parents(name)}

    def end_of(n: int) -> Member:
        for _ in range(_MOST_LINKS):
            link = members[n]
            if link.kind is Kind.HARD_LINK:
                target = posixpath.normpath(link.target)
                found = [place for place in places.get(target, ()) if place < n]
            elif link.kind is Kind.SYMBOLIC_LINK:
                target = posixpath.normpath(posixpath.join(posixpath.dirname(link.name), link.target))
                found = places.get(target, [])
            else:
                return link
            if not found:
                to_folder = target in folders and link.kind is Kind.SYMBOLIC_LINK
                return replace(link, kind=Kind.FOLDER if to_folder else Kind.BROKEN_LINK)
            n = found[-1]
        return replace(members[n], kind=Kind.BROKEN_LINK)

    return [replace(end_of(n), name=member.name) for n, member in enumerate(members)]


def _parents(name: str) -> Iterator[str]:
    while name := posixpath.dirname(name).rstrip("/"):
        yield name
