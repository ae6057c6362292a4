"""Compressed files, recognised by their first bytes: what a file is called does not count.

Archives and text tables share this rule, so that a `.tar` that is gzip and a `.csv.gz` that is plain are both read.
"""

import io
from typing import IO, Any

from smart_open.compression import compression_wrapper

HEAD_BYTES = 10  # what compression_of has to see
_GZIP, _XZ, _ZSTD = b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
_BZIP2, _BZIP2_BLOCKS = b"BZh", (b"1AY&SY", b"\x17rE8P\x90")  # a level lies between: a text may begin with BZh, too
_ZSTD_SKIPPED = b"\x2a\x4d\x18"  # after one byte 50..5f: what parallel compressors write first


def compression_of(head: bytes) -> str | None:
    """gz, bz2, xz or zst by a file's first bytes; None for one that is not compressed."""
    if head.startswith(_GZIP):
        return "gz"
    if head.startswith(_BZIP2) and head[3:4] in b"123456789" and head[4:10] in _BZIP2_BLOCKS:
        return "bz2"
    if head.startswith(_XZ):
        return "xz"
    if head.startswith(_ZSTD) or (head[1:4] == _ZSTD_SKIPPED and 0x50 <= head[0] <= 0x5F):
        return "zst"
    return None


def decompressed(raw: IO[bytes]) -> tuple[Any, str | None]:
    """A stream of the content and the compression that was found; a file that is not compressed comes back as it is.

    The stream of a compressed file can be read from its beginning and rewound, at the price of reading it again.
    Closing it does not close `raw`.
    """
    head = read_up_to(raw, HEAD_BYTES)
    kind = compression_of(head)
    try:
        raw.seek(0)
        whole = raw
    except (OSError, ValueError):  # a web server that gives no byte ranges
        whole = io.BufferedReader(_Prefixed(head, raw))
    if kind is None:
        return whole, None
    try:
        return compression_wrapper(whole, "rb", compression=f".{kind}"), kind
    except ImportError:  # the only one that Python itself has not always been able to read
        raise ValueError("reading Zstandard (.zst) needs the zstd extra: pip install deed-pipeline[zstd]") from None


def read_up_to(stream: IO[bytes], size: int) -> bytes:
    """So many bytes, fewer only at the end of the stream; a single read may give less than there is."""
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            break
        data += more
    return data


class _Prefixed(io.RawIOBase):
    """Bytes that were read already, and then the stream they came from."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._rest.read(len(buffer))
        data, self._head = data[: len(buffer)], self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)
