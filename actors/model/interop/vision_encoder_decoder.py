"""VisionEncoderDecoder: any image encoder with an mBART (Donut, Nougat), BART, TrOCR, GPT-2 or BERT-like decoder."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from actors.model.interop import donut
from actors.model.interop.bart import bart_decoder, bart_names
from actors.model.interop.bert import bert_decoder, bert_names
from actors.model.interop.family import Family, Tensors, head_is_tied
from actors.model.interop.gpt2 import TRANSPOSED, gpt2_decoder, gpt2_names
from actors.model.interop.image_plans import ProcessorPlan, processor_plan
from actors.model.interop.weight_names import NameMap
from conf.decoder import DecoderConfig
from conf.errors import UserError
from conf.text_rules import TextRules

_BART_STACK, _BART_EMBEDDING = "decoder.model.decoder.", "decoder.model.decoder.embed_tokens.weight"
_GPT2_STACK, _GPT2_HEAD = "decoder.transformer.", "decoder.lm_head.weight"
# model_type -> prefix of the stack, of the head's last layer, its dense layer and norm
_BERT_LIKE = {
    "bert": ("decoder.bert.", "decoder.cls.predictions.decoder",
             ("decoder.cls.predictions.transform.dense", "decoder.cls.predictions.transform.LayerNorm")),
    "roberta": ("decoder.roberta.", "decoder.lm_head.decoder", ("decoder.lm_head.dense", "decoder.lm_head.layer_norm")),
}  # fmt: skip
_BERT_LIKE["xlm-roberta"] = _BERT_LIKE["roberta"]


def _head(hf: Any) -> str:
    return "decoder.output_projection.weight" if hf.decoder.model_type == "trocr" else "decoder.lm_head.weight"


def _computed_positions(hf: Any) -> bool:
    return hf.decoder.model_type == "trocr" and not hf.decoder.use_learned_position_embeddings


def _bart(hf: Any, theirs: Tensors) -> DecoderConfig:
    text = hf.decoder
    d_cross = text.d_model  # enc_to_dec_proj is part of our encoder
    if text.model_type == "trocr" and text.cross_attention_hidden_size is not None:
        d_cross = text.cross_attention_hidden_size
    config = bart_decoder(
        text,
        pre_norm=text.model_type == "mbart",
        tied=head_is_tied(theirs, _head(hf), _BART_EMBEDDING),
        bias=False,
        d_cross=d_cross,
        embed_norm=getattr(text, "layernorm_embedding", True),
    )
    if _computed_positions(hf):  # not stored by the source, and counted from the row after padding
        return config.model_copy(update={"positions": "sinusoidal", "position_offset": text.pad_token_id + 1})
    return config


def _bart_names(hf: Any, config: DecoderConfig) -> NameMap:
    return bart_names(config, stack=_BART_STACK, embedding=_BART_EMBEDDING, head=_head(hf), bias=None)


def _gpt2(hf: Any, theirs: Tensors) -> DecoderConfig:
    return gpt2_decoder(hf.decoder, tied=head_is_tied(theirs, _GPT2_HEAD, f"{_GPT2_STACK}wte.weight"))


def _gpt2_names(hf: Any, config: DecoderConfig) -> NameMap:
    return gpt2_names(config, stack=_GPT2_STACK, head=_GPT2_HEAD)


def _bert(hf: Any, theirs: Tensors) -> DecoderConfig:
    """BERT counts positions from its table's first row, RoBERTa from the one after padding's; RoBERTa's head knows no
    activation but GELU. Padding inside an output, to which RoBERTa gives no position of its own, has one here."""
    text, is_bert = hf.decoder, hf.decoder.model_type == "bert"
    stack, head, _ = _BERT_LIKE[text.model_type]
    return bert_decoder(
        text,
        d_cross=text.hidden_size,
        tied=head_is_tied(theirs, f"{head}.weight", f"{stack}embeddings.word_embeddings.weight"),
        token_types=text.type_vocab_size,
        head_activation=text.hidden_act if is_bert else "gelu",
        position_offset=0 if is_bert else text.pad_token_id + 1,
    )


def _bert_names(hf: Any, config: DecoderConfig) -> NameMap:
    stack, head, transform = _BERT_LIKE[hf.decoder.model_type]
    return bert_names(config, stack=stack, transform=transform, head=head)


def trocr_sinusoids(num_rows: int, width: int) -> Tensor:
    """TrOCR's fixed table [num_rows, width]; frequencies reach 1 / 10000 exactly, unlike ours."""
    half = width // 2
    frequency = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angle = torch.arange(num_rows).float()[:, None] * frequency[None]
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    return torch.nn.functional.pad(table, (0, width % 2))


_PROCESSORS = {"donut-swin": "Donut", "deit": "DeiT", "beit": "Beit"}  # of encoders; ViT's serves the others


def image_plan(hf: Any, processor: Mapping[str, Any]) -> ProcessorPlan:
    """Return what the processor makes of a picture, or what the library's processor for such an encoder would."""
    kind = _PROCESSORS.get(hf.encoder.model_type, "ViT")
    published = {"image_processor_type": f"{kind}ImageProcessor", "do_center_crop": False}
    if (side := getattr(hf.encoder, "image_size", None)) is not None:
        height, width = side if isinstance(side, list | tuple) else (side, side)
        published |= {"size": {"height": height, "width": width}}
    elif not processor:
        raise UserError("neither the image processor nor the encoder says which image size it takes")
    return processor_plan(processor, published)


_BART = Family(
    name="bart",
    model_class="VisionEncoderDecoderModel",
    decoder=_bart,
    decoder_names=_bart_names,
    encoder_prefixes=(("encoder.", "vision."), ("enc_to_dec_proj.", "project.")),
    copies=("decoder.lm_head.weight", "decoder.output_projection.weight"),
    text_config=lambda hf: hf.decoder,
    text_rules=lambda hf: TextRules(prompt="none", leading_space=False),
    image_plan=image_plan,
    output_rules=donut.output_rules,
)
_GPT2 = replace(
    _BART, name="gpt2", decoder=_gpt2, decoder_names=_gpt2_names, copies=(_GPT2_HEAD,), transposed=(TRANSPOSED,)
)
_BERT = replace(
    _BART,
    name="bert",
    decoder=_bert,
    decoder_names=_bert_names,
    copies=tuple(
        f"decoder.{name}"
        for name in (
            "cls.predictions.bias", "cls.predictions.decoder.weight", "lm_head.bias", "lm_head.decoder.weight"
        )
    ),
)  # fmt: skip
_BY_DECODER = {
    "mbart": _BART, "bart": _BART, "trocr": _BART, "gpt2": _GPT2, "bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT,
}  # fmt: skip


def family(raw: Mapping[str, Any]) -> Family:
    """Return the family that goes with the decoder of a config.json; UserError where it is none of ours."""
    text = raw.get("decoder")
    kind = text.get("model_type") if isinstance(text, Mapping) else None
    if kind not in _BY_DECODER:
        raise UserError(
            f"a vision-encoder-decoder with decoder {kind!r} is not supported; supported are {', '.join(_BY_DECODER)}"
        )
    return _BY_DECODER[kind]
