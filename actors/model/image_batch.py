"""The images of a batch, which need not have one shape.

Shape suffixes: B images, X rows and Y columns of pixels, Q prompt tokens, C encoder positions, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Images = Tensor | tuple[Tensor, ...]  # [B, X, Y, 3], or B of [X, Y, 3] where shapes differ
Encode = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def image_batch(arrays: Sequence[npt.NDArray[Any]], device: torch.device | str = "cpu") -> Images:
    """Return images as a batch on a device."""
    if len({array.shape for array in arrays}) == 1:
        return torch.from_numpy(np.stack(arrays)).to(device)
    return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)


def encode_by_shape(
    encode: Encode, images: Images, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor
) -> tuple[Tensor, Tensor]:
    """Return states [B, C, D] and mask [B, C]; images of one shape run together, and C is that of the largest."""
    if isinstance(images, Tensor):
        return encode(images, prompt_ids_BQ, prompt_mask_BQ)
    places: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(tuple(image.shape), []).append(place)
    parts = []
    for group in places.values():
        rows = torch.tensor(group, device=prompt_ids_BQ.device)
        batch = torch.stack([images[place] for place in group])
        parts.append(encode(batch, prompt_ids_BQ[rows], prompt_mask_BQ[rows]))
    width = max(mask.shape[1] for _, mask in parts)
    states = torch.cat([F.pad(part, (0, 0, 0, width - part.shape[1])) for part, _ in parts])
    mask = torch.cat([F.pad(part, (0, width - part.shape[1])) for _, part in parts])
    order = torch.tensor([place for group in places.values() for place in group], device=states.device).argsort()
    return states[order], mask[order]
