"""Image files of the kinds that real corpora contain: three that cannot be loaded, five unusual ones that can."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jobs.scenes.config import ScenesConfig
from jobs.scenes.shards import make_scene

EXIF_ORIENTATION = 0x0112
ROTATE_90_CLOCKWISE = 6


@dataclass(frozen=True)
class OddImage:
    """`name` has the extension; `valid` says whether a reader must be able to load it."""

    name: str
    payload: bytes
    valid: bool


def broken_images(seed: int, config: ScenesConfig) -> list[OddImage]:
    """Return the broken and the odd, made from scenes of the configured split past its last image."""
    scenes = [make_scene(seed, config.split, config.num_images + i, config)[0] for i in range(6)]
    whole = encode(scenes[0], "JPEG", quality=config.jpeg_quality)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = ROTATE_90_CLOCKWISE
    return [
        OddImage("truncated.jpg", whole[: len(whole) // 3], valid=False),
        OddImage("zero-bytes.jpg", b"", valid=False),
        OddImage("text.jpg", b"This is a note that somebody renamed to .jpg.\n" * 20, valid=False),
        OddImage("cmyk.jpg", encode(scenes[1].convert("CMYK"), "JPEG", quality=config.jpeg_quality), valid=True),
        OddImage("gray-16-bit.png", encode(gray_16_bit(scenes[2]), "PNG"), valid=True),
        OddImage("palette-alpha.png", palette_with_alpha(scenes[3]), valid=True),
        OddImage("gray.jpg", encode(scenes[4].convert("L"), "JPEG", quality=config.jpeg_quality), valid=True),
        # Stored lying on its side; upright again for a reader that honours the EXIF orientation.
        OddImage("exif-rotated.jpg", encode(scenes[5].rotate(90), "JPEG", quality=90, exif=exif.tobytes()), valid=True),
    ]


def gray_16_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)


def palette_with_alpha(image: Image.Image) -> bytes:
    """Return a PNG with 255 colours and one transparent palette entry, used along the border."""
    palette = image.quantize(255)
    palette.putpalette([*(palette.getpalette() or [])[: 255 * 3], 255, 255, 255])
    palette.paste(255, (0, 0, palette.width, max(1, palette.height // 16)))
    return encode(palette, "PNG", transparency=255)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()
