"""The image side of a VisionEncoderDecoder (ViT, DeiT, BEiT, Swin, Donut's Swin): no prompt is read."""

import inspect

import torch
from torch import Tensor, nn

from actors.model.pretrained.encoder import PretrainedEncoder, all_real
from conf.errors import UserError
from conf.model import ModelConfig


class VisionEncoder(PretrainedEncoder):
    """Pixels -> states, projected where the source does so."""

    reads_prompts = False

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        from transformers import AutoModel
        from transformers.models.vision_encoder_decoder.configuration_vision_encoder_decoder import (
            VisionEncoderDecoderConfig,
        )

        config = VisionEncoderDecoderConfig.from_dict(model.encoder.hf_config)
        taken = inspect.signature(AutoModel._model_mapping[type(config.encoder)].__init__).parameters
        no_pooler = {"add_pooling_layer": False} if "add_pooling_layer" in taken else {}
        self.vision = AutoModel.from_config(config.encoder, trust_remote_code=False, **no_pooler)
        width, wanted = config.encoder.hidden_size, config.decoder.hidden_size
        projects = width != wanted and getattr(config.decoder, "cross_attention_hidden_size", None) is None
        self.project = nn.Linear(width, wanted) if projects else None
        self._context = self._count(*(model.plan.shape or (model.image_size, model.image_size)))

    def _count(self, height: int, width: int) -> int:
        """Return how many states a picture has; UserError where the encoder takes none of this size."""
        self.vision.eval()
        try:
            with torch.no_grad():
                return int(self.vision(pixel_values=torch.zeros(1, 3, height, width)).last_hidden_state.shape[1])
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"the encoder takes no images of {height} x {width} pixels: {reason}") from None

    @property
    def max_context(self) -> int:
        return self._context

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        dtype = next(self.vision.parameters()).dtype
        states = self.vision(pixel_values=self.normal(pixels_BXYC, dtype)).last_hidden_state
        if self.project is not None:
            states = self.project(states)
        return states, all_real(states)
