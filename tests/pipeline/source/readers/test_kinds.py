"""One table of image formats: every format that is decoded is known by suffix and by its first bytes."""

import io
from typing import Any

import pytest
from PIL import Image

from pipeline.images.opening import FORMATS
from pipeline.source.readers.file_kinds import IMAGE_SUFFIXES, SNIFF_BYTES, image_format, is_hidden, is_image_name


def encoded(form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 30, 40)).save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *((form, {}) for form in FORMATS if form not in ("DIB", "TGA")),  # they have no beginning of their own
        ("MPO", {}),
        ("TIFF", {"big_tiff": True}),
        ("JPEG2000", {"no_jp2": True}),
    ],
)
def test_every_decoded_format_is_known_by_its_first_bytes(form: str, options: dict[str, Any]) -> None:
    assert image_format(encoded(form, **options)[:SNIFF_BYTES]) in (form, {"MPO": "JPEG"}.get(form))


@pytest.mark.parametrize("form", FORMATS)
def test_every_suffix_pillow_knows_for_a_decoded_format_is_an_image(form: str) -> None:
    Image.init()
    suffixes = {suffix[1:] for suffix, name in Image.registered_extensions().items() if name == form}
    assert suffixes <= IMAGE_SUFFIXES


@pytest.mark.parametrize("data", [b"", b"\xff", b"%PDF-1.7", b"BMW is a make of car", b"Pictures", b"version https://"])
def test_other_beginnings_are_no_image(data: bytes) -> None:
    assert image_format(data) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.JPG", True),
        ("b.jfif", True),
        ("notes.txt", False),
        ("film.mp4", False),
        ("IMG_1.CR2", False),  # beside IMG_1.JPG; it begins like a TIFF
        ("photo", None),
        ("photo (v1.2)", None),
        ("photo.orig", None),
        ("a.b/photo", None),
    ],
)
def test_the_suffix_says_what_it_can(name: str, expected: bool | None) -> None:
    assert is_image_name(name) is expected


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        *((path, True) for path in ("._a.jpg", "x/.ipynb_checkpoints/a.png", "@eaDir/a.jpg/SYNO_M.jpg", "Thumbs.db")),
        *((path, True) for path in ("__MACOSX/._a.jpg", ".DS_Store", "x/.git/a.png")),
        *((path, False) for path in ("./a.jpg", "a.b.jpg", "x_/a.jpg", "../a.jpg", "eaDir/a.jpg")),
    ],
)
def test_hidden_files_and_litter_are_known_by_their_path(path: str, hidden: bool) -> None:
    assert is_hidden(path) is hidden
