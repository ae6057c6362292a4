"""What computes, behind one small interface: batches in, confidences and tokens out."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from actors.engine.batch import Batch, Emission, EncodeBatch
from actors.engine.costs import VisitCost
from actors.engine.exit_gate import ExitGate, Verdict
from actors.engine.processors import Processors
from actors.engine.request import ActiveSequence
from actors.engine.runner import Runner
from actors.engine.stats import Meter
from actors.engine.visit_costs import measure_visit_costs
from actors.model.model import MultiExitModel
from conf.engine import KvPolicy
from conf.resolve import Resolved


class Executor(Protocol):
    """All that the engine asks of a device. What it returns is on the host and final."""

    device: torch.device

    @property
    def capacity_bytes(self) -> int:
        """Return the bytes of its caches."""

    def make_room(self, batch: EncodeBatch) -> None:
        """Get ready to encode the batch, while nothing is encoded and nothing runs."""

    def encode(self, batch: EncodeBatch) -> None:
        """Put the encoder states of the batch into its slots; may be called from a thread of its own."""

    def run(self, batch: Batch) -> Verdict:
        """Run the segment on all pending positions, and its gate on the current ones."""

    def probe(self, batch: Batch) -> None:
        """Run a batch of the first segment through all layers and the last exit, for the time it takes.

        To be followed by `run`: whatever it writes, nobody reads before that or a deeper segment has written it again.
        """

    def emit(self, batch: Batch, verdict: Verdict, leaves: list[bool]) -> Emission:
        """Say the tokens of the rows that leave."""

    def retire(self, finished: Sequence[ActiveSequence]) -> None:
        """Make the slots of finished sequences fit for others."""

    def visit_costs(self, max_rows: int, limit_s: float) -> tuple[VisitCost, ...]:
        """Measure what visits of up to `max_rows` rows cost, with all slots free; takes about `limit_s` at most."""


class EagerExecutor:
    """The model as PyTorch runs it, operation by operation."""

    def __init__(self, model: MultiExitModel, resolved: Resolved, num_slots: int, meter: Meter) -> None:
        self._meter = meter
        self.device = model.decoder.embedding.weight.device
        self._cuda = self.device.type == "cuda"
        processors = Processors.resolve(model.config, resolved.settings.generation, self.device)
        self.runner = Runner(model, resolved, num_slots, keeps_tokens=not processors.idle)
        self.judge = ExitGate(model, resolved, processors, self.runner.cache.token_ST, meter)

    @property
    def capacity_bytes(self) -> int:
        return self.runner.cache.capacity_bytes

    def make_room(self, batch: EncodeBatch) -> None:
        self.runner.make_room(batch)

    def encode(self, batch: EncodeBatch) -> None:
        self.runner.encode(batch)
        self._wait_for_device()

    def run(self, batch: Batch) -> Verdict:
        with self._meter.decode:
            states = self.runner.run(batch)
            self._wait_for_device()
        with self._meter.gate:
            return self.judge.judge(batch, states)

    def probe(self, batch: Batch) -> None:
        with self._meter.probe_watch:
            self.judge.full_depth_tokens(batch, self.runner.run(batch, all_layers=True))

    def emit(self, batch: Batch, verdict: Verdict, leaves: list[bool]) -> Emission:
        with self._meter.gate:
            decision = self.judge.emit(batch, verdict, leaves)
        if self.runner.kv is not KvPolicy.JIT:
            self.runner.fill_skipped(batch, verdict.states.h_BD, leaves)
        return decision

    def retire(self, finished: Sequence[ActiveSequence]) -> None:
        """Clear numbers that are not finite: a zero weight does not silence them.

        Whatever is not finite in a cache has been attended to by a current token, whose confidence it made NaN.
        """
        broken = [sequence.slot for sequence in finished if not all(map(math.isfinite, sequence.confidences))]
        if broken:
            self.runner.cache.clear(broken)

    def visit_costs(self, max_rows: int, limit_s: float) -> tuple[VisitCost, ...]:
        return measure_visit_costs(self.runner, self.judge, max_rows, limit_s=limit_s, clock=self._meter.clock)

    def _wait_for_device(self) -> None:
        if self._cuda:
            torch.cuda.current_stream(self.device).synchronize()  # not the encoder's
