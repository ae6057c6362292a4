"""Metadata cost neither the picture nor memory, and messages show nothing of what a file holds."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from conf.image_plan import ImagePlan
from pipeline.images.decode import ImageProblem, Pixels, image_to_pixels
from pipeline.images.not_images import describe
from tests.pipeline.images.memory_probe import outcomes
from tests.pipeline.images.profiles import swapped_profile

SIZE = 32
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def png(**options: object) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG", **options)
    return buffer.getvalue()


PLAIN = png()


def chunk(kind: bytes, content: bytes, damaged: bool = False) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ damaged)


def with_chunks(*chunks: bytes, at_the_end: bool = False) -> bytes:
    at = len(PLAIN) - 12 if at_the_end else 8 + 25  # before IEND, or behind IHDR
    return PLAIN[:at] + b"".join(chunks) + PLAIN[at:]


BOMB = zlib.compress(bytes(200_000_000), 9)
CHUNKS = {
    "long-text": [chunk(b"tEXt", b"k\0" + b"x" * 2_000_000)],
    "long-packed-text": [chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 2_000_000))],
    "long-unicode-text": [chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000))],
    "70-MB-in-all": [chunk(b"tEXt", b"k%d\0" % n + b"x" * 1_000_000) for n in range(70)],
    "text-bomb": [chunk(b"zTXt", b"k\0\0" + BOMB), chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)],
    "xmp-bomb": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB)],
    "raw-profile-bomb": [chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)],
    "profile-bomb": [chunk(b"iCCP", b"p\0\0" + BOMB)],
    "unknown-packing": [chunk(b"zTXt", b"k\0\7" + BOMB), chunk(b"iCCP", b"p\0\7" + b"x")],
    "damaged-text": [chunk(b"tEXt", b"k\0v", damaged=True)],
    "damaged-exif": [chunk(b"eXIf", b"MM\0*", damaged=True)],
    "damaged-profile": [chunk(b"iCCP", b"p\0\0" + zlib.compress(b"x"), damaged=True)],
    "nonsense-exif": [chunk(b"eXIf", b"nonsense")],
    "misleading-text": [chunk(b"tEXt", b"transparency\0soon"), chunk(b"tEXt", b"icc_profile\0sRGB")],
    "private": [chunk(b"prVt", bytes(3_000_000))],
    "short-gamma": [chunk(b"gAMA", b"1"), chunk(b"cHRM", b"1"), chunk(b"pHYs", b"1"), chunk(b"sRGB", b"")],
    "broken-animation": [chunk(b"acTL", b"1"), chunk(b"fcTL", b"1")],
}


@pytest.mark.parametrize("at_the_end", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("name", CHUNKS)
def test_no_chunk_beside_the_picture_costs_the_picture(name: str, at_the_end: bool) -> None:
    result = image_to_pixels(with_chunks(*CHUNKS[name], at_the_end=at_the_end), plan=ImagePlan.squeeze(SIZE))
    assert isinstance(result, Pixels), result
    np.testing.assert_array_equal(result.pixels_HWC, np.asarray(PICTURE))


def test_nor_memory() -> None:
    names = ("70-MB-in-all", "text-bomb", "xmp-bomb", "raw-profile-bomb", "profile-bomb")
    peak, found = outcomes([with_chunks(*CHUNKS[name]) for name in names])
    assert set(found) == {"ok"}
    assert peak < 40_000_000


def test_a_profile_of_more_than_a_megabyte_is_followed() -> None:
    profile = swapped_profile()
    padded = profile + np.random.default_rng(0).bytes(1_500_000)
    padded = struct.pack(">I", len(padded)) + padded[4:]
    small, large = (image_to_pixels(png(icc_profile=each), plan=ImagePlan.squeeze(SIZE)) for each in (profile, padded))
    assert isinstance(small, Pixels)
    assert isinstance(large, Pixels)
    np.testing.assert_array_equal(small.pixels_HWC, large.pixels_HWC)
    assert np.abs(small.pixels_HWC.astype(int) - np.asarray(PICTURE)).mean() > 20


def test_transparency_of_a_png_is_no_metadata() -> None:
    info = PngInfo()
    info.add_text("Comment", "x" * 2_000_000)
    buffer = io.BytesIO()
    Image.new("P", (SIZE, SIZE), 0).save(buffer, "PNG", transparency=0, pnginfo=info)
    result = image_to_pixels(buffer.getvalue(), plan=ImagePlan.squeeze(SIZE))
    assert isinstance(result, Pixels)
    assert result.pixels_HWC.min() == 255


def test_an_avif_with_damaged_exif_is_a_good_image() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    buffer = io.BytesIO()
    PICTURE.resize((60, 40)).save(buffer, "AVIF", exif=exif)
    data = buffer.getvalue()
    assert data.count(b"MM\0*") == 1
    results = [image_to_pixels(each, plan=ImagePlan.squeeze(SIZE)) for each in (data, data.replace(b"MM\0*", b"XXXX"))]
    for result in results:
        assert isinstance(result, Pixels), result
        assert (result.width, result.height) == (40, 60)


SECRET = b"root:x:0:0:hunter2"


@pytest.mark.parametrize(
    "data",
    [
        SECRET,
        b"P6\n" + SECRET,
        b"P6 12" + SECRET,
        b"P3\n2 2\n255\n" + SECRET,
        b"\x89PNG\r\n\x1a\n" + SECRET,
        b"\x89PNG\r\n\x1a\n\0\0\0\x04" + SECRET,
        b"GIF89a" + SECRET,
        b"BM" + SECRET * 9,
        b"II*\0" + SECRET,
        b"\xff\xd8\xff\xe1" + SECRET,
        b"RIFF\0\0\0\0WEBPVP8 " + SECRET * 3,
        b"\0\0\0\x0cjP  \x0d\x0a\x87\x0a" + SECRET * 3,
        b"\0\0\x01\0\x01\0" + SECRET * 3,
        b"%PDF-1.7 " + SECRET,
        b"<html>" + SECRET,
        b'{"password": "hunter2"}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:hunter2",
    ],
)
def test_no_message_shows_what_a_file_holds(data: bytes) -> None:
    for end in (len(data), len(data) - 1, 20):
        result = image_to_pixels(data[:end], plan=ImagePlan.squeeze(SIZE))
        assert isinstance(result, ImageProblem)
        for part in ("root", ":x:", "hunter", "b'", 'b"', "\\x", "password", "sha256"):
            assert part not in result.message


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"hello world", "text"),
        ("süß".encode()[:2], "text"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "an HTML page"),
        (b'<?xml version="1.0"?><svg>', "an SVG drawing"),
        (b"<rss/>", "XML"),
        (b'[{"a": 1}]', "JSON"),
        (b"%PDF-1.4", "a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer, the file itself was not fetched"),
        (b"\0\0\0\x18ftypmp42", "an MP4 or QuickTime video"),
        (bytes(100), "nothing but zeros"),
        (b"\x93\xfe\x01\x02\xff" * 9, "data of an unknown kind"),
    ],
)
def test_what_is_no_image_is_named_by_its_kind(data: bytes, name: str) -> None:
    assert describe(data) == name
    result = image_to_pixels(data, plan=ImagePlan.squeeze(SIZE))
    assert isinstance(result, ImageProblem)
    assert result.error_type == "not_an_image"
    assert name in result.message
