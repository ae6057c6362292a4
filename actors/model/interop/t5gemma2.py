"""T5Gemma 2: a Gemma 3 encoder over SigLIP tokens and text, and a decoder with merged attention.

Follows the library where it and its configuration differ: `attn_logit_softcapping` is read there, but no attention
applies it.
"""

from collections.abc import Mapping
from typing import Any

from actors.model.interop.family import Family, Tensors, activation, head_is_tied
from actors.model.interop.image_plans import ProcessorPlan, square_plan
from actors.model.interop.weight_names import NameMap, fused
from conf.decoder import DecoderConfig, MergedAttention, Rope
from conf.errors import UserError
from conf.text_rules import ImageTokens, TextRules

OUTPUT_TOKENS = 512  # far fewer than it has positions; this bounds the caches
_STACK, _HEAD, _SLIDING, _FULL = "model.decoder.", "lm_head.out_proj.weight", "sliding_attention", "full_attention"
_EMBEDDING, _READ = f"{_STACK}embed_tokens.weight", "model.encoder.text_model.embed_tokens.weight"


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    text = hf.decoder
    if unknown := sorted(set(text.layer_types) - {_SLIDING, _FULL}):
        raise UserError(f"decoder layers of the type {unknown[0]!r} are not supported")
    if not head_is_tied(theirs, _READ, _EMBEDDING):
        raise UserError("the source's encoder and decoder embed tokens differently, which is not supported")
    return DecoderConfig(
        num_layers=text.num_hidden_layers,
        d_model=text.hidden_size,
        num_heads=text.num_attention_heads,
        d_head=text.head_dim,
        d_ff=text.intermediate_size,
        d_cross=hf.encoder.text_config.hidden_size,
        vocab_size=text.vocab_size,
        norm="unit_offset_rms",
        norm_eps=text.rms_norm_eps,
        attn_scale=text.query_pre_attn_scalar**-0.5,
        attn_bias=text.attention_bias,
        ffn=activation(text.hidden_activation, gated=True),
        merged=MergedAttention(
            num_kv_heads=text.num_key_value_heads,
            sliding=tuple(kind == _SLIDING for kind in text.layer_types),
            window=text.sliding_window or text.max_position_embeddings,
            full_rope=_rope(text, _FULL),
            sliding_rope=_rope(text, _SLIDING),
            image_end_id=hf.eoi_token_index,
        ),
        positions="none",
        max_positions=OUTPUT_TOKENS,
        embed_scale=text.hidden_size**0.5,
        head_tied=head_is_tied(theirs, _HEAD, _EMBEDDING),
        logit_softcap=text.final_logit_softcapping,
    )


def _rope(text: Any, kind: str) -> Rope:
    rope = text.rope_parameters[kind]
    if rope["rope_type"] not in ("default", "linear"):
        raise UserError(
            f"rotary positions of the type {rope['rope_type']!r} are not supported, only default and linear"
        )
    return Rope(theta=rope["rope_theta"], factor=rope["factor"] if rope["rope_type"] == "linear" else 1.0)


def decoder_names(hf: Any, config: DecoderConfig) -> NameMap:
    names: NameMap = {
        "decoder.embedding.weight": (_EMBEDDING,),
        "decoder.image_end_embedding": (f"{_STACK}embed_tokens.eoi_embedding",),
        "decoder.final_norm.weight": (f"{_STACK}norm.weight",),
    }
    kinds = ("weight", "bias") if config.attn_bias else ("weight",)
    for i in range(config.num_layers):
        ours, theirs = f"decoder.layers.{i}.", f"{_STACK}layers.{i}."
        for name, parts in {"query": ("q_proj",), "kv": ("k_proj", "v_proj"), "out": ("o_proj",)}.items():
            names |= fused(f"{ours}{name}", f"{theirs}self_attn.", parts, kinds)
        for name, parts in {
            "query_norm": ("self_attn.q_norm",),
            "key_norm": ("self_attn.k_norm",),
            "attn_norm": ("pre_self_attn_layernorm",),
            "attn_out_norm": ("post_self_attn_layernorm",),
            "ffn.expand": ("mlp.gate_proj", "mlp.up_proj"),
            "ffn.contract": ("mlp.down_proj",),
            "ffn_norm": ("pre_feedforward_layernorm",),
            "ffn_out_norm": ("post_feedforward_layernorm",),
        }.items():
            names |= fused(f"{ours}{name}", theirs, parts)
    if not config.head_tied:
        names["decoder.head.weight"] = (_HEAD,)
    return names


def image_plan(hf: Any, processor: Mapping[str, Any]) -> ProcessorPlan:
    published = {"image_processor_type": "Gemma3ImageProcessor"}
    return square_plan(processor, published, int(hf.encoder.vision_config.image_size))


def text_rules(hf: Any) -> TextRules:
    return TextRules(
        leading_space=False,
        image=ImageTokens(
            begin_id=hf.encoder.boi_token_index, image_id=hf.image_token_index, end_id=hf.eoi_token_index
        ),
    )


FAMILY = Family(
    name="t5gemma2",
    model_class="T5Gemma2ForConditionalGeneration",
    decoder=decoder,
    decoder_names=decoder_names,
    encoder_prefixes=(("model.encoder.", "stack."),),
    copies=(_HEAD, _EMBEDDING, f"{_STACK}embed_tokens.eoi_embedding"),
    text_config=lambda hf: hf.decoder,
    text_rules=text_rules,
    image_plan=image_plan,
)
