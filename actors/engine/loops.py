"""Outputs that go round in circles: "a cat on a cat on a cat on". Pure Python."""

from collections.abc import Sequence
from dataclasses import dataclass

from conf.engine import GenerationConfig


@dataclass(frozen=True, slots=True)
class LoopRule:
    """An output loops when it ends with `repeats` copies of some sequence of at most `longest` tokens."""

    longest: int
    repeats: int

    @classmethod
    def resolve(cls, generation: GenerationConfig) -> "LoopRule | None":
        return LoopRule(generation.loop_ngram, generation.loop_repeats) if generation.loop_ngram else None

    def loops(self, token_ids: Sequence[int]) -> bool:
        """Return whether the last token closes a loop, after a few comparisons where it repeats nothing."""
        count = len(token_ids)
        for length in range(1, min(self.longest, count // self.repeats) + 1):
            if token_ids[-1] != token_ids[-1 - length]:
                continue
            start = count - length * self.repeats
            if all(token_ids[i] == token_ids[i + length] for i in range(start, count - length)):
                return True
        return False
