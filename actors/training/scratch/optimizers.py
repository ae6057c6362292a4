"""Which optimizer moves which parameter, and how fast at which step."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from actors.training.fused import attention_parts
from actors.training.scratch.muon import Muon
from conf.training import OptimizerConfig


def rate_share(step: int, config: OptimizerConfig) -> float:
    """Share of the peak rate: up linearly, stay, then fall as a cosine to 1 % over the last `decay_fraction`."""
    own_steps = step - config.encoder_steps if step >= config.encoder_steps else step  # the decoder warms up anew
    warm = min(1.0, (own_steps + 1) / max(1, config.warmup_steps))
    decay_steps = config.decay_fraction * config.total_steps
    progress = max(0.0, (step - (config.total_steps - decay_steps)) / decay_steps)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def make_optimizers(named: Mapping[str, torch.nn.Parameter], config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers and for convolutions where configured, AdamW for everything else."""
    inner: list[dict[str, Any]] = []
    if config.muon_lr:
        inner = [
            {"params": [p], "parts": attention_parts(name)}
            for name, p in named.items()
            if (".layers." in name and p.dim() == 2) or p.dim() == 4
        ]
    taken = {id(group["params"][0]) for group in inner}
    rest = [p for p in named.values() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.peak_lr, betas=(0.9, config.beta2), fused=True)
    ]
    return [*optimizers, Muon(inner, lr=config.muon_lr, weight_decay=config.weight_decay)] if inner else optimizers
