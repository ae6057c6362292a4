"""Choose exit thresholds on held-out data for a stated risk of leaving too early, and write them into a checkpoint.

The published thresholds of DEED were not available to us; choosing each exit's threshold by a bound on its rate of
disagreement with full depth is our reading, close to CALM's calibration (arXiv 2207.07061, section 3.3) without its
statistical guarantee. So the quality that a risk gives is checked with the engine.

Shape suffixes: N tokens, E exits (the last is full depth).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from actors.engine.processors import Past, Processors
from actors.model.checkpoint import Checkpoint
from actors.model.model import MultiExitModel, PackedBatch
from actors.training.evaluation import Labelled
from actors.training.scoring import Scores, points_lost, sweep
from conf.checkpoint_files import write_model_config
from conf.engine import EngineConfig, GenerationConfig
from conf.errors import UserError
from conf.evaluation import CalibrateConfig
from conf.model import ModelConfig

CLOSED = 1.01  # a threshold that no confidence reaches
_LONGEST = 64  # tokens of an output that is checked
_BATCH_IMAGES = 16


@dataclass(frozen=True)
class Recording:
    """What every exit would have said of every target token, teacher-forced."""

    confidence_NE: np.ndarray  # largest softmax probability
    agrees_NE: np.ndarray  # argmax equals the full-depth argmax


@torch.inference_mode()
def exits_say(
    model: MultiExitModel, batches: Iterable[PackedBatch], processors: Processors | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run the model teacher-forced and yield, for the target tokens of each batch: the tokens themselves [N], what
    every exit would have said [N, E], and how sure of it it was [N, E]; after the rules of generation, if any."""
    for batch in batches:
        hidden = model(batch)
        real = batch.target_labels >= 0
        tops = []
        for exit_layer in model.config.exits:
            logits_NV = model.decoder.exit_logits(exit_layer, hidden[exit_layer - 1][real])
            if processors is not None and not processors.idle:
                processors.apply(logits_NV, _past(batch))
            tops.append(logits_NV.float().softmax(-1).max(-1))
        tokens_NE = torch.stack([top.indices for top in tops], dim=1)
        confidence_NE = torch.stack([top.values for top in tops], dim=1)
        yield batch.target_labels[real].cpu().numpy(), tokens_NE.cpu().numpy(), confidence_NE.cpu().numpy()


def _past(batch: PackedBatch) -> Past:
    """Return what the decoder had read before each target token of a batch."""
    inputs, positions = batch.target_inputs.tolist(), batch.target_positions.tolist()
    rows, given, given_of = [], [], {}  # the last: by place of a text's first input
    for number, place in (batch.target_labels >= 0).nonzero().tolist():
        start = place - positions[number][place]
        rows.append(inputs[number][start : place + 1])
        given.append(given_of.setdefault((number, start), place + 1 - start))
    device = batch.target_inputs.device
    past = Past.of(rows, device=device)
    return Past(past.token_BT, past.length_B, torch.tensor(given, device=device))


def record(model: MultiExitModel, batches: Iterable[PackedBatch]) -> Recording:
    """Run the model teacher-forced over the batches and keep every exit's confidence and verdict."""
    confidence, agrees = [], []
    for _, tokens_NE, confidence_NE in exits_say(model, batches):
        confidence.append(confidence_NE)
        agrees.append(tokens_NE == tokens_NE[:, -1:])
    return Recording(np.concatenate(confidence), np.concatenate(agrees))


def column_left_at(confidence_NE: np.ndarray, thresholds: Sequence[tuple[int, float]]) -> np.ndarray:
    """Return the column [N] that every token leaves at: the first whose confidence reaches its threshold, or the last.

    `thresholds`: (column, threshold) of those that may fire, increasing.
    """
    left_N = np.full(len(confidence_NE), confidence_NE.shape[1] - 1)
    for column, threshold in reversed(thresholds):
        left_N[confidence_NE[:, column] >= threshold] = column
    return left_N


