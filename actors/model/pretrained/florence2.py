"""Florence-2: image tokens, then the prompt, in one BART encoder."""

from typing import Any

import torch
from torch import Tensor

from actors.model.pretrained.encoder import PretrainedEncoder, all_real
from conf.model import ModelConfig


def num_image_tokens(vision: Any, side: int) -> int:
    """Return the tokens that the tower makes of a square image; the mean of all comes first."""
    for size, stride, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
        side = (side + 2 * padding - size) // stride + 1
    return side * side + 1


class Florence2Encoder(PretrainedEncoder):
    """The vision tower's tokens stand where the source's processor puts its image placeholders: at the start."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        from transformers.models.bart.modeling_bart import BartEncoder
        from transformers.models.florence2.configuration_florence2 import Florence2Config
        from transformers.models.florence2.modeling_florence2 import (
            Florence2MultiModalProjector,
            Florence2VisionBackbone,
        )

        config = Florence2Config.from_dict(model.encoder.hf_config)
        self.vision = Florence2VisionBackbone(config.vision_config)
        self.projector = Florence2MultiModalProjector(config)
        self.stack = BartEncoder(config.text_config)
        self.num_image_tokens = num_image_tokens(config.vision_config, model.plan.longest_side)

    @property
    def max_context(self) -> int:
        return self.num_image_tokens + self.max_prompt_tokens

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        words = self.stack.embed_tokens(prompt_ids_BQ)
        image = self.projector(self.vision(self.normal(pixels_BXYC, words.dtype)).last_hidden_state)
        mask = torch.cat([all_real(image), prompt_mask_BQ], dim=1)
        inputs = torch.cat([image, words], dim=1)
        return self.stack(inputs_embeds=inputs, attention_mask=mask.long()).last_hidden_state, mask
