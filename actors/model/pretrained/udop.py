"""UDOP: words with their places and the image's patches in one T5 encoder."""

import torch
from torch import Tensor
from torch.nn import functional as F

from actors.model.pretrained.encoder import PretrainedEncoder
from actors.model.word_boxes import unpack
from conf.model import ModelConfig


class UdopEncoder(PretrainedEncoder):
    """Question tokens have no box; patches under a word's centre are merged into it by the source's own code.

    That code reads boxes between 0 and 1, and the source's processor gives thousandths: every corner but 0 is the last
    one then. What `generate` says comes from these, and so it does here.

    There, patches follow the padded text, so their distance to it depends on the batch. Here every prompt length runs
    by itself, so a request's states are those it has alone.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        from transformers.models.udop.configuration_udop import UdopConfig
        from transformers.models.udop.modeling_udop import UdopStack

        config = UdopConfig.from_dict(model.encoder.hf_config)
        config.is_decoder, config.use_cache = False, False
        self.stack = UdopStack(config)
        self.vocab_size = config.vocab_size
        self.num_patches = (config.image_size // config.patch_size) ** 2

    @property
    def max_context(self) -> int:
        return self.max_prompt_tokens + self.num_patches

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        longest = prompt_ids_BQ.shape[1]
        lengths_B = prompt_mask_BQ.sum(1)
        width = longest + self.num_patches
        states = self.stack.embed_tokens.weight.new_zeros(len(lengths_B), width, self.stack.config.d_model)
        mask = torch.zeros(len(lengths_B), width, dtype=torch.bool, device=states.device)
        for length in sorted(set(lengths_B.tolist())):
            rows = (lengths_B == length).nonzero()[:, 0]
            part, real = self._encode(pixels_BXYC[rows], prompt_ids_BQ[rows, :length])
            states[rows] = F.pad(part, (0, 0, 0, longest - length)).to(states.dtype)
            mask[rows] = F.pad(real, (0, longest - length))
        return states, mask

    def _encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts of one length -> states [B, Q + patches, D] and mask."""
        tokens, boxes, _ = unpack(prompt_ids_BQ, self.vocab_size)
        output = self.stack(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            bbox=boxes,
            pixel_values=self.normal(pixels_BXYC, self.stack.embed_tokens.weight.dtype),
        )
        return output.last_hidden_state, output.attention_mask.bool()
