"""Odd, hostile and broken image files: each gives pixels or a reason, in bounded memory, and nothing else."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from conf.image_plan import ImagePlan
from pipeline.images.decode import ImageProblem, Pixels, image_to_pixels
from pipeline.images.opening import FORMATS
from tests.pipeline.images.memory_probe import outcome, outcomes

MAX_PIXELS = 1_000_000
OK = None  # what a file should give where it is not the name of a problem


def picture(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return image if mode == "RGB" else image.convert(mode)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes, depth: int = 8, colour: int = 0, tail: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + tail + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """A PNG of side x side grey zeros: a few hundred kilobytes that would become gigabytes."""
    packer = zlib.compressobj(1)
    rows = bytes(100 * (side + 1))
    return png(side, side, b"".join(packer.compress(rows) for _ in range(side // 100)) + packer.flush())


def corpus() -> Iterator[tuple[str, bytes, tuple[str | None, ...]]]:
    """(name, bytes, acceptable outcomes)."""
    broken = ("truncated_image", "broken_image", "not_an_image")
    any_problem = (*broken, "empty_image", "too_many_pixels")
    for form, modes in {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "GIF": ("L", "P", "RGB"),
        "WEBP": ("RGB", "RGBA"),
        "AVIF": ("RGB", "RGBA"),
        "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "LAB", "F"),
        "BMP": ("1", "L", "P", "RGB"),
        "DIB": ("1", "L", "P", "RGB"),
        "PPM": ("1", "L", "RGB", "I", "F"),
        "TGA": ("L", "RGB", "RGBA"),
        "ICO": ("RGBA",),
    }.items():
        for mode in modes:
            image = picture("L").convert("F").convert("I;16") if mode == "I;16" else picture(mode)
            yield f"{form}-{mode}", encode(image, form), (OK,)
    good = {form: encode(picture(), form) for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")}
    for form, data in good.items():
        yield f"half-{form}", data[: len(data) // 2], (*broken, OK) if form in ("GIF", "TIFF", "BMP") else broken
        yield f"header-only-{form}", data[:20], broken
        yield f"zeroed-middle-{form}", data[:100] + bytes(200) + data[300:], (*broken, OK)
        yield f"garbage-behind-{form}", data + b"garbage" * 100, (OK,)
        yield f"garbage-before-{form}", b"garbage" * 10 + data, (*broken, OK)
    yield "empty", b"", ("empty_image",)
    yield "one-byte", b"\xff", ("not_an_image",)
    yield "text", b"no image", ("not_an_image",)
    yield "html", b"<!doctype html><title>404</title>", ("not_an_image",)
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', ("not_an_image",)
    yield "pdf", b"%PDF-1.7\n%%EOF", any_problem
    yield "zip", b"PK\x03\x04" + bytes(100), ("not_an_image",)
    yield (
        "eps-that-would-run-a-program",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage",
        ("not_an_image",),
    )
    phone = picture(size=(400, 200))
    yield "MPO-as-phones-write-it", encode(phone, "MPO", save_all=True, append_images=[phone]), (OK,)
    yield "jpeg-2000", encode(picture(), "JPEG2000"), (OK,)
    yield "jpeg-2000-codestream", encode(picture(), "JPEG2000", no_jp2=True), (OK,)
    for form in ("PCX", "SGI", "PDF"):  # Pillow has plugins for these, corpora have not
        yield f"unwanted-{form}", encode(picture(), form), ("not_an_image",)
    yield "git-lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ("not_an_image",)
    yield "png-bomb", bomb(30_000), ("too_many_pixels",)
    yield "png-claims-2-billion", png(2**31 - 1, 2**31 - 1, zlib.compress(b"")), any_problem
    yield "png-zero-wide", png(0, 10, zlib.compress(b"")), any_problem
    yield "png-no-pixels", png(10, 10, b""), broken
    yield "png-wrong-checksum", png(8, 8, zlib.compress(bytes(72)))[:-20] + bytes(20), (*broken, OK)
    yield "png-strange-depth", png(8, 8, zlib.compress(bytes(72)), depth=7), broken
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000), 1))
    yield "png-text-bomb", png(8, 8, zlib.compress(bytes(72)), tail=text), (*broken, OK)
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(50_000_000), 1))
    yield "png-profile-bomb", png(8, 8, zlib.compress(bytes(72)), tail=profile), (*broken, OK)
    yield "gif-claims-65535", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";", any_problem
    yield (
        "bmp-claims-huge",
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, *[0] * 6),
        any_problem,
    )
    yield "webp-empty-chunk", b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0", broken
    yield "jpeg-1x1", encode(picture(size=(1, 1)), "JPEG"), (OK,)
    yield "jpeg-very-wide", encode(picture(size=(16_000, 2)), "JPEG"), (OK,)
    yield "jpeg-very-tall", encode(picture(size=(2, 16_000)), "JPEG"), (OK,)
    yield "jpeg-progressive-half", encode(picture(size=(200, 200)), "JPEG", progressive=True)[:6000], broken
    yield (
        "jpeg-orientation-99",
        encode(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"),
        (OK,),
    )
    frames = [picture() for _ in range(30)]
    yield "gif-animated", encode(frames[0], "GIF", save_all=True, append_images=frames), (OK,)
    yield "webp-animated", encode(frames[0], "WEBP", save_all=True, append_images=frames[:3]), (OK,)
    yield "png-animated", encode(frames[0], "PNG", save_all=True, append_images=frames[:3]), (OK,)
    yield "tiff-many-pages", encode(frames[0], "TIFF", save_all=True, append_images=frames), (OK,)
    yield "tiff-points-nowhere", b"II*\0\xff\xff\xff\x7f", any_problem
    yield (
        "tiff-points-to-itself",
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 256, 4, 1, 9) + struct.pack("<I", 8),
        any_problem,
    )


CORPUS = {name: (data, outcomes) for name, data, outcomes in corpus()}


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
def test_every_file_gives_pixels_or_a_reason(name: str) -> None:
    data, outcomes = CORPUS[name]
    result = image_to_pixels(data, plan=ImagePlan.squeeze(32), max_pixels=MAX_PIXELS)
    if isinstance(result, Pixels):
        assert result.pixels_HWC.shape == (32, 32, 3)
        outcome = None
    else:
        assert isinstance(result, ImageProblem)
        assert result.message
        assert "\n" not in result.message
        outcome = result.error_type
    assert outcome in outcomes


def test_no_plugin_that_is_not_wanted_is_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    asked: list[str] = []
    for form, (factory, accept) in list(Image.OPEN.items()):
        monkeypatch.setitem(Image.OPEN, form, (lambda *a, form=form: asked.append(form), accept))  # type: ignore[dict-item]
        del factory
    for data, _ in CORPUS.values():
        image_to_pixels(data, plan=ImagePlan.squeeze(32), max_pixels=MAX_PIXELS)
    assert "JPEG" in asked
    assert set(asked) <= set(FORMATS)


def test_bombs_cost_no_more_memory_than_the_cap() -> None:
    bombs = ("png-bomb", "png-claims-2-billion", "bmp-claims-huge", "gif-claims-65535")
    peak, found = outcomes([CORPUS[name][0] for name in bombs], max_pixels=1_000_000)
    assert "ok" not in found
    assert peak < 64_000_000


@pytest.mark.parametrize("mode", ["RGBA", "LA", "F"])
def test_an_image_at_the_cap_is_not_copied_over_and_over(mode: str) -> None:
    """Its own pixels and those of the result, once each, and little beside them; twelve million pixels."""
    data = encode(Image.new(mode, (4000, 3000)), "TIFF" if mode == "F" else "PNG")
    peak, error_type = outcome(data, max_pixels=12_000_000)
    assert error_type == "ok"
    assert peak < 12_000_000 * (4 + 4) + 40_000_000  # Pillow holds RGB in four bytes
