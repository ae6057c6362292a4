"""The shipped checkpoint's decoder as the `T5ForConditionalGeneration` of `transformers`, with the same weights.

The library has no class that reads scenes, but its T5 decoder is ours layer by layer, apart from what is done here:
learned positions are added to the tokens, no relative bias is, and the factor of the scores, which T5 has none of, is
part of the query weights. Encoder states are given to `generate` as `encoder_outputs`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from actors.model.blocks import DecoderLayer
from actors.model.decoder import MultiExitDecoder
from actors.model.model import MultiExitModel


class PositionedT5(T5ForConditionalGeneration):
    """T5 whose decoder knows its positions from a table."""

    def __init__(self, config: T5Config, num_positions: int) -> None:
        super().__init__(config)
        self.positions = nn.Embedding(num_positions, config.d_model)

    def forward(
        self, decoder_input_ids: Tensor, encoder_outputs: Any, attention_mask: Tensor, past_key_values: Any = None,
        **others: Any,
    ) -> Any:  # fmt: skip
        before = 0 if past_key_values is None else past_key_values.get_seq_length()
        position_T = torch.arange(before, before + decoder_input_ids.shape[1], device=decoder_input_ids.device)
        embedded = self.shared(decoder_input_ids) + self.positions(position_T)
        return super().forward(
            encoder_outputs=encoder_outputs, attention_mask=attention_mask, past_key_values=past_key_values,
            decoder_inputs_embeds=embedded, **others,
        )  # fmt: skip


@torch.no_grad()
def positioned_t5(model: MultiExitModel) -> PositionedT5:
    """Return the library's model with the weights of the given one's full depth; what T5 has no place for asserts."""
    ours, decoder = model.config.decoder, model.decoder
    assert (ours.norm, ours.pre_norm, ours.ffn, ours.positions) == ("rms", True, "relu", "learned")
    assert not any((ours.attn_bias, ours.ffn_bias, ours.head_bias, ours.embed_norm))
    assert decoder.position_table is not None
    config = T5Config(
        vocab_size=ours.vocab_size, d_model=ours.d_model, d_kv=ours.d_head, d_ff=ours.d_ff, num_heads=ours.num_heads,
        num_layers=ours.num_layers, layer_norm_epsilon=ours.norm_eps, feed_forward_proj="relu",
        dropout_rate=0.0, tie_word_embeddings=False, pad_token_id=model.config.pad_id,
        decoder_start_token_id=model.config.start_id,
        eos_token_id=model.config.eos_id if model.config.eos_id >= 0 else None,
    )  # fmt: skip
    theirs = PositionedT5(config, ours.max_positions)
    theirs.encoder.block = nn.ModuleList()  # never called
    theirs.decoder.block[0].layer[0].SelfAttention.has_relative_attention_bias = False
    theirs.load_state_dict(_weights(decoder, theirs.state_dict()), strict=True)
    return theirs.to(decoder.embedding.weight.dtype).eval().requires_grad_(False)


def _weights(decoder: MultiExitDecoder, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return their state by name; what decoding never reads, the encoder's, stays theirs."""
    config = decoder.config
    assert decoder.position_table is not None
    assert decoder.final_norm is not None
    embedding = decoder.embedding.weight * config.embed_scale
    found = {
        **theirs,
        "shared.weight": embedding,
        "encoder.embed_tokens.weight": embedding,
        "decoder.embed_tokens.weight": embedding,
        "positions.weight": decoder.position_table.weight[config.position_offset :][: config.max_positions],
        "decoder.final_layer_norm.weight": decoder.final_norm.weight,
        "lm_head.weight": decoder.head.weight * config.head_scale,
    }
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        names = iter(("SelfAttention", "EncDecAttention"))
        for place, (queries, keys_values, out, norm) in enumerate(
            (
                (
                    layer.qkv.weight[: config.d_inner],
                    layer.qkv.weight[config.d_inner :],
                    layer.self_out,
                    layer.self_norm,
                ),
                (layer.query.weight, layer.cross_kv_proj.weight, layer.cross_out, layer.cross_norm),
            )
        ):
            prefix, (keys, values) = f"decoder.block.{index}.layer.{place}", keys_values.chunk(2)
            attention = f"{prefix}.{next(names)}"
            found |= {
                f"{attention}.q.weight": queries * layer.scale,
                f"{attention}.k.weight": keys,
                f"{attention}.v.weight": values,
                f"{attention}.o.weight": out.weight,
                f"{prefix}.layer_norm.weight": norm.weight,
            }
        prefix = f"decoder.block.{index}.layer.2"
        found |= {
            f"{prefix}.DenseReluDense.wi.weight": layer.ffn.expand.weight,
            f"{prefix}.DenseReluDense.wo.weight": layer.ffn.contract.weight,
            f"{prefix}.layer_norm.weight": layer.ffn_norm.weight,
        }
    return found
