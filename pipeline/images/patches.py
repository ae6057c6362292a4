"""Pix2Struct's numbers: a grid of patches of the picture's own shape, resized in floats (Lee et al. 2023, section 2.2).

The library resizes with torch's antialiased bilinear interpolation, whose weights come from 32-bit positions: those are
followed here, because better ones differ from them by up to 5e-5 of a deviation where a picture is 1,500 pixels long.
"""

from math import sqrt

import numpy as np
import numpy.typing as npt
from PIL import Image

from conf.image_plan import Patches

Floats = npt.NDArray[np.float32]
_BLOCK = 32  # results of one matrix product: few enough that most of its weights are not zero


def grid(size: tuple[int, int], step: Patches) -> tuple[int, int]:
    """Return rows and columns of the patches of a picture of this width and height."""
    width, height = size
    scale = sqrt(step.max_patches * (step.patch / height) * (step.patch / width))
    rows, columns = (max(min(int(scale * side / step.patch), step.max_patches), 1) for side in (height, width))
    return rows, columns


def to_patches(rgb: Image.Image, step: Patches) -> Floats:
    """Return float32 [rows * patch, columns * patch, 3], normalised by mean and deviation of the picture as it came.

    Resizing is linear, so the picture is centred before and scaled after it: a band of rows at a time is in floats.
    """
    rows, columns = grid(rgb.size, step)
    mean, deviation = _statistics(rgb)
    centre = np.float32(round(mean))
    pixels = np.asarray(rgb).reshape(rgb.height, -1)
    narrow = _resampled(pixels, rows * step.patch, centre).reshape(-1, rgb.width, 3)
    sideways = np.ascontiguousarray(narrow.transpose(1, 0, 2)).reshape(rgb.width, -1)
    resized = _resampled(sideways, columns * step.patch, np.float32(0)).reshape(columns * step.patch, -1, 3)
    normal: Floats = (resized.transpose(1, 0, 2) - np.float32(mean - centre)) / np.float32(deviation)
    return normal


def _statistics(rgb: Image.Image) -> tuple[float, float]:
    """Return mean and population deviation of all values, exact (the library sums in 32-bit floats), and its minimum of
    the deviation."""
    counts = np.array(rgb.histogram(), dtype=np.int64).reshape(3, 256).sum(0)
    values, total = np.arange(256, dtype=np.float64), int(counts.sum())
    mean = float((counts * values).sum() / total)
    return mean, max(sqrt((counts * (values - mean) ** 2).sum() / total), 1 / sqrt(total))


def _resampled(values: npt.NDArray[np.uint8] | Floats, size: int, centre: np.float32) -> Floats:
    """Resize the first axis of [N, M], less `centre`, to `size`."""
    out = np.empty((size, values.shape[1]), np.float32)
    starts, weights = _weights(len(values), size)
    for first in range(0, size, _BLOCK):
        block = slice(first, min(first + _BLOCK, size))
        begin, end = starts[first], min(starts[block][-1] + weights.shape[1], len(values))
        dense = np.zeros((block.stop - first, end - begin + weights.shape[1]), np.float32)
        at = (starts[block] - begin)[:, None] + np.arange(weights.shape[1])
        np.put_along_axis(dense, at, weights[block], axis=1)
        np.matmul(dense[:, : end - begin], values[begin:end].astype(np.float32) - centre, out=out[block])
    return out


def _weights(length: int, size: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the first value that each result is made of, and the weights [size, taps] from there on (0 at the end)."""
    scale = np.float32(length) / np.float32(size)
    support = max(scale, np.float32(1))
    middle = (float(scale) * (np.arange(size) + 0.5)).astype(np.float32)
    starts = np.maximum(((middle - support).astype(np.float64) + 0.5).astype(np.int64), 0)
    ends = np.minimum(((middle + support).astype(np.float64) + 0.5).astype(np.int64), length)
    places = starts[:, None] + np.arange(int((ends - starts).max()))
    distances = ((places.astype(np.float32) - middle[:, None]).astype(np.float64) + 0.5) * float(1 / support)
    weights = np.maximum(1 - np.abs(distances.astype(np.float32)), 0) * (places < ends[:, None])
    normalised: Floats = (weights / weights.sum(1, keepdims=True, dtype=np.float32)).astype(np.float32)
    return starts, normalised
