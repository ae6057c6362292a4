"""A PNG reduced to what belongs to its picture.

Pillow reads texts and profiles first and gives the picture up when one is longer than it likes, or damaged. They are
taken out before it sees the file, and so are the other frames of an animation.
"""

import zlib
from collections.abc import Iterator

_MAGIC_BYTES = 8
_PICTURE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_WITH_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that Pillow looks into for it
_MAX_EXIF_BYTES = 1 << 20
_MAX_TEXT_BYTES = 1 << 20  # Pillow's own limit, packed and unpacked
MAX_PROFILE_BYTES = 16 << 20


def picture_only(data: bytes) -> tuple[bytes, bytes | None]:
    """(the PNG with its picture and orientation alone, its ICC profile). Damaged files stay as damaged as they are."""
    profile: bytes | None = None
    kept = [(0, _MAGIC_BYTES)]
    for kind, start, end in _chunks(data):
        if kind == b"iCCP" and profile is None:
            profile = _profile(data[start + 8 : end - 4])
        elif kind in _PICTURE or not kind.isalpha() or _tells_orientation(kind, data, start, end):
            if kept[-1][1] == start:
                kept[-1] = (kept[-1][0], end)
            else:
                kept.append((start, end))
    whole = len(kept) == 1 and kept[0][1] >= len(data)
    return data if whole else b"".join(data[start:end] for start, end in kept), profile


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte, end) of each chunk; what cannot be one reaches to the end of the data."""
    at = _MAGIC_BYTES
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if len(kind) < 4 or not kind.isalpha() or end > len(data):
            yield kind if end > len(data) else b"", at, len(data)
            return
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def _tells_orientation(kind: bytes, data: bytes, start: int, end: int) -> bool:
    """Return whether a chunk may say which way is up, and is whole and small."""
    if kind == b"eXIf":
        return end - start <= _MAX_EXIF_BYTES and _is_whole(data, start, end)
    if kind not in _TEXTS or end - start > _MAX_TEXT_BYTES:
        return False
    if not data.startswith(_WITH_ORIENTATION, start + 8) or not _is_whole(data, start, end):
        return False
    return kind == b"tEXt" or _unpacked_size(kind, data[start + 8 : end - 4]) <= _MAX_TEXT_BYTES


def _is_whole(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _unpacked_size(kind: bytes, content: bytes) -> int:
    """Return the size in bytes of a zTXt or iTXt when unpacked, at most one more than is allowed."""
    _, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] == b"\0":
            return len(rest)
        packed = rest[2:].split(b"\0", 2)[-1]
    else:
        packed = rest[1:]
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_TEXT_BYTES + 1))
    except zlib.error:
        return 0  # Pillow passes over it


def _profile(content: bytes) -> bytes | None:
    _, _, rest = content.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail else profile
