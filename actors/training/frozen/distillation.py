"""What frozen training learns from: the last layer's own distribution, at every exit.

Nothing upstream of an exit has a gradient, so the features are computed once per batch without one.
Shape suffixes: N target tokens, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from actors.model.model import MultiExitModel, PackedBatch


@dataclass(frozen=True)
class Features:
    """Hidden states at every exit but the last, and what full depth says, over the real target tokens."""

    hidden: dict[int, Tensor]  # exit layer -> [N, D]
    final_logits_NV: Tensor


@torch.no_grad()
def features(model: MultiExitModel, batch: PackedBatch) -> Features:
    """Run the frozen model over the batch."""
    hidden = model(batch)
    real = batch.target_labels >= 0
    exits = model.config.exits
    final = model.decoder.exit_logits(exits[-1], hidden[-1][real]).float()
    return Features({layer: hidden[layer - 1][real] for layer in exits[:-1]}, final)


def distillation_losses(model: MultiExitModel, data: Features) -> dict[int, Tensor]:
    """KL(full depth || exit) per exit, nats per token."""
    target_NV = data.final_logits_NV.log_softmax(-1)
    return {
        layer: F.kl_div(
            model.decoder.exit_logits(layer, h_ND).float().log_softmax(-1), target_NV,
            log_target=True, reduction="batchmean",
        )
        for layer, h_ND in data.hidden.items()
    }  # fmt: skip


def gate_losses(model: MultiExitModel, data: Features) -> dict[int, Tensor]:
    """Return the cross-entropy per exit of the gate's guess that the exit's token is full depth's, nats per token."""
    final_N = data.final_logits_NV.argmax(-1)
    losses = {}
    for layer, h_ND in data.hidden.items():
        with torch.no_grad():
            agrees_N = model.decoder.exit_logits(layer, h_ND).argmax(-1) == final_N
        losses[layer] = F.binary_cross_entropy_with_logits(
            model.decoder.gate_logit(layer, h_ND).float(), agrees_N.float()
        )
    return losses
