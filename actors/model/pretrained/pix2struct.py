"""Pix2Struct: the image as a grid of patches of its own shape; a question is drawn above it, not read as tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from actors.model.pretrained.encoder import PretrainedEncoder, all_real
from conf.model import ModelConfig


class Pix2StructEncoder(PretrainedEncoder):
    """Normalised pixels of a whole number of patches [B, X, Y, 3] -> patches [row, column, values] -> states."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        from transformers.models.pix2struct.configuration_pix2struct import Pix2StructConfig
        from transformers.models.pix2struct.modeling_pix2struct import Pix2StructVisionModel

        config = Pix2StructConfig.from_dict(model.encoder.hf_config)
        self.vision = Pix2StructVisionModel(config.vision_config)
        assert model.plan.patches is not None, "its plan ends with patches"
        self.patch, self._max_patches = model.plan.patches.patch, model.plan.patches.max_patches

    @property
    def max_context(self) -> int:
        return self._max_patches

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.flattened_patches(pixels_BXYC)
        states = self.vision(flattened_patches=patches.to(self._dtype), attention_mask=None).last_hidden_state
        return states, all_real(states)

    def encode_mixed(
        self, images: Sequence[Tensor], prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Grids of different shapes [X, Y, 3] in one batch, padded to the one with most patches."""
        patches = [self.flattened_patches(image[None])[0] for image in images]
        flat = pad_sequence(patches, batch_first=True)
        lengths = torch.tensor([len(own) for own in patches], device=flat.device)
        mask = torch.arange(flat.shape[1], device=flat.device) < lengths[:, None]
        states = self.vision(flattened_patches=flat.to(self._dtype), attention_mask=mask.float()).last_hidden_state
        return states, mask

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.vision.parameters()).dtype

    def flattened_patches(self, pixels_BXYC: Tensor) -> Tensor:
        """[B, rows * columns, 2 + patch * patch * 3]: row and column, from 1, and the values of the patch."""
        patch = self.patch
        rows, columns = pixels_BXYC.shape[1] // patch, pixels_BXYC.shape[2] // patch
        grid = pixels_BXYC.float().unflatten(2, (columns, patch)).unflatten(1, (rows, patch)).transpose(2, 3)
        flat = grid.reshape(len(grid), rows * columns, -1)
        row = torch.arange(1.0, rows + 1, device=flat.device).repeat_interleave(columns).expand(len(flat), -1)
        column = torch.arange(1.0, columns + 1, device=flat.device).repeat(rows).expand(len(flat), -1)
        return torch.cat([row[..., None], column[..., None], flat], dim=-1)
