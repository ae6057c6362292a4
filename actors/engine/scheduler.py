"""Who runs next: admission, one queue per segment, and when a deep queue is worth a visit. Pure Python, no torch.

A row is never forced out of the model: a queue decides only *when* its rows run, so involuntary exits are zero for
every schedule but `consensus`, where rows may be kept in longer than they ask for, never let out earlier.
"""

import itertools
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from actors.engine.request import FinishReason, Request, Sequence
from actors.engine.slots import SlotAllocator
from conf.schema import Schedule


@dataclass(frozen=True, slots=True)
class EncodeBatch:
    """Newly admitted sequences, to be encoded together."""

    sequences: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences whose current token runs `segment`, with the pending positions they bring along."""

    segment: int
    sequences: tuple[Sequence, ...]

    @property
    def num_positions(self) -> int:
        return sum(len(sequence.pending(self.segment)) for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the exit of a segment said, one entry per sequence of the batch; all plain Python values."""

    token_ids: list[int]
    confidences: list[float]


@dataclass(frozen=True, slots=True)
class SchedulerRules:
    """The parts of the configuration that decide who runs."""

    schedule: Schedule
    exit_layers: tuple[int, ...]
    thresholds: tuple[float, ...]
    num_slots: int
    encode_batch: int
    flush_rows: int  # rows that make a visit to a deep segment worth its fixed cost
    max_wait_steps: int
    max_new_tokens: int
    start_id: int
    eos_id: int


class Scheduler:
    """Keeps every sequence in exactly one place: waiting, one segment queue, or in the batch being run."""

    def __init__(self, rules: SchedulerRules, clock: Callable[[], float]) -> None:
        self.rules, self._clock = rules, clock
        self.slots = SlotAllocator(rules.num_slots)
        self.num_segments = len(rules.exit_layers)
        self._waiting: deque[Sequence] = deque()
        self._queues: list[deque[Sequence]] = [deque() for _ in rules.exit_layers]
        self._step = 0

    def add(self, request: Request) -> None:
        limit = min(self.rules.max_new_tokens, request.max_new_tokens or self.rules.max_new_tokens)
        self._waiting.append(Sequence(request, self._clock(), [0] * self.num_segments, limit))

    def has_work(self) -> bool:
        return bool(self._waiting) or any(self._queues)

    @property
    def num_running(self) -> int:
        return sum(map(len, self._queues))

    def next_batch(self) -> EncodeBatch | Batch:
        """Return what to run now; call only while there is work."""
        assert self.has_work(), "nothing to run"
        self._step += 1
        free = self.slots.num_free
        worth = min(self.rules.encode_batch, len(self._waiting))
        if self._waiting and (free >= worth or self.num_running == 0):
            return EncodeBatch(tuple(self._admit() for _ in range(min(free, worth))))
        segment = self._choose_segment()
        queue = self._queues[segment]
        rows = tuple(queue)
        queue.clear()
        return Batch(segment, rows)

    def _admit(self) -> Sequence:
        sequence = self._waiting.popleft()
        sequence.slot = self.slots.allocate()
        sequence.admitted_s = self._clock()
        sequence.input_id = self.rules.start_id
        return sequence

    def _choose_segment(self) -> int:
        occupied = [segment for segment, queue in enumerate(self._queues) if queue]
        if self.rules.schedule is not Schedule.POOL:
            return occupied[-1]  # one wave: whoever is deepest goes on until it is out
        for segment in reversed(occupied):
            oldest = self._queues[segment][0]
            if segment > 0 and self._step - oldest.waiting_since > self.rules.max_wait_steps:
                return segment
        # The deepest queue that is full enough; else the fullest shallow work there is.
        for segment in reversed(occupied):
            if segment > 0 and len(self._queues[segment]) >= self.rules.flush_rows:
                return segment
        return occupied[0]

    def encoded(self, batch: EncodeBatch) -> None:
        """The batch has its encoder states; its sequences may decode."""
        now_s = self._clock()
        for sequence in batch.sequences:
            sequence.encoded_s = now_s
            self._enqueue(sequence, 0)

    def exits(self, batch: Batch, decision: Decision) -> list[bool]:
        """Return which rows leave at this segment's exit."""
        if batch.segment == self.num_segments - 1:
            return [True] * len(batch.sequences)
        threshold = self.rules.thresholds[batch.segment]
        leaves = [confidence >= threshold for confidence in decision.confidences]
        if self.rules.schedule is Schedule.CONSENSUS:
            return [all(leaves)] * len(leaves)
        return leaves

    def commit(self, batch: Batch, decision: Decision, leaves: Rows[bool]) -> list[Sequence]:
        """Record what was computed, move every row to its next place, return the sequences that finished."""
        finished = []
        for sequence, token_id, confidence, leave in zip(
            batch.sequences, decision.token_ids, decision.confidences, leaves, strict=True
        ):
            sequence.computed[batch.segment] = sequence.position + 1
            if not leave:
                self._enqueue(sequence, batch.segment + 1)
                continue
            self._emit(sequence, token_id, confidence, self.rules.exit_layers[batch.segment])
            if sequence.finish_reason is None:
                self._enqueue(sequence, 0)
            else:
                assert sequence.slot is not None
                self.slots.release(sequence.slot)
                finished.append(sequence)
        return finished

    def _emit(self, sequence: Sequence, token_id: int, confidence: float, exit_layer: int) -> None:
        if not sequence.exit_layers:
            sequence.first_token_s = self._clock()
        sequence.exit_layers.append(exit_layer)
        sequence.confidences.append(confidence)
        if token_id == self.rules.eos_id:
            sequence.finish_reason = FinishReason.EOS
            return
        sequence.token_ids.append(token_id)
        sequence.input_id = token_id
        sequence.position += 1
        if sequence.position == sequence.limit:
            sequence.finish_reason = FinishReason.LENGTH

    def _enqueue(self, sequence: Sequence, segment: int) -> None:
        sequence.segment, sequence.waiting_since = segment, self._step
        self._queues[segment].append(sequence)

    def check_integrity(self) -> None:
        """Between steps: slots add up, and every staircase falls and is no longer than its sequence."""
        running = [sequence for queue in self._queues for sequence in queue]
        slots = [sequence.slot for sequence in running if sequence.slot is not None]
        assert len(set(slots)) == len(running), "two sequences share a slot, or one has none"
        self.slots.check_integrity(set(slots))
        for sequence in running:
            stairs = sequence.computed
            assert all(a >= b for a, b in itertools.pairwise(stairs)), f"staircase rises: {stairs}"
            assert stairs[0] <= sequence.position + 1, (stairs, sequence.position)
