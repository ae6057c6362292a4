"""How far a model that leaves early says what its own full depth says, and what that saves on this machine.

Thresholds are chosen on some images and everything is measured on others, so that the numbers are what a user gets on
images nobody has looked at.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.engine.request import Completion
from actors.model.checkpoint import Checkpoint
from actors.model.model import PackedBatch
from actors.training.depth import agreement, computed_depth, mean_depth
from actors.training.pretrained.held_out import HeldOut
from actors.training.rows.targets import Targets
from actors.training.thresholds import Recording, record, thresholds_at_risk
from conf.engine import EngineConfig, Gate, GenerationConfig, TuningConfig
from conf.pretrained import PretrainedConfig

_BATCH_IMAGES = 16
_SINGLE_IMAGES, _ROUNDS = 16, 3  # of the comparison with one sequence at a time


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


@dataclass(frozen=True)
class Saved:
    """Decoder time with early exit and at full depth, of the same engine on this machine; medians of three rounds.

    With one sequence at a time in milliseconds a text, with all slots in texts a second.
    """

    slots: int
    single_early_ms: float
    single_full_ms: float
    early_per_s: float
    full_per_s: float


def engine_config(config: PretrainedConfig, checkpoint: Checkpoint, gate: Gate | None = None,
                  thresholds: tuple[float, ...] | None = None) -> EngineConfig:  # fmt: skip
    """Return the engine that held-out rows are decoded by: at full depth where no gate is given."""
    generation = GenerationConfig(max_new_tokens=_longest(config, checkpoint), decoder_prefix=config.decoder_prefix)
    engine = EngineConfig(num_slots=config.num_slots, generation=generation)
    if gate is None:
        return engine.at_full_depth()
    return engine.model_copy(update={"gate": gate, "exits": checkpoint.config.exits, "thresholds": thresholds})


def _longest(config: PretrainedConfig, checkpoint: Checkpoint) -> int:
    return min(config.max_new_tokens, checkpoint.config.decoder.max_positions)


def measure(
    checkpoint: Checkpoint, gate: Gate, config: PretrainedConfig, targets: Targets, *, choose_on: HeldOut,
    report_on: HeldOut, full: Sequence[Completion],
) -> tuple[Agreement, list[Completion]]:  # fmt: skip
    """Set thresholds for `config.risk` on some images, then decode the others with them.

    `full` is what full depth says of `report_on`.
    """
    device = next(checkpoint.model.parameters()).device

    def batches() -> Iterable[PackedBatch]:
        return choose_on.batches(checkpoint, targets, _BATCH_IMAGES, device)

    recording = record(checkpoint.model, batches())
    if gate is Gate.CLASSIFIER:
        recording = Recording(_gate_values(checkpoint, batches()), recording.agrees_NE)
    thresholds = thresholds_at_risk(recording, config.risk)
    way = engine_config(config, checkpoint, gate, thresholds)
    untimed = way.model_copy(update={"tuning": TuningConfig(calibration_s=0.0)})  # nothing here depends on the schedule
    engine = report_on.engine(checkpoint, targets, untimed)
    early = report_on.said(engine, targets)
    equal_outputs, equal_tokens = agreement([c.token_ids for c in early], [c.token_ids for c in full])
    row = Agreement(
        gate.value, len(report_on), mean_depth(early), computed_depth(early), equal_tokens, equal_outputs, thresholds
    )
    return row, early


@torch.no_grad()
def _gate_values(checkpoint: Checkpoint, batches: Iterable[PackedBatch]) -> np.ndarray:
    """Return what the learned gates say [N, E]; full depth is always sure."""
    rows, decoder = [], checkpoint.model.decoder
    for batch in batches:
        hidden, real = checkpoint.model(batch), batch.target_labels >= 0
        columns = [decoder.gate_logit(layer, hidden[layer - 1][real]).float().sigmoid() for layer in decoder.exits[:-1]]
        rows.append(torch.stack([*columns, torch.ones_like(columns[0])], dim=1).cpu().numpy())
    return np.concatenate(rows)


def measure_saved(
    checkpoint: Checkpoint, config: PretrainedConfig, targets: Targets, images: HeldOut, thresholds: tuple[float, ...]
) -> Saved:
    """Decode some images one at a time and all of them with every slot, early and at full depth in turn."""
    early = engine_config(config, checkpoint, Gate.SOFTMAX_MAX, thresholds)
    ways, few = {"early": early, "full": early.at_full_depth()}, images.first(_SINGLE_IMAGES)
    alone = {n: few.engine(checkpoint, targets, way.model_copy(update={"num_slots": 1})) for n, way in ways.items()}
    filled = {name: images.engine(checkpoint, targets, way) for name, way in ways.items()}
    single: dict[str, list[float]] = {name: [] for name in ways}
    many: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name in ways:
            one, all_rows = few.said(alone[name], targets), images.said(filled[name], targets)
            single[name].append(1000 * _decoder_s(one) / len(one))
            many[name].append(len(all_rows) / _decoder_s(all_rows))
    medians = [statistics.median(values[name]) for values in (single, many) for name in ("early", "full")]
    return Saved(config.num_slots, *medians)


def _decoder_s(completions: Sequence[Completion]) -> float:
    """Return the device's seconds for some texts, without the encoder."""
    return max(1e-9, sum(completion.device_s - completion.encode_s for completion in completions))
