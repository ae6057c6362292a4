"""The supported values of `model_type`."""

from collections.abc import Callable, Mapping
from typing import Any

from actors.model.interop import bart, blip, blip2, florence2, pix2struct, t5, t5gemma2, udop, vision_encoder_decoder
from actors.model.interop.family import DECODER_ONLY, Family
from conf.errors import UserError

Choice = Callable[[Mapping[str, Any]], Family]  # by more of config.json than its model_type
FAMILIES: dict[str, Family | Choice] = {
    "t5": t5.FAMILY,
    "mt5": t5.MT5,
    "umt5": t5.UMT5,
    "bart": bart.BART,
    "mbart": bart.MBART,
    "pix2struct": pix2struct.FAMILY,
    "t5gemma2": t5gemma2.FAMILY,
    "udop": udop.FAMILY,
    "florence2": florence2.FAMILY,
    "blip-2": blip2.BLIP2,
    "instructblip": blip2.INSTRUCTBLIP,
    "vision-encoder-decoder": vision_encoder_decoder.family,
    "blip": blip.family,
}


def family_of(raw: dict[str, Any]) -> Family:
    """Return the family of a model_type; the UserError for another one names what there is instead."""
    model_type = raw.get("model_type")
    if model_type in FAMILIES:
        found = FAMILIES[model_type]
        family = found if isinstance(found, Family) else found(raw)
        family.check(raw)
        return family
    supported = f"supported are {', '.join(FAMILIES)}"
    if _is_decoder_only(raw):
        raise UserError(f"model_type {model_type!r} is {DECODER_ONLY}; {supported}")
    raise UserError(f"model_type {model_type!r} is not supported; {supported}")


def _is_decoder_only(raw: dict[str, Any]) -> bool:
    """Whether the library runs it, and not as an encoder-decoder."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    model_type, classes = raw.get("model_type"), raw.get("architectures")
    if model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES or raw.get("is_encoder_decoder") is True:
        return False
    is_causal = isinstance(classes, list) and any(str(name).endswith("ForCausalLM") for name in classes)
    return is_causal or model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def configuration(raw: dict[str, Any]) -> Any:
    """Return the `transformers` configuration object of a known model_type; UserError where the library refuses it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    family_of(raw)
    try:
        hf = CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
    except Exception as error:  # the library's validators raise many kinds
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the source's config.json is not valid: {reason}") from None
    for part, settings in ((hf, raw), (getattr(hf, "text_config", None), raw.get("text_config") or {})):
        if getattr(part, "model_type", None) == "t5":
            # The library forgets this flag of files it wrote itself: it derives it anew from the tie flag it has set.
            scaled = settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings") is not False)
            part.scale_decoder_outputs = scaled
    return hf
