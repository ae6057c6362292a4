"""What every exit alone says of held-out targets, teacher-forced: one line each in the model card."""

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from actors.model.model import MultiExitModel, PackedBatch
from actors.training.pretrained.record import ExitFacts


@torch.inference_mode()
def exit_table(model: MultiExitModel, batches: Iterable[PackedBatch]) -> tuple[ExitFacts, ...]:
    """Return, for every exit, its shares of tokens that are right and that equal full depth's, and its loss.

    All are means over the target tokens of the batches, of which there must be one at least.
    """
    exits = model.config.exits
    sums_E3, num_tokens = torch.zeros(len(exits), 3, dtype=torch.float64), 0
    for batch in batches:
        hidden, real = model(batch), batch.target_labels >= 0
        labels_N = batch.target_labels[real]
        num_tokens += len(labels_N)
        last_N = model.decoder.exit_logits(exits[-1], hidden[exits[-1] - 1][real]).argmax(-1)
        for place, layer in enumerate(exits):
            logits_NV = model.decoder.exit_logits(layer, hidden[layer - 1][real]).float()
            said_N = logits_NV.argmax(-1)
            sums_E3[place, 0] += int((said_N == labels_N).sum())
            sums_E3[place, 1] += int((said_N == last_N).sum())
            sums_E3[place, 2] += float(F.cross_entropy(logits_NV, labels_N, reduction="sum"))
    assert num_tokens, "there are no targets"
    return tuple(
        ExitFacts(layer=layer, right=right / num_tokens, agrees=agrees / num_tokens, loss=loss / num_tokens)
        for layer, (right, agrees, loss) in zip(exits, sums_E3.tolist(), strict=True)
    )
