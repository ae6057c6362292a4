"""VisionEncoderDecoder: any image encoder with an mBART (Donut, Nougat), BART or TrOCR decoder."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from actors.model.interop import donut
from actors.model.interop.bart import bart_decoder, bart_names
from actors.model.interop.family import Family, Tensors, head_is_tied
from actors.model.interop.weight_names import NameMap
from conf.errors import UserError
from conf.model import DecoderConfig, TextRules

_STACK, _EMBEDDING = "decoder.model.decoder.", "decoder.model.decoder.embed_tokens.weight"


def _head(hf: Any) -> str:
    return "decoder.output_projection.weight" if hf.decoder.model_type == "trocr" else "decoder.lm_head.weight"


def _computed_positions(hf: Any) -> bool:
    return hf.decoder.model_type == "trocr" and not hf.decoder.use_learned_position_embeddings


def decoder(hf: Any, theirs: Tensors) -> DecoderConfig:
    text = hf.decoder
    if text.model_type not in ("mbart", "bart", "trocr"):
        raise UserError(f"a vision-encoder-decoder with decoder {text.model_type!r} is not supported")
    d_cross = text.d_model  # enc_to_dec_proj is part of our encoder
    if text.model_type == "trocr" and text.cross_attention_hidden_size is not None:
        d_cross = text.cross_attention_hidden_size
    config = bart_decoder(
        text,
        pre_norm=text.model_type == "mbart",
        tied=head_is_tied(theirs, _head(hf), _EMBEDDING),
        bias=False,
        d_cross=d_cross,
        embed_norm=getattr(text, "layernorm_embedding", True),
    )
    if _computed_positions(hf):  # not stored by the source, and counted from the row after padding
        return config.model_copy(update={"positions": "sinusoidal", "position_offset": text.pad_token_id + 1})
    return config


def decoder_names(hf: Any, config: DecoderConfig) -> NameMap:
    return bart_names(config, stack=_STACK, embedding=_EMBEDDING, head=_head(hf), bias=None)


def trocr_sinusoids(num_rows: int, width: int) -> Tensor:
    """TrOCR's fixed table [num_rows, width]; frequencies reach 1 / 10000 exactly, unlike ours."""
    half = width // 2
    frequency = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angle = torch.arange(num_rows).float()[:, None] * frequency[None]
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    return torch.nn.functional.pad(table, (0, width % 2))


def image_shape(hf: Any, processor: Mapping[str, Any]) -> tuple[int, int]:
    """Return what the processor makes of an image, or what the encoder is configured for."""
    size = (processor.get("crop_size") if processor.get("do_center_crop") else processor.get("size")) or {}
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    own = getattr(hf.encoder, "image_size", None)
    if own is None:
        raise UserError("neither the image processor nor the encoder says which image size it takes")
    return (int(own[0]), int(own[1])) if isinstance(own, list | tuple) else (int(own), int(own))


FAMILY = Family(
    name="bart",
    model_class="VisionEncoderDecoderModel",
    decoder=decoder,
    decoder_names=decoder_names,
    encoder_prefixes=(("encoder.", "vision."), ("enc_to_dec_proj.", "project.")),
    copies=("decoder.lm_head.weight", "decoder.output_projection.weight"),
    text_config=lambda hf: hf.decoder,
    text_rules=lambda hf: TextRules(prompt="none", leading_space=False),
    image_shape=image_shape,
    output_rules=donut.output_rules,
    prompts=False,
)
