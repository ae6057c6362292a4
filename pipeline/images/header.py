"""A prompt drawn above a picture, as Pix2Struct's question answering expects (Lee et al. 2023, section 2.3).

Layout, rounding and filters are those of the library's processor. The typeface is not: the library downloads Arial,
and here it is the file that is named, or Pillow's built-in font.
"""

import io
import textwrap
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from conf.errors import UserError

FONT_SIZE, PADDING, CHARACTERS_PER_LINE = 36, 5, 80
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def check_font(font_file: str | None) -> None:
    """Raise UserError where a text cannot be drawn in this font."""
    try:
        _font(font_file)
    except OSError as error:
        raise UserError(f"preprocess.header_font={font_file!r} is no font that can be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of a picture below its text, pixels: as wide as the wider of the two."""

    header: tuple[int, int]  # width and height of the text as it is drawn
    width: int
    above: int  # height of the text
    below: int  # of the picture


def layout(size: tuple[int, int], text: str, font_file: str | None = None) -> Layout:
    """Return where a picture of this width and height will be."""
    canvas = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, _, right, bottom = canvas.textbbox((0, 0), _wrapped(text), font=_font(font_file))
    header = int(right) + 2 * PADDING, int(bottom) + 2 * PADDING
    width = max(header[0], size[0])
    return Layout(header, width, int(header[1] * (width / header[0])), int(size[1] * (width / size[0])))


def with_header(image: Image.Image, text: str, font_file: str | None = None) -> Image.Image:
    """Return the picture below its text, the narrower of the two resized to the width of the other."""
    place = layout(image.size, text, font_file)
    header = Image.new("RGB", place.header, "white")
    ImageDraw.Draw(header).text((PADDING, PADDING), _wrapped(text), fill="black", font=_font(font_file))
    canvas = Image.new("RGB", (place.width, place.above + place.below), "white")
    canvas.paste(header.resize((place.width, place.above), Image.Resampling.BICUBIC), (0, 0))
    canvas.paste(image.resize((place.width, place.below), Image.Resampling.BICUBIC), (0, place.above))
    return canvas


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, CHARACTERS_PER_LINE))


@lru_cache(maxsize=4)
def _font(font_file: str | None) -> _Font:
    if font_file is not None:
        return ImageFont.truetype(font_file, FONT_SIZE)
    built_in = ImageFont.load_default(FONT_SIZE)
    if isinstance(
        built_in, ImageFont.FreeTypeFont
    ):  # its letters, set as those of a file are: kerned, where Pillow can
        return ImageFont.truetype(io.BytesIO(built_in.font_bytes), FONT_SIZE)
    return built_in
