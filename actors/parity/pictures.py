"""Picture files as the two sides open them, and where that differs on purpose."""

import io
import warnings

from PIL import Image

from pipeline.images import colour
from pipeline.images.decode import ImageProblem, decode_whole

_ORIENTATION_TAG = 0x0112
_EIGHT_BITS = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})


def as_users_open(data: bytes) -> Image.Image:
    """Return a picture as the examples of the library open it; raises whatever Pillow raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata
        return Image.open(io.BytesIO(data)).convert("RGB")


def as_the_pipeline_opens(data: bytes) -> Image.Image | ImageProblem:
    """Return the picture that the pipeline's preprocessing starts from: sRGB, the right way up, at its full size."""
    decoded = decode_whole(data)
    return decoded if isinstance(decoded, ImageProblem) else decoded.rgb


def opened_otherwise(data: bytes) -> tuple[str, ...]:
    """Say what the pipeline does on purpose that `as_users_open` does not; empty for ordinary files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            profile, orientation = image.info.get("icc_profile"), image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return ()
    reasons = {
        "turned as its EXIF says": orientation not in (0, 1),
        "transparency on white": image.has_transparency_data,
        "deep greys scaled to 8 bits": image.mode not in _EIGHT_BITS,
        "colour profile followed": colour.transform_of(profile, image.mode) is not None,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)
