"""What every exit of a pretrained model learns: the targets, and what the last exit says of every next token.

Shape suffixes: B sequences, T positions, N target tokens, D width, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from actors.model.decoder import MultiExitDecoder
from actors.model.model import MultiExitModel
from actors.training.exit_weights import exit_weights
from actors.training.pretrained.run_layer import checkpointed
from conf.pretrained import ExitLossConfig


@dataclass(frozen=True)
class ExitLosses:
    """Scalars, from the first exit to the last; `total` alone has a gradient."""

    hard: list[Tensor]  # cross-entropy of every exit, nats per token
    soft: list[Tensor]  # KL(last exit || exit) of every exit but the last, nats per token; empty where not computed
    correct: list[Tensor] | None  # tokens that every exit gets right; None where a gradient is taken
    total: Tensor


@dataclass(frozen=True)
class _Terms:
    hard: Tensor
    soft: Tensor | None
    correct: Tensor | None
    log_probs_NV: Tensor | None  # without a gradient

    def mixed(self, soft: float) -> Tensor:
        """Return what an exit before the last learns from; `soft` is the share of KL."""
        return self.hard if self.soft is None else (1 - soft) * self.hard + soft * self.soft


def exit_losses(
    model: MultiExitModel, hidden: list[Tensor], labels_BT: Tensor, config: ExitLossConfig, *,
    train_last: bool = True, checkpointing: bool = False,
) -> ExitLosses:  # fmt: skip
    """Hidden states [B, T, D] after every layer and labels, negative ones ignored -> the losses of all exits.

    `total` is the sum over exits of `w_i ((1 - soft) CE_i + soft KL_i)`, and of `w_N CE_N` for the last one if
    `train_last`. KL is computed where it counts and where no gradient is taken; the last exit's distribution, which
    it is of, is a constant. Without any label every loss is 0.

    `checkpointing`: an exit's logits are not kept but computed again in the backward pass.
    """
    exits, labels = model.config.exits, labels_BT.flatten()
    places_N = (labels >= 0).nonzero().squeeze(-1)
    labels_N = labels[places_N]
    is_learning = torch.is_grad_enabled()

    def terms(layer: int, target_NV: Tensor | None, *, head_gradient: bool, keep: bool) -> _Terms:
        h_ND = hidden[layer - 1].flatten(0, 1).index_select(0, places_N)
        function = partial(
            _exit_terms, model.decoder, layer, labels_N, target_NV, head_gradient=head_gradient, keep=keep
        )
        return checkpointed(function, h_ND) if checkpointing and torch.is_grad_enabled() else function(h_ND)

    with torch.set_grad_enabled(is_learning and train_last):
        last = terms(exits[-1], None, head_gradient=True, keep=config.soft > 0 or not is_learning)
    head_gradient = not config.stop_head_gradient
    early = [terms(layer, last.log_probs_NV, head_gradient=head_gradient, keep=False) for layer in exits[:-1]]
    *early_weights, last_weight = exit_weights(exits, config.weights, config.coefficient)
    parts = [weight * each.mixed(config.soft) for weight, each in zip(early_weights, early, strict=True)]
    if train_last:
        parts.append(last_weight * last.hard)
    every = [*early, last]
    return ExitLosses(
        hard=[each.hard.detach() for each in every],
        soft=[each.soft.detach() for each in early if each.soft is not None],
        correct=None if is_learning else [each.correct for each in every if each.correct is not None],
        total=torch.stack(parts).sum(),
    )


def _exit_terms(
    decoder: MultiExitDecoder, layer: int, labels_N: Tensor, target_NV: Tensor | None, h_ND: Tensor, *,
    head_gradient: bool, keep: bool,
) -> _Terms:  # fmt: skip
    num_tokens = max(1, len(labels_N))
    logits_NV = decoder.exit_logits(layer, h_ND, head_gradient=head_gradient)
    log_probs_NV = logits_NV.float().log_softmax(-1)
    hard = F.nll_loss(log_probs_NV, labels_N, reduction="sum") / num_tokens
    soft = None
    if target_NV is not None:
        soft = F.kl_div(log_probs_NV, target_NV, log_target=True, reduction="sum") / num_tokens
    correct = None if torch.is_grad_enabled() else (logits_NV.argmax(-1) == labels_N).sum()
    return _Terms(hard, soft, correct, log_probs_NV.detach() if keep else None)
