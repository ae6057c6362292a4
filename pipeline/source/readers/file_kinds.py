"""What a file of a source is, by its name and its first bytes: the one table of image formats, for every reader.

A suffix of the table makes a file an image, whatever is in it: if it is none, that is an errors row. A suffix that
stands for something else makes it no image. Where the suffix says nothing, the first bytes decide.
"""

import posixpath
import re

# format -> its suffixes, and how its files begin
_FORMATS: dict[str, tuple[str, str]] = {
    "JPEG":     ("jpg jpeg jpe jfif jif mpo",           r"\xff\xd8\xff"),
    "PNG":      ("png apng",                            r"\x89PNG\r\n\x1a\n"),
    "WEBP":     ("webp",                                r"RIFF....WEBP"),
    "GIF":      ("gif",                                 r"GIF8[79]a"),
    "TIFF":     ("tif tiff",                            r"II[*+]\x00|MM\x00[*+]"),
    "BMP":      ("bmp dib",                             r"BM....\x00\x00\x00\x00"),
    "PPM":      ("ppm pgm pbm pnm pfm",                 r"P[1-6][\s#]|P[fF]\s"),
    "AVIF":     ("avif avifs",                          r"....ftypavi[fs]"),
    "HEIF":     ("heic heif heics heifs hif",           r"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"),
    "JPEG2000": ("jp2 j2k j2c jpc jpf jpx",             r"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    "ICO":      ("ico",                                 r"\x00\x00\x01\x00[^\x00]"),
    "TGA":      ("tga icb vda vst",                     ""),  # has no beginning of its own
}  # fmt: skip
IMAGE_SUFFIXES = frozenset(suffix for suffixes, _ in _FORMATS.values() for suffix in suffixes.split())
_BEGINNINGS = {
    name: re.compile(beginning.encode("ascii"), re.DOTALL) for name, (_, beginning) in _FORMATS.items() if beginning
}
SNIFF_BYTES = 32  # as many first bytes as `image_format` looks at

_OTHERS = (  # never an image, however the file begins: nobody need look
    "txt caption json jsonl ndjson csv tsv parquet arrow feather xml yaml yml toml ini cfg md rst html htm css js log",
    "pdf doc docx xls xlsx ppt pptx tex bib py ipynb sh c h cc cpp rs go java ts lua r m sql db sqlite lock tok vec",
    "tar tgz zip gz bz2 xz zst 7z rar npy npz pt pth ckpt safetensors onnx bin pkl pickle h5 hdf5 tfrecord mat idx",
    "mp4 m4v mov avi mkv webm mpg mpeg mp3 wav flac ogg aac m4a srt vtt svg eps ps ai psd xcf blend obj stl ply",
    "cr2 cr3 crw nef nrw arw srf sr2 dng orf rw2 raf pef srw x3f 3fr erf kdc mrw rwl iiq",  # raw files of cameras
    "ttf otf woff woff2 exe dll so dylib url lnk xmp aae cls",
)
_OTHER_SUFFIXES = frozenset(suffix for line in _OTHERS for suffix in line.split())

# What file managers, cameras, notebooks and network drives leave beside the files that people put there.
_LITTER = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini"}
)  # fmt: skip


def is_hidden(path: str) -> bool:
    """Whether a file, or a folder above it inside the source, is hidden or litter: `._a.jpg`, `.git/x`, `@eaDir/x`.

    `path` is relative to the folder or archive.
    """
    return any(
        (piece.startswith(".") and piece not in (".", "..")) or piece.lower() in _LITTER for piece in path.split("/")
    )


def suffix_of(name: str) -> str:
    """`a/b.c.JPG` -> `jpg`; "" where there is none."""
    return posixpath.splitext(posixpath.basename(name))[1][1:].lower()


def is_image_name(name: str) -> bool | None:
    """Return whether a file is an image by its suffix; None where the suffix says nothing."""
    suffix = suffix_of(name)
    if suffix in IMAGE_SUFFIXES:
        return True
    return False if suffix in _OTHER_SUFFIXES else None


def image_format(beginning: bytes) -> str | None:
    """Return the format whose files begin like this, by SNIFF_BYTES of them or more; None: no known one."""
    return next((name for name, pattern in _BEGINNINGS.items() if pattern.match(beginning)), None)
