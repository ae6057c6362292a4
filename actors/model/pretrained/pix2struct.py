"""Pix2Struct: the image as a grid of patches; a question is drawn above the image, not read as tokens.

The source keeps the aspect ratio by choosing the grid; the pipeline delivers squares, so the grid is square here.
A question's header is drawn with Pillow's built-in font, the source's with Arial: close, not equal.
"""

from math import isqrt

import torch
from torch import Tensor

from actors.model.pretrained.encoder import PretrainedEncoder, all_real
from actors.model.pretrained.header import with_header
from conf.model import ModelConfig


class Pix2StructEncoder(PretrainedEncoder):
    """Pixels -> patches [row, column, normalised pixels] -> states."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        from transformers.models.pix2struct.configuration_pix2struct import Pix2StructConfig
        from transformers.models.pix2struct.modeling_pix2struct import Pix2StructVisionModel

        config = Pix2StructConfig.from_dict(model.encoder.hf_config)
        self.vision = Pix2StructVisionModel(config.vision_config)
        self.patch = isqrt(config.vision_config.patch_embed_hidden_size // 3)
        self.side = model.image_size // self.patch
        self.draws_prompt = model.text.prompt == "bytes"

    @property
    def max_context(self) -> int:
        return self.side * self.side

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        if self.draws_prompt:
            pixels_BXYC = with_header(pixels_BXYC, prompt_ids_BQ, prompt_mask_BQ)
        patches = self.flattened_patches(pixels_BXYC).to(next(self.vision.parameters()).dtype)
        states = self.vision(flattened_patches=patches, attention_mask=None).last_hidden_state
        return states, all_real(states)

    def flattened_patches(self, pixels_BXYC: Tensor) -> Tensor:
        """[B, side * side, 2 + patch * patch * 3]: row, column (from 1), pixels by the image's own statistics."""
        side, patch = self.side, self.patch
        pixels = pixels_BXYC[:, : side * patch, : side * patch].float()
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        # Of the population, as the model was trained; the library's torchvision path divides by n - 1 instead.
        std = pixels.std(dim=(1, 2, 3), correction=0, keepdim=True).clamp(min=pixels[0].numel() ** -0.5)
        grid = ((pixels - mean) / std).unflatten(2, (side, patch)).unflatten(1, (side, patch))
        flat = grid.transpose(2, 3).reshape(len(pixels), side * side, patch * patch * 3)
        index = torch.arange(side, device=flat.device) + 1.0
        rows = index.repeat_interleave(side).expand(len(flat), -1)
        columns = index.repeat(side).expand(len(flat), -1)
        return torch.cat([rows[..., None], columns[..., None], flat], dim=-1)
