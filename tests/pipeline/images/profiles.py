"""Small ICC profiles of version 2, made here: what a camera, a scanner or a printer might embed."""

import struct
from collections.abc import Mapping, Sequence

D50 = (0.9642, 1.0, 0.8249)
ADOBE_LIKE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def rgb_profile(primaries: Sequence[tuple[float, float, float]] = ADOBE_LIKE, gamma: float = 2.2) -> bytes:
    """Three primaries (XYZ under D50) and one gamma."""
    tags = {f"{name}XYZ": _xyz(*primary) for name, primary in zip("rgb", primaries, strict=True)}
    return _profile("mntr", "RGB ", "XYZ ", {**tags, **{f"{name}TRC": _gamma(gamma) for name in "rgb"}})


def swapped_profile() -> bytes:
    """Red is blue and blue is red."""
    return rgb_profile(ADOBE_LIKE[::-1])


def grey_profile(gamma: float = 1.0) -> bytes:
    return _profile("mntr", "GRAY", "XYZ ", {"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """A table of sixteen corners: inks that darken towards black, magenta more than in Pillow's formula."""
    corners = bytearray()
    for corner in range(16):
        c, m, y, k = (corner >> 3 & 1, corner >> 2 & 1, corner >> 1 & 1, corner & 1)
        lightness = 0 if k else max(0, 255 - 60 * c - 120 * m - 20 * y)
        corners += bytes((lightness, 128 + (0 if k else 40 * m - 30 * c), 128 + (0 if k else 40 * y - 40 * c)))
    straight = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if n % 4 == 0 else 0 for n in range(9)))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + straight * 4 + bytes(corners) + straight * 3
    return _profile("prtr", "CMYK", "Lab ", {"A2B0": table})


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in (x, y, z)))


def _gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _profile(device_class: str, space: str, connection: str, tags: Mapping[str, bytes]) -> bytes:
    name = b"made for a test\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    tags = {"desc": description, "cprt": b"text" + bytes(4) + b"none\0", "wtpt": _xyz(*D50), **tags}
    directory, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for signature, content in tags.items():
        directory += signature.encode() + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI", start + len(body), b"lcms", 0x02100000)
    header += device_class.encode() + space.encode() + connection.encode() + struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    header += b"acsp" + bytes(28) + struct.pack(">3i", *(round(value * 65536) for value in D50))
    return header + bytes(128 - len(header)) + directory + body
