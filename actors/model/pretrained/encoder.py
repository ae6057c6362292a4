"""What every encoder gives the engine, whatever it is made of.

Shape suffixes: B images, X rows and Y columns of pixels, Q prompt tokens, C encoder positions, D width.
"""

import torch
from torch import Tensor, nn

from conf.encoder import TransformersEncoderConfig
from conf.model import ModelConfig


class PretrainedEncoder(nn.Module):
    """uint8 pixels and prompt tokens -> states the decoder attends to."""

    reads_prompts = True  # False: states depend on the image alone, and serve all of its prompts

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        assert isinstance(model.encoder, TransformersEncoderConfig)
        self.max_prompt_tokens = model.encoder.max_prompt_tokens
        self.mean: Tensor
        self.std: Tensor
        self.set_pixel_statistics(model)

    def set_pixel_statistics(self, model: ModelConfig) -> None:
        """Put the pixel statistics in place; they live in the config, not in the weights file."""
        for name, values in (("mean", model.pixel_mean), ("std", model.pixel_std)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(3, 1, 1), persistent=False)

    @property
    def max_context(self) -> int:
        """Most encoder positions a request can have."""
        raise NotImplementedError

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        """One prompt per image, right-padded -> states [B, C, D] and mask [B, C] (True = real)."""
        raise NotImplementedError

    def normal(self, pixels_BXYC: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 pixels [B, X, Y, 3] -> normalised [B, 3, X, Y]."""
        return ((pixels_BXYC.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std).to(dtype)


def all_real(states_BCD: Tensor) -> Tensor:
    """Return the mask [B, C] of states without padding."""
    return states_BCD.new_ones(states_BCD.shape[:2], dtype=torch.bool)
