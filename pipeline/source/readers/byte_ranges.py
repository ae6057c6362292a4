"""Ranges of the bytes of a shard, in few requests: a plain file in ranges, a compressed one from its beginning."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import IO, Any

from pipeline.source.file_systems import resolve
from pipeline.source.plan import ByteRange, Shard
from pipeline.source.readers.compression import HEAD_BYTES, compression_of, decompressed
from pipeline.source.readers.fetching.files import cat, open_file
from pipeline.source.readers.tar import read_exactly, skip_forward
from pipeline.source.readers.unchanged import check_unchanged, unless_replaced
from pipeline.source.retrying import Unavailable

_MERGE_GAP_BYTES = 64 * 1024  # ranges closer than this are fetched by one request: headers and unused members between
_MAX_REQUEST_BYTES = 32 << 20  # unless one range alone is larger


class _Forward:
    """A forward-only stream: seeking is reading, which the callers do knowingly."""

    def __init__(self, stream: IO[bytes], raw: IO[bytes]) -> None:
        self._stream, self._raw = stream, raw

    def read(self, size: int) -> bytes:
        return self._stream.read(size)

    def seekable(self) -> bool:
        return False

    def __enter__(self) -> "_Forward":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()


def open_stream(url: str) -> Any:
    """Return the content from its beginning, decompressed; can be sought in where it is not compressed."""
    fs, inner = resolve(url)
    raw = open_file(fs, inner)
    try:
        stream, _ = decompressed(raw)
    except BaseException:
        raw.close()
        raise
    return raw if stream is raw else _Forward(stream, raw)


def is_compressed(shard: Shard) -> bool:
    """Return whether the shard can only be read from its beginning."""
    return _is_compressed(shard.url, shard.weight)


@lru_cache(maxsize=4096)
def _is_compressed(url: str, size_bytes: int) -> bool:
    fs, inner = resolve(url)
    with open_file(fs, inner) as raw:
        return not raw.seekable() or compression_of(raw.read(HEAD_BYTES)) is not None


def read_ranges(shard: Shard, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
    """Yield the bytes of each range; they must ascend, and may be the same. No more is held than one request."""
    if not ranges:
        return
    read = _from_beginning if is_compressed(shard) else _in_ranges
    yield from unless_replaced(read(shard, ranges), shard)


def _in_ranges(shard: Shard, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
    fs, inner = resolve(shard.url)
    for start, end, together in _requests(ranges):
        data = cat(fs, inner, start=start, end=end) if end > start else b""
        if len(data) > end - start:
            raise OSError(f"{shard.url} gave {len(data)} bytes for {end - start}: its server gives no byte ranges")
        if len(data) < end - start:
            raise Unavailable(f"{shard.url} gave {len(data)} of {end - start} bytes at {start}")
        check_unchanged(shard)
        for one in together:
            yield bytes(data[one.begin - start : one.end - start])


def _from_beginning(shard: Shard, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
    position = 0
    with open_stream(shard.url) as stream:
        for start, end, together in _requests(ranges):
            skip_forward(stream, start - position, position)
            data = read_exactly(stream, end - start, start)
            check_unchanged(shard)
            position = end
            for one in together:
                yield bytes(data[one.begin - start : one.end - start])


def _requests(ranges: Sequence[ByteRange]) -> Iterator[tuple[int, int, list[ByteRange]]]:
    """(first byte, end, ranges in it): those that are close to each other share a request."""
    together: list[ByteRange] = []
    start = end = 0
    for one in ranges:
        far = one.begin - end > _MERGE_GAP_BYTES or one.end - start > _MAX_REQUEST_BYTES
        if together and far and one.end > end:  # one may come twice, by links
            yield start, end, together
            together = []
        start, end = (start, max(end, one.end)) if together else (one.begin, one.end)
        together.append(one)
    if together:
        yield start, end, together
