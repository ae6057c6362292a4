"""Shards for benches: WebDataset tars of small pictures, made in seconds, whose contents follow from their numbers."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def write_shards(folder: Path, num_shards: int, rows_per_shard: int, image_of: Callable[[int], bytes]) -> None:
    """Shards `bench-00000.tar`, ... with `key.jpg` for key = 000000000, ...; `image_of` gives the bytes of a number."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        path = folder / f"bench-{shard:05d}.tar"
        partial = path.with_suffix(".partial")
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(shard * rows_per_shard, (shard + 1) * rows_per_shard):
                data = image_of(number)
                header = tarfile.TarInfo(f"{number:09d}.jpg")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
        partial.rename(path)


def photos(size_px: int, num_different: int = 32, height_px: int | None = None) -> Callable[[int], bytes]:
    """JPEGs about as hard to decode as photographs: smooth shapes with some grain, quality 85; squares, or so high."""
    encoded = []
    for seed in range(num_different):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size_px, height_px or size_px), Image.Resampling.BICUBIC)).astype(np.int16)
        grainy = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        encoded.append(_encode(Image.fromarray(grainy), "JPEG", quality=85))
    return lambda number: encoded[number % num_different]


def plain(colour: tuple[int, int, int], size_px: int = 32) -> bytes:
    return _encode(Image.new("RGB", (size_px, size_px), colour), "PNG")


def _encode(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
