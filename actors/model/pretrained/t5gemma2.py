"""T5Gemma 2: SigLIP tokens among those of the prompt, in one bidirectional Gemma 3 encoder."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from actors.model.pretrained.encoder import PretrainedEncoder
from conf.model import ModelConfig


class T5Gemma2Encoder(PretrainedEncoder):
    """A prompt's one image token stands for all of its image; a prompt without one is read without the image."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        from transformers.models.t5gemma2 import modeling_t5gemma2
        from transformers.models.t5gemma2.configuration_t5gemma2 import T5Gemma2Config

        config = T5Gemma2Config.from_dict(model.encoder.hf_config)
        self.stack = modeling_t5gemma2.T5Gemma2Encoder(config.encoder, config.eoi_token_index)
        self.image_id = config.image_token_index
        self.num_image_tokens = self.stack.multi_modal_projector.tokens_per_side**2

    @property
    def max_context(self) -> int:
        return self.num_image_tokens + self.max_prompt_tokens - 1

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        rows = [self._expanded(ids[mask]) for ids, mask in zip(prompt_ids_BQ, prompt_mask_BQ, strict=True)]
        ids_BC = pad_sequence(rows, batch_first=True)
        mask_BC = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
        sees_B = ((prompt_ids_BQ == self.image_id) & prompt_mask_BQ).any(1)
        dtype = self.stack.text_model.embed_tokens.weight.dtype
        pixels = self.normal(pixels_BXYC[sees_B], dtype) if bool(sees_B.any()) else None
        return self.stack(
            input_ids=ids_BC, attention_mask=mask_BC.long(), pixel_values=pixels
        ).last_hidden_state, mask_BC

    def _expanded(self, ids_Q: Tensor) -> Tensor:
        """Return the prompt with as many image tokens as an image has."""
        return ids_Q.repeat_interleave(torch.where(ids_Q == self.image_id, self.num_image_tokens, 1))
