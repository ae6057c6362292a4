"""Generation options -> scores: what an exit may emit, in the order `transformers` applies the same options.

Confidence is taken from the scores this leaves, so a forced step is sure of itself and ends at the first exit.

Shape suffixes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conf.model import ModelConfig
from conf.schema import GenerationConfig


@dataclass(frozen=True, slots=True)
class Processors:
    """Rules over the decoder inputs so far, start token included; `apply` changes logits in place."""

    eos_id: int
    min_new_tokens: int = 0
    no_repeat_ngram: int = 0  # 0: off
    repetition_penalty: float = 1.0  # 1: off
    forced_bos_id: int | None = None  # what the first step emits, whatever its scores

    @classmethod
    def resolve(cls, model: ModelConfig, generation: GenerationConfig) -> "Processors":
        """The job's options, and the checkpoint's where the job leaves them open."""
        own = model.generation
        ngram, penalty = generation.no_repeat_ngram, generation.repetition_penalty
        return cls(
            eos_id=model.eos_id,
            min_new_tokens=generation.min_new_tokens,
            no_repeat_ngram=own.no_repeat_ngram if ngram is None else ngram,
            repetition_penalty=own.repetition_penalty if penalty is None else penalty,
            forced_bos_id=own.forced_bos_id,
        )

    @property
    def idle(self) -> bool:
        """True when logits are left as they are."""
        return (
            self.min_new_tokens == self.no_repeat_ngram == 0
            and self.repetition_penalty == 1.0
            and self.forced_bos_id is None
        )

    def apply(self, logits_BV: Tensor, inputs: Sequence[Sequence[int]]) -> Tensor:
        """Logits [B, V] and every row's decoder inputs -> the same tensor, processed."""
        if self.idle:
            return logits_BV
        for row, past in enumerate(inputs):
            self._row(logits_BV[row], past)
        return logits_BV

    def _row(self, logits_V: Tensor, past: Sequence[int]) -> None:
        step = len(past) - 1
        if self.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(past)), device=logits_V.device)
            scores = logits_V[seen]
            factor = self.repetition_penalty
            logits_V[seen] = torch.where(scores < 0, scores * factor, scores / factor)
        if self.no_repeat_ngram and (banned := _would_repeat(past, self.no_repeat_ngram)):
            logits_V[torch.tensor(banned, device=logits_V.device)] = float("-inf")
        if step < self.min_new_tokens:
            logits_V[self.eos_id] = float("-inf")
        if step == 0 and self.forced_bos_id is not None:
            logits_V.fill_(float("-inf"))
            logits_V[self.forced_bos_id] = 0.0


def _would_repeat(past: Sequence[int], size: int) -> list[int]:
    """Tokens that would complete an n-gram of `size` that `past` holds already."""
    if len(past) + 1 < size:
        return []
    tail = tuple(past[len(past) - size + 1 :])
    starts = range(len(past) - size + 1)
    return sorted({past[i + size - 1] for i in starts if tuple(past[i : i + size - 1]) == tail})
