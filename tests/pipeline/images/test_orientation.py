"""Orientation is applied exactly once, whatever the format says it with: as Pillow's own exif_transpose would."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from conf.image_plan import ImagePlan
from pipeline.images import opening
from pipeline.images.decode import Pixels, image_to_pixels

SIZE = 32
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def picture() -> Image.Image:
    """Four corners of four colours, wider than high, and no corner like its mirror image."""
    image = Image.new("RGB", (60, 40), (255, 255, 255))
    for colour, box in {
        (200, 0, 0): (0, 0, 40, 20),
        (0, 160, 0): (40, 0, 60, 20),
        (0, 0, 220): (0, 20, 20, 40),
    }.items():
        image.paste(colour, box)
    return image


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def saved(form: str, **options: object) -> Callable[[int], bytes]:
    def make(orientation: int) -> bytes:
        buffer = io.BytesIO()
        picture().save(buffer, form, exif=exif(orientation), **options)
        return buffer.getvalue()

    return make


def png_with_text(key: str, compressed: bool) -> Callable[[int], bytes]:
    def make(orientation: int) -> bytes:
        buffer, info = io.BytesIO(), PngInfo()
        raw = exif(orientation).tobytes()
        text = XMP.format(orientation) if "xmp" in key else f"\nexif\n{len(raw):8}\n{raw.hex()}\n"
        (info.add_itxt if "xmp" in key else info.add_text)(key, text, zip=compressed)
        picture().save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()

    return make


def png_with_exif_at_the_end(orientation: int) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    content = b"eXIf" + exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return buffer.getvalue()[:-12] + chunk + buffer.getvalue()[-12:]


def heif(orientation: int) -> bytes:
    buffer, image = io.BytesIO(), picture()
    image.info["exif"] = exif(orientation).tobytes()  # from here it becomes `irot` and `imir`
    image.save(buffer, "HEIF", quality=90)
    return buffer.getvalue()


def jpeg_with_xmp(orientation: int) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", quality=95, xmp=XMP.format(orientation).encode())
    return buffer.getvalue()


FILES: dict[str, Callable[[int], bytes]] = {
    "JPEG": saved("JPEG", quality=95),
    "JPEG-xmp": jpeg_with_xmp,
    "MPO": saved("MPO", quality=95, save_all=True, append_images=[picture()]),
    "TIFF": saved("TIFF"),
    "TIFF-lzw": saved("TIFF", compression="tiff_lzw"),
    "TIFF-pages": saved("TIFF", save_all=True, append_images=[picture()]),
    "PNG": saved("PNG"),
    "PNG-exif-at-the-end": png_with_exif_at_the_end,
    "PNG-raw-profile": png_with_text("Raw profile type exif", compressed=True),
    "PNG-xmp": png_with_text("XML:com.adobe.xmp", compressed=False),
    "PNG-xmp-packed": png_with_text("XML:com.adobe.xmp", compressed=True),
    "APNG": saved("PNG", save_all=True, append_images=[picture()]),
    "WEBP": saved("WEBP", lossless=True),
    "AVIF": saved("AVIF", quality=90),
    "HEIF": heif,
    "JPEG2000": lambda _: saved("JPEG2000")(1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", FILES)
def test_the_picture_is_the_right_way_up(form: str, orientation: int) -> None:
    if form == "HEIF":
        pytest.importorskip("pillow_heif")
        opening.register_heif()
    data = FILES[form](orientation)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    expected = np.asarray(upright.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(int)
    turned = picture() if form == "JPEG2000" else _turned(picture(), orientation)
    assert upright.size == turned.size
    assert np.abs(expected - np.asarray(turned.resize((SIZE, SIZE), Image.Resampling.BILINEAR))).mean() < 6

    result = image_to_pixels(data, plan=ImagePlan.squeeze(SIZE))
    assert isinstance(result, Pixels), result
    assert (result.width, result.height) == upright.size
    assert np.abs(result.pixels_HWC.astype(int) - expected).max() <= 2


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    image.info["exif"] = exif(orientation).tobytes()
    return ImageOps.exif_transpose(image)
