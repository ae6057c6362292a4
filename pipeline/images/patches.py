"""Pix2Struct's numbers: a grid of patches of the picture's own shape, resized in floats (Lee et al. 2023, section 2.2).

The library resizes with torch's antialiased bilinear interpolation, whose weights come from 32-bit positions: those are
followed here, because better ones differ from them by up to 5e-5 of a deviation where a picture is 1,500 pixels long.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from PIL import Image

from conf.image_plan import Patches

Floats = npt.NDArray[np.float32]
_BAND = 32  # results of one matrix product: few enough that most of its weights are not zero


def grid(size: tuple[int, int], step: Patches) -> tuple[int, int]:
    """Return rows and columns of the patches of a picture of this width and height."""
    width, height = size
    scale = sqrt(step.max_patches * (step.patch / height) * (step.patch / width))
    rows, columns = (max(min(int(scale * side / step.patch), step.max_patches), 1) for side in (height, width))
    return rows, columns


def to_patches(rgb: Image.Image, step: Patches) -> Floats:
    """Return float32 [rows * patch, columns * patch, 3], normalised by mean and deviation of the picture as it came.

    Resizing is linear, so the picture is centred before and scaled after it. A band of rows at a time is in floats, and
    goes through both directions while it is in the processor's cache.
    """
    rows, columns = grid(rgb.size, step)
    mean, deviation = _statistics(rgb)
    centre = np.float32(round(mean))
    pixels = np.asarray(rgb)
    out = np.empty((rows * step.patch, columns * step.patch, 3), np.float32)
    across = list(_bands(rgb.width, out.shape[1]))
    for down in _bands(rgb.height, out.shape[0]):
        band = pixels[down.read].reshape(-1, rgb.width * 3).astype(np.float32)
        band -= centre
        low = (down.weights @ band).reshape(-1, rgb.width, 3)
        sideways = np.ascontiguousarray(low.transpose(1, 0, 2)).reshape(rgb.width, -1)
        for part in across:
            narrow = (part.weights @ sideways[part.read]).reshape(-1, len(low), 3)
            out[down.made, part.made] = narrow.transpose(1, 0, 2)
    out -= np.float32(mean - centre)
    out /= np.float32(deviation)
    return out


def _statistics(rgb: Image.Image) -> tuple[float, float]:
    """Return mean and population deviation of all values, exact (the library sums in 32-bit floats), and its minimum of
    the deviation."""
    counts = np.array(rgb.histogram(), dtype=np.int64).reshape(3, 256).sum(0)
    values, total = np.arange(256, dtype=np.float64), int(counts.sum())
    mean = float((counts * values).sum() / total)
    return mean, max(sqrt((counts * (values - mean) ** 2).sum() / total), 1 / sqrt(total))


@dataclass(frozen=True, slots=True)
class _Band:
    """Neighbouring results, the values they are made of, and how: `made` = weights @ `read`."""

    made: slice
    read: slice
    weights: Floats


def _bands(length: int, size: int) -> Iterator[_Band]:
    """Yield what resizes `length` values to `size`, a few results at a time."""
    starts, weights = _weights(length, size)
    taps = weights.shape[1]
    for first in range(0, size, _BAND):
        made = slice(first, min(first + _BAND, size))
        begin, end = int(starts[first]), min(int(starts[made.stop - 1]) + taps, length)
        dense = np.zeros((made.stop - first, end - begin + taps), np.float32)
        np.put_along_axis(dense, (starts[made] - begin)[:, None] + np.arange(taps), weights[made], axis=1)
        yield _Band(made, slice(begin, end), np.ascontiguousarray(dense[:, : end - begin]))


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
