"""HEIC is read where its decoder is installed; elsewhere the row says what to install."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from conf.image_plan import ImagePlan
from pipeline.images import opening
from pipeline.images.decode import ImageProblem, Pixels, image_to_pixels
from tests.pipeline.images.profiles import swapped_profile


def heic(mode: str = "RGB", **options: object) -> bytes:
    opening.register_heif()
    buffer = io.BytesIO()
    colour = (200, 60, 90, 128) if mode == "RGBA" else (200, 60, 90)
    Image.new("RGB", (64, 48), (200, 60, 90)).convert(mode).save(buffer, "HEIF", quality=90, **options)
    if mode == "RGBA":
        buffer = io.BytesIO()
        Image.new("RGBA", (64, 48), colour).save(buffer, "HEIF", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_heic_is_decoded(mode: str) -> None:
    pytest.importorskip("pillow_heif")
    result = image_to_pixels(heic(mode), plan=ImagePlan.squeeze(32))
    assert isinstance(result, Pixels), result
    assert (result.width, result.height) == (64, 48)
    expected = {"RGB": (200, 60, 90), "L": (105, 105, 105), "RGBA": (227, 157, 172)}[mode]
    np.testing.assert_allclose(result.pixels_HWC[16, 16], expected, atol=6)


def test_its_profile_is_followed() -> None:
    pytest.importorskip("pillow_heif")
    plain, swapped = (
        image_to_pixels(data, plan=ImagePlan.squeeze(32)) for data in (heic(), heic(icc_profile=swapped_profile()))
    )
    assert isinstance(plain, Pixels)
    assert isinstance(swapped, Pixels)
    red, _, blue = swapped.pixels_HWC[16, 16].tolist()
    assert blue > red + 60


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
def test_without_the_decoder_the_row_names_the_extra(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(200)
    result = image_to_pixels(data, plan=ImagePlan.squeeze(32))
    assert isinstance(result, ImageProblem)
    assert result.error_type == "missing_decoder"
    assert "pip install 'deed-pipeline[heif]'" in result.message


def test_a_damaged_one_is_a_problem() -> None:
    pytest.importorskip("pillow_heif")
    data = heic()
    for end in (30, 100, len(data) // 2, len(data) - 5):
        result = image_to_pixels(data[:end], plan=ImagePlan.squeeze(32))
        assert isinstance(result, ImageProblem | Pixels)
    assert isinstance(image_to_pixels(data[:100], plan=ImagePlan.squeeze(32)), ImageProblem)
