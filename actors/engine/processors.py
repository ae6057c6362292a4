"""Generation options -> scores: what an exit may emit, in the order `transformers` applies the same options.

Confidence is taken from the scores this leaves, so a forced step is sure of itself and ends at the first exit. All
rows are processed together on the device: nothing here loops over rows or synchronises.

Shape suffixes: B rows, T decoder inputs, V vocabulary, W bad words, P tokens of a bad word before its last, N n-grams.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conf.engine import GenerationConfig
from conf.errors import UserError
from conf.model import ModelConfig


@dataclass(frozen=True, slots=True)
class Past:
    """Decoder inputs of every row, the start token included; what lies beyond a row's length is arbitrary."""

    token_BT: Tensor
    length_B: Tensor
    given_B: Tensor  # how many of them were given, not said: the start token and a prefix

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], num_given: int = 1, device: torch.device | str = "cpu") -> "Past":
        """Build it from lists, for callers that are in no hurry."""
        longest = max(map(len, rows))
        tokens = [[*row, *[0] * (longest - len(row))] for row in rows]
        length_B = torch.tensor([len(row) for row in rows], device=device)
        return cls(torch.tensor(tokens, device=device), length_B, torch.full_like(length_B, num_given))

    def last(self, count: int) -> Tensor:
        """Return the last `count` inputs of every row [B, count]; arbitrary in rows that are shorter."""
        place_BN = self.length_B[:, None] + torch.arange(-count, 0, device=self.length_B.device)
        return self.token_BT.gather(1, place_BN.clamp(min=0))


@dataclass(frozen=True, slots=True)
class BadWords:
    """Token sequences that may not be said. Those of equal length are matched together."""

    single_W: Tensor
    longer: tuple[tuple[Tensor, Tensor], ...]  # (all but the last token [W, P], the last one [W])

    @classmethod
    def of(
        cls, words: Sequence[Sequence[int]], end_ids: Sequence[int], device: torch.device | str = "cpu"
    ) -> "BadWords | None":
        """Return None where there are none; a word that is just an end token is left out, as outputs must end."""
        distinct = sorted({tuple(word) for word in words if word} - {(end_id,) for end_id in end_ids})
        if not distinct:
            return None
        longer = []
        for length in sorted({len(word) for word in distinct} - {1}):
            same_WL = torch.tensor([word for word in distinct if len(word) == length], device=device)
            longer.append((same_WL[:, :-1], same_WL[:, -1]))
        single = [word[0] for word in distinct if len(word) == 1]
        return cls(torch.tensor(single, dtype=torch.int64, device=device), tuple(longer))

    def apply(self, logits_BV: Tensor, past: Past) -> None:
        logits_BV.index_fill_(1, self.single_W, float("-inf"))
        for prefix_WP, last_W in self.longer:
            num_before = prefix_WP.shape[1]
            said_BW = (past.last(num_before)[:, None] == prefix_WP).all(-1)
            said_BW &= (past.length_B >= num_before)[:, None]
            _ban(logits_BV, last_W.expand_as(said_BW), said_BW)


@dataclass(frozen=True, slots=True)
class Processors:
    """Rules over the decoder inputs so far; `apply` changes logits in place."""

    end_ids: tuple[int, ...]
    min_new_tokens: int = 0
    no_repeat_ngram: int = 0  # 0: off
    repetition_penalty: float = 1.0  # 1: off
    forced_bos_id: int | None = None  # what the first step emits, whatever its scores; not after a prefix
    bad_words: BadWords | None = None

    @classmethod
    def resolve(
        cls, model: ModelConfig, generation: GenerationConfig, device: torch.device | str = "cpu"
    ) -> "Processors":
        """Take the job's options, and the checkpoint's where the job leaves them open."""
        own, vocab_size = model.generation, model.decoder.vocab_size
        ngram, penalty = generation.no_repeat_ngram, generation.repetition_penalty
        strangers = [i for word in generation.bad_word_ids for i in word if not 0 <= i < vocab_size]
        if strangers:
            raise UserError(f"bad_word_ids must be below the vocabulary's size {vocab_size}, got {strangers[0]}")
        return cls(
            end_ids=model.end_ids,
            min_new_tokens=max(own.min_new_tokens, generation.min_new_tokens),
            no_repeat_ngram=own.no_repeat_ngram if ngram is None else ngram,
            repetition_penalty=own.repetition_penalty if penalty is None else penalty,
            forced_bos_id=own.forced_bos_id,
            bad_words=BadWords.of((*own.banned_ids, *generation.bad_word_ids), model.end_ids, device),
        )

    @property
    def idle(self) -> bool:
        """Return whether logits are left as they are."""
        return (
            self.min_new_tokens == self.no_repeat_ngram == 0
            and self.repetition_penalty == 1.0
            and self.forced_bos_id is None
            and self.bad_words is None
        )

    def apply(self, logits_BV: Tensor, past: Past) -> Tensor:
        """Process logits [B, V] in place, by every row's decoder inputs, and return them."""
        if self.repetition_penalty != 1.0:
            self._penalise(logits_BV, past)
        if self.no_repeat_ngram:
            self._ban_repeats(logits_BV, past)
        if self.bad_words is not None:
            self.bad_words.apply(logits_BV, past)
        if self.min_new_tokens:
            young_B = past.length_B - past.given_B < self.min_new_tokens
            for end_id in self.end_ids:
                logits_BV[:, end_id].masked_fill_(young_B, float("-inf"))
        if self.forced_bos_id is not None:
            first_B1 = (past.length_B == 1)[:, None]
            kept_B = logits_BV[:, self.forced_bos_id].masked_fill(first_B1[:, 0], 0.0)
            logits_BV.masked_fill_(first_B1, float("-inf"))
            logits_BV[:, self.forced_bos_id] = kept_B
        return logits_BV

    def _penalise(self, logits_BV: Tensor, past: Past) -> None:
        places_T = torch.arange(past.token_BT.shape[1], device=logits_BV.device)
        beyond_BT = places_T >= past.length_B[:, None]
        seen_BT = torch.where(beyond_BT, past.token_BT[:, :1], past.token_BT)  # the first input is always there
        scores_BT = logits_BV.gather(1, seen_BT)
        factor = self.repetition_penalty
        logits_BV.scatter_(1, seen_BT, torch.where(scores_BT < 0, scores_BT * factor, scores_BT / factor))

    def _ban_repeats(self, logits_BV: Tensor, past: Past) -> None:
        """Ban tokens that would complete an n-gram that is there already."""
        size = self.no_repeat_ngram
        if past.token_BT.shape[1] < size:
            return
        grams_BNn = past.token_BT.unfold(1, size, 1)
        ends_N = torch.arange(size, past.token_BT.shape[1] + 1, device=logits_BV.device)
        again_BN = (grams_BNn[..., :-1] == past.last(size - 1)[:, None]).all(-1) & (ends_N <= past.length_B[:, None])
        _ban(logits_BV, grams_BNn[..., -1], again_BN)


def _ban(logits_BV: Tensor, token_BN: Tensor, where_BN: Tensor) -> None:
    """Put -inf where the tokens named are to be banned; a token may be named twice with different answers."""
    ban_BN = torch.full(where_BN.shape, float("inf"), dtype=logits_BV.dtype, device=logits_BV.device)
    logits_BV.scatter_reduce_(1, token_BN, ban_BN.masked_fill_(where_BN, float("-inf")), "amin")
