"""Batch -> the loss of a stage, and what is reported of every exit."""

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from actors.model.model import MultiExitModel, PackedBatch
from actors.model.run_layer import RunLayer
from actors.training.pretrained.losses import exit_losses
from actors.training.pretrained.run_layer import checkpointed, make_run_layer
from conf.pretrained import PretrainedConfig

Values = dict[str, float]  # by exit


class Objective:
    """The main stage: every exit learns targets and the last exit's distribution; gradients only where weights move."""

    def __init__(self, model: MultiExitModel, config: PretrainedConfig, *, moves_encoder: bool) -> None:
        self.model, self.config = model, config
        self.moves_decoder, self.moves_encoder = not config.is_frozen, moves_encoder
        self.loss = config.loss.model_copy(update={"soft": 1.0}) if config.is_frozen else config.loss

    def __call__(self, batch: PackedBatch, seed: tuple[int, ...] | None = None) -> tuple[Tensor, Values]:
        """Return the loss and each exit's cross-entropy, or divergence where that is learned, in nats per token.

        `seed` says which layers are skipped, of which none is without one.
        """
        config = self.config
        with _gradients(self.moves_encoder):
            if self.moves_encoder and config.checkpointing and torch.is_grad_enabled():
                _, states, segments = checkpointed(self.model.encode_packed, batch)
            else:
                _, states, segments = self.model.encode_packed(batch)
        with _gradients(self.moves_decoder):
            hidden = self.model.decode_packed(batch, states, segments, run_layer=self._run_layer(seed))
        losses = exit_losses(
            self.model, hidden, batch.target_labels, self.loss, train_last=not config.is_frozen,
            checkpointing=config.checkpointing,
        )  # fmt: skip
        shown = losses.soft if config.is_frozen else losses.hard
        exits = self.model.config.exits
        return losses.total, {f"exit_{e}": float(value.detach()) for e, value in zip(exits, shown, strict=False)}

    def _run_layer(self, seed: tuple[int, ...] | None) -> RunLayer | None:
        if not self.moves_decoder or seed is None:
            return None
        drawn = np.random.SeedSequence((self.config.seed, *seed)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(drawn) % 2**63)
        return make_run_layer(
            self.model.config.decoder.num_layers, dropout=self.config.loss.layer_dropout,
            checkpointing=self.config.checkpointing, generator=generator,
        )  # fmt: skip


class GateObjective:
    """The stage of the gates: when is an exit's token full depth's."""

    def __init__(self, model: MultiExitModel) -> None:
        self.model = model

    def __call__(self, batch: PackedBatch, seed: tuple[int, ...] | None = None) -> tuple[Tensor, Values]:
        """Return the mean cross-entropy of the gates, and each one's, in nats per token."""
        with torch.no_grad():
            hidden = self.model(batch)
        losses = _gate_losses(self.model, hidden, batch.target_labels)
        shown = {f"exit_{layer}": float(value.detach()) for layer, value in losses.items()}
        return torch.stack(list(losses.values())).mean(), shown


def _gradients(wanted: bool) -> "nullcontext[None] | torch.no_grad":
    return nullcontext() if wanted else torch.no_grad()


def _gate_losses(model: MultiExitModel, hidden: list[Tensor], labels_BT: Tensor) -> dict[int, Tensor]:
    """Return the cross-entropy per exit of the gate's guess that the exit's token is full depth's, nats per token."""
    decoder, real = model.decoder, labels_BT >= 0
    with torch.no_grad():
        final_N = decoder.exit_logits(decoder.exits[-1], hidden[-1][real]).argmax(-1)
    losses = {}
    for layer in decoder.exits[:-1]:
        h_ND = hidden[layer - 1][real]
        with torch.no_grad():
            agrees_N = decoder.exit_logits(layer, h_ND).argmax(-1) == final_N
        losses[layer] = F.binary_cross_entropy_with_logits(decoder.gate_logit(layer, h_ND).float(), agrees_N.float())
    return losses
