"""Tiny random models that read image and prompt together: Pix2Struct, UDOP, Florence-2, BLIP-2, InstructBLIP."""

from typing import Any

import torch
from torch import nn

from tests.actors.interop.text_models import LAYERS, VOCAB, bart_settings, t5

QFORMER_VOCAB = 31
PATCH = 4  # pixels a side, of the model that reads grids


def pix2struct() -> Any:
    from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

    text = {
        "vocab_size": VOCAB, "hidden_size": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "patch_embed_hidden_size": PATCH * PATCH * 3, "d_ff": 32, "d_kv": 8, "num_hidden_layers": 2,
        "num_attention_heads": 4, "seq_len": 64,
    }  # fmt: skip
    return Pix2StructForConditionalGeneration(Pix2StructConfig(text_config=text, vision_config=vision))


def udop() -> Any:
    from transformers import UdopConfig, UdopForConditionalGeneration

    return UdopForConditionalGeneration(UdopConfig(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_decoder_layers=LAYERS, num_heads=4,
        image_size=16, patch_size=4, max_2d_position_embeddings=64, decoder_start_token_id=0,
    ))  # fmt: skip


def florence2() -> Any:
    from transformers import Florence2Config, Florence2ForConditionalGeneration

    vision = {
        "depths": (1, 1, 1, 1), "embed_dim": (8, 8, 8, 16), "num_heads": (1, 1, 1, 2), "num_groups": (1, 1, 1, 2),
        "projection_dim": 24, "window_size": 4,
    }  # fmt: skip
    config = Florence2Config(
        text_config={"model_type": "bart", **bart_settings()},
        vision_config=vision, image_token_id=VOCAB - 1,
    )  # fmt: skip
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.update(forced_bos_token_id=0, no_repeat_ngram_size=3)  # `generate` reads them here alone
    return model


def blip2(kind: str, vocab_size: int = VOCAB, image_token: int = VOCAB - 1, qformer_vocab: int = QFORMER_VOCAB) -> Any:
    """`kind` is Blip2 or InstructBlip. Flan-T5's head is its own, and of its activation two names are about."""
    import transformers

    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 24, "patch_size": 8}  # fmt: skip
    qformer = {"vocab_size": qformer_vocab, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
               "intermediate_size": 24, "max_position_embeddings": 256}  # fmt: skip
    text = t5(vocab_size=vocab_size, feed_forward_proj="gated-gelu", dense_act_fn="gelu").config.to_dict()
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=4,
        image_token_index=image_token,
    )  # fmt: skip
    config.text_config.scale_decoder_outputs = False
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.language_model.lm_head.weight = nn.Parameter(torch.zeros(vocab_size, 32))
    return model
