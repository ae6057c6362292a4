"""The pixels of many images of different shapes, one behind the other in one buffer, which travels as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


class TooManyPixels(ValueError):
    """The buffer would become larger than it may."""


@dataclass(frozen=True, slots=True)
class PackedImages:
    """`heights_and_widths` has two numbers for each image; `dtype` is uint8, or float32 for grids of patches."""

    buffer: npt.NDArray[np.uint8]
    heights_and_widths: Sequence[int]
    dtype: str = "uint8"

    def __len__(self) -> int:
        return len(self.heights_and_widths) // 2

    def unpacked(self) -> list[npt.NDArray[Any]]:
        """Return views [H, W, 3] of the buffer, one for each image."""
        views, start, item = [], 0, np.dtype(self.dtype).itemsize
        for height, width in np.reshape(np.asarray(self.heights_and_widths, np.int64), (-1, 2)).tolist():
            end = start + height * width * 3 * item
            views.append(self.buffer[start:end].view(self.dtype).reshape(height, width, 3))
            start = end
        return views


class ImagePacker:
    """Packs images as they come. Memory that nothing has been written to costs nothing, so room is made generously."""

    def __init__(self, expected_bytes: int, most_bytes: int) -> None:
        self._buffer = np.empty(max(expected_bytes, 1), np.uint8)
        self._most, self._used = most_bytes, 0
        self._heights_and_widths: list[int] = []
        self._dtype = "uint8"

    def add(self, pixels_HWC: npt.NDArray[Any]) -> int:
        """Return the image's number; TooManyPixels where there is no room for it."""
        end = self._used + pixels_HWC.nbytes
        if end > self._most:
            raise TooManyPixels(f"the pixels of its chunk would take {end / 1e6:,.0f} MB")
        if end > len(self._buffer):
            larger = np.empty(max(end, min(2 * len(self._buffer), self._most)), np.uint8)
            larger[: self._used] = self._buffer[: self._used]
            self._buffer = larger
        self._dtype = str(pixels_HWC.dtype)
        self._buffer[self._used : end] = np.ascontiguousarray(pixels_HWC).reshape(-1).view(np.uint8)
        self._used = end
        self._heights_and_widths += pixels_HWC.shape[:2]
        return len(self._heights_and_widths) // 2 - 1

    def packed(self) -> PackedImages:
        """Return those added so far."""
        return PackedImages(self._buffer[: self._used], self._heights_and_widths, self._dtype)
