"""Beam search as an engine: the same requests in and completions out, every step at full depth.

Beams of a sample must be compared by scores of the same layer, and a beam that is dropped takes its features along, so
early exits have no exact meaning here: all beams run all layers. Samples come and go one by one, as in engine.py.
"""

import time
from collections.abc import Callable

import torch

from actors.engine.admission import Admission
from actors.engine.beam.beam_runner import BeamRunner, sample_bytes
from actors.engine.beam.beam_search import BeamRules, Beams, advance, log_probabilities
from actors.engine.kv_cache import fitting_slots
from actors.engine.limits import check_request
from actors.engine.processors import Past, Processors
from actors.engine.request import ActiveSequence, Completion, FinishReason, Request
from actors.engine.stats import EngineStats, Meter, split_encoding
from actors.engine.visit import index_tensor
from actors.model.model import MultiExitModel
from actors.model.weights import with_weights
from conf.engine import EngineConfig
from conf.resolve import resolve


class BeamEngine:
    """Continuous batching of samples with `generation.num_beams` beams each."""

    def __init__(
        self, model: MultiExitModel, config: EngineConfig, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        generation, own = config.generation, model.config
        self.model = model = with_weights(model, config.weights)
        self._max_prefix = resolve(own, config).max_prefix
        num_positions = 1 + self._max_prefix + generation.max_new_tokens  # inputs, the last token said among them
        num_slots = fitting_slots(
            config.num_slots, sample_bytes(model, generation.num_beams, num_positions), config.tuning.max_cache_bytes
        )
        self.runner = BeamRunner(
            model, num_slots=num_slots, num_beams=generation.num_beams, num_positions=num_positions
        )
        self.beams = Beams.allocate(num_slots, generation.num_beams, num_positions, self.runner.device)
        self.rules = BeamRules(own.end_ids, generation.length_penalty, generation.early_stopping)
        self.processors = Processors.resolve(own, generation, self.runner.device)
        self.meter = Meter(clock, 1)
        self._admission = Admission(
            num_slots, clock,
            num_segments=1, max_new_tokens=generation.max_new_tokens, start_id=own.start_id,
            prefix_ids=generation.prefix_ids, prefix_starts=own.prefix_starts,
        )  # fmt: skip
        self.slots = self._admission.slots
        self._encode_batch = config.tuning.encode_batch
        self._running: dict[int, ActiveSequence] = {}  # by slot

    def add(self, request: Request) -> None:
        """Queue a request; ValueError when the model cannot take it."""
        check_request(request, self.model.config, self._max_prefix)
        self._admission.add(request)

    def has_work(self) -> bool:
        return bool(self._admission.num_waiting or self._running)

    def step(self) -> list[Completion]:
        """Encode newcomers, or move every sample on by a step; return the requests that finished in it."""
        assert self.has_work(), "nothing to run"
        finished: list[ActiveSequence] = []
        with self.meter.busy:
            self.meter.begin_step(self.slots.share_held)
            ready = min(self.slots.num_free, self._admission.num_waiting, self._encode_batch)
            if encodes := ready > 0 and self._worth_encoding(ready):
                rows = self._encode(ready)
            else:
                rows = [self._running[slot] for slot in sorted(self._running)]
                finished = self._decode(rows)
        self.meter.charge(rows, [self.runner.num_beams] * len(rows), None if encodes else 0)
        if not self.has_work():
            self.slots.check_integrity(set())
        return [sequence.completion(self.meter.busy.end_s) for sequence in finished]

    def _worth_encoding(self, ready: int) -> bool:
        """Return whether that is a full encoder batch, all that wait, or for slots that have nothing else to do."""
        most = min(self._encode_batch, max(1, self.slots.num_slots // 3))
        return not self._running or ready >= min(most, self._admission.num_waiting)

    def _encode(self, count: int) -> list[ActiveSequence]:
        admitted = list(self._admission.admit(count))
        for sequence in admitted:
            sequence.position = 0  # what is given is read one by one
            self.beams.reset(sequence.slot, sequence.given_ids)
            self._running[sequence.slot] = sequence
        with self.meter.encode:
            slots_B = index_tensor([sequence.slot for sequence in admitted], self.runner.device)
            self.runner.encode([sequence.request for sequence in admitted], slots_B)
            self._synchronize()
        split_encoding(admitted, self.meter.encode.last_s)
        for sequence in admitted:
            sequence.encoded_s = self.meter.encode.end_s
        return admitted

    @torch.inference_mode()
    def _decode(self, rows: list[ActiveSequence]) -> list[ActiveSequence]:
        slots, device = [sequence.slot for sequence in rows], self.runner.device
        with self.meter.decode:
            position_B = index_tensor([sequence.position for sequence in rows], device)
            before = self.beams.take(index_tensor(slots, device))
            place_BK1 = position_B[:, None, None].expand(*before.alive_score_BK.shape, 1)
            input_BK = before.alive_BKT.gather(2, place_BK1)[..., 0]
            num_keys = 1 + max(sequence.position for sequence in rows)
            logits_BKV = self.runner.step(slots, input_BK, position_B, before.row_BKT, num_keys)
            self._synchronize()
        choosing = [i for i, sequence in enumerate(rows) if sequence.position >= sequence.first_position]
        with self.meter.gate:
            over = (
                self._choose([rows[i] for i in choosing], logits_BKV[index_tensor(choosing, device)])
                if choosing
                else []
            )
        for i in choosing:
            if rows[i].step == 0:
                rows[i].first_token_s = self.meter.gate.end_s
        for sequence in rows:
            sequence.position += 1
        return [self._finish(rows[i]) for i, is_over in zip(choosing, over, strict=True) if is_over]

    def _choose(self, rows: list[ActiveSequence], logits_BKV: torch.Tensor) -> list[bool]:
        """Move the beams of the samples on by one token; return which samples are finished."""
        facts = [
            [sequence.slot for sequence in rows],
            [sequence.position + 1 for sequence in rows],
            [len(sequence.given_ids) for sequence in rows],
            [len(sequence.given_ids) + sequence.limit for sequence in rows],
        ]
        slots_B, length_B, given_B, most_B = index_tensor(facts, self.runner.device)
        before = self.beams.take(slots_B)
        log_NV = log_probabilities(logits_BKV.flatten(0, 1))
        num_beams = logits_BKV.shape[1]
        past = Past(
            before.alive_BKT.flatten(0, 1), length_B.repeat_interleave(num_beams), given_B.repeat_interleave(num_beams)
        )
        self.processors.apply(log_NV, past)
        if self.model.config.generation.forced_eos:  # the last token allowed is the end token, and costs nothing
            last_N = past.length_B + 1 == most_B.repeat_interleave(num_beams)
            log_NV.masked_fill_(last_N[:, None], float("-inf"))
            log_NV[:, self.rules.end_ids[0]].masked_fill_(last_N, 0.0)
        after, over_B = advance(before, log_NV.view(logits_BKV.shape), length_B, given_B, most_B, self.rules)
        self.beams.put(slots_B, after)
        return [bool(is_over) for is_over in over_B.tolist()]  # sync: one per step

    def _finish(self, sequence: ActiveSequence) -> ActiveSequence:
        """Fill in the best hypothesis and free the slot."""
        slot, num_given = sequence.slot, len(sequence.given_ids)
        length = int(self.beams.done_length_BK[slot, 0])
        assert length > num_given, "beam search ended without a hypothesis"
        said = self.beams.done_BKT[slot, 0, num_given:length].tolist()
        sequence.confidences = self.beams.done_log_BKT[slot, 0, num_given:length].exp().clamp(max=1.0).tolist()
        sequence.exit_layers = [self.model.config.decoder.num_layers] * len(said)
        ended = said[-1] in self.rules.end_ids
        forced = self.model.config.generation.forced_eos and len(said) == sequence.limit
        sequence.token_ids = said[:-1] if ended else said
        sequence.finish_reason = FinishReason.EOS if ended and not forced else FinishReason.LENGTH
        sequence.end_id = said[-1] if sequence.finish_reason is FinishReason.EOS else None
        if ended and forced:  # as greedy search says it: cut, and no step for the end token
            sequence.exit_layers.pop()
            sequence.confidences.pop()
        self.meter.stats.num_completed += 1
        self.meter.stats.num_tokens += len(sequence.exit_layers)
        del self._running[slot]
        self.slots.release(slot)
        return sequence

    def _synchronize(self) -> None:
        if self.runner.device.type == "cuda":
            torch.cuda.synchronize()

    def take_stats(self) -> EngineStats:
        """Return the counters since the last call and start new ones; positions are those of all beams."""
        return self.meter.take(self.runner.capacity_bytes + self.beams.num_bytes)
