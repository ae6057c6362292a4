"""Small WebDataset shards made on the spot."""

import io
import json
import struct
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

BROKEN = {
    "truncated": lambda good: good[: len(good) // 2],
    "empty": lambda good: b"",
    "text": lambda good: b"this is no image at all, only text",
}


def image_bytes(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


def many_scans(count: int, side: int = 4000) -> bytes:
    """A small progressive JPEG that keeps a decoder busy for as long as one likes: each scan goes over all blocks."""

    def segment(marker: int, body: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body

    def table(place: int, symbol: int) -> bytes:  # a Huffman table with one code
        return segment(0xC4, bytes([place, 1, *[0] * 15, symbol]))

    frame = struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\0"
    head = segment(0xDB, bytes([0, *[1] * 64])) + segment(0xC2, frame) + table(0x00, 0x00) + table(0x10, 0xE0)
    first = segment(0xDA, b"\x01\x01\0\x00\x00\0") + b"\0"
    other = segment(0xDA, b"\x01\x01\0\x01\x3f\0") + b"\0"
    return b"\xff\xd8" + head + first + other * count + b"\xff\xd9"


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def sample_members(number: int, colour: tuple[int, int, int] | None = None, **fields: Any) -> list[tuple[str, bytes]]:
    colour = colour or (number % 251, (7 * number) % 251, 100)
    record = {"question": f"how many in {number}?", "number": number, **fields}
    key = f"{number:06d}"
    return [(f"{key}.png", image_bytes(colour)), (f"{key}.json", json.dumps(record).encode())]


def write_shards(folder: Path, num_shards: int, rows_per_shard: int, broken: Sequence[str] = ()) -> int:
    """Shards `part-000.tar`...; the first ones each get the named broken images. Returns the number of samples."""
    number = 0
    for shard in range(num_shards):
        members: list[tuple[str, bytes]] = []
        for _ in range(rows_per_shard):
            members += sample_members(number)
            number += 1
        for name in broken:
            members.append((f"broken-{name}.png", BROKEN[name](image_bytes((1, 2, 3), (64, 64)))))
        write_tar(folder / f"part-{shard:03d}.tar", members)
    return num_shards * (rows_per_shard + len(broken))
