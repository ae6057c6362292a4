"""What Pillow's decoders would hold, read from a file's own header where Pillow does not say or says it too late."""

import struct
from dataclasses import dataclass

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # JPEG markers without a length
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})


def jpeg_coefficient_bytes(data: bytes) -> int:
    """Bytes libjpeg holds of the whole image, whatever the scale it decodes at: a file in one scan needs none, a
    progressive one or one with a scan for each component has all its coefficients in memory."""
    at, frame, coefficients = 2, 0, 0
    components = 0
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at) % (len(data) + 1)  # not found: the end
            continue
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE or marker == 0:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES and length >= 8:
            frame, components = marker, data[at + 9] if at + 9 < len(data) else 0
            coefficients = _coefficients(data[at + 5 : at + 2 + length])
        elif marker == 0xDA:
            scan_components = data[at + 4] if at + 4 < len(data) else 0
            buffered = frame in _PROGRESSIVE or scan_components < components
            return 2 * coefficients if buffered else 0
        at += 2 + length
    return 0


def _coefficients(frame: bytes) -> int:
    """Of all components of a frame header that begins with height and width."""
    height, width, count = struct.unpack_from(">HHB", frame)
    sampling = [frame[6 + 3 * n] for n in range(count) if 6 + 3 * n < len(frame)]
    factors = [(byte >> 4, byte & 15) for byte in sampling]
    most_h, most_v = max((h for h, _ in factors), default=1) or 1, max((v for _, v in factors), default=1) or 1
    return sum((width * h // most_h + 8) * (height * v // most_v + 8) for h, v in factors)


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height of a WebP's canvas, which Pillow allocates when it opens the file."""
    head = data[:30]
    if len(head) < 30:
        return None
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


@dataclass(frozen=True, slots=True)
class Icon:
    """The picture of an ICO that is shown: a PNG, which says its own size, or a one-picture ICO with its size."""

    data: bytes
    size: tuple[int, int] | None = None


def best_icon(data: bytes) -> Icon | None:
    """The largest picture of an ICO; None if there is none. Pillow would decode it before its size can be asked."""
    count = int.from_bytes(data[4:6], "little")
    entries = [data[6 + 16 * n : 22 + 16 * n] for n in range(count)]
    entries = [entry for entry in entries if len(entry) == 16]
    if not entries:
        return None
    entry = min(entries, key=_rank)
    size, offset = struct.unpack_from("<II", entry, 8)
    if data[offset : offset + 8] == b"\x89PNG\r\n\x1a\n":
        return Icon(data[offset:])
    picture = data[offset : offset + size]
    alone = data[:4] + b"\x01\0" + entry[:12] + struct.pack("<I", 22) + picture
    if len(picture) < 12:
        return Icon(alone)
    if int.from_bytes(picture[:4], "little") == 12:
        width, height = struct.unpack_from("<HH", picture, 4)
    else:
        width, height = (abs(side) for side in struct.unpack_from("<ii", picture, 4))
    return Icon(alone, (width, height // 2))  # picture and mask, one upon the other


def _rank(entry: bytes) -> tuple[int, int]:
    """Pillow's order: the largest first, of those the one with the fewest colours."""
    width, height, colours = entry[0] or 256, entry[1] or 256, entry[2]
    bits = int.from_bytes(entry[6:8], "little") or (max(colours - 1, 0).bit_length() if colours else 0) or 256
    return -width * height, bits


def jp2_profile(data: bytes) -> bytes | None:
    """Return the ICC profile of a JPEG 2000 file, which Pillow does not hand out."""
    header = _box(data, b"jp2h")
    colour = None if header is None else _box(header, b"colr")
    return colour[3:] if colour is not None and colour[:1] == b"\x02" else None


def _box(data: bytes, wanted: bytes) -> bytes | None:
    at = 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if length == 0:
            length = len(data) - at
        if length < head:
            return None
        if kind == wanted:
            return data[at + head : at + length]
        at += length
    return None
