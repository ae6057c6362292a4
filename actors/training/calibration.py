"""Choose exit thresholds on held-out data for a stated risk of leaving too early.

The published thresholds of DEED were not available to us; choosing each exit's threshold by a bound on its rate of
disagreement with full depth is our reading, close to CALM's calibration (arXiv 2207.07061, section 3.3) without its
statistical guarantee. Whoever picks a risk checks the quality it gives with the engine (`deed calibrate` does).

Shape suffixes: N tokens, E exits (the last is full depth).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from actors.model.model import MultiExitModel, PackedBatch


@dataclass(frozen=True)
class Recording:
    """What every exit would have said of every target token, teacher-forced."""

    confidence_NE: np.ndarray  # largest softmax probability
    agrees_NE: np.ndarray  # argmax equals the full-depth argmax
    correct_NE: np.ndarray  # argmax equals the label


@torch.inference_mode()
def record(model: MultiExitModel, batches: Iterable[PackedBatch]) -> Recording:
    """Run the model teacher-forced over the batches and keep every exit's confidence and verdict."""
    confidence, agrees, correct = [], [], []
    for batch in batches:
        hidden = model(batch)
        real = batch.target_labels >= 0
        labels_N = batch.target_labels[real]
        tops = []
        for exit_layer in model.config.exits:
            logits_NV = model.decoder.exit_logits(exit_layer, hidden[exit_layer - 1][real])
            tops.append(logits_NV.float().softmax(-1).max(-1))
        tokens_NE = torch.stack([top.indices for top in tops], dim=1)
        confidence.append(torch.stack([top.values for top in tops], dim=1).cpu().numpy())
        agrees.append((tokens_NE == tokens_NE[:, -1:]).cpu().numpy())
        correct.append((tokens_NE == labels_N[:, None]).cpu().numpy())
    return Recording(np.concatenate(confidence), np.concatenate(agrees), np.concatenate(correct))


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
        threshold = float(confidence[order[allowed[-1]]]) if len(allowed) else 1.01
        thresholds.append(threshold)
        remaining &= recording.confidence_NE[:, column] < threshold
    return tuple(thresholds)


def expected_depth(recording: Recording, thresholds: tuple[float, ...], exit_layers: tuple[int, ...]) -> float:
    """Return the mean number of layers per token that the thresholds give on the recording."""
    depth = np.full(len(recording.confidence_NE), float(exit_layers[-1]))
    open_ = np.ones(len(depth), dtype=bool)
    for column, threshold in enumerate(thresholds):
        leaves = open_ & (recording.confidence_NE[:, column] >= threshold)
        depth[leaves] = exit_layers[column]
        open_ &= ~leaves
    return float(depth.mean())
