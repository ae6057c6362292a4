"""Carry out a checkpoint's size policy (`conf.image_plan`) on a decoded picture, with Pillow and NumPy.

Every step gives what the library's own image processor gives for the same pixels: its whole-number sizes, its order,
Pillow's resampling on 8-bit values. `tests/actors/interop/test_image_plans.py` compares them bit for bit.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

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
from pipeline.images.header import layout, with_header
from pipeline.images.opening import Refused
from pipeline.images.patches import to_patches

MAX_STEP_PIXELS = 1 << 27  # of a picture between two steps; a strip of 3 x 500 pixels would need far more for Donut

Array = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Size = tuple[int, int]  # width and height, pixels, as Pillow has them


def carry_out(rgb: Image.Image, plan: ImagePlan, prompt: str = "") -> Array:
    """Turn an upright RGB picture into the numbers that travel to the model: [H, W, 3] of its own shape.

    uint8; or, where the plan ends with `Patches`, float32 that is already normalised. Raises Refused for a picture that
    the steps would blow up or shrink to nothing.
    """
    for step in plan.steps:
        if isinstance(step, Patches):
            return to_patches(rgb, step)
        rgb = _step(rgb, step, prompt)
    return np.array(rgb, dtype=np.uint8)


def _step(rgb: Image.Image, step: Step, prompt: str) -> Image.Image:
    match step:
        case Resize():
            return _resized(rgb, (step.width, step.height), step.filter)
        case ResizeShortest():
            return _resized(rgb, _with_shortest(rgb.size, step.size), step.filter)
        case Thumbnail():
            return _resized(rgb, _thumbnail(rgb.size, step), step.filter, step.reducing_gap)
        case AlignLongAxis():
            return _aligned(rgb, step)
        case CropMargin():
            return _without_margin(rgb, step.threshold)
        case CentreCrop():
            return _centre_crop(rgb, step)
        case Pad():
            return _padded(rgb, step)
        case Header():
            return _under_header(rgb, step, prompt)
        case _:
            raise AssertionError(f"{step.kind} only ends a plan")


def _resized(rgb: Image.Image, size: Size, filter_name: str, reducing_gap: float | None = None) -> Image.Image:
    if size == rgb.size:
        return rgb
    _check(rgb, size)
    return rgb.resize(size, Image.Resampling[filter_name.upper()], reducing_gap=reducing_gap)


def _check(rgb: Image.Image, size: Size) -> None:
    """Refuse a size that is empty or too large to be made."""
    if min(size) < 1 or size[0] * size[1] > MAX_STEP_PIXELS:
        raise Refused(
            "too_elongated",
            f"the model's own resizing makes {size[0]} x {size[1]} pixels of {rgb.width} x {rgb.height}",
            rgb.size,
        )


def _with_shortest(size: Size, shortest: int) -> Size:
    width, height = size
    longest = int(shortest * max(size) / min(size))
    return (shortest, longest) if width <= height else (longest, shortest)


def _thumbnail(size: Size, step: Thumbnail) -> Size:
    """Return the library's size: both sides are cut first, then the one that was shorter follows the aspect ratio."""
    width, height = min(size[0], step.width), min(size[1], step.height)
    if (width, height) == size:
        return size
    if size[1] > size[0]:
        width = int(size[0] * height / size[1])
    elif size[0] > size[1]:
        height = int(size[1] * width / size[0])
    return width, height


def _aligned(rgb: Image.Image, step: AlignLongAxis) -> Image.Image:
    lies, stands = rgb.width > rgb.height, rgb.width < rgb.height
    if (step.width < step.height and lies) or (step.width > step.height and stands):
        return rgb.transpose(Image.Transpose.ROTATE_270)  # counter-clockwise in Pillow's terms: a quarter clockwise
    return rgb


def _without_margin(rgb: Image.Image, threshold: int) -> Image.Image:
    grey = rgb.convert("L")
    lowest, highest = np.asarray(grey).min(), np.asarray(grey).max()
    if lowest == highest:
        return rgb
    stretched = (np.arange(256) - float(lowest)) / float(highest - lowest) * 255
    return rgb.crop(grey.point([255 * int(value < threshold) for value in stretched]).getbbox())


def _centre_crop(rgb: Image.Image, step: CentreCrop) -> Image.Image:
    left, top = (rgb.width - step.width) // 2, (rgb.height - step.height) // 2  # negative where it is too small
    return rgb.crop((left, top, left + step.width, top + step.height))  # black outside the picture


def _padded(rgb: Image.Image, step: Pad) -> Image.Image:
    across, down = step.width - rgb.width, step.height - rgb.height
    if min(across, down) < 0:
        raise Refused(
            "too_large", f"{rgb.width} x {rgb.height} pixels do not fit into {step.width} x {step.height}", rgb.size
        )
    padded = Image.new("RGB", (step.width, step.height), (step.value,) * 3)
    padded.paste(rgb, (across // 2, down // 2) if step.place == "centre" else (0, 0))
    return padded


def _under_header(rgb: Image.Image, step: Header, prompt: str) -> Image.Image:
    place = layout(rgb.size, prompt, step.font)
    _check(rgb, place.header)
    _check(rgb, (place.width, place.above))
    _check(rgb, (place.width, place.below))
    return with_header(rgb, prompt, step.font)
