"""What to call data that are not an image, and which images need a decoder of their own.

A message must not show what a file holds: manifests may name any file that the machine can read. A kind is safe to say.
"""

import re

from pipeline.source.readers.file_kinds import image_format

_LOOKED_AT_BYTES = 4096  # of text that has no magic number

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, the file itself was not fetched"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "a Photoshop document"),
    (b"icns", "an Apple icon (ICNS)"),
    (b"\0\0\x02\0", "a cursor (CUR)"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"qoif", "a QOI image"),
    (b"DDS ", "a DDS texture"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"SIMPLE  =", "a FITS image"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "Ogg audio or video"),
    (b"ID3", "MP3 audio"),
    (b"PAR1", "a Parquet file"),
    (b"\x7fELF", "a program"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\0\x05\x16\x07", "the Mac's second file (AppleDouble) of another file"),
)  # fmt: skip
_HTML = re.compile(rb"\s*<(!doctype\s+html|html|head|body)", re.IGNORECASE)


def is_heif(data: bytes) -> bool:
    """HEIC and its relatives, which Pillow does not read by itself; AVIF is not one of them."""
    brands = _brands(data)
    return bool(brands & _HEIF_BRANDS) and not brands & _AVIF_BRANDS


def describe(data: bytes) -> str:
    """Return what the data seem to be, in words that show nothing of them."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    known = image_format(data)
    if known is not None:
        return f"what begins like {known} and goes on like something else"
    if data[4:8] == b"ftyp":
        return "an MP4 or QuickTime video"
    if data[:4] == b"RIFF":
        return {b"AVI ": "an AVI video", b"WAVE": "WAV audio"}.get(data[8:12], "RIFF data")
    start = data[:_LOOKED_AT_BYTES].removeprefix(b"\xef\xbb\xbf")
    if not start.strip(b"\0"):
        return "nothing but zeros"
    if not _is_text(start):
        return "data of an unknown kind"
    if _HTML.match(start):
        return "an HTML page"
    if b"<svg" in start:
        return "an SVG drawing"
    if start.lstrip().startswith(b"<"):
        return "XML"
    return "JSON" if start.lstrip()[:1] in (b"{", b"[") else "text"


def _brands(data: bytes) -> set[bytes]:
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 512)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))}


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # not merely a character that is cut in two
            return False
        text = start[: error.start].decode()
    return not re.search(r"[\x00-\x08\x0e-\x1f]", text)
