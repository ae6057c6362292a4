"""Picture files as users have them: of every shape and encoding, made once and always the same.

What is drawn looks like what models are shown: text, edges, smooth shades and noise.
"""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw

NATIVE = 384  # side of the one square that is nobody's odd size


@cache
def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Shades, shapes, noise and a few words, RGB."""
    rng = np.random.default_rng([width, height, seed])
    down, across = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    shades = [down * a + across * b + (1 - down) * across * c for a, b, c in rng.uniform(-120, 200, (3, 3))]
    pixels = np.stack(shades, -1) + rng.normal(0, 6, (height, width, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for x0, y0, x1, y1, *colour in rng.uniform(0, 1, (12, 7)):
        box = [min(x0, x1) * width, min(y0, y1) * height, max(x0, x1) * width, max(y0, y1) * height]
        (draw.ellipse if x0 > 0.5 else draw.rectangle)(box, fill=tuple(int(255 * c) for c in colour))
    letters = max(8, min(width, height) // 8)
    for line in range(0, height, 2 * letters):
        draw.text((letters, line), f"TOTAL {rng.integers(1, 9999) / 100:.2f}", fill="black", font_size=letters)
    return image


@cache
def page(width: int, height: int) -> Image.Image:
    """Black text on white with a wide margin, RGB."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number, top in enumerate(range(height // 8, height - height // 8, 24)):
        draw.text((width // 8, top), f"{number + 1}. the quick brown fox {number * 37}", fill="black", font_size=16)
    return image


def _photo() -> Image.Image:
    """As a camera makes it: 6 million pixels, smooth, with the noise of a sensor."""
    large = scene(1000, 375).resize((4000, 1500), Image.Resampling.BICUBIC)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 12, (750, 1000, 3), dtype=np.uint8))
    for left in range(0, 4000, 1000):
        for top in range(0, 1500, 750):
            box = (left, top, left + 1000, top + 750)
            large.paste(ImageChops.add(large.crop(box), noise), box)
    return large


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _saved(scene(300, 200, orientation), "JPEG", quality=92, exif=exif)


def _see_through(width: int, height: int) -> Image.Image:
    image = scene(width, height).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image


def _palette_with_a_hole() -> bytes:
    image = scene(200, 150).quantize(64)
    return _saved(image, "PNG", transparency=3)


def _deep_grey() -> bytes:
    ramp = np.linspace(0, 65535, 240 * 130).reshape(130, 240)
    noise = np.random.default_rng(5).normal(0, 900, ramp.shape)
    return _saved(Image.fromarray((ramp + noise).clip(0, 65535).astype(np.uint16)), "PNG")


FILES: dict[str, Callable[[], bytes]] = {
    "receipt.jpg": lambda: _saved(scene(900, 220), "JPEG", quality=90),
    "page.png": lambda: _saved(page(480, 1400), "PNG"),
    "page_lying.png": lambda: _saved(page(1400, 480), "PNG"),
    "one_pixel.png": lambda: _saved(Image.new("RGB", (1, 1), (200, 30, 90)), "PNG"),
    "strip.png": lambda: _saved(scene(3, 500), "PNG"),
    "grey.jpg": lambda: _saved(scene(320, 240).convert("L"), "JPEG", quality=85),
    "rgba.png": lambda: _saved(_see_through(260, 180), "PNG"),
    "grey_alpha.png": lambda: _saved(_see_through(130, 210).convert("LA"), "PNG"),
    "palette.png": lambda: _saved(scene(240, 180).quantize(32), "PNG"),
    "palette_hole.png": _palette_with_a_hole,
    "bits.png": lambda: _saved(page(300, 220).convert("1"), "PNG"),
    "grey16.png": _deep_grey,
    "turned3.jpg": lambda: _turned(3),  # by half a turn
    "turned6.jpg": lambda: _turned(6),  # a phone held upright
    "turned8.jpg": lambda: _turned(8),
    "mirrored5.jpg": lambda: _turned(5),
    "cmyk.jpg": lambda: _saved(scene(280, 210).convert("CMYK"), "JPEG", quality=90),
    "progressive.jpg": lambda: _saved(scene(640, 480), "JPEG", quality=80, progressive=True),
    "photo.jpg": lambda: _saved(_photo(), "JPEG", quality=85),
    "native.png": lambda: _saved(scene(NATIVE, NATIVE), "PNG"),
    "photo.webp": lambda: _saved(scene(500, 333), "WEBP", quality=80),
    "drawing.gif": lambda: _saved(scene(250, 120), "GIF"),
    "drawing.bmp": lambda: _saved(scene(123, 217), "BMP"),
    "scan.tif": lambda: _saved(page(700, 990), "TIFF", compression="tiff_lzw"),
}


@cache
def picture(name: str) -> bytes:
    """Return the bytes of a file."""
    return FILES[name]()


def write_pictures(folder: Path) -> list[Path]:
    """Write all files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(picture(name))
    return [folder / name for name in FILES]
