"""BLIP-2 and InstructBLIP: a vision tower, the Q-Former's queries over it, then T5 over queries and prompt."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actors.model.pretrained.encoder import PretrainedEncoder, all_real
from actors.model.pretrained.text_encoder import t5_stack
from conf.model import ModelConfig


class Blip2Encoder(PretrainedEncoder):
    """The queries look at the image alone."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        config, vision_class, qformer_class = _classes(model.encoder.hf_config)
        self.vision = vision_class(config.vision_config)
        self.queries = nn.Parameter(torch.empty(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = qformer_class(config.qformer_config)
        self.project = nn.Linear(config.qformer_config.hidden_size, config.text_config.d_model)
        self.stack = t5_stack(config.text_config)
        self.vocab_size, self.instructs = model.decoder.vocab_size, model.text.qformer

    @property
    def max_context(self) -> int:
        return self.queries.shape[1] + self.max_prompt_tokens

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        image = self.vision(pixel_values=self.normal(pixels_BXYC, self.queries.dtype)).last_hidden_state
        queries = self.queries.expand(len(image), -1, -1)
        if self.instructs:
            by_qformer = prompt_mask_BQ & (prompt_ids_BQ >= self.vocab_size)
            ids, mask = _chosen(prompt_ids_BQ - self.vocab_size, by_qformer)
            prompt_ids_BQ, prompt_mask_BQ = _chosen(prompt_ids_BQ, prompt_mask_BQ & ~by_qformer)
            read = self.qformer(
                input_ids=ids, attention_mask=F.pad(mask.long(), (queries.shape[1], 0), value=1), query_embeds=queries,
                encoder_hidden_states=image,
            )  # fmt: skip
        else:
            read = self.qformer(query_embeds=queries, encoder_hidden_states=image)
        seen = self.project(read.last_hidden_state[:, : queries.shape[1]])
        mask = torch.cat([all_real(seen), prompt_mask_BQ], dim=1)
        inputs = torch.cat([seen, self.stack.embed_tokens(prompt_ids_BQ)], dim=1)
        return self.stack(inputs_embeds=inputs, attention_mask=mask.long()).last_hidden_state, mask


def _chosen(ids_BQ: Tensor, mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
    """The ids where the mask is set, moved to the left, and which of the places hold one; ids elsewhere are 0."""
    order = (~mask_BQ).long().argsort(dim=1, stable=True)[:, : int(mask_BQ.sum(1).max())]
    mask = mask_BQ.gather(1, order)
    return ids_BQ.gather(1, order).where(mask, 0), mask


def _classes(raw: dict[str, object]) -> tuple[object, type[nn.Module], type[nn.Module]]:
    """Return the library's configuration, vision tower and Q-Former."""
    if raw["model_type"] == "blip-2":
        from transformers.models.blip_2.configuration_blip_2 import Blip2Config
        from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel, Blip2VisionModel

        return Blip2Config.from_dict(raw), Blip2VisionModel, Blip2QFormerModel
    from transformers.models.instructblip.configuration_instructblip import InstructBlipConfig
    from transformers.models.instructblip.modeling_instructblip import (
        InstructBlipQFormerModel,
        InstructBlipVisionModel,
    )

    return InstructBlipConfig.from_dict(raw), InstructBlipVisionModel, InstructBlipQFormerModel
