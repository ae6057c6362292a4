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
