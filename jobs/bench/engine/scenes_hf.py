"""Our weights behind `transformers` generate: its loop, its caches, its stopping, with our layers' arithmetic.

For checkpoints that have no class of their own in the library. The decoder is written as the library writes its own:
keys and values grow in an `EncoderDecoderCache`, and those of the encoder states are projected once per batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.cache_utils import EncoderDecoderCache
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.modeling_utils import PreTrainedModel

from actors.model.blocks import DecoderLayer
from actors.model.model import MultiExitModel


class WrappedConfig(PretrainedConfig):
    """What generate needs to know."""

    model_type = "deed_wrapped"

    def __init__(self, num_layers: int = 1, **fields: Any) -> None:
        self.num_hidden_layers = num_layers
        super().__init__(is_encoder_decoder=True, **fields)


class WrappedModel(PreTrainedModel, GenerationMixin):
    """The decoder of a multi-exit model at full depth; encoder states are given as `encoder_outputs`."""

    config_class = WrappedConfig
    main_input_name = "input_ids"

    def __init__(self, model: MultiExitModel) -> None:
        ours = model.config
        super().__init__(
            WrappedConfig(
                ours.decoder.num_layers, pad_token_id=ours.pad_id, decoder_start_token_id=ours.start_id,
                bos_token_id=ours.start_id, eos_token_id=ours.eos_id if ours.eos_id >= 0 else None,
            )
        )  # fmt: skip
        self.inner = model

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.inner.encoder

    def forward(
        self, decoder_input_ids: Tensor, encoder_outputs: Any, attention_mask: Tensor,
        past_key_values: EncoderDecoderCache | None = None, **unused: Any,
    ) -> Seq2SeqLMOutput:  # fmt: skip
        decoder, states_BCD = self.inner.decoder, encoder_outputs[0]
        before = 0 if past_key_values is None else past_key_values.get_seq_length()
        positions_T = torch.arange(before, before + decoder_input_ids.shape[1], device=states_BCD.device)
        keys_T = torch.arange(before + decoder_input_ids.shape[1], device=states_BCD.device)
        h = decoder.embed(decoder_input_ids, positions_T.expand_as(decoder_input_ids))
        bias = decoder.self_bias(positions_T[None], keys_T[None])
        visible = keys_T[None, None, None, :] <= positions_T[None, None, :, None]
        self_mask = visible if bias is None else bias.masked_fill(~visible, float("-inf"))
        if bias is None and len(positions_T) == 1:
            self_mask = None  # one query sees all there is
        cross_mask = attention_mask.bool()[:, None, None, :]
        for index, layer in enumerate(decoder.layers):
            assert isinstance(layer, DecoderLayer)
            q, k, v = (x.transpose(1, 2) for x in layer.self_qkv(h))
            if past_key_values is not None:
                k, v = past_key_values.self_attention_cache.update(k, v, index)
            h = layer.after_self(h, _attend(q, k, v, self_mask, layer.scale))
            k, v = self._cross_kv(layer, index, states_BCD, past_key_values)
            h = layer.after_cross(h, _attend(layer.cross_q(h).transpose(1, 2), k, v, cross_mask, layer.scale))
        logits = decoder.exit_logits(decoder.config.num_layers, h[:, -1:])
        return Seq2SeqLMOutput(logits=logits, past_key_values=past_key_values)

    @staticmethod
    def _cross_kv(
        layer: DecoderLayer, index: int, states_BCD: Tensor, past: EncoderDecoderCache | None
    ) -> tuple[Tensor, Tensor]:
        if past is not None and past.is_updated.get(index):
            kept = past.cross_attention_cache.layers[index]
            return kept.keys, kept.values
        k, v = (x.transpose(1, 2) for x in layer.cross_kv(states_BCD))
        if past is not None:
            k, v = past.cross_attention_cache.update(k, v, index)
            past.is_updated[index] = True
        return k, v


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return context.transpose(1, 2).flatten(2)
