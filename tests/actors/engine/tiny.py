"""Small random models whose confidences vary, and requests for them."""

import numpy as np
import torch

from actors.engine.engine import Engine
from actors.engine.request import Completion, Request
from actors.model.model import MultiExitModel
from conf.decoder import DecoderConfig, MergedAttention, RelativeBias, Rope
from conf.encoder import ScenesEncoderConfig
from conf.engine import EngineConfig
from conf.model import ModelConfig

VARIANTS = {
    "pre_rms": {},
    "post_layer": {
        "norm": "layer",
        "pre_norm": False,
        "final_norm": False,
        "attn_bias": True,
        "ffn_bias": True,
        "embed_norm": True,
        "token_types": 2,
        "head_transform": "gelu",
        "head_bias": True,
    },
    "relative": {"positions": "none", "relative_bias": RelativeBias(num_buckets=8, max_distance=16), "attn_scale": 1.0},
    "wide_heads": {"d_head": 12, "ffn": "gated_gelu_new", "head_tied": False, "head_bias": True},
}
# Windows shorter than outputs, fewer heads of keys than of queries; cross-attention has no forms to choose from.
MERGED = {
    "norm": "unit_offset_rms", "positions": "none", "ffn": "gated_gelu_new", "num_heads": 4, "d_head": 8,
    "logit_softcap": 4.0,
    "merged": MergedAttention(
        num_kv_heads=2, sliding=(True, False, True, True, False), window=4, full_rope=Rope(theta=1000, factor=2),
        sliding_rope=Rope(theta=100), image_end_id=7,
    ),
}  # fmt: skip


def tiny_model(
    variant: str = "pre_rms",
    *,
    seed: int = 0,
    num_layers: int = 5,
    dtype: torch.dtype = torch.float64,
    vocab_size: int = 40,
    gates: bool = False,
) -> MultiExitModel:
    """Random weights with spread-out logits, so that exits, ends and confidences all vary."""
    torch.manual_seed(seed)
    decoder = {
        "num_layers": num_layers, "d_model": 32, "num_heads": 2, "d_head": 16, "d_ff": 48, "d_cross": 32,
        "vocab_size": vocab_size, "max_positions": 24, **(MERGED if variant == "merged" else VARIANTS[variant]),
    }  # fmt: skip
    config = ModelConfig(
        name="tiny",
        image_size=32,
        encoder=ScenesEncoderConfig(
            num_layers=1, d_model=32, num_heads=2, d_ff=48, stem_channels=(4, 4, 8), max_prompt_tokens=9
        ),
        decoder=DecoderConfig.model_validate(decoder),
        exits=tuple(range(1, num_layers + 1)),
        gates=gates,
    )
    model = MultiExitModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "adapters" not in name:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        for adapter in model.decoder.adapters.values():
            adapter.weight += 0.2 * torch.randn_like(adapter.weight)  # type: ignore[operator]
        model.decoder.head.weight *= 2.5
        if variant == "merged":
            for layer in model.decoder.layers:  # layers speak louder than the token before
                layer.attn_out_norm.weight += 3  # type: ignore[operator,union-attr]
                layer.ffn_out_norm.weight += 3  # type: ignore[operator,union-attr]
            model.decoder.image_end_embedding += torch.randn_like(model.decoder.image_end_embedding)  # type: ignore[arg-type,operator]
        if model.decoder.head_transform is not None:  # near the identity, or no two exits would ever agree
            dense = model.decoder.head_transform.dense.weight
            dense.copy_(torch.eye(len(dense)) + 0.3 * dense)
        if model.decoder.position_table is not None:
            model.decoder.position_table.weight *= 3
    return model.to(dtype).eval().requires_grad_(False)


def requests(count: int, seed: int = 0) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [
        Request(
            request_id=i,
            pixels_HWC=rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
            prompt_ids=tuple(int(x) for x in rng.integers(3, 40, rng.integers(1, 10))),
            max_new_tokens=int(rng.integers(1, 15)) if rng.random() < 0.5 else None,
        )
        for i in range(count)
    ]


def run(engine: Engine, work: list[Request], arrivals: list[int] | None = None) -> dict[int, Completion]:
    """Complete all work; `arrivals[i]` engine steps pass before request i is added."""
    done: dict[int, Completion] = {}
    for request, wait in zip(work, arrivals or [0] * len(work), strict=True):
        for _ in range(wait):
            if engine.has_work():
                done |= {c.request_id: c for c in engine.step()}
        engine.add(request)
    while engine.has_work():
        done |= {c.request_id: c for c in engine.step()}
    return done


def config(**values: object) -> EngineConfig:
    """Settings by their names, those of `tuning` among them."""
    defaults = {
        "num_slots": 4,
        "encode_batch": 4,
        "calibration_s": 0,
        "generation": {"max_new_tokens": 16},
        "thresholds": (0.5, 0.5, 0.5, 0.5),
    }
    return EngineConfig.from_record({**defaults, **values})
