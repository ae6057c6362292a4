"""Bytes -> an opened Pillow image that may be decoded: of a wanted format, and within the limits of pixels and memory.

Nothing is decoded here. JPEGs are told to decode at the smallest scale that is large enough, so the limits are on what
is decoded and not on what the header says.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from conf.image_plan import ImagePlan
from conf.schema import PreprocessConfig
from pipeline.images import headers, memory, png
from pipeline.images.not_images import is_heif
from pipeline.source.readers.file_kinds import image_format

Image.MAX_IMAGE_PIXELS = None  # the limits here are our own: an errors row instead of Pillow's warning

# What is tried on bytes nobody vouches for. Pillow knows more, among them formats whose plugins start other programs
# (EPS starts Ghostscript) or that nobody has looked at for long.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000")
_EXIF_ITEM = re.compile(rb"(infe[\x02\x03].{3}.{4})Exif", re.DOTALL)  # its entry in the list of items
_HEIF_EXTRA = "pip install 'deed-pipeline[heif]'"


@dataclass(frozen=True, slots=True)
class Limits:
    """What decoding one image may take; larger ones are refused by their headers."""

    max_pixels: int = PreprocessConfig.model_fields["max_pixels"].default
    max_decode_bytes: int = PreprocessConfig.model_fields["max_decode_bytes"].default


@dataclass(frozen=True, slots=True)
class Opened:
    """An image ready to be decoded, with the size its header says and its ICC profile."""

    image: Image.Image
    width: int
    height: int
    profile: bytes | None


class Refused(Exception):
    """Why an image is not decoded; the size is known when the header could be read."""

    def __init__(self, error_type: str, message: str, size: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.error_type, self.message, self.size = error_type, message, size


@contextmanager
def open_image(data: bytes, *, result: int | ImagePlan, limits: Limits) -> Iterator[Opened]:
    """The first picture of a file, to become so many pixels a side, or to be decoded whole for a plan.

    Refused, or whatever Pillow raises.
    """
    profile: bytes | None = None
    formats: tuple[str, ...] = FORMATS
    if image_format(data) == "ICO":
        icon = headers.best_icon(data)
        if icon is None:
            raise Refused("broken_image", f"an icon without a picture ({len(data)} bytes)")
        data = icon.data
        if icon.size is not None:
            _check("ICO", icon.size, limits)
    form = image_format(data)
    if form == "PNG":
        data, profile = png.picture_only(data)
    elif form == "WEBP" and (size := headers.webp_size(data)) is not None:
        _check("WEBP", size, limits)
    elif is_heif(data):
        formats = (register_heif(),)
    with _opened(data, formats) as image:
        width, height = image.size
        coefficient_bytes = 0
        if image.format in ("JPEG", "MPO"):  # MPO: a JPEG with others behind it, as phones write them
            # The decoder can produce 1/2, 1/4 or 1/8 of the size at a fraction of the cost; it never goes below the
            # size asked for. Twice the result's size leaves the final resize something to average over.
            coefficient_bytes = headers.jpeg_coefficient_bytes(data)
            if isinstance(result, ImagePlan):
                image.draft(None, _largest(image, result, limits, coefficient_bytes))
            else:
                image.draft(None, (2 * result, 2 * result))
        elif image.format == "JPEG2000":
            profile = headers.jp2_profile(data)
        needed = memory.decoding_bytes(image, result, coefficient_bytes)
        _check_limits((width, height), image.size, needed, limits)
        yield Opened(image, width, height, profile or image.info.get("icc_profile"))


def _largest(image: Image.Image, plan: ImagePlan, limits: Limits, coefficient_bytes: int) -> tuple[int, int]:
    """Return the size of the largest scale at which a JPEG is within the limits, or the smallest there is."""
    sizes = [(max(1, image.width // scale), max(1, image.height // scale)) for scale in (1, 2, 4, 8)]

    def fits(size: tuple[int, int]) -> bool:
        needed = memory.decoding_bytes(image, plan, coefficient_bytes, size)
        return size[0] * size[1] <= limits.max_pixels and needed <= limits.max_decode_bytes

    return next(filter(fits, sizes), sizes[-1])


def _opened(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise
    except Exception:
        if data[4:8] != b"ftyp":
            raise
        # A damaged Exif item, which is never where an AVIF's orientation comes from, makes Pillow give up: hide it.
        return Image.open(io.BytesIO(_EXIF_ITEM.sub(rb"\1skip", data)), formats=formats)


def register_heif() -> str:
    try:
        import pillow_heif
    except ImportError:
        raise Refused("missing_decoder", f"HEIC and HEIF need a decoder that is not installed: {_HEIF_EXTRA}") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener(thumbnails=False)
    return "HEIF"


def _check(form: str, size: tuple[int, int], limits: Limits) -> None:
    _check_limits(size, size, memory.canvas_bytes(form, *size), limits)


def _check_limits(size: tuple[int, int], decoded: tuple[int, int], needed_bytes: int, limits: Limits) -> None:
    pixels = decoded[0] * decoded[1]
    scaled = "" if decoded == size else f", {decoded[0]} x {decoded[1]} when decoded at the smallest scale,"
    if pixels > limits.max_pixels:
        message = (
            f"{size[0]} x {size[1]}{scaled} = {pixels} pixels is more than preprocess.max_pixels={limits.max_pixels}"
        )
        raise Refused("too_many_pixels", message, size)
    if needed_bytes > limits.max_decode_bytes:
        message = (
            f"{size[0]} x {size[1]}: decoding would take about {needed_bytes / 1e6:,.0f} MB, more than "
            f"preprocess.max_decode_bytes={limits.max_decode_bytes}"
        )
        raise Refused("too_much_memory", message, size)
