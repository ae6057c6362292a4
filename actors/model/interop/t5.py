"""T5, T5 v1.1, Flan-T5, mT5 and UMT5: text to text (Raffel et al. 2020; Shazeer 2020 for the gated feed-forward)."""

from dataclasses import replace
from typing import Any

from actors.model.interop.family import Family, Tensors, activation, head_is_tied
from actors.model.interop.image_plans import no_image
from actors.model.interop.weight_names import NameMap
from conf.decoder import DecoderConfig, RelativeBias
from conf.text_rules import TextRules

OUTPUT_TOKENS = 512  # T5 has no longest output; this bounds the caches


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    tied = head_is_tied(theirs, "lm_head.weight", "shared.weight")
    return t5_decoder(hf, tied=tied, scaled=hf.scale_decoder_outputs)


def mt5_decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    """The head is its own in the published weights, and its input is never scaled."""
    return t5_decoder(hf, tied=head_is_tied(theirs, "lm_head.weight", "shared.weight"), scaled=False)


def umt5_decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    """Every layer has a table of distances; the library scales the head's input whatever config.json says."""
    config = t5_decoder(hf, tied=head_is_tied(theirs, "lm_head.weight", "shared.weight"), scaled=True)
    return config.model_copy(update={"relative_bias_per_layer": True})


def t5_decoder(hf: Any, *, tied: bool, scaled: bool) -> DecoderConfig:
    """Scaling of the head's input and tying of its weights are two settings: v5 configurations decouple them."""
    return DecoderConfig(
        num_layers=hf.num_decoder_layers,
        d_model=hf.d_model,
        num_heads=hf.num_heads,
        d_head=hf.d_kv,
        d_ff=hf.d_ff,
        d_cross=hf.d_model,
        vocab_size=hf.vocab_size,
        norm="rms",
        norm_eps=hf.layer_norm_epsilon,
        attn_scale=1.0,
        ffn=activation(hf.dense_act_fn, hf.is_gated_act),
        relative_bias=RelativeBias(
            num_buckets=hf.relative_attention_num_buckets, max_distance=hf.relative_attention_max_distance
        ),
        positions="none",
        max_positions=OUTPUT_TOKENS,
        head_tied=tied,
        head_scale=hf.d_model**-0.5 if scaled else 1.0,
    )


def decoder_names(hf: Any, config: DecoderConfig) -> NameMap:
    names: NameMap = {
        "decoder.embedding.weight": ("shared.weight",),
        "decoder.final_norm.weight": ("decoder.final_layer_norm.weight",),
    }
    bias = "layer.0.SelfAttention.relative_attention_bias.weight"
    if config.relative_bias_per_layer:
        for i in range(config.num_layers):
            names[f"decoder.layer_relative_biases.{i}.table.weight"] = (f"decoder.block.{i}.{bias}",)
    else:
        names["decoder.relative_bias.table.weight"] = (f"decoder.block.0.{bias}",)
    expand = ("wi_0", "wi_1") if config.ffn.startswith("gated") else ("wi",)
    for i in range(config.num_layers):
        ours, theirs = f"decoder.layers.{i}.", f"decoder.block.{i}.layer."
        attention, cross, dense = (
            f"{theirs}0.SelfAttention.",
            f"{theirs}1.EncDecAttention.",
            f"{theirs}2.DenseReluDense.",
        )
        for name, parts in {
            "qkv": (attention + "q", attention + "k", attention + "v"),
            "self_out": (attention + "o",),
            "self_norm": (theirs + "0.layer_norm",),
            "query": (cross + "q",),
            "cross_kv_proj": (cross + "k", cross + "v"),
            "cross_out": (cross + "o",),
            "cross_norm": (theirs + "1.layer_norm",),
            "ffn.expand": tuple(dense + part for part in expand),
            "ffn.contract": (dense + "wo",),
            "ffn_norm": (theirs + "2.layer_norm",),
        }.items():
            names[f"{ours}{name}.weight"] = tuple(f"{part}.weight" for part in parts)
    if not config.head_tied:
        names["decoder.head.weight"] = ("lm_head.weight",)
    return names


FAMILY = Family(
    name="t5",
    model_class="T5ForConditionalGeneration",
    decoder=decoder,
    decoder_names=decoder_names,
    encoder_prefixes=(("encoder.", "stack."),),
    copies=("decoder.embed_tokens.weight", "lm_head.weight"),
    text_config=lambda hf: hf,
    text_rules=lambda hf: TextRules(leading_space=False, suffix_ids=(hf.eos_token_id,)),
    image_plan=no_image,
    reads_images=False,
)
MT5 = replace(FAMILY, model_class="MT5ForConditionalGeneration", decoder=mt5_decoder)
UMT5 = replace(FAMILY, model_class="UMT5ForConditionalGeneration", decoder=umt5_decoder)
