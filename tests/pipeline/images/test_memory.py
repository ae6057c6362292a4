"""Memory is bounded before anything is decoded: by what the decoder will hold, not by pixels alone."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from conf.image_plan import AlignLongAxis, CropMargin, Header, ImagePlan, Pad, Patches, Resize, Thumbnail
from pipeline.images import opening
from pipeline.images.decode import ImageProblem, Pixels, image_to_pixels
from tests.pipeline.images.memory_probe import SMALL, outcome, outcomes, peak_bytes
from tests.pipeline.images.test_hostile_images import bomb, png

SIDE = 1400


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    layers = [(7 * x + y) % 256, (3 * y + x // 2) % 256, (x ^ y) % 256, (x + y) % 256]
    image = Image.fromarray(np.stack(layers, axis=-1).astype(np.uint8), "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def icon(content: bytes) -> bytes:
    return b"\0\0\x01\0\x01\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(content), 22) + content


def interlaced() -> bytes:
    """Adam7: seven small pictures, one behind the other; Pillow writes none."""
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        rows += (b"\0" + bytes(3 * len(range(x, SIDE, dx)))) * len(range(y, SIDE, dy))
    data = png(SIDE, SIDE, zlib.compress(rows, 1), colour=2)
    header = data[12:28] + b"\x01"  # the last byte of IHDR
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def oriented_tiff() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture(), "TIFF", compression="tiff_lzw", exif=exif, tiffinfo={278: SIDE})


FILES = {
    "PNG": lambda: encode(picture("RGBA"), "PNG", compress_level=1),
    "PNG-interlaced": interlaced,
    "JPEG-progressive": lambda: encode(picture(), "JPEG", progressive=True, subsampling=0),
    "JPEG-CMYK": lambda: encode(picture("CMYK"), "JPEG", progressive=True),
    "WEBP": lambda: encode(picture("RGBA"), "WEBP", method=0),
    "WEBP-lossless": lambda: encode(picture(), "WEBP", lossless=True, method=0, quality=0),
    "WEBP-animated": lambda: encode(picture(), "WEBP", method=0, save_all=True, append_images=[picture()]),
    "AVIF": lambda: encode(picture("RGBA"), "AVIF", speed=10, subsampling="4:4:4", quality=90),
    "JPEG2000": lambda: encode(picture("RGBA"), "JPEG2000", irreversible=True),
    "TIFF-one-strip": oriented_tiff,
    "TGA": lambda: encode(picture("RGBA"), "TGA", compression="tga_rle"),
    "PPM": lambda: encode(picture(), "PPM"),
    "ICO": lambda: icon(icon_bitmap()),
}


def icon_bitmap() -> bytes:
    """A 32-bit DIB of an icon, twice as high as its picture."""
    head = struct.pack("<IiiHHIIiiII", 40, SIDE, 2 * SIDE, 1, 32, *[0] * 6)
    return head + picture("RGBA").tobytes() + bytes(SIDE * -(-SIDE // 32) * 4)


def estimate(data: bytes, plan: ImagePlan = SMALL) -> int:
    """Bytes that decoding is said to take when it is refused."""
    result = image_to_pixels(data, plan=plan, max_decode_bytes=1)
    assert isinstance(result, ImageProblem)
    assert result.error_type == "too_much_memory"
    return int(float(result.message.split(" MB")[0].rpartition(" ")[2].replace(",", "")) * 1e6)


@pytest.mark.parametrize("form", FILES)
def test_decoding_takes_no_more_than_is_said_and_not_much_less(form: str) -> None:
    data = FILES[form]()
    peak, error_type = outcome(data)
    assert error_type == "ok"
    assert peak <= estimate(data) + 5_000_000
    assert estimate(data) <= 4 * peak + 60_000_000


PLANS = {
    "resized whole": ImagePlan(steps=(Resize(height=64, width=64, filter="bicubic"),)),
    "turned and padded": ImagePlan(
        steps=(
            AlignLongAxis(height=1600, width=1200),
            Thumbnail(height=1600, width=1200),
            Pad(height=1600, width=1200),
        )
    ),
    "without margin": ImagePlan(steps=(CropMargin(), Resize(height=64, width=64))),
    "patches": ImagePlan(steps=(Patches(patch=16, max_patches=2048),)),
    "patches below a question": ImagePlan(steps=(Header(), Patches(patch=16, max_patches=2048))),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("form", ["PNG", "TIFF-one-strip"])
def test_a_plan_on_the_whole_picture_takes_no_more_than_is_said(name: str, form: str) -> None:
    data = FILES[form]()
    peak, error_type = outcome(data, PLANS[name])
    assert error_type == "ok"
    assert peak <= estimate(data, PLANS[name]) + 5_000_000


def test_heif_too() -> None:
    pytest.importorskip("pillow_heif")
    opening.register_heif()
    data = encode(picture().resize((700, 700)), "HEIF", quality=50)
    assert peak_bytes(data) <= estimate(data) + 20_000_000  # with the decoder's library, which is loaded for the first


def jpeg_header(side: int, marker: int, scan_components: int = 3) -> bytes:
    components = b"\1\x11\0\2\x11\0\3\x11\0"
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 17, 8, side, side, 3) + components
    scan = struct.pack(">BBHB", 0xFF, 0xDA, 6 + 2 * scan_components, scan_components)
    scan += b"\1\0\2\0\3\0"[: 2 * scan_components] + b"\0\x3f\0"
    return b"\xff\xd8" + frame + scan + bytes(100)


def webp_header(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X\x0a\0\0\0\x02\0\0\0" + canvas + bytes(50)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_with_a_giant_tile() -> bytes:
    tags = {256: 10, 257: 10, 258: 8, 259: 5, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 8, 325: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(200)


HUGE = {
    "icon-with-a-png-bomb": (lambda: icon(bomb(17_000)), "too_many_pixels"),
    "icon-with-a-bitmap": (
        lambda: icon(struct.pack("<IiiHHIIiiII", 40, 60_000, 120_000, 1, 1, *[0] * 6)),
        "too_many_pixels",
    ),
    "icon-with-a-bitmap-within-the-pixels": (
        lambda: icon(struct.pack("<IiiHHIIiiII", 40, 15_000, 30_000, 1, 1, *[0] * 6)),
        "too_much_memory",
    ),
    "one-pixel-wide": (lambda: png(1, 64_000_000, zlib.compress(b"")), "too_much_memory"),
    "one-pixel-high": (lambda: png(200_000_000, 1, zlib.compress(b"")), "too_much_memory"),
    "jpeg-progressive": (lambda: jpeg_header(65_500, 0xC2), "too_much_memory"),
    "jpeg-one-scan-a-component": (lambda: jpeg_header(65_500, 0xC0, scan_components=1), "too_much_memory"),
    "webp": (lambda: webp_header(15_000, 15_000), "too_much_memory"),
    "webp-most": (lambda: webp_header(16_777_216, 16_777_216), "too_many_pixels"),
    "gif": (lambda: b"GIF89a" + struct.pack("<HHBBB", 15_900, 15_900, 0, 0, 0) + GIF_FRAME, "too_much_memory"),
    "tiff-tile": (tiff_with_a_giant_tile, "too_much_memory"),
}
GIF_FRAME = b"," + struct.pack("<HHHHB", 0, 0, 15_900, 15_900, 0) + b"\x08\x01\x00\x00;"


def test_what_would_take_too_much_is_refused_by_its_header() -> None:
    peak, found = outcomes([make() for make, _ in HUGE.values()], plan=ImagePlan.squeeze(224))
    assert dict(zip(HUGE, found, strict=True)) == {name: error_type for name, (_, error_type) in HUGE.items()}
    assert peak < 30_000_000


def test_the_default_holds_a_phones_108_megapixels() -> None:
    data = encode(Image.new("L", (12_000, 9_000), 77), "JPEG")
    result = image_to_pixels(data, plan=ImagePlan.squeeze(224))
    assert isinstance(result, Pixels)
    assert (result.width, result.height) == (12_000, 9_000)
    assert result.pixels_HWC[100, 100].tolist() == [77, 77, 77]
    peak, error_type = outcome(data, plan=ImagePlan.squeeze(224))
    assert error_type == "ok"
    assert peak < 60_000_000


def test_what_counts_is_what_is_decoded() -> None:
    data = encode(Image.new("L", (4_000, 3_000), 77), "JPEG")
    small = image_to_pixels(data, plan=ImagePlan.squeeze(32), max_pixels=500 * 375)
    assert isinstance(small, Pixels)
    refused = image_to_pixels(data, plan=ImagePlan.squeeze(32), max_pixels=500 * 375 - 1)
    assert isinstance(refused, ImageProblem)
    assert refused.error_type == "too_many_pixels"
    assert (refused.width, refused.height) == (4_000, 3_000)
    assert "4000 x 3000, 500 x 375 when decoded" in refused.message
    progressive = encode(Image.new("RGB", (4_000, 3_000)), "JPEG", progressive=True)
    assert outcome(progressive, max_decode_bytes=50_000_000)[1] == "too_much_memory"
    assert outcome(progressive, max_decode_bytes=70_000_000)[1] == "ok"


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_only_the_first_frame_of_an_animation_is_decoded(form: str) -> None:
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (50, 50), dtype=np.uint8)).resize((600, 600)) for _ in range(30)]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    assert peak_bytes(data) < 8_000_000 + 2 * len(data)


def test_the_largest_picture_of_an_icon_is_taken() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), (10, 200, 30, 255)).save(buffer, "ICO", sizes=[(16, 16), (64, 64), (32, 32)])
    result = image_to_pixels(buffer.getvalue(), plan=ImagePlan.squeeze(64))
    assert isinstance(result, Pixels)
    assert (result.width, result.height) == (64, 64)
    assert result.pixels_HWC[5, 5].tolist() == [10, 200, 30]


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "P", "L", "1"])
def test_icons_with_bitmaps_are_what_pillow_makes_of_them(mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8), "RGBA")
    image = image if mode == "RGBA" else image.convert("RGB").convert(mode)
    data = encode(image, "ICO", bitmap_format="bmp", sizes=[(16, 16), (32, 32)])
    with Image.open(io.BytesIO(data)) as opened:
        rgba = opened.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    result = image_to_pixels(data, plan=ImagePlan.squeeze(32))
    assert isinstance(result, Pixels)
    np.testing.assert_array_equal(result.pixels_HWC, np.asarray(expected))
