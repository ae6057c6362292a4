"""Requests -> encoder states, several at once. Shape suffixes: B requests, C encoder positions, D width."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from actors.engine.request import Request
from actors.model.model import MultiExitModel


@torch.inference_mode()
def encode_requests(model: MultiExitModel, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    """States [B, C, D] and mask [B, C] (True = real) of one encoder batch, on the model's device."""
    device = model.decoder.embedding.weight.device
    longest = max(len(request.prompt_ids) for request in requests)
    ids = np.full((len(requests), longest), model.config.pad_id, dtype=np.int64)
    mask = np.zeros((len(requests), longest), dtype=np.bool_)
    for row, request in enumerate(requests):
        ids[row, : len(request.prompt_ids)] = request.prompt_ids
        mask[row, : len(request.prompt_ids)] = True
    pixels = np.stack([request.pixels_HWC for request in requests])
    return model.encode(
        torch.from_numpy(pixels).to(device), torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
    )
