"""Image bytes -> the pixels that a model reads; what cannot be turned into pixels is an ImageProblem.

First the picture itself, whoever reads it: RGB, the right way up, transparency composited on white, 16-bit values
scaled (not clipped) to 8, ICC profiles followed. Then the checkpoint's own plan (plan.py). What may be opened, and what
that may cost, is in headers.py and memory.py.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from conf.image_plan import ImagePlan
from pipeline.images import colour
from pipeline.images.not_images import describe
from pipeline.images.opening import Limits, Opened, Refused, open_image
from pipeline.images.plan import carry_out

DEFAULT_LIMITS = Limits()
_WHITE = (255, 255, 255, 255)
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_TRANSPOSE = {  # EXIF orientation tag -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_ORIENTATION_TAG = 0x0112
_STRIP_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded image: what the model reads of it, and facts about the original."""

    arrays: tuple[npt.NDArray[Any], ...]  # [H, W, 3], uint8 or float32 as the plan has it: one for each text
    width: int  # of the original, after orientation
    height: int
    sha256: str  # of the file's bytes

    @property
    def pixels_HWC(self) -> npt.NDArray[Any]:
        """The only one, or the first text's."""
        return self.arrays[0]


@dataclass(frozen=True, slots=True)
class Upright:
    """An sRGB image, and the size of the original after orientation."""

    rgb: Image.Image
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """Why an image has no pixels; the size is known when the header could be read."""

    error_type: str
    message: str
    width: int | None = None
    height: int | None = None


def image_to_pixels(
    data: bytes,
    *,
    plan: ImagePlan,
    texts: Sequence[str] = ("",),
    max_pixels: int = DEFAULT_LIMITS.max_pixels,
    max_decode_bytes: int = DEFAULT_LIMITS.max_decode_bytes,
) -> Pixels | ImageProblem:
    """Decode one image; never raises for anything the bytes contain. `texts` are what the plan draws, if it draws."""
    if not data:
        return ImageProblem("empty_image", "the image has zero bytes")
    side = plan.longest_side if plan.scaled_decode and plan.most_bytes else None
    shrink = partial(_squeezed, image_size=side) if plan.squeezes and side is not None else _whole
    limits = Limits(max_pixels, max_decode_bytes)
    decoded = decode_upright(data, shrink, result=plan if side is None else side, limits=limits)
    if isinstance(decoded, ImageProblem):
        return decoded
    try:
        arrays = tuple(carry_out(decoded.rgb, plan, text) for text in (texts if plan.draws_prompt else texts[:1]))
    except Refused as refused:
        return ImageProblem(refused.error_type, refused.message, decoded.width, decoded.height)
    return Pixels(arrays, decoded.width, decoded.height, hashlib.sha256(data).hexdigest())


def decode_whole(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Upright | ImageProblem:
    """Return the picture that plans are carried out on, as large as it is."""
    return decode_upright(data, _whole, result=ImagePlan(steps=()), limits=limits)


def decode_upright(
    data: bytes,
    shrink: Callable[[Image.Image], Image.Image],
    *,
    result: int | ImagePlan,
    limits: Limits = DEFAULT_LIMITS,
) -> Upright | ImageProblem:
    """Return an image in sRGB, the right way up, as `shrink` makes it small (to about `result` pixels a side).

    For a plan it is decoded whole; a JPEG is only decoded at a smaller scale where the limits ask for it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata that does not matter here
            with open_image(data, result=result, limits=limits) as opened:
                return _upright(opened, shrink)
    except Refused as refused:
        return ImageProblem(refused.error_type, refused.message, *(refused.size or (None, None)))
    except UnidentifiedImageError:
        return ImageProblem("not_an_image", f"no image of a known format but {describe(data)} ({len(data)} bytes)")
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, IndexError, ... for bad bytes
        truncated = "truncated" in str(error).lower() or "Truncated" in type(error).__name__
        error_type = "truncated_image" if truncated else "broken_image"
        return ImageProblem(error_type, f"{type(error).__name__}: {_without_content(error)} ({len(data)} bytes)")


def _upright(opened: Opened, shrink: Callable[[Image.Image], Image.Image]) -> Upright:
    image, width, height = opened.image, opened.width, opened.height
    image.load()
    orientation = _orientation(image)  # asked after load(), which for TIFF has turned the image already
    to_srgb = colour.transform_of(opened.profile, image.mode)
    if to_srgb is None:
        rgb = shrink(to_rgb(image))
    elif image.mode == "CMYK":
        rgb = colour.apply(to_srgb, shrink(image))
    else:
        rgb = colour.apply(to_srgb, shrink(to_rgb(image)))
    if orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])  # the same as turning first, and cheaper on the small square
    if orientation in _SIDEWAYS:
        width, height = height, width
    return Upright(rgb, width, height)


def _whole(image: Image.Image) -> Image.Image:
    return image


def _squeezed(image: Image.Image, image_size: int) -> Image.Image:
    size = (image_size, image_size)
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _without_content(error: Exception) -> str:
    """Return a decoder's message up to where it may begin to quote the file."""
    return re.split(r"[:'\"(<]", " ".join(str(error).split()), maxsplit=1)[0].strip() or "the data are damaged"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF must not lose a good image
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """First frame of any Pillow mode -> RGB, transparency on white, deep greys scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if getattr(image, "is_animated", False) else image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _in_strips(image, partial(_deep_grey_to_rgb, scale=_grey_scale(image)))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _in_strips(image, _on_white)
    return image.convert("RGB")


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert pixel by pixel without several copies of an image that may be as large as the cap."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return convert(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        rgb.paste(convert(image.crop((0, top, width, min(height, top + rows)))), (0, top))
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")


def _grey_scale(image: Image.Image) -> float:
    """Return what makes 8 bits of a deep grey: 65535 -> 255; float TIFFs come as 0..1 or as 0..255."""
    if image.mode != "F":
        return 1 / 257.0
    rows = max(1, _STRIP_PIXELS // image.width)
    tops = range(0, image.height, rows)
    strips = (image.crop((0, top, image.width, min(image.height, top + rows))) for top in tops)
    return 255.0 if max(np.nanmax(np.asarray(strip), initial=0.0) for strip in strips) <= 1.0 else 1.0


def _deep_grey_to_rgb(image: Image.Image, scale: float) -> Image.Image:
    scaled = np.asarray(image).astype(np.float32) * np.float32(scale)
    return Image.fromarray(np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8)).convert("RGB")