def thresholds_at_risk(recording: Recording, risk: float, exits: tuple[int, ...] | None = None) -> tuple[float, ...]:
    """Return one threshold per exit but the last.

    Exits are settled in order; among the tokens that reach an exit, its threshold is the lowest confidence at which
    the tokens that would leave disagree with full depth at a rate of at most `risk`. `exits` picks columns of the
    recording (0-based, increasing, the last column included); a threshold above 1 closes the exit.
    """
    columns = tuple(range(recording.confidence_NE.shape[1])) if exits is None else exits
    remaining = np.ones(len(recording.confidence_NE), dtype=bool)
    thresholds = []
    for column in columns[:-1]:
        confidence = recording.confidence_NE[remaining, column]
        wrong = ~recording.agrees_NE[remaining, column]
        order = np.argsort(-confidence, kind="stable")
        rate = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
        allowed = np.flatnonzero(rate <= risk)
        threshold = float(confidence[order[allowed[-1]]]) if len(allowed) else CLOSED
        thresholds.append(threshold)
        remaining &= recording.confidence_NE[:, column] < threshold
    return tuple(thresholds)


def record_labelled(labelled: Labelled, decoder_prefix: str = "") -> Recording:
    """Record what every exit says of what is right for all rows, whose outputs begin with the prefix."""
    images, targets = labelled.with_targets(GenerationConfig(decoder_prefix=decoder_prefix))
    checkpoint = labelled.checkpoint
    return record(checkpoint.model, images.batches(checkpoint, targets, _BATCH_IMAGES, torch.device("cpu")))


def choose_thresholds(
    labelled: Labelled, recording: Recording, exits: tuple[int, ...], config: CalibrateConfig,
    on_row: Callable[[Scores], None],
) -> tuple[Scores, tuple[float, ...]] | None:  # fmt: skip
    """Decode with the thresholds of every risk; return the scores and thresholds of the one that has the fewest layers
    computed among those that lose no more than the allowed points, or None where all lose more.

    `exits`: those that may fire, ending with full depth; the others get a threshold that closes them.
    """
    checkpoint = labelled.checkpoint
    all_exits = checkpoint.config.exits
    columns = tuple(all_exits.index(layer) for layer in exits)
    candidates = {f"risk {risk:g}": thresholds_at_risk(recording, risk, columns) for risk in config.risks}
    images = labelled.images.first(config.check_images)
    prefix = GenerationConfig(decoder_prefix=config.decoder_prefix)
    targets = labelled.targets(prefix)
    room = max(len(targets.prefix_ids(row)) for row in images.rows)
    longest = max(1, min(_LONGEST, checkpoint.config.decoder.max_positions - room))
    generation = prefix.model_copy(update={"max_new_tokens": longest})
    engines = [
        (label, EngineConfig(exits=exits, thresholds=thresholds, num_slots=config.num_slots, generation=generation))
        for label, thresholds in candidates.items()
    ]
    full, *rows = sweep(labelled, engines[0][1], engines, on_row, images)
    kept = [row for row in rows if points_lost(full, row) <= config.max_points_lost]
    if not kept:
        return None
    best = min(kept, key=lambda row: row.computed_depth)
    chosen = dict(zip(exits[:-1], candidates[best.label], strict=True))
    return best, tuple(chosen.get(layer, CLOSED) for layer in all_exits[:-1])


def check_exits(exits: tuple[int, ...], model: ModelConfig, checkpoint: str) -> None:
    """Raise UserError where these are not exits of the model to choose thresholds for, full depth the last."""
    own = model.exits
    if not set(exits) <= set(own) or list(exits) != sorted(set(exits)) or exits[-1:] != own[-1:]:
        raise UserError(f"exits={list(exits)} must increase and end with {own[-1]}; {checkpoint} has {list(own)}")
    if len(exits) == 1:
        raise UserError(f"{checkpoint} has no exit to choose a threshold for; deed train gives it some")


def write_thresholds(checkpoint: Checkpoint, folder: Path, thresholds: tuple[float, ...]) -> Path:
    """Put the thresholds into the checkpoint's configuration on disk; return its path."""
    return write_model_config(folder, checkpoint.config.model_copy(update={"thresholds": thresholds}))
