"""Deep supervision: cross-entropy at every exit over the same targets.

DEED (arXiv 2311.08623): `L = mean_i(CE_i) + CE_N`, because the mean alone degrades the last layer.
Shape suffixes: N target tokens, D width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actors.model.model import MultiExitModel, PackedBatch
from conf.training import LossConfig


class GroundingHead(nn.Module):
    """Names the object at a patch; a training aid for the encoder that is not part of the checkpoint.

    Captions alone teach what is where only through the decoder's cross-attention, which is slow at first; a class
    for the patch under every object's centre teaches it directly.
    """

    def __init__(self, d_model: int, num_names: int) -> None:
        super().__init__()
        self.classify = nn.Linear(d_model, num_names)

    def loss(self, states_BSD: Tensor, batch: PackedBatch) -> Tensor:
        """Cross-entropy of the names over the objects of the batch."""
        sample_K, patch_K, name_K = batch.objects.unbind(-1)
        logits_KC = self.classify(states_BSD[sample_K, patch_K])
        return F.cross_entropy(logits_KC.float(), name_K)


def exit_weights(exits: Sequence[int], config: LossConfig) -> list[float]:
    """Return the weight of every exit's cross-entropy."""
    if config.weights == "index":  # CALM (arXiv 2207.07061): proportional to the layer
        return [layer / sum(exits) for layer in exits]
    weights = [1 / len(exits)] * len(exits)
    if config.weights == "mean_plus_last":
        weights[-1] += 1.0
    return weights


def multi_exit_loss(
    model: MultiExitModel, batch: PackedBatch, config: LossConfig, grounding: GroundingHead | None = None
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return (loss, cross-entropy per exit, correct tokens per exit); sums run over real target tokens only.

    With a grounding head its cross-entropy is part of the loss.
    """
    states, segments = model.encode_packed(batch)
    hidden = model.decode_packed(batch, states, segments)
    real = batch.target_labels >= 0
    labels_N = batch.target_labels[real]
    exits = model.config.exits
    losses, correct = [], []
    for exit_layer in exits:
        logits_NV = model.decoder.exit_logits(exit_layer, hidden[exit_layer - 1][real])
        losses.append(F.cross_entropy(logits_NV.float(), labels_N))
        correct.append((logits_NV.detach().argmax(-1) == labels_N).sum())
    weights = exit_weights(exits, config)
    loss = torch.stack([w * ce for w, ce in zip(weights, losses, strict=True)]).sum()
    if grounding is not None:
        loss = loss + config.grounding_weight * grounding.loss(states, batch)
    return loss, losses, correct
