"""Tar archives, plain or compressed, read as a stream: where each member's bytes are, and the bytes themselves.

Nothing is trusted: an archive may be cut anywhere, claim any size, or be no archive at all. Headers are hopped over in
the order they have; a plain archive is then read in byte ranges, a compressed one from its beginning.
"""

import gzip
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pipeline.plan import Part, resolve
from pipeline.retrying import Unavailable

_BLOCK = 512
_MERGE_GAP_BYTES = 64 * 1024  # parts closer than this are fetched by one request: headers and unused members between
_MAX_REQUEST_BYTES = 32 << 20  # unless one part alone is larger
_HEADER_TYPES = frozenset({b"x", b"g", b"L", b"K"})  # pax and GNU headers that describe the next member
_MAX_HEADER_BYTES = 1 << 20
_COMPRESSED = (".gz", ".tgz", ".zst")


class CutArchive(Exception):
    """The archive ended before its end marker."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar: its name and the range of its bytes."""

    name: str
    offset: int
    size: int


def is_compressed(url: str) -> bool:
    """Whether the archive can only be read from its beginning, by its name."""
    return url.lower().endswith(_COMPRESSED)


def iter_members(stream: IO[bytes]) -> Iterator[Member]:
    """Regular files of a tar in archive order; raises CutArchive when the end marker is missing."""
    overrides: dict[str, str] = {}  # from pax and GNU headers, for the next member only
    global_overrides: dict[str, str] = {}
    position = 0
    while True:
        block = read_exactly(stream, _BLOCK, position)
        if block.count(0) == _BLOCK:
            return
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        position += _BLOCK
        if header.type in _HEADER_TYPES:
            if _checked(header.size, position) > _MAX_HEADER_BYTES:
                raise ValueError(f"a tar header at byte {position} claims {header.size} bytes")
            payload = read_exactly(stream, _padded(header.size), position)[: header.size]
            position += _padded(header.size)
            if header.type == b"L":
                overrides["path"] = payload.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type in b"xg":
                (overrides if header.type == b"x" else global_overrides).update(_pax_records(payload))
            continue
        known = global_overrides | overrides
        size = _checked(int(known.get("size", header.size)), position)
        if header.isreg():
            _skip(stream, _padded(size), position)
            name = known.get("path", header.name)
            yield Member(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), position, size)
        elif header.size:
            _skip(stream, _padded(size), position)
        position += _padded(size) if header.isreg() or header.size else 0  # always forward: no size is negative
        overrides = {}


def _pax_records(payload: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while position < len(payload) and payload[position : position + 1] != b"\0":
        space = payload.index(b" ", position)
        length = int(payload[position:space])
        if length < 5:
            raise ValueError("malformed pax header")
        keyword, _, value = payload[space + 1 : position + length - 1].partition(b"=")
        records[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position += length
    return records


def _checked(size: int, position: int) -> int:
    """A size may be written in base 256 and be negative, which would lead the reader round in circles."""
    if size < 0:
        raise ValueError(f"a tar header at byte {position} claims {size} bytes")
    return size


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def read_exactly(stream: IO[bytes], size: int, position: int) -> bytes:
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            raise CutArchive(f"the archive ends at byte {position + len(data)} without an end marker")
        data += more
    return data


def _skip(stream: IO[bytes], size: int, position: int) -> None:
    """Move over a member's bytes, making sure that they exist."""
    if size == 0:
        return
    if stream.seekable():
        stream.seek(position + size - 1)
        read_exactly(stream, 1, position + size - 1)
        return
    while size > 0:
        step = min(size, 1 << 20)
        read_exactly(stream, step, position)
        size, position = size - step, position + step


def read_parts(url: str, parts: Sequence[Part]) -> Iterator[bytes]:
    """The bytes of each part; parts must ascend. No more is held than one request and the part it ends with."""
    if is_compressed(url):
        position = 0
        with open_stream(url) as stream:
            for part in parts:
                _skip(stream, part.offset - position, position)
                yield read_exactly(stream, part.size, part.offset)
                position = part.offset + part.size
        return
    fs, inner = resolve(url)
    for start, end, together in _requests(parts):
        data = fs.cat_file(inner, start=start, end=end) if end > start else b""
        if len(data) < end - start:
            raise Unavailable(f"{url} gave {len(data)} of {end - start} bytes at {start}")
        for part in together:
            yield bytes(data[part.offset - start : part.offset - start + part.size])


def _requests(parts: Sequence[Part]) -> Iterator[tuple[int, int, list[Part]]]:
    """(first byte, end, parts in it): parts that are close to each other share a request."""
    together: list[Part] = []
    start = end = 0
    for part in parts:
        part_end = part.offset + part.size
        if together and (part.offset - end > _MERGE_GAP_BYTES or part_end - start > _MAX_REQUEST_BYTES):
            yield start, end, together
            together = []
        start, end = (start, max(end, part_end)) if together else (part.offset, part_end)
        together.append(part)
    if together:
        yield start, end, together


class _Decompressed:
    """A forward-only stream: seeking is reading, which the callers do knowingly."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def read(self, size: int) -> bytes:
        return self._raw.read(size)

    def seekable(self) -> bool:
        return False

    def __enter__(self) -> "_Decompressed":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()


def open_stream(url: str) -> Any:
    fs, inner = resolve(url)
    raw = fs.open(inner, "rb")
    suffix = url.lower().rsplit(".", 1)[-1]
    if suffix in ("gz", "tgz"):
        return _Decompressed(gzip.GzipFile(fileobj=raw))  # type: ignore[arg-type]
    if suffix == "zst":
        try:
            import zstandard
        except ImportError:
            raise ValueError("reading .zst shards needs the zstd extra: pip install deed-pipeline[zstd]") from None
        return _Decompressed(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return raw
