"""Requests -> encoder states, several at once. Shape suffixes: B requests, C encoder positions, D width."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from actors.engine.request import Request
from actors.model.image_batch import Images, image_batch
from actors.model.model import MultiExitModel


@torch.inference_mode()
def encode_requests(model: MultiExitModel, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    """Return states [B, C, D] and mask [B, C] (True = real) of one encoder batch, on the model's device.

    Several questions about one image are one image to an encoder that reads no prompts.
    """
    device = model.decoder.embedding.weight.device
    if not getattr(model.encoder, "reads_prompts", True):
        first, place = distinct_images(requests)
        if len(first) < len(requests):
            states_BCD, mask_BC = encode_requests(model, first)
            place_B = torch.tensor(place, device=device)
            return states_BCD[place_B], mask_BC[place_B]
    images, ids_BQ, mask_BQ = collate(requests, model.config.pad_id, device)
    return model.encode(images, ids_BQ, mask_BQ)


def collate(
    requests: Sequence[Request], pad_id: int, device: torch.device | str = "cpu"
) -> tuple[Images, Tensor, Tensor]:
    """Return images, prompt ids [B, Q] and their mask, right-padded."""
    longest = max(len(request.prompt_ids) for request in requests)
    ids = np.full((len(requests), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(requests), longest), dtype=np.bool_)
    for row, request in enumerate(requests):
        ids[row, : len(request.prompt_ids)] = request.prompt_ids
        mask[row, : len(request.prompt_ids)] = True
    images = image_batch([request.pixels_HWC for request in requests], device)
    return images, torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def distinct_images(requests: Sequence[Request]) -> tuple[list[Request], list[int]]:
    """Return the first request of each image, and the place of each request's image among those.

    Requests have the same image when their pixels are the same memory, as those of one sample's prompts are.
    """
    found: dict[tuple[int, tuple[int, ...]], int] = {}
    first: list[Request] = []
    place: list[int] = []
    for request in requests:
        memory = request.pixels_HWC.__array_interface__
        key = (memory["data"][0], request.pixels_HWC.strides)
        if key not in found:
            found[key] = len(first)
            first.append(request)
        place.append(found[key])
    return first, place
