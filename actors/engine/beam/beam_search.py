"""Which beams live on, and which are finished: one step of beam search over several samples, as pure tensors.

Scores, the length penalty and the three kinds of early stopping are those of `transformers`: a hypothesis scores the
sum of its log-probabilities divided by length ** penalty, the best 2 K continuations of a sample are looked at, those
among the best K that end become hypotheses, and the best K that do not end go on.

Shape suffixes: B samples, K beams, J continuations looked at (2 K), T decoder inputs, V vocabulary.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

WORST = -1.0e9  # a score no hypothesis has

EarlyStopping = bool | Literal["never"]


@dataclass(slots=True)
class Beams:
    """State of B samples. `alive_*` go on, `done_*` are hypotheses, best first; what lies beyond a length is arbitrary.

    `row_BKT` says which beam's row of the caches holds a position's features: caches never move when beams change.
    """

    alive_BKT: Tensor  # decoder inputs, those given included
    alive_log_BKT: Tensor  # log-probability of each input that was said
    alive_score_BK: Tensor
    row_BKT: Tensor
    done_BKT: Tensor
    done_log_BKT: Tensor
    done_score_BK: Tensor
    done_length_BK: Tensor  # decoder inputs, the end token included; 0: no hypothesis
    improvable_B: Tensor  # whether a beam that is alive may still beat the hypotheses

    @classmethod
    def allocate(cls, num_samples: int, num_beams: int, num_positions: int, device: torch.device) -> "Beams":
        """Make room for samples; a sample begins with `reset`."""
        shape = (num_samples, num_beams)
        ids = torch.zeros(*shape, num_positions, dtype=torch.int64, device=device)
        logs, scores = torch.zeros(*shape, num_positions, device=device), torch.zeros(*shape, device=device)
        return cls(
            ids, logs, scores, ids.clone(), ids.clone(), logs.clone(), scores.clone(),
            torch.zeros(*shape, dtype=torch.int64, device=device),
            torch.ones(num_samples, dtype=torch.bool, device=device),
        )  # fmt: skip

    def take(self, samples_B: Tensor) -> "Beams":
        return Beams(*(getattr(self, field.name)[samples_B] for field in fields(self)))

    def put(self, samples_B: Tensor, beams: "Beams") -> None:
        for field in fields(self):
            getattr(self, field.name)[samples_B] = getattr(beams, field.name)

    def reset(self, sample: int, given_ids: tuple[int, ...]) -> None:
        """Begin a sample: all beams are equal, so only the first may be continued."""
        num_beams = self.alive_BKT.shape[1]
        self.alive_BKT[sample, :, : len(given_ids)] = torch.tensor(given_ids, device=self.alive_BKT.device)
        self.alive_score_BK[sample], self.alive_score_BK[sample, 1:] = 0.0, WORST
        self.row_BKT[sample] = torch.arange(num_beams, device=self.row_BKT.device)[:, None]
        self.done_score_BK[sample], self.done_length_BK[sample] = WORST, 0
        self.improvable_B[sample] = True

    @property
    def num_bytes(self) -> int:
        return sum(int(getattr(self, field.name).nbytes) for field in fields(self))


@dataclass(frozen=True, slots=True)
class BeamRules:
    end_ids: tuple[int, ...]
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False


def advance(
    beams: Beams, log_BKV: Tensor, length_B: Tensor, given_B: Tensor, most_B: Tensor, rules: BeamRules
) -> tuple[Beams, Tensor]:
    """Return the beams one input longer, by the log-probabilities of it, and which samples are finished [B].

    `length_B` counts the inputs so far, `given_B` those of them that were given, `most_B` those allowed in the end.
    """
    num_beams, vocab_size = log_BKV.shape[1:]
    num_candidates = (1 + len(rules.end_ids)) * num_beams  # enough of them go on
    total_BJ, where_BJ = (log_BKV + beams.alive_score_BK[..., None]).flatten(1).topk(num_candidates)
    parent_BJ, token_BJ = where_BJ // vocab_size, where_BJ % vocab_size
    said_BJT = _put(_pick(beams.alive_BKT, parent_BJ), length_B, token_BJ)
    log_BJT = _put(_pick(beams.alive_log_BKT, parent_BJ), length_B, log_BKV.flatten(1).gather(1, where_BJ))
    cut_B1 = (length_B + 1 >= most_B)[:, None]
    ends_BJ = torch.stack([token_BJ == end_id for end_id in rules.end_ids]).any(0) | cut_B1
    done = _finish(beams, said_BJT, log_BJT, total_BJ, ends_BJ, length_B, given_B, rules)

    going_BJ = total_BJ + ends_BJ * WORST
    chosen_BK = going_BJ.topk(num_beams).indices
    score_BK, parent_BK = going_BJ.gather(1, chosen_BK), parent_BJ.gather(1, chosen_BK)
    own_1K1 = torch.arange(num_beams, device=length_B.device)[None, :, None]
    row_BKT = _pick(beams.row_BKT, parent_BK)
    ahead_B1T = torch.arange(row_BKT.shape[-1], device=length_B.device) >= length_B[:, None, None]
    row_BKT = torch.where(ahead_B1T, own_1K1, row_BKT)

    best_length_B = (most_B if _hopes(rules) else length_B + 1) - given_B
    best_B = score_BK[:, 0] / best_length_B**rules.length_penalty
    finished_BK = done.done_length_BK > 0
    worst_BK = torch.where(finished_BK, done.done_score_BK.amin(1, keepdim=True), WORST)
    improvable_B = beams.improvable_B & (best_B[:, None] > worst_BK).any(1)
    over_B = ~improvable_B | ends_BJ.all(1)
    if rules.early_stopping is True:
        over_B |= finished_BK.all(1)
    after = Beams(
        _pick(said_BJT, chosen_BK), _pick(log_BJT, chosen_BK), score_BK, row_BKT,
        done.done_BKT, done.done_log_BKT, done.done_score_BK, done.done_length_BK, improvable_B,
    )  # fmt: skip
    return after, over_B


@dataclass(frozen=True, slots=True)
class _Done:
    done_BKT: Tensor
    done_log_BKT: Tensor
    done_score_BK: Tensor
    done_length_BK: Tensor


def _finish(
    beams: Beams, said_BJT: Tensor, log_BJT: Tensor, total_BJ: Tensor, ends_BJ: Tensor, length_B: Tensor,
    given_B: Tensor, rules: BeamRules,
) -> _Done:  # fmt: skip
    """Return the best K of the old hypotheses and the new ones; only the likeliest K continuations can become one."""
    num_beams = beams.done_score_BK.shape[1]
    among_J = torch.arange(total_BJ.shape[1], device=total_BJ.device) < num_beams
    new_BJ = ends_BJ & among_J
    if rules.early_stopping is True:
        new_BJ = new_BJ & ~(beams.done_length_BK > 0).all(1, keepdim=True)
    new_BJ = new_BJ & beams.improvable_B[:, None]
    score_BJ = total_BJ / ((length_B + 1 - given_B) ** rules.length_penalty)[:, None]
    score_BJ = torch.where(new_BJ, score_BJ, 2 * WORST)  # below the places that hold no hypothesis yet
    kept_BK = torch.cat([beams.done_score_BK, score_BJ], 1).topk(num_beams).indices
    length_BJ = torch.where(new_BJ, (length_B + 1)[:, None], 0)
    return _Done(
        _pick(torch.cat([beams.done_BKT, said_BJT], 1), kept_BK),
        _pick(torch.cat([beams.done_log_BKT, log_BJT], 1), kept_BK),
        torch.cat([beams.done_score_BK, score_BJ], 1).gather(1, kept_BK),
        torch.cat([beams.done_length_BK, length_BJ], 1).gather(1, kept_BK),
    )


def _hopes(rules: BeamRules) -> bool:
    """Return whether a beam is judged by the longest output it may become, where long ones are preferred."""
    return rules.early_stopping == "never" and rules.length_penalty > 0.0


def _pick(x_BKT: Tensor, index_BJ: Tensor) -> Tensor:
    return x_BKT.gather(1, index_BJ[..., None].expand(*index_BJ.shape, x_BKT.shape[-1]))


def _put(x_BJT: Tensor, place_B: Tensor, value_BJ: Tensor) -> Tensor:
    """Write one value per row at the sample's place; rows have been copied already."""
    place_BJ1 = place_B[:, None, None].expand(*value_BJ.shape, 1)
    return x_BJT.scatter_(2, place_BJ1, value_BJ[..., None])


def log_probabilities(logits_NV: Tensor) -> Tensor:
    return F.log_softmax(logits_NV.float(), dim=-1)
