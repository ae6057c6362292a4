"""What one step runs, and what came of it. No torch."""

from dataclasses import dataclass

from actors.engine.request import ActiveSequence


@dataclass(frozen=True, slots=True)
class EncodeBatch:
    """Newly admitted sequences, to be encoded together."""

    sequences: tuple[ActiveSequence, ...]
    segment: None = None  # it runs none

    @property
    def weights(self) -> list[int]:
        """Return what part each sequence has in the batch: all the same."""
        return [1] * len(self.sequences)


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences whose current token runs `segment`, with the pending positions they bring along."""

    segment: int
    sequences: tuple[ActiveSequence, ...]

    @property
    def weights(self) -> list[int]:
        """Return how many positions each sequence brings."""
        return [len(sequence.pending(self.segment)) for sequence in self.sequences]


@dataclass(frozen=True, slots=True)
class Emission:
    """What the exit of a segment said, one entry per sequence of the batch; all plain Python values.

    The token of a row that stays is never read. Where full depth checks drafts, there is one entry per pending
    position of every sequence instead.
    """

    token_ids: list[int]
    confidences: list[float]
