"""Pix2Struct, MatCha, DePlot: image patches to text (Lee et al. 2023). The decoder is T5 v1.1 under other names."""

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from actors.model.interop.family import Family, OutputRules, Tensors, activation, head_is_tied
from actors.model.interop.image_plans import ProcessorPlan, processor_plan
from actors.model.interop.t5 import OUTPUT_TOKENS
from actors.model.interop.weight_names import NameMap
from conf.decoder import DecoderConfig, RelativeBias
from conf.errors import UserError
from conf.text_rules import TextRules

DEPLOT_QUESTION = "Generate underlying data table of the figure below:"
_EMBEDDING = "decoder.embed_tokens.weight"


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    text = hf.text_config
    return DecoderConfig(
        num_layers=text.num_layers,
        d_model=text.hidden_size,
        num_heads=text.num_heads,
        d_head=text.hidden_size // text.num_heads,
        d_ff=text.d_ff,
        d_cross=hf.vision_config.hidden_size,
        vocab_size=text.vocab_size,
        norm="rms",
        norm_eps=text.layer_norm_epsilon,
        attn_scale=1.0,
        ffn=activation(text.dense_act_fn, gated=True),
        relative_bias=RelativeBias(
            num_buckets=text.relative_attention_num_buckets, max_distance=text.relative_attention_max_distance
        ),
        positions="none",
        max_positions=OUTPUT_TOKENS,
        head_tied=head_is_tied(theirs, "decoder.lm_head.weight", _EMBEDDING),
    )


def decoder_names(hf: Any, config: DecoderConfig) -> NameMap:
    names: NameMap = {
        "decoder.embedding.weight": (_EMBEDDING,),
        "decoder.relative_bias.table.weight": (
            "decoder.layer.0.self_attention.attention.relative_attention_bias.weight",
        ),
        "decoder.final_norm.weight": ("decoder.final_layer_norm.weight",),
    }
    for i in range(config.num_layers):
        theirs = f"decoder.layer.{i}."
        attention, cross = f"{theirs}self_attention.attention.", f"{theirs}encoder_decoder_attention.attention."
        dense = f"{theirs}mlp.DenseReluDense."
        for name, parts in {
            "qkv": (attention + "query", attention + "key", attention + "value"),
            "self_out": (attention + "output",),
            "self_norm": (theirs + "self_attention.layer_norm",),
            "query": (cross + "query",),
            "cross_kv_proj": (cross + "key", cross + "value"),
            "cross_out": (cross + "output",),
            "cross_norm": (theirs + "encoder_decoder_attention.layer_norm",),
            "ffn.expand": (dense + "wi_0", dense + "wi_1"),
            "ffn.contract": (dense + "wo",),
            "ffn_norm": (theirs + "mlp.layer_norm",),
        }.items():
            names[f"decoder.layers.{i}.{name}.weight"] = tuple(f"{part}.weight" for part in parts)
    if not config.head_tied:
        names["decoder.head.weight"] = ("decoder.lm_head.weight",)
    return names


def image_plan(hf: Any, processor: Mapping[str, Any]) -> ProcessorPlan:
    """Return the processor's grid; UserError where the encoder cannot read it."""
    vision = hf.vision_config
    side = isqrt(vision.patch_embed_hidden_size // 3)
    patch = {"patch_size": {"height": side, "width": side}}  # where the processor's settings do not say it
    published = {"image_processor_type": "Pix2StructImageProcessor", "is_vqa": hf.is_vqa, **patch}
    read = processor_plan({**patch, **processor} if processor else {}, published)
    grid = read.plan.patches
    if grid is None or grid.patch != side:
        raise UserError(f"the encoder reads patches of {side} pixels a side, its image processor makes others")
    if grid.max_patches >= vision.seq_len:
        raise UserError(
            f"the encoder has places for {vision.seq_len - 1} rows or columns of patches, its image processor makes up "
            f"to {grid.max_patches}"
        )
    return read


def output_rules(path: Path, hf: Any, tokenizer: Tokenizer | None, start_id: int) -> OutputRules:
    """DePlot was trained on one question; nothing but its name tells it from a MatCha."""
    names = (path.resolve().name, str(getattr(hf, "_name_or_path", "")))
    if not any("deplot" in name.lower() for name in names):
        return OutputRules()
    return OutputRules(notes=(f"DePlot knows one question: source.prompt.template={DEPLOT_QUESTION!r}",))


FAMILY = Family(
    name="t5",
    model_class="Pix2StructForConditionalGeneration",
    decoder=decoder,
    decoder_names=decoder_names,
    encoder_prefixes=(("encoder.", "vision."),),
    copies=("decoder.lm_head.weight",),
    text_config=lambda hf: hf.text_config,
    text_rules=lambda hf: TextRules(prompt="none", leading_space=False),
    image_plan=image_plan,
    output_rules=output_rules,
)
