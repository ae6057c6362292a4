"""Decoders of BERT's kind, as BLIP, BERT, RoBERTa and XLM-R have them: post-norm, and a transform before the head."""

from typing import Any

from actors.model.interop.family import activation
from actors.model.interop.weight_names import NameMap, fused
from conf.decoder import DecoderConfig

_BOTH = ("weight", "bias")


def bert_decoder(
    hf: Any, *, d_cross: int, tied: bool, token_types: int, head_activation: str, position_offset: int = 0
) -> DecoderConfig:
    """`hf` is a BERT-like text configuration."""
    return DecoderConfig(
        num_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        num_heads=hf.num_attention_heads,
        d_head=hf.hidden_size // hf.num_attention_heads,
        d_ff=hf.intermediate_size,
        d_cross=d_cross,
        vocab_size=hf.vocab_size,
        norm="layer",
        norm_eps=hf.layer_norm_eps,
        pre_norm=False,
        final_norm=False,
        attn_bias=True,
        ffn_bias=True,
        ffn=activation(hf.hidden_act),
        positions="learned",
        max_positions=hf.max_position_embeddings - position_offset,
        position_offset=position_offset,
        embed_norm=True,
        token_types=token_types,
        head_transform=activation(head_activation),
        head_tied=tied,
        head_bias=True,
    )


def bert_names(config: DecoderConfig, *, stack: str, transform: tuple[str, str], head: str) -> NameMap:
    """`stack` is the prefix of embeddings and layers, `transform` the head's dense layer and its norm."""
    embeddings = f"{stack}embeddings."
    names: NameMap = {
        "decoder.embedding.weight": (f"{embeddings}word_embeddings.weight",),
        "decoder.position_table.weight": (f"{embeddings}position_embeddings.weight",),
        "decoder.head.bias": (f"{head}.bias",),
    }
    if config.token_types:
        names["decoder.token_types.weight"] = (f"{embeddings}token_type_embeddings.weight",)
    if not config.head_tied:
        names["decoder.head.weight"] = (f"{head}.weight",)
    names |= fused("decoder.embed_norm", embeddings, ["LayerNorm"], _BOTH)
    names |= fused("decoder.head_transform.dense", "", transform[:1], _BOTH)
    names |= fused("decoder.head_transform.norm", "", transform[1:], _BOTH)
    for i in range(config.num_layers):
        prefix = f"{stack}encoder.layer.{i}."
        for name, parts in {
            "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
            "self_out": ("attention.output.dense",),
            "self_norm": ("attention.output.LayerNorm",),
            "query": ("crossattention.self.query",),
            "cross_kv_proj": ("crossattention.self.key", "crossattention.self.value"),
            "cross_out": ("crossattention.output.dense",),
            "cross_norm": ("crossattention.output.LayerNorm",),
            "ffn.expand": ("intermediate.dense",),
            "ffn.contract": ("output.dense",),
            "ffn_norm": ("output.LayerNorm",),
        }.items():
            names |= fused(f"decoder.layers.{i}.{name}", prefix, parts, _BOTH)
    return names
