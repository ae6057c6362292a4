"""Deep supervision: cross-entropy at every exit over the same targets (DEED, arXiv 2311.08623).

Shape suffixes: N target tokens, D width, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from actors.model.model import MultiExitModel, PackedBatch
from actors.training.exit_weights import exit_weights
from conf.training import LossConfig


def multi_exit_loss(
    model: MultiExitModel, batch: PackedBatch, states: Tensor, segments: Tensor, config: LossConfig
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Encoder states of the batch -> (loss, cross-entropy per exit, correct tokens per exit).

    Sums run over real target tokens only; correct tokens are counted only where no gradient is taken.
    """
    hidden = model.decode_packed(batch, states, segments)
    real = batch.target_labels >= 0
    labels_N = batch.target_labels[real]
    exits = model.config.exits
    losses, correct = [], []
    for exit_layer in exits:
        logits_NV = model.decoder.exit_logits(exit_layer, hidden[exit_layer - 1][real])
        losses.append(F.cross_entropy(logits_NV.float(), labels_N))
        if not torch.is_grad_enabled():
            correct.append((logits_NV.argmax(-1) == labels_N).sum())
    weights = exit_weights(exits, config.weights)
    loss = torch.stack([w * ce for w, ce in zip(weights, losses, strict=True)]).sum()
    return loss, losses, correct
