"""What a plan makes of a picture, where that can be said without a library to compare with."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from conf.errors import UserError
from conf.image_plan import (
    AlignLongAxis,
    CentreCrop,
    CropMargin,
    Header,
    ImagePlan,
    Pad,
    Patches,
    Resize,
    ResizeShortest,
    Step,
    Thumbnail,
)
from pipeline.images.decode import Pixels, image_to_pixels
from pipeline.images.header import check_font
from pipeline.images.opening import Refused
from pipeline.images.plan import carry_out

RED, BLUE = (255, 0, 0), (0, 0, 255)


def made(image: Image.Image, *steps: Step, prompt: str = "") -> np.ndarray:
    return carry_out(image, ImagePlan(steps=steps), prompt)


def test_an_empty_plan_leaves_the_pixels_alone():
    picture = Image.effect_noise((30, 20), 90).convert("RGB")
    assert (made(picture) == np.asarray(picture)).all()


def test_a_picture_that_lies_is_turned_clockwise_where_the_model_stands():
    picture = Image.new("RGB", (30, 10), RED)
    picture.paste(BLUE, (0, 0, 15, 10))  # the left half
    turned = made(picture, AlignLongAxis(height=40, width=20))
    assert turned.shape == (30, 10, 3)
    assert (turned[0] == BLUE).all()
    assert (turned[-1] == RED).all()
    assert made(picture, AlignLongAxis(height=20, width=40)).shape == (10, 30, 3)
    assert made(Image.new("RGB", (9, 9)), AlignLongAxis(height=40, width=20)).shape == (9, 9, 3)


def test_a_thumbnail_never_grows_and_padding_puts_it_in_the_middle():
    steps = Thumbnail(height=20, width=30), Pad(height=20, width=30, value=9)
    small = made(Image.new("RGB", (5, 4), RED), *steps)
    assert (small[8:12, 12:17] == RED).all()
    assert int((small == 9).all(-1).sum()) == 600 - 20
    assert made(Image.new("RGB", (60, 20), RED), Thumbnail(height=20, width=30)).shape == (10, 30, 3)


def test_a_crop_of_a_small_picture_is_black_around_it():
    cropped = made(Image.new("RGB", (3, 9), RED), CentreCrop(height=5, width=6))
    assert (cropped[:, 2:5] == RED).all()
    assert not cropped[:, [0, 1, 5]].any()


def test_margins_are_cut_and_a_plain_picture_has_none():
    page = Image.new("RGB", (50, 60), "white")
    page.paste("black", (10, 20, 30, 25))
    assert made(page, CropMargin()).shape == (5, 20, 3)
    assert made(Image.new("RGB", (50, 60), "white"), CropMargin()).shape == (60, 50, 3)


@pytest.mark.parametrize("size", [(900, 220), (480, 1400), (1, 1), (3, 500), (2000, 4)])
def test_a_grid_keeps_the_aspect_ratio_within_its_patches(size: tuple[int, int]):
    patches = made(Image.effect_noise(size, 90).convert("RGB"), Patches(patch=16, max_patches=64))
    rows, columns = patches.shape[0] // 16, patches.shape[1] // 16
    assert patches.dtype == np.float32
    assert rows * columns <= 64
    if 8 > size[0] / size[1] > 1 / 8:
        assert rows * columns > 64 / 2
        assert 0.6 < (columns / rows) / (size[0] / size[1]) < 1.7


def test_a_grid_is_normalised_by_the_picture_itself():
    ramp = Image.linear_gradient("L").convert("RGB")  # 256 x 256
    patches = made(ramp, Patches(patch=16, max_patches=256))
    assert abs(float(patches.mean())) < 1e-5
    assert abs(float(patches.std()) - 1) < 1e-5
    assert not made(Image.new("RGB", (40, 30), RED[:1] * 3), Patches(patch=16, max_patches=64)).any()  # of one colour


def test_a_prompt_is_drawn_above_and_the_narrower_one_is_widened():
    narrow = made(Image.new("RGB", (100, 50), RED), Header(), prompt="What is the total amount?")
    above = int((narrow == RED).all(-1).all(1).argmax())
    assert narrow.shape[1] > 300
    assert 30 < above < 80
    assert (narrow[:above] == 0).any()
    assert (narrow[above:] == RED).all()
    long = made(Image.new("RGB", (2000, 50), RED), Header(), prompt="word " * 40)  # three lines
    assert long.shape[1] == 2000
    assert long.shape[0] > 50 + 3 * 40


def test_letters_are_those_of_the_font_that_is_named(tmp_path: Path):
    font = tmp_path / "font.ttf"
    built_in = ImageFont.load_default(36)
    assert isinstance(built_in, ImageFont.FreeTypeFont)
    font.write_bytes(built_in.font_bytes)
    picture = Image.new("RGB", (300, 90), RED)
    named = made(picture, Header(font=str(font)), prompt="What is the total?")
    assert (named == made(picture, Header(), prompt="What is the total?")).all()
    check_font(None)
    check_font(str(font))
    for wrong in (tmp_path / "absent.ttf", Path(__file__)):
        with pytest.raises(UserError, match="is no font that can be read"):
            check_font(str(wrong))


@pytest.mark.parametrize(
    "steps", [(Patches(patch=16, max_patches=64),), (ResizeShortest(size=80), CentreCrop(height=64, width=64))]
)
def test_a_jpeg_is_decoded_at_a_smaller_scale_only_where_that_is_asked_for(steps: tuple[Step, ...]):
    stream = io.BytesIO()
    Image.radial_gradient("L").resize((1600, 1200)).convert("RGB").save(stream, "JPEG", quality=95)
    exact, scaled = (
        image_to_pixels(stream.getvalue(), plan=ImagePlan(steps=steps, scaled_decode=asked)) for asked in (False, True)
    )
    assert isinstance(exact, Pixels)
    assert isinstance(scaled, Pixels)
    with Image.open(stream) as whole:
        assert (exact.pixels_HWC == made(whole.convert("RGB"), *steps)).all()
    assert exact.pixels_HWC.shape == scaled.pixels_HWC.shape
    apart = np.abs(exact.pixels_HWC.astype(np.float32) - scaled.pixels_HWC).mean() / exact.pixels_HWC.std()
    assert 0 < apart < 0.1


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ((1, 9000), (ResizeShortest(size=200),)),  # 360 million pixels on the way
        ((1, 900), (ResizeShortest(size=64), Thumbnail(height=80, width=64))),  # a width of nothing
        ((50, 60), (Pad(height=50, width=50),)),
    ],
)
def test_a_picture_that_has_no_such_size_is_refused(size: tuple[int, int], steps: tuple[Step, ...]):
    with pytest.raises(Refused, match="pixels"):
        made(Image.new("RGB", size), *steps)


def test_the_filter_is_the_one_that_is_asked_for():
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    for name, number in (("bilinear", 2), ("bicubic", 3), ("lanczos", 1), ("nearest", 0), ("box", 4)):
        expected = np.asarray(picture.resize((20, 30), Image.Resampling(number)))
        assert (made(picture, Resize(height=30, width=20, filter=name)) == expected).all()
