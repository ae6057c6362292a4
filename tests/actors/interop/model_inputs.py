"""What `generate` and `forward` of the tiny models take for a batch of requests."""

from typing import Any

import numpy as np
import torch

from actors.engine.request import Request
from tests.actors.interop.prompted_models import PATCH
from tests.actors.interop.text_models import VOCAB

MAX_PATCHES = 20
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def padded(prompts: list[Any], before: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [[*(before or []), *prompt] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[1] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def pixels(requests: list[Request]) -> torch.Tensor:
    values = torch.from_numpy(np.stack([request.pixels_HWC for request in requests])).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def text_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    ids, mask = padded([request.prompt_ids for request in requests])
    return {"input_ids": ids, "attention_mask": mask}


def florence2_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    ids, mask = padded([request.prompt_ids for request in requests], [VOCAB - 1] * (2 * 2 + 1))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels(requests)}


def blip2_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    """Ids beyond the vocabulary are the Q-Former's."""
    rows = [[t for t in request.prompt_ids if t < VOCAB] for request in requests]
    ids, mask = padded(rows, [VOCAB - 1] * 4)
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels(requests)}
    read = [[t - VOCAB for t in request.prompt_ids if t >= VOCAB] for request in requests]
    if any(read):
        inputs["qformer_input_ids"], inputs["qformer_attention_mask"] = padded(read)
    return inputs


def vision_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    return {"pixel_values": pixels(requests)}


def blip_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    """The first token of a caption's prompt is replaced, the last is left out."""
    begun = torch.tensor([[0, *request.prefix_ids, 2] for request in requests])
    return {"input_ids": begun, "pixel_values": pixels(requests)}


def blip_vqa_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    return {**text_inputs(model, requests), "pixel_values": pixels(requests)}


def blip_forward(model: Any, inputs: dict[str, Any], fed: torch.Tensor) -> tuple[Any, Any]:
    states = model.vision_model(inputs["pixel_values"]).last_hidden_state
    if hasattr(model, "text_encoder"):
        question = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        states = model.text_encoder(**question, encoder_hidden_states=states).last_hidden_state
    output = model.text_decoder(fed, encoder_hidden_states=states, output_hidden_states=True)
    return output.logits, output.hidden_states


def pix2struct_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    """Row, column and values of every patch, padded as the library's processor does it."""
    patches = torch.zeros(len(requests), MAX_PATCHES, 2 + PATCH * PATCH * 3)
    mask = torch.zeros(len(requests), MAX_PATCHES)
    for number, request in enumerate(requests):
        rows, columns = (side // PATCH for side in request.pixels_HWC.shape[:2])
        grid = torch.from_numpy(request.pixels_HWC).reshape(rows, PATCH, columns, PATCH, 3).transpose(1, 2)
        places = torch.cartesian_prod(torch.arange(1, rows + 1), torch.arange(1, columns + 1)).view(-1, 2)
        patches[number, : rows * columns] = torch.cat([places, grid.reshape(rows * columns, -1)], dim=1)
        mask[number, : rows * columns] = 1
    return {"flattened_patches": patches, "attention_mask": mask}


def udop_inputs(model: Any, requests: list[Request]) -> dict[str, Any]:
    ids, mask = padded([request.prompt_ids for request in requests])
    code = ids // VOCAB - 1
    boxes = torch.stack([code // 1001**i % 1001 for i in (3, 2, 1, 0)], dim=-1).where(code[..., None] >= 0, 0)
    return {"input_ids": ids % VOCAB, "attention_mask": mask, "bbox": boxes, "pixel_values": pixels(requests)}
