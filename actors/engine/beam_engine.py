"""Beam search as an engine: the same requests in and completions out, every step at full depth.

Beams of a sample must be compared by scores of the same layer, and a beam that is dropped takes its features along, so
early exits have no exact meaning here: all beams run all layers. Samples come and go one by one, as in engine.py.
"""

import time
from collections import deque
from collections.abc import Callable

import torch

from actors.engine.beam_runner import BeamRunner, sample_bytes
from actors.engine.beam_search import BeamRules, Beams, advance, log_probabilities
from actors.engine.kv_cache import fitting_slots
from actors.engine.limits import check_request
from actors.engine.processors import Past, Processors
from actors.engine.request import Completion, FinishReason, Request, Sequence
from actors.engine.slots import SlotAllocator
from actors.engine.stats import EngineStats, Window
from actors.model.model import MultiExitModel
from actors.model.weights import with_weights
from conf.resolve import resolve
from conf.schema import EngineConfig


class BeamEngine:
    """Continuous batching of samples with `generation.num_beams` beams each."""

    def __init__(
        self, model: MultiExitModel, config: EngineConfig, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        generation, own = config.generation, model.config
        self.model = model = with_weights(model, config.weights)
        self._generation, self._clock = generation, clock
        self._max_prefix = resolve(own, config).max_prefix
        num_positions = 1 + self._max_prefix + generation.max_new_tokens  # inputs, the last token said among them
        num_slots = fitting_slots(
            config.num_slots, sample_bytes(model, generation.num_beams, num_positions), config.tuning.max_cache_bytes
        )
        self.runner = BeamRunner(
            model, num_slots=num_slots, num_beams=generation.num_beams, num_positions=num_positions
        )
        self.beams = Beams.allocate(num_slots, generation.num_beams, num_positions, self.runner.device)
        self.rules = BeamRules(own.eos_id, generation.length_penalty, generation.early_stopping)
        self.processors = Processors.resolve(own, generation, self.runner.device)
        self.slots = SlotAllocator(num_slots)
        self._encode_batch = config.tuning.encode_batch
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}  # by slot
        self._window = Window(clock(), 1)
        self._num_tokens = 0

    def add(self, request: Request) -> None:
        """Queue a request; ValueError when the model cannot take it."""
        check_request(request, self.model.config, self._max_prefix)
        prefix_ids = self._generation.prefix_ids if request.prefix_ids is None else request.prefix_ids
        limit = min(self._generation.max_new_tokens, request.max_new_tokens or self._generation.max_new_tokens)
        given_ids = (self.model.config.start_id, *prefix_ids)
        self._waiting.append(Sequence(request, self._clock(), [0], limit, given_ids))

    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self) -> list[Completion]:
        """Encode newcomers, or one step of every sample; return the requests that finished in it."""
        assert self.has_work(), "nothing to run"
        start_s = self._clock()
        self._window.num_steps += 1
        self._window.occupied += len(self._running) / self.slots.num_slots
        ready = min(self.slots.num_free, len(self._waiting), self._encode_batch)
        finished = self._encode(ready, start_s) if ready and self._worth_encoding(ready) else self._decode(start_s)
        if not self.has_work():
            self.slots.check_integrity(set())
        return finished

    def _worth_encoding(self, ready: int) -> bool:
        """A full encoder batch, all that are waiting, or slots that have nothing else to do."""
        most = min(self._encode_batch, max(1, self.slots.num_slots // 3))
        return not self._running or ready >= min(most, len(self._waiting))

    def _encode(self, count: int, start_s: float) -> list[Completion]:
        admitted = [self._waiting.popleft() for _ in range(count)]
        slots = [self.slots.allocate() for _ in admitted]
        for sequence, slot in zip(admitted, slots, strict=True):
            sequence.slot, sequence.admitted_s = slot, start_s
            self.beams.reset(slot, sequence.given_ids)
            self._running[slot] = sequence
        self.runner.encode([s.request for s in admitted], torch.tensor(slots, device=self.runner.device))
        self._synchronize()
        now_s = self._clock()
        self._window.encode_s += now_s - start_s
        for sequence in admitted:
            sequence.encoded_s = now_s
            sequence.encode_s += (now_s - start_s) / count
            sequence.device_s += (now_s - start_s) / count
        return []

    @torch.inference_mode()
    def _decode(self, start_s: float) -> list[Completion]:
        slots = sorted(self._running)
        rows = [self._running[slot] for slot in slots]
        run_s = self._clock()
        position_B = self._index([sequence.position for sequence in rows])
        before = self.beams.take(self._index(slots))
        input_BK = before.alive_BKT.gather(2, position_B[:, None, None].expand(*before.alive_score_BK.shape, 1))[..., 0]
        num_keys = 1 + max(sequence.position for sequence in rows)
        logits_BKV = self.runner.step(slots, input_BK, position_B, before.row_BKT, num_keys)
        self._synchronize()
        gate_s = self._clock()
        choosing = [i for i, sequence in enumerate(rows) if sequence.position >= sequence.first_position]
        over = self._choose([rows[i] for i in choosing], logits_BKV[self._index(choosing)]) if choosing else []
        decided_s = self._clock()
        ended = [rows[i] for i, is_over in zip(choosing, over, strict=True) if is_over]
        for i in choosing:
            if rows[i].step == 0:
                rows[i].first_token_s = decided_s
        for sequence in rows:
            sequence.position += 1
        completions = [self._finish(sequence) for sequence in ended]
        end_s = self._clock()
        self._count(rows, start_s, run_s, gate_s, decided_s, end_s)
        return [completion.completion(end_s) for completion in completions]

    def _choose(self, rows: list[Sequence], logits_BKV: torch.Tensor) -> list[bool]:
        """Move the beams of the samples on by one token; return which samples are finished."""
        slots_B = self._index([sequence.slot or 0 for sequence in rows])
        length_B = self._index([sequence.position + 1 for sequence in rows])
        given_B = self._index([len(sequence.given_ids) for sequence in rows])
        most_B = self._index([len(sequence.given_ids) + sequence.limit for sequence in rows])
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
            log_NV[:, self.rules.eos_id].masked_fill_(last_N, 0.0)
        after, over_B = advance(before, log_NV.view(logits_BKV.shape), length_B, given_B, most_B, self.rules)
        self.beams.put(slots_B, after)
        return [bool(is_over) for is_over in over_B.tolist()]  # sync: one per step

    def _finish(self, sequence: Sequence) -> Sequence:
        """Fill in the best hypothesis and free the slot."""
        slot, num_given = sequence.slot, len(sequence.given_ids)
        assert slot is not None
        length = int(self.beams.done_length_BK[slot, 0])
        assert length > num_given, "beam search ended without a hypothesis"
        said = self.beams.done_BKT[slot, 0, num_given:length].tolist()
        sequence.confidences = self.beams.done_log_BKT[slot, 0, num_given:length].exp().clamp(max=1.0).tolist()
        sequence.exit_layers = [self.model.config.decoder.num_layers] * len(said)
        ended = said[-1] == self.rules.eos_id
        forced = self.model.config.generation.forced_eos and len(said) == sequence.limit
        sequence.token_ids = said[:-1] if ended else said
        sequence.finish_reason = FinishReason.EOS if ended and not forced else FinishReason.LENGTH
        if ended and forced:  # as greedy search says it: cut, and no step for the end token
            sequence.exit_layers.pop()
            sequence.confidences.pop()
        del self._running[slot]
        self.slots.release(slot)
        return sequence

    def _count(
        self, rows: list[Sequence], start_s: float, run_s: float, gate_s: float, decided_s: float, end_s: float
    ) -> None:
        window, num_rows = self._window, len(rows) * self.runner.num_beams
        window.decode_s += gate_s - run_s
        window.gate_s += decided_s - gate_s
        window.host_s += (run_s - start_s) + (end_s - decided_s)
        window.visits[0] += 1
        window.rows[0] += len(rows)
        window.positions[0] += num_rows
        window.places[0] += num_rows
        window.seconds[0] += end_s - start_s
        for sequence in rows:
            sequence.device_s += (end_s - start_s) / len(rows)
            if sequence.finish_reason is not None:
                window.num_completed += 1
                self._num_tokens += len(sequence.exit_layers)

    def _index(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self.runner.device, non_blocking=True)

    def _synchronize(self) -> None:
        if self.runner.device.type == "cuda":
            torch.cuda.synchronize()

    def take_stats(self) -> EngineStats:
        """Return the counters since the last call and start new ones; positions are those of all beams."""
        window, now_s, tokens = self._window, self._clock(), self._num_tokens
        self._window, self._num_tokens = Window(now_s, 1), 0
        return window.stats(
            now_s,
            num_tokens=tokens,
            kv_cache_bytes=self.runner.capacity_bytes + self.beams.num_bytes,
            num_slots=self.slots.num_slots,
            exit_layers=(self.model.config.decoder.num_layers,),
        )
