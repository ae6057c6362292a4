"""Who leaves at an exit: its confidences against the thresholds of its rows. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from actors.engine.batch import Batch
from actors.engine.request import ActiveSequence
from conf.resolve import Decay, threshold_at


@dataclass(frozen=True, slots=True)
class ExitThresholds:
    """`by_exit` has one confidence for each exit but the last, at or above which a token leaves (conf/resolve.py)."""

    by_exit: tuple[float, ...]
    decay: Decay | None
    together: bool  # nobody leaves until all rows of the batch are sure (schedule=consensus)
    prefix_first: bool  # the first token after a prefix runs all layers, because nothing else would compute the prefix

    def leaves(self, batch: Batch, confidences: Sequence[float]) -> list[bool]:
        """Return which rows leave at the exit of the batch's segment, which is not the last one."""
        thresholds = [self.at(batch.segment, sequence) for sequence in batch.sequences]
        leaves = [confidence >= threshold for confidence, threshold in zip(confidences, thresholds, strict=True)]
        return [all(leaves)] * len(leaves) if self.together else leaves

    def at(self, segment: int, sequence: ActiveSequence) -> float:
        """Return how sure the exit of `segment` must be of the sequence's current token."""
        if sequence.request.full_depth:
            return math.inf
        if self.decay is None and not self.prefix_first:
            return self.by_exit[segment]
        if self.prefix_first and sequence.step == 0 < sequence.first_position:
            return math.inf
        return threshold_at(self.by_exit[segment], sequence.step, self.decay)
