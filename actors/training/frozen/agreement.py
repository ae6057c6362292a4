"""How far a model that leaves early says what its own full depth says.

Thresholds are chosen on some images and the agreement is measured on others, so that the number is what a user gets on
images nobody has looked at.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from actors.model.checkpoint import Checkpoint
from actors.model.model import PackedBatch
from actors.training.depth import agreement, computed_depth, mean_depth
from actors.training.frozen.distillation import features
from actors.training.frozen.unlabelled import Corpus, decode, engine_config
from actors.training.thresholds import Recording, record, thresholds_at_risk
from conf.engine import Gate
from conf.frozen import FrozenConfig


@dataclass(frozen=True)
class Agreement:
    """Early exit against full depth on images that nothing was chosen by."""

    gate: str
    num_images: int
    mean_depth: float
    computed_depth: float  # layers per token, those that later tokens made catch up included
    equal_tokens: float  # share, by position
    equal_outputs: float
    thresholds: tuple[float, ...]


def measure(
    checkpoint: Checkpoint, gate: Gate, config: FrozenConfig, *, choose_on: Corpus, report_on: Corpus
) -> Agreement:
    """Set thresholds for `config.risk` on one corpus, then decode the other with them."""
    device = next(checkpoint.model.parameters()).device

    def batches() -> Iterable[PackedBatch]:
        return choose_on.batches(checkpoint, config.optimizer.batch_images, device)

    recording = record(checkpoint.model, batches())
    if gate is Gate.CLASSIFIER:
        recording = Recording(_gate_values(checkpoint, batches()), recording.agrees_NE)
    thresholds = thresholds_at_risk(recording, config.risk)
    engine = engine_config(
        config.num_slots, config.max_new_tokens, gate=gate, exits=checkpoint.config.exits, thresholds=thresholds
    )
    completions = decode(checkpoint, report_on.examples, engine)
    full = [tuple(t for t in target if t not in checkpoint.config.end_ids) for target in report_on.targets]
    equal_outputs, equal_tokens = agreement([completion.token_ids for completion in completions], full)
    return Agreement(
        gate.value, len(full), mean_depth(completions), computed_depth(completions), equal_tokens, equal_outputs,
        thresholds,
    )  # fmt: skip


@torch.no_grad()
def _gate_values(checkpoint: Checkpoint, batches: Iterable[PackedBatch]) -> np.ndarray:
    """Return what the learned gates say [N, E]; full depth is always sure."""
    rows = []
    for batch in batches:
        hidden = features(checkpoint.model, batch).hidden
        columns = [checkpoint.model.decoder.gate_logit(layer, h).float().sigmoid() for layer, h in hidden.items()]
        rows.append(torch.stack([*columns, torch.ones_like(columns[0])], dim=1).cpu().numpy())
    return np.concatenate(rows)
