"""A tiny random T5Gemma 2: windows shorter than its outputs, two kinds of rotation, both soft-caps."""

from typing import Any

import torch

PATCH, SIDE, IMAGE_TOKENS = 8, 32, 4


def build(vocab_size: int, num_layers: int, *, softcap: float | None = 3.0, **ids: int) -> Any:
    """`ids` are token ids; of its own, the last two tokens are the end of an image and its place."""
    from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration

    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "boi_token_index": 4,
               "eoi_token_index": vocab_size - 2, "image_token_index": vocab_size - 1, **ids}  # fmt: skip
    text = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 12, "query_pre_attn_scalar": 9, "sliding_window": 5,
        "attn_logit_softcapping": 2.0,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
        **{name: special[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
    }  # fmt: skip
    vision = {
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": PATCH,
    }  # fmt: skip
    kinds = ["sliding_attention", "full_attention"] * num_layers
    decoder = {**text, "num_hidden_layers": num_layers, "layer_types": kinds[:num_layers],
               "final_logit_softcapping": softcap}  # fmt: skip
    encoder = {
        "text_config": {**text, "num_hidden_layers": 2, "layer_types": kinds[:2]}, "vision_config": vision,
        "mm_tokens_per_image": IMAGE_TOKENS, "boi_token_index": special["boi_token_index"],
        "eoi_token_index": special["eoi_token_index"],
    }  # fmt: skip
    config = T5Gemma2Config(encoder=encoder, decoder=decoder, image_token_index=special["image_token_index"])
    return T5Gemma2ForConditionalGeneration(config)


def inputs(model: Any, prompts: list[tuple[int, ...]], pixels: torch.Tensor) -> dict[str, Any]:
    """Prompts, padded before their start as the tokenizer does, and the images that they ask for."""
    place = model.config.image_token_index
    rows = [[token for t in prompt for token in [t] * (IMAGE_TOKENS if t == place else 1)] for prompt in prompts]
    width = max(map(len, rows))
    given = {
        "input_ids": torch.tensor([[*[1] * (width - len(row)), *row] for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }
    asked = [place in prompt for prompt in prompts]
    return given | ({"pixel_values": pixels[asked]} if any(asked) else {})
