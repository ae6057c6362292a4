"""Hidden states at an exit -> how sure the gate is of every row, and the tokens of the rows that leave.

Shape suffixes: B rows, D width, V vocabulary, K candidates, S slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.engine.batch import Batch, Emission
from actors.engine.confidence import SHORTLIST_SIZE, Shortlist, needs_tokens, saturation, score
from actors.engine.processors import Past, Processors
from actors.engine.request import ActiveSequence
from actors.engine.stats import Meter
from actors.engine.visit import index_tensor
from actors.model.model import MultiExitModel
from conf.engine import Gate
from conf.resolve import Resolved


@dataclass(frozen=True, slots=True)
class ExitStates:
    """Hidden states [B, D] of the current tokens: at the exit, and before the exit's last layer.

    Where full depth checks drafts, B is all pending positions of all sequences.
    """

    h_BD: Tensor
    before_BD: Tensor


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate said of every row; no tokens where it did not need them."""

    states: ExitStates
    confidences: list[float]
    token_ids: list[int] | None
    shortlisted: bool = False  # tokens were chosen among candidates alone


AUDIT_EVERY = 32  # visits in which a shortlist chose tokens; one of them is checked against the whole vocabulary


class ExitGate:
    """The gate of an engine; holds the shortlists of its slots, knows nothing of queues and thresholds."""

    def __init__(
        self, model: MultiExitModel, resolved: Resolved, processors: Processors, token_ST: Tensor, meter: Meter
    ) -> None:
        """`token_ST`: decoder inputs by slot and position."""
        self.decoder, self.processors, self.token_ST = model.decoder, processors, token_ST
        self.exit_layers, self.gate = resolved.exit_layers, resolved.settings.gate
        self.checks_drafts = resolved.settings.lossless
        self.device = model.decoder.embedding.weight.device
        self._meter, self._num_shortlisted = meter, 0
        self.shortlists: Shortlist | None = None  # one per slot
        if self.gate is Gate.SHORTLIST:
            num_slots, size = len(token_ST), min(SHORTLIST_SIZE, model.config.decoder.vocab_size)
            ids_SK = torch.zeros(num_slots, size, dtype=torch.int64, device=self.device)
            self.shortlists = Shortlist(ids_SK, torch.zeros(num_slots, device=self.device))

    @torch.inference_mode()
    def judge(self, batch: Batch, states: ExitStates) -> Verdict:
        """Return how sure the exit of the segment is of every current token, and which token it is, where known."""
        last = batch.segment == len(self.exit_layers) - 1
        if last and self.checks_drafts:
            return self._full_depth(batch, states)
        if self.gate is Gate.CLASSIFIER:
            return Verdict(states, self._learned(batch.segment, states.h_BD, last).tolist(), None)
        if not needs_tokens(self.gate):
            return Verdict(states, saturation(states.h_BD, states.before_BD).tolist(), None)
        narrow = self._shortlists(batch) if batch.segment > 0 and not last else None
        if narrow is not None and self.processors.idle:
            logits_BK = self.decoder.exit_logits_of(self.exit_layers[batch.segment], states.h_BD, narrow.ids_BK)
            token_B, confidence_B = narrow.score(logits_BK)
        else:
            logits_BV = self._logits(batch, states.h_BD, batch.sequences)
            if narrow is not None:  # processors read and write whole rows
                token_B, confidence_B = narrow.score(logits_BV.gather(-1, narrow.ids_BK))
            elif self.shortlists is not None and not last:
                token_B, confidence_B = self._begin_shortlists(batch, logits_BV, self.shortlists)
            else:
                token_B, confidence_B = score(logits_BV, self.gate)
        # sync: tokens and confidences to host
        return Verdict(states, confidence_B.tolist(), token_B.tolist(), shortlisted=narrow is not None)

    @torch.inference_mode()
    def emit(self, batch: Batch, verdict: Verdict, leaves: list[bool]) -> Emission:
        """Return the tokens of the rows that leave; where the gate did without the head it runs now, for them alone."""
        if verdict.token_ids is not None:
            if verdict.shortlisted and any(leaves):
                self._check_shortlists(batch, verdict.states, verdict.token_ids, leaves)
            return Emission(verdict.token_ids, verdict.confidences)
        token_ids = [0] * len(leaves)
        for row, token_id in self._tokens(batch, verdict.states, leaves):
            token_ids[row] = token_id
        return Emission(token_ids, verdict.confidences)

    @torch.inference_mode()
    def full_depth_tokens(self, batch: Batch, states: ExitStates) -> list[int]:
        """Return what the last exit says of current tokens that have been through all layers."""
        last = Batch(len(self.exit_layers) - 1, batch.sequences)
        token_B, _ = score(self._logits(last, states.h_BD, batch.sequences), Gate.SOFTMAX_MAX)
        token_ids: list[int] = token_B.tolist()
        return token_ids

    def _tokens(self, batch: Batch, states: ExitStates, leaves: list[bool]) -> list[tuple[int, int]]:
        """Return (row, token) of the rows that leave, chosen among the whole vocabulary."""
        leaving = [row for row, leave in enumerate(leaves) if leave]
        if not leaving:
            return []
        logits_BV = self._logits(
            batch, states.h_BD[index_tensor(leaving, self.device)], [batch.sequences[i] for i in leaving]
        )
        return list(zip(leaving, logits_BV.argmax(-1).tolist(), strict=True))

    def _check_shortlists(self, batch: Batch, states: ExitStates, token_ids: list[int], leaves: list[bool]) -> None:
        """Audit some of them, for the statistics; the tokens stay what they are."""
        due = self._num_shortlisted % AUDIT_EVERY == 0
        self._num_shortlisted += 1
        if due:
            for row, token_id in self._tokens(batch, states, leaves):
                self._meter.stats.num_audited += 1
                self._meter.stats.num_audited_same += token_id == token_ids[row]

    def _full_depth(self, batch: Batch, states: ExitStates) -> Verdict:
        """Say the tokens of all pending positions, each after its own history."""
        logits_BV = self.decoder.exit_logits(self.exit_layers[-1], states.h_BD)
        if not self.processors.idle:
            rows = [(s, position) for s in batch.sequences for position in s.pending(batch.segment)]
            self.processors.apply(logits_BV, self._past([s for s, _ in rows], [position for _, position in rows]))
        token_B, confidence_B = score(logits_BV, Gate.SOFTMAX_MAX)
        return Verdict(states, confidence_B.tolist(), token_B.tolist())

    def _learned(self, segment: int, h_BD: Tensor, last: bool) -> Tensor:
        """Return the learned gate's confidence [B]; full depth has none and needs none."""
        if last:  # but what is not finite must show
            return torch.where(h_BD.isfinite().all(-1), 1.0, float("nan"))
        return self.decoder.gate_logit(self.exit_layers[segment], h_BD).float().sigmoid()

    def _logits(self, batch: Batch, h_BD: Tensor, sequences: Sequence[ActiveSequence]) -> Tensor:
        logits_BV = self.decoder.exit_logits(self.exit_layers[batch.segment], h_BD)
        if not self.processors.idle:
            self.processors.apply(logits_BV, self._past(sequences, [sequence.position for sequence in sequences]))
        return logits_BV

    def _past(self, sequences: Sequence[ActiveSequence], positions: list[int]) -> Past:
        """Return what every row had read when it was at its position."""
        facts = [
            [sequence.slot for sequence in sequences],
            [position + 1 for position in positions],
            [len(sequence.given_ids) for sequence in sequences],
        ]
        slot_B, length_B, given_B = index_tensor(facts, self.device)
        return Past(self.token_ST[slot_B, : max(facts[1])], length_B, given_B)

    def _shortlists(self, batch: Batch) -> Shortlist | None:
        if self.shortlists is None:
            return None
        slots = self._slots(batch)
        return Shortlist(self.shortlists.ids_BK[slots], self.shortlists.rest_B[slots])

    def _begin_shortlists(self, batch: Batch, logits_BV: Tensor, shortlists: Shortlist) -> tuple[Tensor, Tensor]:
        """Keep what later exits choose among; return the first exit's own tokens and confidences."""
        (taken, top_BK), slots = Shortlist.take(logits_BV), self._slots(batch)
        shortlists.ids_BK[slots], shortlists.rest_B[slots] = taken.ids_BK, taken.rest_B
        return taken.score(top_BK)

    def _slots(self, batch: Batch) -> Tensor:
        return index_tensor([sequence.slot for sequence in batch.sequences], self.device)
