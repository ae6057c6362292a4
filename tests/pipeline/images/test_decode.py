"""Every image mode a corpus can hold becomes the right pixels; everything else says why not."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from conf.image_plan import ImagePlan
from pipeline.images import decode as preprocess
from pipeline.images.decode import ImageProblem, Pixels, image_to_pixels, to_rgb

SIZE = 32


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decode(data: bytes, size: int = SIZE, max_pixels: int = 1_000_000) -> Pixels:
    result = image_to_pixels(data, plan=ImagePlan.squeeze(size), max_pixels=max_pixels)
    assert isinstance(result, Pixels), result
    assert result.pixels_HWC.shape == (size, size, 3)
    assert result.pixels_HWC.dtype == np.uint8
    assert result.sha256 == hashlib.sha256(data).hexdigest()
    return result


def problem(data: bytes, max_pixels: int = 1_000_000) -> ImageProblem:
    result = image_to_pixels(data, plan=ImagePlan.squeeze(SIZE), max_pixels=max_pixels)
    assert isinstance(result, ImageProblem)
    return result


def middle(pixels: Pixels) -> tuple[int, ...]:
    return tuple(int(value) for value in pixels.pixels_HWC[SIZE // 2, SIZE // 2])


def solid(mode: str, colour: object, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def test_an_image_of_the_models_size_is_left_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(noise))).pixels_HWC, noise)


def test_other_sizes_are_squeezed_by_the_bilinear_filter() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    decoded = decode(encode(noise))
    np.testing.assert_array_equal(decoded.pixels_HWC, np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    assert (decoded.width, decoded.height) == (90, 50)


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (solid("L", 77), "PNG", (77, 77, 77)),
        (solid("1", 1), "PNG", (255, 255, 255)),
        (solid("LA", (0, 128)), "PNG", (127, 127, 127)),
        (solid("RGBA", (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (solid("RGBA", (255, 0, 0, 255)), "PNG", (255, 0, 0)),
        (solid("RGBA", (0, 0, 0, 51)), "PNG", (204, 204, 204)),
        (solid("RGB", (10, 200, 30)), "BMP", (10, 200, 30)),
        (solid("RGB", (10, 200, 30)), "TIFF", (10, 200, 30)),
        (solid("RGB", (10, 200, 30)), "PPM", (10, 200, 30)),
        (solid("CMYK", (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (solid("I;16", 257 * 100), "PNG", (100, 100, 100)),
        (solid("I;16", 65535), "TIFF", (255, 255, 255)),
        (solid("I", 257 * 40), "TIFF", (40, 40, 40)),
        (solid("F", 0.5), "TIFF", (128, 128, 128)),
    ],
    ids=lambda value: f"{value.mode}" if isinstance(value, Image.Image) else None,
)
def test_every_mode_becomes_rgb(image: Image.Image, form: str, expected: tuple[int, int, int]) -> None:
    assert middle(decode(encode(image, form))) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("AVIF", {})]
)
def test_lossy_formats_are_close(form: str, options: dict[str, object]) -> None:
    data = encode(solid("RGB", (200, 60, 90), (64, 48)), form, **options)
    assert middle(decode(data)) == pytest.approx((200, 60, 90), abs=6)


def test_cmyk_jpeg() -> None:
    assert middle(decode(encode(solid("CMYK", (255, 0, 255, 0)), "JPEG"))) == pytest.approx((0, 255, 0), abs=8)


def test_palette_with_transparency_lies_on_white() -> None:
    palette = solid("P", 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, SIZE, SIZE // 4))
    opaque, transparent = decode(encode(palette)), decode(encode(palette, transparency=0))
    assert middle(opaque) == (255, 0, 0)
    assert middle(transparent) == (255, 255, 255)
    assert tuple(transparent.pixels_HWC[1, 1]) == (0, 0, 255)


def test_a_transparent_colour_key_lies_on_white() -> None:
    assert middle(decode(encode(solid("RGB", (9, 9, 9)), transparency=(9, 9, 9)))) == (255, 255, 255)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(form: str) -> None:
    first, second = solid("RGB", (250, 0, 0)), solid("RGB", (0, 0, 250))
    data = encode(first, form, save_all=True, append_images=[second])
    assert middle(decode(data)) == pytest.approx((250, 0, 0), abs=4)


def sixteen_bit_rgb_png(value: int) -> bytes:
    """Pillow cannot write 48-bit PNGs, so this is one by hand."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    rows = (b"\0" + struct.pack(">H", value) * 3 * SIZE) * SIZE
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")


