"""Florence-2 as microsoft published it, with code of its own: its configuration and names in the library's words.

No code of the directory is run: both are the same network, and the library has it as Florence2ForConditionalGeneration.
"""

import re
from typing import Any

from torch import Tensor

from conf.errors import UserError

_LANGUAGE = {"model_type": "bart"}
_LANGUAGE_DEFAULTS = {"vocab_size": 51289}  # where the remote class differs from BART's
_VISION_DEFAULTS: dict[str, Any] = {  # of the remote class, where it differs from the library's
    "dim_embed": [256, 512, 1024, 2048], "num_heads": [8, 16, 32, 64], "num_groups": [8, 16, 32, 64],
}  # fmt: skip
_NOT_NATIVE = ("dim_embed", "visual_temporal_embedding", "image_pos_embed", "image_feature_source", "enable_checkpoint")
_PROJECTION = "image_projection"  # a bare matrix there, the weight of a linear layer here: transposed
_BIAS = "language_model.final_logits_bias"
_RENAMED = (
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^image_proj_norm\.", "model.multi_modal_projector.image_proj_norm."),
    (r"^image_pos_embed\.", "model.multi_modal_projector.image_position_embed."),
    (r"^visual_temporal_embed\.", "model.multi_modal_projector.visual_temporal_embed."),
    (r"^vision_tower\.", "model.vision_tower."),
    (r"(vision_tower\.convs\.\d+)\.proj\.", r"\1.conv."),
    (r"\.(conv1|conv2)\.fn\.dw\.", r".\1."),
    (r"\.(window|channel)_attn\.norm\.", ".norm1."),
    (r"\.(window|channel)_attn\.fn\.", r".\1_attn."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"\.ffn\.fn\.net\.", ".ffn."),
)


def is_remote(raw: dict[str, Any]) -> bool:
    """Whether a config.json of model_type florence2 is in the words of the remote code."""
    vision = raw.get("vision_config")
    return (
        raw.get("model_type") == "florence2"
        and isinstance(vision, dict)
        and (vision.get("model_type") == "davit" or "dim_embed" in vision)
    )


def native_config(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration in the library's words; UserError for a network that the library does not have."""
    vision = {**_VISION_DEFAULTS, **raw["vision_config"]}
    sources = vision.get("image_feature_source") or ["spatial_avg_pool", "temporal_avg_pool"]
    if sources not in (["spatial_avg_pool", "temporal_avg_pool"], ["spatial_avg_pool", "last_frame"]):
        raise UserError(f"a Florence-2 with image_feature_source={sources} is not supported")  # one frame: both are it
    native = {name: value for name, value in vision.items() if name not in _NOT_NATIVE}
    native |= {"model_type": "florence_vision", "embed_dim": vision["dim_embed"]}
    positions, times = vision.get("image_pos_embed") or {}, vision.get("visual_temporal_embedding") or {}
    for part, theirs, ours in (
        (positions, "max_pos_embeddings", "max_position_embeddings"),
        (times, "max_temporal_embeddings", "max_temporal_embeddings"),
    ):
        if theirs in part:
            native[ours] = part[theirs]
    text = {**_LANGUAGE_DEFAULTS, **(raw.get("text_config") or {}), **_LANGUAGE}
    # The remote code puts the image before the prompt without a place holder. The library wants one: the last token of
    # the vocabulary, which no prompt holds.
    image_token = {"image_token_id": text["vocab_size"] - 1}
    return {**raw, **image_token, "vision_config": native, "text_config": text}


def native_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the library's names; UserError for a bias on the logits, which it has no place for."""
    named = {}
    for name, tensor in tensors.items():
        if name == _BIAS:
            if tensor.count_nonzero():
                raise UserError(f"the source tensor {name!r} is not zero, and Florence-2 has no such bias")
        elif name == _PROJECTION:
            named[f"model.multi_modal_projector.{_PROJECTION}.weight"] = tensor.T.contiguous()
        else:
            for pattern, replacement in _RENAMED:
                name = re.sub(pattern, replacement, name)
            named[name] = tensor
    return named
