"""Checkpoints that earlier versions converted load, and their pictures are made ready as they were."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from conf.image_plan import Header, ImagePlan, Patches, Resize
from conf.model import ModelConfig
from pipeline.images.plan import carry_out

DECODER = {"num_layers": 1, "d_model": 8, "num_heads": 1, "d_head": 8, "d_ff": 8, "d_cross": 8, "vocab_size": 9}
SQUARE = Resize(height=64, width=64)


def config(encoder: dict[str, Any], **changes: Any) -> ModelConfig:
    encoder = {"kind": "transformers", "hf_config": {}, **encoder}
    values = {"name": "old", "image_size": 64, "encoder": encoder, "decoder": DECODER, "exits": [1], **changes}
    return ModelConfig.model_validate(values)


def test_squares_are_still_squares() -> None:
    for encoder in ({"model_type": "florence2"}, {"model_type": "udop", "image_shape": None}):
        old = config(encoder)
        assert old.image_plan is None
        assert old.plan == ImagePlan.squeeze(64)


def test_a_stretched_square_is_stretched() -> None:
    old = config({"model_type": "vision-encoder-decoder", "image_shape": [64, 48]})
    assert old.plan == ImagePlan(steps=(SQUARE, Resize(height=64, width=48)), scaled_decode=True)
    assert ModelConfig.model_validate_json(old.model_dump_json()) == old


@pytest.mark.parametrize("prompt", ["none", "bytes"])
def test_a_grid_is_cut_out_of_the_square(prompt: str) -> None:
    vision = {"vision_config": {"patch_embed_hidden_size": 8 * 8 * 3}}
    old = config({"model_type": "pix2struct", "hf_config": vision}, text={"prompt": prompt})
    drawn = (Header(), SQUARE) if prompt == "bytes" else ()
    assert old.plan.steps == (SQUARE, *drawn, Patches(patch=8, max_patches=64))
    picture = Image.effect_noise((300, 90), 60).convert("RGB")
    square = np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float32)
    seen = carry_out(picture, old.plan, "what?")
    assert seen.shape == (64, 64, 3)
    if not drawn:
        assert np.abs(seen - (square - square.mean()) / square.std()).max() < 1e-5
