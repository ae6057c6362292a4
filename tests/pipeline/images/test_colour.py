"""ICC profiles: the colours that ImageCms makes of them, for every kind of pixels; broken ones cost nothing."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from conf.image_plan import ImagePlan
from pipeline.images.decode import Pixels, image_to_pixels
from tests.pipeline.images.profiles import cmyk_profile, grey_profile, rgb_profile, swapped_profile

SIZE = 32
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(mode: str = "RGB", size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values, "CMYK") if mode == "CMYK" else Image.fromarray(values[..., :3]).convert(mode)


def encode(image: Image.Image, form: str, profile: bytes | None, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options, **({} if profile is None else {"icc_profile": profile}))
    return buffer.getvalue()


def pixels(data: bytes, size: int = SIZE) -> np.ndarray:
    result = image_to_pixels(data, plan=ImagePlan.squeeze(size))
    assert isinstance(result, Pixels), result
    return result.pixels_HWC


def expected(data: bytes, profile: bytes) -> np.ndarray:
    """What Pillow's own function makes of the whole image."""
    with Image.open(io.BytesIO(data)) as image:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return np.asarray(converted)


LOSSLESS: dict[str, dict[str, object]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 95}}


@pytest.mark.parametrize("form", [*LOSSLESS, "AVIF"])
@pytest.mark.parametrize("profile", [rgb_profile(), swapped_profile()], ids=["adobe-like", "swapped"])
def test_colours_become_srgb(form: str, profile: bytes) -> None:
    data = encode(noise(), form, profile, **LOSSLESS.get(form, {}))
    np.testing.assert_array_equal(pixels(data), expected(data, profile))
    plain = pixels(encode(noise(), form, None, **LOSSLESS.get(form, {})))
    assert np.abs(plain.astype(int) - pixels(data).astype(int)).mean() > 5


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
def test_greys_become_srgb(form: str) -> None:
    data = encode(noise("L"), form, grey_profile())
    np.testing.assert_array_equal(pixels(data), expected(data, grey_profile()))
    assert np.abs(pixels(data).astype(int) - pixels(encode(noise("L"), form, None)).astype(int)).mean() > 30


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_inks_become_srgb(form: str) -> None:
    data = encode(noise("CMYK"), form, cmyk_profile())
    np.testing.assert_array_equal(pixels(data), expected(data, cmyk_profile()))
    assert np.abs(pixels(data).astype(int) - pixels(encode(noise("CMYK"), form, None)).astype(int)).mean() > 20


def test_deep_greys_and_palettes_have_profiles_too() -> None:
    deep = Image.new("I;16", (SIZE, SIZE), 257 * 60)
    linear = int(pixels(encode(deep, "PNG", grey_profile()))[0, 0, 0])
    assert linear == int(pixels(encode(Image.new("L", (SIZE, SIZE), 60), "PNG", grey_profile()))[0, 0, 0])
    assert linear > 120
    palette = noise().quantize(16)
    whole = pixels(encode(palette.convert("RGB"), "PNG", swapped_profile()))
    np.testing.assert_array_equal(pixels(encode(palette, "PNG", swapped_profile())), whole)


def test_transparency_still_lies_on_white() -> None:
    glass = Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 0))
    assert pixels(encode(glass, "PNG", swapped_profile())).min() >= 254


def test_the_small_image_has_the_colours_of_the_large_one() -> None:
    """With colours as photographs have them: what only a wider space holds is cut off before or after the resize."""
    large = noise(size=(64, 64)).point(lambda value: 90 + value // 4).resize((512, 512), Image.Resampling.BICUBIC)
    data = encode(large, "PNG", rgb_profile())
    slow = Image.fromarray(expected(data, rgb_profile())).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.abs(pixels(data).astype(int) - np.asarray(slow).astype(int)).mean() < 1


@pytest.mark.parametrize(
    "profile",
    [
        SRGB,
        b"no profile at all",
        rgb_profile()[:200],
        SRGB[:36] + b"XXXX" + SRGB[40:],
        cmyk_profile(),  # of other pixels than the image has
        grey_profile(),
        rgb_profile()[:12] + b"link" + rgb_profile()[16:],
    ],
    ids=["sRGB", "text", "cut", "no-signature", "CMYK", "grey", "link"],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_srgb_and_broken_profiles_change_nothing(form: str, profile: bytes) -> None:
    options = LOSSLESS[form]
    np.testing.assert_array_equal(
        pixels(encode(noise(), form, profile, **options)), pixels(encode(noise(), form, None, **options))
    )


def test_a_jpeg_2000_keeps_its_profile_in_its_own_box() -> None:
    plain = encode(noise(), "JPEG2000", None)
    colour = plain.index(b"colr") - 4
    length = int.from_bytes(plain[colour : colour + 4], "big")
    box = b"colr\x02\0\0" + swapped_profile()
    box = (len(box) + 4).to_bytes(4, "big") + box
    header = plain.index(b"jp2h") - 4
    grown = int.from_bytes(plain[header : header + 4], "big") - length + len(box)
    data = plain[:header] + grown.to_bytes(4, "big") + plain[header + 4 : colour] + box + plain[colour + length :]
    np.testing.assert_array_equal(pixels(data), expected(plain, swapped_profile()))
