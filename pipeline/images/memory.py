"""How many bytes of memory decoding an image takes, from its header alone; measured, and checked by a test.

A pixel cap does not bound memory: decoders differ twentyfold in what they hold for one pixel, and a column of one
pixel's width costs ten times its pixels in row tables and filter weights.
"""

from PIL import Image

from conf.image_plan import ImagePlan

_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # of Pillow's own images
_OTHER_PIXEL_BYTES = 4
_RGB_BYTES = 4
_TURNED_BYTES, _PATCHES_BYTES, _HEADER_BYTES = 4, 8, 12  # of a pixel, while a plan is carried out on the whole picture
_DECODER_BYTES = {  # for each pixel, beside Pillow's image: frames, planes and coefficients of the library behind it
    "WEBP": 17,
    "AVIF": 17,
    "HEIF": 12,
    "JPEG2000": 20,
    "ICO": 16,
    "TGA": 3,
    "PPM": 9,
    "BMP": 5,
    "DIB": 5,
    "GIF": 4,
    "PNG": 1,
}
_WORKING_BYTES = 20_000_000  # what does not grow with the image: strips that are converted, buffers
_ROW_BYTES = 40  # pointers of two images, and the resize's weights
_COLUMN_BYTES = 24
_TIFF_SIZES = (256, 257, 278, 322, 323, 277)  # width, height, rows of a strip, width and height of a tile, samples
_BITS_PER_SAMPLE, _ORIENTATION = 258, 274


def decoding_bytes(
    image: Image.Image, result: int | ImagePlan, coefficient_bytes: int = 0, size: tuple[int, int] | None = None
) -> int:
    """Bytes at the peak of decoding an opened image, making RGB of it and squeezing it to so many pixels a side.

    A plan: of carrying it out on the whole picture. `size` is what it will be decoded at, if not its own.
    """
    width, height = size or image.size
    of_pixel = _PIXEL_BYTES.get(image.mode, _OTHER_PIXEL_BYTES) + _DECODER_BYTES.get(image.format or "", 0)
    if image.mode != "RGB" or "transparency" in image.info:
        of_pixel += _RGB_BYTES
    turned = of_pixel if image.format == "TIFF" and _is_turned(image) else 0
    result_px, of_plan = (result, 0) if isinstance(result, int) else (0, 2 * result.most_bytes)
    if isinstance(result, ImagePlan):
        of_pixel += _TURNED_BYTES + _PATCHES_BYTES * (result.patches is not None) + _HEADER_BYTES * result.draws_prompt
    of_rows = height * (_ROW_BYTES + 4 * result_px) + width * _COLUMN_BYTES
    of_pixels = width * height * (of_pixel + turned)
    return _WORKING_BYTES + of_plan + of_pixels + of_rows + coefficient_bytes + _tiff_part_bytes(image)


def canvas_bytes(form: str, width: int, height: int) -> int:
    """Return the same, of a format that must be asked before it is opened."""
    return (
        _WORKING_BYTES + width * height * (_OTHER_PIXEL_BYTES + _RGB_BYTES + _DECODER_BYTES[form]) + height * _ROW_BYTES
    )


def _is_turned(image: Image.Image) -> bool:
    return image.tag_v2.get(_ORIENTATION, 1) != 1  # type: ignore[attr-defined, no-any-return]


def _tiff_part_bytes(image: Image.Image) -> int:
    """Of a strip or tile, which is unpacked in one piece; a tile may be larger than the image."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return 0
    width, height, rows, tile_width, tile_height, samples = (
        value if isinstance(value := tags.get(tag), int) and value > 0 else 0 for tag in _TIFF_SIZES
    )
    pixels = tile_width * tile_height or width * min(rows or height, height)
    bits = tags.get(_BITS_PER_SAMPLE, 8)
    bits_of_sample: int = max(bits if isinstance(bits, tuple) else (bits,))
    return pixels * max(samples, 1) * bits_of_sample // 8
