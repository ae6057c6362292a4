"""Who runs next: admission, one queue per segment (policy.py says which), what a row does after a visit. No torch.

A row is never forced out of the model: a queue decides only *when* its rows run. `consensus` may keep rows in longer
than they ask for, never let them out earlier. Where early exits are drafts (`lossless`), a row that would end, or has
drafted enough, goes on to full depth, which says the tokens of all its pending positions.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from actors.engine.admission import Admission
from actors.engine.batch import Batch, Emission, EncodeBatch
from actors.engine.costs import costs_by_layers
from actors.engine.exit_thresholds import ExitThresholds
from actors.engine.loops import LoopRule
from actors.engine.queue_policy import QueuePolicy
from actors.engine.request import ActiveSequence, FinishReason, Request
from actors.engine.stats import Meter
from conf.engine import KvPolicy, Schedule
from conf.model import ModelConfig
from conf.resolve import Decay, Resolved


@dataclass(frozen=True, slots=True)
class SchedulerRules:
    """The parts of the configuration that decide who runs."""

    schedule: Schedule
    exit_layers: tuple[int, ...]
    thresholds: tuple[float, ...]
    num_slots: int
    encode_batch: int
    max_wait_steps: int
    max_new_tokens: int
    start_id: int
    end_ids: tuple[int, ...]
    max_rows: int | None = None  # most sequences of a visit; more slots than that keep every queue full
    decay: Decay | None = None  # how thresholds fall along an output
    forced_eos: bool = False  # the last allowed step would emit the end token, so it is not run at all
    prefix_ids: tuple[int, ...] = ()  # decoder inputs after the start token, of requests that bring none
    prefix_starts: bool = False  # in the place of the start token
    deep_first: bool = False  # a prefix goes through all layers: nothing computes its deeper features later
    loop: LoopRule | None = None  # when an output repeats itself too much to go on
    max_drafts: int | None = None  # early exits are drafts, and full depth checks them after this many at the latest

    @classmethod
    def of(cls, model: ModelConfig, resolved: Resolved, num_slots: int) -> "SchedulerRules":
        settings = resolved.settings
        return cls(
            schedule=settings.schedule,
            exit_layers=resolved.exit_layers,
            thresholds=resolved.thresholds,
            num_slots=num_slots,
            max_rows=min(settings.num_slots, num_slots),
            encode_batch=min(settings.tuning.encode_batch, settings.num_slots),
            max_wait_steps=settings.tuning.max_wait_steps,
            max_new_tokens=resolved.max_new_tokens,
            decay=resolved.decay,
            forced_eos=model.generation.forced_eos,
            prefix_ids=settings.generation.prefix_ids,
            prefix_starts=model.prefix_starts,
            deep_first=settings.kv is not KvPolicy.JIT,
            loop=LoopRule.resolve(settings.generation),
            max_drafts=settings.max_drafts if settings.lossless else None,
            start_id=model.start_id,
            end_ids=model.end_ids,
        )


class Scheduler:
    """Keeps every sequence in exactly one place: waiting, one segment queue, or in the batch being run."""

    def __init__(self, rules: SchedulerRules, meter: Meter) -> None:
        self.rules, self._meter = rules, meter
        self.num_segments = len(rules.exit_layers)
        self._admission = Admission(
            rules.num_slots, meter.clock,
            num_segments=self.num_segments, max_new_tokens=rules.max_new_tokens, start_id=rules.start_id,
            prefix_ids=rules.prefix_ids, prefix_starts=rules.prefix_starts, forced_eos=rules.forced_eos,
        )  # fmt: skip
        self.slots = self._admission.slots
        self.max_rows = rules.max_rows or rules.num_slots
        self.policy = QueuePolicy(costs_by_layers(rules.exit_layers), self.max_rows, rules.max_wait_steps)
        # Slots that may stand empty until there are enough of them for an encoder batch.
        self._encode_batch = max(1, min(rules.encode_batch, rules.num_slots // 3 or 1))
        self._encoding: set[ActiveSequence] = set()
        self._queues: list[deque[ActiveSequence]] = [deque() for _ in rules.exit_layers]
        self._step = 0
        consensus = rules.schedule is Schedule.CONSENSUS
        self.thresholds = ExitThresholds(rules.thresholds, rules.decay, consensus, rules.deep_first)

    def add(self, request: Request) -> None:
        self._admission.add(request)

    def has_work(self) -> bool:
        return bool(self._admission.num_waiting) or bool(self._encoding) or any(self._queues)

    @property
    def num_running(self) -> int:
        return sum(map(len, self._queues))

    def next_batch(self, *, may_admit: bool = True) -> EncodeBatch | Batch:
        """Return what to run now; call only while there is work that needs no admission, or with leave to admit."""
        waiting = self._admission.num_waiting if may_admit else 0
        assert self.num_running or waiting, "nothing to run"
        self._step += 1
        lengths = [len(queue) for queue in self._queues]
        segment = self._pressing(lengths)
        free = self.slots.num_free
        batch: EncodeBatch | Batch
        if segment is None and waiting and (free >= min(self._encode_batch, waiting) or not any(lengths)):
            batch = EncodeBatch(self._admission.admit(min(free, waiting, self.rules.encode_batch)))
            self._encoding.update(batch.sequences)
        else:
            segment = self.policy.longest(lengths) if segment is None else segment
            batch = Batch(segment, self._take(self._queues[segment]))
        self._meter.begin_step(self.slots.share_held)
        return batch

    def _pressing(self, lengths: list[int]) -> int | None:
        """Return the segment that runs before anybody is admitted, if any."""
        if self.rules.schedule is Schedule.POOL:
            return self.policy.pressing(lengths, [self._step - q[0].waiting_since if q else 0 for q in self._queues])
        deepest = max((segment for segment, length in enumerate(lengths) if length), default=0)
        if deepest > 0 or lengths[0] >= self.max_rows:
            return deepest  # one wave: whoever is deepest goes on until it is out
        return None

    def _take(self, queue: deque[ActiveSequence]) -> tuple[ActiveSequence, ...]:
        """Remove at most `max_rows` from a queue, its oldest among them, in slot order: neighbours in memory are then
        neighbours in the batch, and the others follow the oldest one's slot, so that memory is read in few pieces."""
        rows = sorted(queue, key=attrgetter("slot"))
        if len(rows) <= self.max_rows:
            queue.clear()
            return tuple(rows)
        first = rows.index(queue[0])
        taken = (rows[first:] + rows[:first])[: self.max_rows]
        chosen = {sequence.slot for sequence in taken}
        kept = [sequence for sequence in queue if sequence.slot not in chosen]
        queue.clear()
        queue.extend(kept)
        return tuple(sorted(taken, key=attrgetter("slot")))

    def encoded(self, batch: EncodeBatch) -> None:
        """Let the sequences decode: they have their encoder states."""
        now_s = self._meter.clock()
        self._encoding.difference_update(batch.sequences)
        for sequence in batch.sequences:
            sequence.encoded_s = now_s
            self._enqueue(sequence, 0)

    def exits(self, batch: Batch, confidences: Sequence[float]) -> list[bool]:
        """Return which rows leave at this segment's exit."""
        if batch.segment == self.num_segments - 1:
            return [True] * len(batch.sequences)
        return self.thresholds.leaves(batch, confidences)

    def commit(self, batch: Batch, decision: Emission, leaves: Sequence[bool]) -> list[ActiveSequence]:
        """Record what was computed, move every row to its next place, return the sequences that finished."""
        finished, stats = [], self._meter.stats
        last = batch.segment == self.num_segments - 1
        if last and self.rules.max_drafts is not None:
            decision = self._check_drafts(batch, decision)
        for sequence, token_id, confidence, leave in zip(
            batch.sequences, decision.token_ids, decision.confidences, leaves, strict=True
        ):
            sequence.computed[batch.segment] = sequence.position + 1
            if not leave or (not last and self._must_be_checked(sequence, token_id)):
                self._enqueue(sequence, batch.segment + 1)
                continue
            if not last:
                stats.num_drafted += self.rules.max_drafts is not None
                stats.involuntary_exits += confidence < self.thresholds.at(batch.segment, sequence)
            self._emit(sequence, token_id, confidence, self.rules.exit_layers[batch.segment])
            if sequence.finish_reason is None:
                self._enqueue(sequence, 0)
            else:
                self.slots.release(sequence.slot)
                finished.append(sequence)
        stats.num_completed += len(finished)
        return finished

    def _must_be_checked(self, sequence: ActiveSequence, token_id: int) -> bool:
        """Return whether full depth is due: before the sequence may end, and when there are enough drafts."""
        if self.rules.max_drafts is None:
            return False
        ends = token_id in self.rules.end_ids or sequence.step + 1 == sequence.limit
        unchecked = sequence.position + 1 - max(sequence.computed[-1], sequence.first_position)
        return ends or unchecked > self.rules.max_drafts or self._loops([*sequence.token_ids, token_id])

    def _check_drafts(self, batch: Batch, said: Emission) -> Emission:
        """Return one of full depth's tokens per sequence, that of the first pending position it disagrees at.

        What was drafted after that position is taken back, and the sequence goes on from there.
        """
        token_ids, confidences, start = [], [], 0
        for sequence in batch.sequences:
            pending, given = sequence.pending(batch.segment), sequence.first_position
            first, wrong, place = max(pending.start, given), sequence.position, start - pending.start
            for position in range(first, sequence.position):
                if said.token_ids[place + position] != sequence.token_ids[position - given]:
                    wrong = position
                    break
            self._meter.stats.num_accepted += wrong - first
            self._take_back(sequence, wrong)
            token_ids.append(said.token_ids[place + wrong])
            confidences.append(said.confidences[place + wrong])
            start += len(pending)
        return Emission(token_ids, confidences)

    def _take_back(self, sequence: ActiveSequence, position: int) -> None:
        """Make `position` the current one again; caches beyond it are written anew before anything reads them."""
        self._meter.stats.num_tokens -= sequence.position - position
        for emitted in (sequence.token_ids, sequence.exit_layers, sequence.confidences):
            del emitted[position - sequence.first_position :]
        sequence.position = position
        sequence.computed = [min(computed, position + 1) for computed in sequence.computed]

    def _emit(self, sequence: ActiveSequence, token_id: int, confidence: float, exit_layer: int) -> None:
        if not sequence.exit_layers:
            sequence.first_token_s = self._meter.clock()
        self._meter.stats.num_tokens += 1
        sequence.exit_layers.append(exit_layer)
        sequence.confidences.append(confidence)
        if token_id in self.rules.end_ids:
            sequence.finish_reason, sequence.end_id = FinishReason.EOS, token_id
            return
        sequence.token_ids.append(token_id)
        sequence.input_id = token_id
        sequence.position += 1
        if self._loops(sequence.token_ids):
            sequence.finish_reason = FinishReason.LOOP
        elif len(sequence.token_ids) == sequence.limit:
            sequence.finish_reason = FinishReason.LENGTH

    def _loops(self, token_ids: Sequence[int]) -> bool:
        return self.rules.loop is not None and self.rules.loop.loops(token_ids)

    def _enqueue(self, sequence: ActiveSequence, segment: int) -> None:
        sequence.waiting_since = self._step
        self.policy.entered(segment)
        self._queues[segment].append(sequence)

    def check_integrity(self) -> None:
        """Assert, between steps, that slots add up and every staircase falls and is no longer than its sequence."""
        running = [*self._encoding, *(sequence for queue in self._queues for sequence in queue)]
        slots = {sequence.slot for sequence in running}
        assert len(slots) == len(running), "two sequences share a slot"
        self.slots.check_integrity(slots)
        for sequence in running:
            stairs = sequence.computed
            assert all(a >= b for a, b in itertools.pairwise(stairs)), f"staircase rises: {stairs}"
            assert stairs[0] <= sequence.position + 1, (stairs, sequence.position)
