"""Compression is recognised by content: every format, plain files whatever they are called, streams without seeking."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from pipeline.source.readers.compression import compression_of, decompressed

TEXT = b"a,b\n1,2\n" * 5000
SKIPPED_FRAME = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


class Unseekable(io.RawIOBase):
    """What comes from a web server that gives no byte ranges, a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(7, len(buffer)))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("kind", [*PACK, None])
@pytest.mark.parametrize("open_raw", [io.BytesIO, Unseekable])
@pytest.mark.parametrize("parts", [1, 2])
def test_every_compression_is_found_by_its_bytes(
    kind: str | None, open_raw: Callable[[bytes], Any], parts: int
) -> None:
    pack = PACK[kind] if kind else bytes
    stream, found = decompressed(open_raw(b"".join(pack(TEXT) for _ in range(parts))))
    assert found == kind
    assert b"".join(iter(lambda: stream.read(1000), b"")) == TEXT * parts


@pytest.mark.parametrize("text", [b"", b"BZh", b"BZh9,name\n", b"P*M", b"\x1f\x8b no gzip", b"Pixels,a\n"])
def test_plain_files_that_begin_alike_stay_plain(text: bytes) -> None:
    stream, found = decompressed(io.BytesIO(text))
    assert (stream.read(), found) == (text, None)


def test_parallel_zstd_and_empty_bzip2_are_known_too() -> None:
    assert compression_of(SKIPPED_FRAME) == "zst"
    assert compression_of(bz2.compress(b"")) == "bz2"
    stream, _ = decompressed(io.BytesIO(SKIPPED_FRAME + zstandard.compress(TEXT)))
    assert stream.read(10) == TEXT[:10]
