"""The lines of the per-exit table: against the losses of training, and against what exits say token by token."""

import pytest
import torch

from actors.training.pretrained.exit_table import exit_table
from actors.training.pretrained.losses import exit_losses
from conf.pretrained import ExitLossConfig
from tests.actors.training.pretrained.batches import batch_for, trainable


def test_the_table_is_what_the_losses_say_of_the_same_tokens() -> None:
    model = trainable("pre_rms").requires_grad_(False)
    batch = batch_for(model, 5)
    num_tokens = int((batch.target_labels >= 0).sum())
    with torch.no_grad():
        losses = exit_losses(model, model(batch), batch.target_labels, ExitLossConfig())
    table = exit_table(model, [batch])
    assert tuple(row.layer for row in table) == model.config.exits
    assert [row.loss for row in table] == pytest.approx([float(loss) for loss in losses.hard], rel=1e-5)
    assert losses.correct is not None
    assert [row.right for row in table] == [int(correct.sum()) / num_tokens for correct in losses.correct]
    assert table[-1].agrees == 1.0
    assert table[0].agrees is not None
    assert 0 < table[0].agrees < 1


def test_batches_count_by_their_tokens() -> None:
    model = trainable("pre_rms").requires_grad_(False)
    many, few = batch_for(model, 6, seed=1), batch_for(model, 2, seed=2)
    sizes = [int((batch.target_labels >= 0).sum()) for batch in (many, few)]
    both, *apart = (exit_table(model, batches) for batches in ([many, few], [many], [few]))
    for n, row in enumerate(both):
        for name in ("right", "agrees", "loss"):
            parts = [getattr(table[n], name) for table in apart]
            mean = sum(value * size for value, size in zip(parts, sizes, strict=True)) / sum(sizes)
            assert getattr(row, name) == pytest.approx(mean)
