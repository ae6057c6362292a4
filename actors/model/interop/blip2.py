"""BLIP-2 and InstructBLIP with Flan-T5: queries read an image, T5 reads them before the prompt (Li et al. 2023)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from actors.model.interop import t5
from actors.model.interop.blip import image_plan
from actors.model.interop.family import DECODER_ONLY, Family, Tensors, generation_of, head_is_tied
from actors.model.interop.weight_names import NameMap
from conf.decoder import DecoderConfig
from conf.errors import UserError
from conf.text_rules import TextRules

_LANGUAGE = "language_model."


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    text = hf.text_config
    tied = head_is_tied(theirs, f"{_LANGUAGE}lm_head.weight", f"{_LANGUAGE}shared.weight")
    return t5.t5_decoder(text, tied=tied, scaled=text.scale_decoder_outputs)


def decoder_names(hf: Any, config: DecoderConfig) -> NameMap:
    names = t5.decoder_names(hf.text_config, config)
    return {ours: tuple(_LANGUAGE + name for name in theirs) for ours, theirs in names.items()}


def check(raw: Mapping[str, Any]) -> None:
    """Raise UserError for a language model that is no encoder-decoder."""
    named = (raw.get("text_config") or {}).get("model_type", "opt")
    if named != "t5":
        raise UserError(f"{raw['model_type']} with {named!r} is {DECODER_ONLY}; here it is supported with Flan-T5")


def generation(hf: Any) -> dict[str, Any]:
    """`generate` is that of the language model, which reads no generation_config.json but its part of config.json."""
    return generation_of(hf.text_config)


BLIP2 = Family(
    name="t5",
    model_class="Blip2ForConditionalGeneration",
    decoder=decoder,
    decoder_names=decoder_names,
    encoder_prefixes=(
        ("vision_model.", "vision."),
        ("query_tokens", "queries"),
        ("qformer.", "qformer."),
        ("language_projection.", "project."),
        (f"{_LANGUAGE}encoder.", "stack."),
    ),
    copies=tuple(_LANGUAGE + name for name in t5.FAMILY.copies),
    text_config=lambda hf: hf.text_config,
    text_rules=lambda hf: TextRules(leading_space=False, suffix_ids=(hf.text_config.eos_token_id,)),
    image_plan=image_plan,
    check=check,
    generation=generation,
)
INSTRUCTBLIP = replace(
    BLIP2,
    model_class="InstructBlipForConditionalGeneration",
    text_rules=lambda hf: BLIP2.text_rules(hf).model_copy(update={"qformer": True}),
    most_prompt_tokens=lambda hf, image_size: hf.qformer_config.max_position_embeddings,
)
