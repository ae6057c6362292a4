"""BLIP (Li et al. 2022): the image alone for captions; for answers the question, read while looking at the image.

The decoder of answers reads the question's states and no image. In the source's `generate` it reads those of the
padding too, so that an answer there depends on the other questions of its batch; here a question always gets what it
gets there alone.
"""

from typing import Any

from torch import Tensor

from actors.model.pretrained.encoder import PretrainedEncoder, all_real
from conf.model import ModelConfig


def _hf_config(model: ModelConfig) -> Any:
    from transformers.models.blip.configuration_blip import BlipConfig

    return BlipConfig.from_dict(model.encoder.hf_config)


class BlipVisionEncoder(PretrainedEncoder):
    """Pixels -> states of patches, a class token first."""

    reads_prompts = False

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        from transformers.models.blip.modeling_blip import BlipVisionModel

        self.vision = BlipVisionModel(_hf_config(model).vision_config)

    @property
    def max_context(self) -> int:
        return int(self.vision.embeddings.num_positions)

    def look(self, pixels_BXYC: Tensor) -> Tensor:
        """uint8 pixels -> states of patches [B, P, D]."""
        pixels = self.normal(pixels_BXYC, next(self.vision.parameters()).dtype)
        states: Tensor = self.vision(pixel_values=pixels).last_hidden_state
        return states

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        states = self.look(pixels_BXYC)
        return states, all_real(states)


class BlipQuestionEncoder(BlipVisionEncoder):
    """Pixels and questions -> states of the questions."""

    reads_prompts = True

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        self.questions = BlipTextModel(_hf_config(model).text_config, add_pooling_layer=False)

    @property
    def max_context(self) -> int:
        return self.max_prompt_tokens

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        states = self.questions(
            input_ids=prompt_ids_BQ, attention_mask=prompt_mask_BQ.long(), encoder_hidden_states=self.look(pixels_BXYC)
        ).last_hidden_state
        return states, prompt_mask_BQ


def blip_encoder(model: ModelConfig) -> BlipVisionEncoder:
    """Return the encoder that goes with the class the weights are of."""
    answers = model.encoder.hf_config["architectures"][0] == "BlipForQuestionAnswering"
    return (BlipQuestionEncoder if answers else BlipVisionEncoder)(model)
