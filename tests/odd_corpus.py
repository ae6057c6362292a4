"""One folder, one tar, one Parquet file and one manifest with all the odd things of real collections at once.

Every file says what must become of it, so that a test can count: nothing that was put in may be missing from the sum of
results, errors, what was left out by reason, and what stands beside an image to give it fields.
"""

import base64
import io
import json
import os
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.shards import image_bytes

DONE, BESIDE = "done", "left out: sidecar_files"  # any other fate is an error type, or "left out: REASON"


@dataclass(frozen=True)
class OddFile:
    """A file by its name, in bytes as file systems have them, its content and its fate in a folder and in a tar."""

    name: bytes
    data: bytes
    folder: str
    tar: str | None = None  # where it is another one

    @property
    def path(self) -> str:
        return os.fsdecode(self.name)

    @property
    def in_tar(self) -> str:
        return self.folder if self.tar is None else self.tar


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png_with_chunk(kind: bytes, body: bytes) -> bytes:
    """A good PNG with another chunk after its header."""
    good = image_bytes((9, 90, 200))
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return good[:33] + chunk + good[33:]


def odd_files() -> list[OddFile]:
    red = Image.new("RGB", (40, 24), (200, 30, 30))
    turned = Image.Exif()
    turned[0x0112] = 6
    grey16 = Image.fromarray(np.full((20, 30), 40_000, np.uint16))
    palette = red.quantize(8)
    jpeg, png = saved(red, "JPEG"), saved(red, "PNG")
    nested = b'{"a":' * 30_000 + b"1" + b"}" * 30_000
    return [
        # Formats and modes
        OddFile(b"plain.jpg", jpeg, DONE),
        OddFile(b"CAPITALS.JPG", jpeg, DONE),
        OddFile(b"a.jfif", jpeg, DONE),
        OddFile(b"a2.jpe", jpeg, DONE),
        OddFile(b"b.tga", saved(red, "TGA"), DONE),
        OddFile(b"c.ico", saved(red, "ICO"), DONE),
        OddFile(b"d.j2k", saved(red, "JPEG2000"), DONE),
        OddFile(b"e.pgm", saved(red.convert("L"), "PPM"), DONE),
        OddFile(b"f.dib", saved(red, "DIB"), DONE),
        OddFile(b"g.apng", saved(red, "PNG", save_all=True, append_images=[red]), DONE),
        OddFile(b"h.webp", saved(red, "WEBP"), DONE),
        OddFile(b"i.avif", saved(red, "AVIF"), DONE),
        OddFile(b"j.gif", saved(palette, "GIF"), DONE),
        OddFile(b"k.tif", saved(red, "TIFF", exif=turned), DONE),
        OddFile(b"l.png", saved(red, "PNG", exif=turned), DONE),
        OddFile(b"cmyk.jpg", saved(red.convert("CMYK"), "JPEG"), DONE),
        OddFile(b"grey16.png", saved(grey16, "PNG"), DONE),
        OddFile(b"palette.png", saved(palette, "PNG", transparency=0), DONE),
        OddFile(b"profile.jpg", saved(red, "JPEG", icc_profile=b"no profile at all" * 20), DONE),
        OddFile(b"text_chunk.png", png_with_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000))), DONE),
        # Names
        OddFile("ünïcødé 照片.jpg".encode(), jpeg, DONE),
        OddFile(b"caf\xe9.jpg", jpeg, DONE),
        OddFile(b"with space & [brackets] #1 100%.jpg", jpeg, DONE),
        OddFile(b"22.05.png", png, DONE),
        OddFile(b"22.06.png", png, DONE),
        OddFile(b"photo (v1.2).jpg", jpeg, DONE),
        OddFile(b"pair.left.jpg", jpeg, DONE),
        OddFile(b"pair.right.jpg", jpeg, DONE),
        OddFile(b"deep/er/v1.0/x.jpg", jpeg, DONE),
        OddFile(b"no_suffix", jpeg, DONE),
        OddFile(b"strange.suffix_nobody_knows", png, DONE),
        OddFile(b"n" * 200 + b".jpg", jpeg, DONE),
        # Fields beside an image
        OddFile(b"told.jpg", jpeg, DONE),
        OddFile(b"told.txt", b"a caption\n", BESIDE),
        OddFile(b"told.json", json.dumps({"title": "half \ud83d", "n": 1}).encode(), BESIDE),
        OddFile(b"latin.jpg", jpeg, DONE),
        OddFile(b"latin.txt", b"caf\xe9", BESIDE),
        OddFile(b"nested.jpg", jpeg, "bad_json"),
        OddFile(b"nested.json", nested, BESIDE),
        OddFile(b"cut_json.jpg", jpeg, "bad_json"),
        OddFile(b"cut_json.json", b'{"title": ', BESIDE),
        # Bad data
        OddFile(b"empty.jpg", b"", "empty_image"),
        OddFile(b"cut.jpg", saved(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")[:900], "truncated_image"),
        OddFile(b"text.jpg", b"this is a note", "not_an_image"),
        OddFile(b"page.png", b"<html><body>404</body></html>", "not_an_image"),
        OddFile(b"pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not_an_image"),
        OddFile(b"huge.png", png_of_size(100_000, 100_000), "too_many_pixels"),
        # No input rows
        OddFile(b"._plain.jpg", b"\0\5\x16\7mac", "left out: hidden_files"),
        OddFile(b".hidden/x.jpg", jpeg, "left out: hidden_files"),
        OddFile(b"@eaDir/plain.jpg", jpeg, "left out: hidden_files"),
        OddFile(b"__MACOSX/._y.jpg", b"\0\5\x16\7mac", "left out: hidden_files"),
        OddFile(b"Thumbs.db", b"\xd0\xcf\x11\xe0", "left out: hidden_files"),
        OddFile(b"notes.pdf", b"%PDF-1.7", "left out: other_files", "no_image"),
        OddFile(b"README", b"no image", "left out: other_files"),
    ]


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes do not hold."""
    good = bytearray(image_bytes((1, 2, 3)))
    good[16:24] = struct.pack(">II", width, height)
    good[29:33] = struct.pack(">I", zlib.crc32(bytes(good[12:29])))
    return bytes(good)


def write_folder(root: Path) -> list[tuple[str, str]]:
    """(path, fate) of everything put into the folder."""
    fates = []
    for file in odd_files():
        path = os.path.join(os.fsencode(root), file.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(file.data)
        fates.append((file.path, file.folder))
    os.mkfifo(root / "pipe.png")
    (root / "elsewhere").symlink_to("deep", target_is_directory=True)  # the same files by another way
    (root / "round").symlink_to(".", target_is_directory=True)
    (root / "dangling.jpg").symlink_to("nowhere.jpg")
    return [
        *fates,
        ("pipe.png", "left out: special_files"),
        ("dangling.jpg", "left out: broken_links"),
        ("elsewhere", "left out: repeated_folder_links"),
        ("round", "left out: repeated_folder_links"),
    ]


def write_odd_tar(path: Path) -> list[tuple[str, str]]:
    """(member, fate) of everything put into the archive."""
    fates = []
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            header = tarfile.TarInfo(name)
            header.size, header.type, header.linkname = len(data), kind, target
            tar.addfile(header, io.BytesIO(data))

        for number, file in enumerate(odd_files()):
            add(("./" if number % 2 else "") + file.path, file.data)
            fates.append((file.path, file.in_tar))
        add("hard.jpg", kind=tarfile.LNKTYPE, target="plain.jpg")
        add("soft.jpg", kind=tarfile.SYMTYPE, target="deep/er/v1.0/x.jpg")
        add("nowhere.jpg", kind=tarfile.SYMTYPE, target="gone.jpg")
        add("pipe.png", kind=tarfile.FIFOTYPE)
        fates += [
            ("hard.jpg", DONE), ("soft.jpg", DONE), ("nowhere.jpg", "broken_link"),
            ("pipe.png", "left out: special_files"),
        ]  # fmt: skip
    return fates


def write_odd_parquet(path: Path) -> list[str]:
    """The fate of every row: an image column of structs, some without bytes, and columns of odd types."""
    files = [file for file in odd_files() if not file.folder.startswith("left out") and file.folder != BESIDE]
    (path.parent / "beside.jpg").write_bytes(image_bytes((4, 5, 6), form="JPEG"))
    images = [{"bytes": file.data, "path": file.name.decode("utf-8", "replace")} for file in files]
    images += [
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    count = len(images)
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "when": pa.array([i * 1_000_000 if i % 3 else None for i in range(count)], pa.timestamp("us", "UTC")),
            "price": pa.array([None] * count, pa.decimal128(12, 2)),
            "raw": pa.array([bytes([i % 256]) for i in range(count)], pa.binary()),
            "tags": pa.array([["a", None]] * count, pa.list_(pa.string())),
        }
    )
    pq.write_table(table, path, row_group_size=16)
    fates = [DONE if file.folder == "bad_json" else file.folder for file in files]
    return [*fates, DONE, "missing_file", "no_image", "no_image"]  # the last two: no path, no image at all


def write_odd_manifest(path: Path, folder: Path) -> list[str]:
    """The fate of every record of a JSONL file whose URIs lead into the folder of `write_folder`."""
    fates, lines = [], []
    for file in odd_files():
        if file.folder.startswith("left out") or file.folder == BESIDE or "\udce9" in file.path:
            continue
        lines.append(json.dumps({"uri": str(folder / file.path), "title": "half \ud83d"}).encode())
        fates.append(DONE if file.folder == "bad_json" else file.folder)
    data = base64.b64encode(image_bytes((1, 1, 1))).decode()
    for record, fate in (
        ({"uri": f"data:image/png;base64,{data}"}, DONE),
        ({"uri": (folder / "with space & [brackets] #1 100%.jpg").as_uri()}, DONE),
        ({"uri": str(folder / "caf\udce9.jpg")}, DONE),
        ({"uri": None}, "no_uri"),
        ({"uri": ""}, "no_uri"),
        ({"other": 1}, "no_uri"),
        ({"uri": "gone.jpg"}, "missing_file"),
        ({"uri": "ftp://nowhere/a.jpg"}, "forbidden_scheme"),
    ):  # fmt: skip
        lines.append(json.dumps(record).encode())
        fates.append(fate)
    for line in (b"{not json", b"[1, 2]", b'{"uri": "\xff\xfe"', b'{"a":' * 20_000):
        lines.append(line)
        fates.append("bad_record")
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n\n")
    return fates
