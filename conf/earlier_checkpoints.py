"""Configurations of checkpoints that earlier versions converted, in today's words.

Those squeezed every picture to a square. A converted model whose encoder reads no square stretched it again, and a
Pix2Struct cut the square into patches: both are plans now, and what such a checkpoint was trained on stays as it was.
"""

from math import isqrt
from typing import Any

from conf.image_plan import Header, ImagePlan, Patches, Resize, Step


def with_image_plan(values: Any) -> Any:
    """Return the content of a config.json with its image plan; anything else as it is."""
    if not isinstance(values, dict) or values.get("image_plan") is not None:
        return values
    encoder, side = values.get("encoder"), values.get("image_size")
    if not isinstance(encoder, dict) or not isinstance(side, int) or side < 1:
        return values
    encoder = dict(encoder)
    stretched = encoder.pop("image_shape", None)
    steps: list[Step] = [Resize(height=side, width=side)]
    if stretched is not None:
        height, width = stretched
        steps.append(Resize(height=height, width=width))
    elif encoder.get("model_type") == "pix2struct":
        text = values.get("text")
        if isinstance(text, dict) and text.get("prompt") == "bytes":
            steps += [Header(), Resize(height=side, width=side)]
        patch = isqrt(encoder["hf_config"].get("vision_config", {}).get("patch_embed_hidden_size", 768) // 3)
        steps.append(Patches(patch=patch, max_patches=(side // patch) ** 2))
    plan = ImagePlan(steps=tuple(steps), scaled_decode=True) if len(steps) > 1 else None
    return {**values, "encoder": encoder, "image_plan": plan}


def in_words_of(raw: Any, dumped: dict[str, Any]) -> dict[str, Any]:
    """Return a model's settings as the version that wrote its config.json, `raw`, called them: what is hashed stays."""
    encoder = raw.get("encoder")
    if raw.get("image_plan") is not None or not isinstance(encoder, dict) or encoder.get("kind") != "transformers":
        return dumped
    without_plan = {name: value for name, value in dumped.items() if name != "image_plan"}
    return {**without_plan, "encoder": {**dumped["encoder"], "image_shape": encoder.get("image_shape")}}
