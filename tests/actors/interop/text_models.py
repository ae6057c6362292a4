"""Tiny random models of text: T5, mT5, UMT5, BART and mBART."""

from typing import Any

import torch
from torch import nn

VOCAB, LAYERS = 97, 3


def t5(**changes: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    settings = {
        "vocab_size": VOCAB, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": LAYERS + 1,
        "num_decoder_layers": LAYERS, "num_heads": 4, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20, "decoder_start_token_id": 0,
    }  # fmt: skip
    return T5ForConditionalGeneration(T5Config(**{**settings, **changes}))


def t5_untied() -> Any:
    """T5 v1.1: its head is its own, although the library's configuration calls it tied."""
    model = t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model.lm_head.weight = nn.Parameter(torch.zeros(VOCAB, 32))
    return model


def mt5(kind: str) -> Any:
    """`kind` is MT5 or UMT5. Its head is its own, as in the published weights."""
    import transformers

    settings = {**t5(feed_forward_proj="gated-gelu").config.to_dict(), "model_type": kind.lower()}
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.lm_head.weight = nn.Parameter(torch.zeros(VOCAB, 32))
    return model


def bart_settings(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB, "d_model": 24, "encoder_layers": 2, "decoder_layers": LAYERS,
        "encoder_attention_heads": 2, "decoder_attention_heads": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 40,
        "max_position_embeddings": 48, **changes,
    }  # fmt: skip


def bart(**changes: Any) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    model = BartForConditionalGeneration(BartConfig(**bart_settings(**changes)))
    model.generation_config.no_repeat_ngram_size = 2
    return model


def mbart() -> Any:
    from transformers import MBartConfig, MBartForConditionalGeneration

    settings = bart_settings(scale_embedding=True, decoder_start_token_id=5)
    return MBartForConditionalGeneration(MBartConfig(**settings))
