"""BART and mBART, alone or as the language model of another class: post-norm or pre-norm by one setting."""

from typing import Any

from actors.model.interop.family import Family, Tensors, activation, head_is_tied
from actors.model.interop.image_plans import no_image
from actors.model.interop.weight_names import NameMap, fused
from conf.decoder import DecoderConfig
from conf.text_rules import TextRules

OFFSET = 2  # rows of the position table before position 0
_BOTH = ("weight", "bias")


def bart_decoder(
    hf: Any, *, pre_norm: bool, tied: bool, bias: bool, d_cross: int | None = None, embed_norm: bool = True
) -> DecoderConfig:
    """`hf` is a BART-like text configuration."""
    return DecoderConfig(
        num_layers=hf.decoder_layers,
        d_model=hf.d_model,
        num_heads=hf.decoder_attention_heads,
        d_head=hf.d_model // hf.decoder_attention_heads,
        d_ff=hf.decoder_ffn_dim,
        d_cross=d_cross or hf.d_model,
        vocab_size=hf.vocab_size,
        norm="layer",
        norm_eps=1e-5,
        pre_norm=pre_norm,
        final_norm=pre_norm,
        attn_bias=True,
        ffn_bias=True,
        ffn=activation(hf.activation_function),
        positions="learned",
        max_positions=hf.max_position_embeddings,
        position_offset=OFFSET,
        embed_scale=hf.d_model**0.5 if hf.scale_embedding else 1.0,
        embed_norm=embed_norm,
        head_tied=tied,
        head_bias=bias,
    )


def bart_names(config: DecoderConfig, *, stack: str, embedding: str, head: str, bias: str | None) -> NameMap:
    """`stack` is the prefix of the decoder layers, e.g. `model.decoder.`."""
    names: NameMap = {"decoder.embedding.weight": (embedding,)}
    if config.positions == "learned":
        names["decoder.position_table.weight"] = (f"{stack}embed_positions.weight",)
    if config.embed_norm:
        names |= fused("decoder.embed_norm", stack, ["layernorm_embedding"], _BOTH)
    if config.final_norm:
        names |= fused("decoder.final_norm", stack, ["layer_norm"], _BOTH)
    for i in range(config.num_layers):
        prefix = f"{stack}layers.{i}."
        for name, parts in {
            "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "self_out": ("self_attn.out_proj",),
            "self_norm": ("self_attn_layer_norm",),
            "query": ("encoder_attn.q_proj",),
            "cross_kv_proj": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
            "cross_out": ("encoder_attn.out_proj",),
            "cross_norm": ("encoder_attn_layer_norm",),
            "ffn.expand": ("fc1",),
            "ffn.contract": ("fc2",),
            "ffn_norm": ("final_layer_norm",),
        }.items():
            names |= fused(f"decoder.layers.{i}.{name}", prefix, parts, _BOTH)
    if not config.head_tied:
        names["decoder.head.weight"] = (head,)
    if bias is not None:
        names["decoder.head.bias"] = (bias,)
    return names


def _family(pre_norm: bool) -> Family:
    shared, head, bias = "model.shared.weight", "lm_head.weight", "final_logits_bias"

    def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
        return bart_decoder(hf, pre_norm=pre_norm, tied=head_is_tied(theirs, head, shared), bias=bias in theirs)

    def decoder_names(hf: Any, config: DecoderConfig) -> NameMap:
        return bart_names(
            config, stack="model.decoder.", embedding=shared, head=head, bias=bias if config.head_bias else None
        )

    return Family(
        name="bart",
        model_class="MBartForConditionalGeneration" if pre_norm else "BartForConditionalGeneration",
        decoder=decoder,
        decoder_names=decoder_names,
        encoder_prefixes=(("model.encoder.", "stack."),),
        copies=("model.decoder.embed_tokens.weight", head),
        text_config=lambda hf: hf,
        text_rules=lambda hf: TextRules(
            leading_space=False, prefix_ids=(hf.bos_token_id,), suffix_ids=(hf.eos_token_id,)
        ),
        image_plan=no_image,
        reads_images=False,
        most_prompt_tokens=lambda hf, image_size: hf.max_position_embeddings,
    )


BART, MBART = _family(pre_norm=False), _family(pre_norm=True)
