"""ICC profiles -> sRGB. The profile of most files is sRGB itself, which costs a look-up; a broken one is ignored.

The transform works on the small image, after the resize: the difference is far below a step of 8 bits, and the cost
does not depend on the size of the original.
"""

import io
import warnings
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> Pillow's mode of its pixels
_CLASSES = frozenset({"scnr", "mntr", "prtr", "spac"})  # scanner, monitor, printer, colour space: has pixels to convert
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_SAME = 2  # steps of 8 bits: a profile that moves no colour further is sRGB
MAX_PROFILE_BYTES = 16 << 20

Transform = ImageCms.ImageCmsTransform


def transform_of(profile: bytes | None, mode: str) -> tuple[str, Transform] | None:
    """(mode to bring the pixels to, transform to sRGB) of an image of `mode`; None where there is nothing to do.

    A profile for other pixels than the image has is ignored like a broken one.
    """
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return None
    found = _transform(profile)
    if found is None:
        return None
    wanted = "L" if mode in _GREY_MODES else "CMYK" if mode == "CMYK" else "RGB"
    return found if found[0] == wanted and mode != "LAB" else None


@lru_cache(maxsize=32)  # a corpus has few; each takes up to a megabyte or two
def _transform(profile: bytes) -> tuple[str, Transform] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = _SPACES.get(source.profile.xcolor_space.strip())
            if mode is None or source.profile.device_class.strip() not in _CLASSES:
                return None
            transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
            return None if _changes_nothing(transform, mode) else (mode, transform)
    except Exception:  # a broken profile is no reason to lose a good image
        return None


def _changes_nothing(transform: Transform, mode: str) -> bool:
    """Return whether sample colours stay what they are: names and versions of sRGB are many."""
    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "L":
        colours = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        colours = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3))
    moved = ImageCms.applyTransform(colours, transform)
    assert moved is not None  # None is for work in place
    difference = np.abs(np.asarray(moved).astype(int) - np.asarray(colours.convert("RGB")).astype(int))
    return int(difference.max()) <= _SAME


def apply(found: tuple[str, Transform], image: Image.Image) -> Image.Image:
    """Return an image, RGB or of the transform's own mode, in sRGB."""
    mode, transform = found
    converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
    assert converted is not None
    return converted
