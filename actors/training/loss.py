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
    """Names the object at a patch through the model's own word embeddings; a training aid, not part of a checkpoint.

    Captions and answers alone teach what is where only through attention, which is slow to begin. The patch under an
    object's centre is classified twice: as the stem made it, against the prompt embeddings of all names, so that a
    question can find what it asks for; and as the encoder leaves it, against the decoder's token embeddings, so that
    the decoder can say what it attends to.

    Shape suffixes: K objects, C names, L tokens of a name, D width.
    """

    def __init__(self, name_tokens: Sequence[Sequence[int]]) -> None:
        super().__init__()
        longest = max(len(tokens) for tokens in name_tokens)
        ids_CL = torch.zeros(len(name_tokens), longest, dtype=torch.int64)
        mask_CL = torch.zeros(len(name_tokens), longest)
        for row, tokens in enumerate(name_tokens):
            ids_CL[row, : len(tokens)] = torch.tensor(list(tokens))
            mask_CL[row, : len(tokens)] = 1 / len(tokens)
        self.register_buffer("ids_CL", ids_CL, persistent=False)
        self.register_buffer("mask_CL", mask_CL, persistent=False)
        self.log_scales = nn.Parameter(torch.tensor([2.0, 2.0]))

    def loss(self, model: MultiExitModel, patches_BPD: Tensor, states_BSD: Tensor, batch: PackedBatch) -> Tensor:
        """Sum of the two cross-entropies of the names over the objects of the batch."""
        sample_K, patch_K, name_K = batch.objects.unbind(-1)
        total = patches_BPD.new_zeros(())
        tables = (model.encoder.prompt_embedding, model.decoder.embedding)
        for features, table, log_scale in zip((patches_BPD, states_BSD), tables, self.log_scales, strict=True):
            names_CD = (table(self.ids_CL) * self.mask_CL[..., None]).sum(1)
            features_KD = F.normalize(features[sample_K, patch_K].float(), dim=-1)
            logits_KC = log_scale.exp() * features_KD @ F.normalize(names_CD.float(), dim=-1).T
            total = total + F.cross_entropy(logits_KC, name_K)
        return total


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
    patches, states, segments = model.encode_packed(batch)
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
        loss = loss + config.grounding_weight * grounding.loss(model, patches, states, batch)
    return loss, losses, correct