def test_sixteen_bit_colour_is_scaled() -> None:
    assert middle(decode(sixteen_bit_rgb_png(257 * 90))) == (90, 90, 90)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(40, 20), (400, 200)])
def test_exif_orientation_is_applied(orientation: int, size: tuple[int, int]) -> None:
    width, height = size
    picture = solid("RGB", (0, 0, 0), size)
    picture.paste((255, 255, 255), (0, 0, width // 2, height // 2))  # upper left corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encode(picture, "JPEG", quality=95, exif=exif))
    corners = {
        "upper left": decoded.pixels_HWC[4, 4, 0],
        "upper right": decoded.pixels_HWC[4, -5, 0],
        "lower right": decoded.pixels_HWC[-5, -5, 0],
        "lower left": decoded.pixels_HWC[-5, 4, 0],
    }
    bright = {1: "upper left", 2: "upper right", 3: "lower right", 4: "lower left"}
    bright |= {5: "upper left", 6: "upper right", 7: "lower right", 8: "lower left"}
    assert [name for name, value in corners.items() if value > 200] == [bright[orientation]]
    assert (decoded.width, decoded.height) == ((height, width) if orientation >= 5 else (width, height))


def test_large_jpegs_are_decoded_small_and_look_the_same() -> None:
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    picture = Image.fromarray(np.stack([np.tile(ramp, (1024, 1))] * 3, axis=-1))
    fast = decode(encode(picture, "JPEG", quality=95), max_pixels=2_000_000)
    slow = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.abs(fast.pixels_HWC.astype(int) - np.asarray(slow)).max() <= 4
    assert (fast.width, fast.height) == (1024, 1024)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F"])
def test_strips_give_the_same_pixels_as_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 50, 4), dtype=np.uint8), "RGBA")
    if mode in ("I;16", "F"):
        values = np.random.default_rng(1).random((90, 50), np.float32)
        noise = Image.fromarray(values if mode == "F" else (65535 * values).astype(np.uint16))
    elif mode == "P":
        noise = noise.convert("RGB").convert("P")
        noise.info["transparency"] = 3
    elif mode == "LA":
        noise = noise.convert("LA")
    whole = np.asarray(to_rgb(noise))
    monkeypatch.setattr(preprocess, "_STRIP_PIXELS", 7 * 50)
    np.testing.assert_array_equal(np.asarray(to_rgb(noise)), whole)
    assert whole.std() > 10


def test_broken_exif_does_not_lose_the_image() -> None:
    data = encode(solid("RGB", (200, 60, 90)), "JPEG", exif=b"Exif\0\0garbage that is no TIFF header")
    assert middle(decode(data)) == pytest.approx((200, 60, 90), abs=6)


def test_the_pixel_cap_is_checked_before_decoding() -> None:
    data = encode(solid("L", 0, (3000, 3000)))
    found = problem(data)
    assert (found.error_type, found.width, found.height) == ("too_many_pixels", 3000, 3000)
    assert "9000000 pixels" in found.message


@pytest.mark.parametrize(
    ("data", "error_type"),
    [
        (b"", "empty_image"),
        (b"this is text, not an image", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "not_an_image"),
        (encode(solid("RGB", (1, 2, 3), (200, 200)), "JPEG")[:700], "truncated_image"),
        (encode(Image.effect_noise((64, 64), 50))[:2000], "truncated_image"),
        (encode(solid("RGB", (1, 2, 3)), "GIF")[:40], None),
        (encode(Image.effect_noise((64, 64), 50), "WEBP")[:900], None),
        (encode(Image.effect_noise((64, 64), 50), "TIFF")[:900], None),
    ],
)
def test_bad_bytes_are_a_problem_with_a_reason(data: bytes, error_type: str | None) -> None:
    found = problem(data)
    assert error_type is None or found.error_type == error_type
    assert found.message
    assert "\n" not in found.message


def test_no_single_flipped_byte_ever_raises() -> None:
    rng = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "GIF", "WEBP"):
        good = encode(Image.effect_noise((40, 40), 60).convert("RGB"), form)
        for _ in range(60):
            bad = bytearray(good)
            bad[rng.integers(len(bad))] ^= int(rng.integers(1, 256))
            result = image_to_pixels(bytes(bad), plan=ImagePlan.squeeze(SIZE), max_pixels=10_000)
            assert isinstance(result, Pixels | ImageProblem)
