"""A model's configuration -> its encoder. Classes of `transformers` are imported only when a model has one."""

import importlib

import torch
from torch import nn

from conf.encoder import TransformersEncoderConfig
from conf.model import ModelConfig

# kind of our own -> (module, class)
_OWN = {
    "scenes": ("encoder", "ScenesEncoder"),
    "latr":   ("latr", "LatrEncoder"),
    "ofa":    ("ofa", "OfaEncoder"),
}  # fmt: skip
# model_type -> (module, class, or function that chooses one)
_PRETRAINED = {
    "t5":                     ("text_encoder", "TextEncoder"),
    "mt5":                    ("text_encoder", "TextEncoder"),
    "umt5":                   ("text_encoder", "TextEncoder"),
    "bart":                   ("text_encoder", "TextEncoder"),
    "mbart":                  ("text_encoder", "TextEncoder"),
    "pix2struct":             ("pix2struct", "Pix2StructEncoder"),
    "t5gemma2":               ("t5gemma2", "T5Gemma2Encoder"),
    "udop":                   ("udop", "UdopEncoder"),
    "florence2":              ("florence2", "Florence2Encoder"),
    "blip-2":                 ("blip2", "Blip2Encoder"),
    "instructblip":           ("blip2", "Blip2Encoder"),
    "vision-encoder-decoder": ("vision", "VisionEncoder"),
    "blip":                   ("blip", "blip_encoder"),
}  # fmt: skip
# model_type of encoders whose token embedding is the decoder's
_SHARES_EMBEDDING = {
    "t5",
    "mt5",
    "umt5",
    "bart",
    "mbart",
    "udop",
    "florence2",
    "blip-2",
    "instructblip",
}


def tied_names(config: ModelConfig) -> dict[str, str]:
    """Parameters that are the same tensor as another: copy -> original. A checkpoint holds only the original."""
    embedding = "decoder.embedding.weight"
    ties = {"decoder.head.weight": embedding} if config.decoder.head_tied else {}
    if getattr(config.encoder, "model_type", None) in _SHARES_EMBEDDING:
        ties["encoder.stack.embed_tokens.weight"] = embedding
    if getattr(config.encoder, "model_type", None) == "udop":
        bias = "relative_attention_bias.weight"
        ties[f"encoder.stack.relative_bias.biases.0.{bias}"] = f"encoder.stack.block.0.layer.0.SelfAttention.{bias}"
    if getattr(config.encoder, "model_type", None) == "t5gemma2":
        embed_tokens = "encoder.stack.text_model.embed_tokens"
        ties |= {
            f"{embed_tokens}.weight": embedding,
            f"{embed_tokens}.eoi_embedding": "decoder.image_end_embedding",
        }
    if config.encoder.kind in ("latr", "ofa"):
        ties["encoder.embedding.weight"] = embedding
    return ties


def tie(model: nn.Module, config: ModelConfig) -> None:
    """Make every copy the very parameter it is a copy of."""
    for copy, original in tied_names(config).items():
        module, _, name = copy.rpartition(".")
        setattr(model.get_submodule(module), name, model.get_parameter(original))


def make_encoder(config: ModelConfig) -> nn.Module:
    """Return the encoder; its weights are to be loaded."""
    if not isinstance(config.encoder, TransformersEncoderConfig):
        module, name = _OWN[config.encoder.kind]
        own: nn.Module = getattr(importlib.import_module(f"actors.model.{module}"), name)(config)
        return own
    module, name = _PRETRAINED[config.encoder.model_type]
    make = getattr(importlib.import_module(f"actors.model.pretrained.{module}"), name)
    with torch.device("cpu"):  # even where the rest is built without storage: tables are computed in the constructor
        encoder: nn.Module = make(config)
    return encoder
