"""The regrouping engine: requests in, completions out, one batch through one segment at a time.

The engine knows nothing of text, files or Ray, and is single-threaded. What decides is the scheduler, what computes the
executor, and what is counted is in the meter. Its slow twin is reference.py.
"""

import math
import time
from collections.abc import Callable

from actors.engine.background import BackgroundEncoder
from actors.engine.batch import Batch, EncodeBatch
from actors.engine.cross_source import CrossSource
from actors.engine.depth_probe import DepthProbe
from actors.engine.executor import EagerExecutor
from actors.engine.kv_cache import fitting_slots, slot_bytes
from actors.engine.limits import check_request
from actors.engine.request import ActiveSequence, Completion, Request
from actors.engine.scheduler import Scheduler, SchedulerRules
from actors.engine.stats import EngineStats, Meter, split_encoding
from actors.model.model import MultiExitModel
from actors.model.weights import with_weights
from conf.engine import EngineConfig, Schedule
from conf.resolve import Resolved, resolve


class Engine:
    """Continuous batching over slots, with one queue per decoder segment."""

    def __init__(
        self, model: MultiExitModel, config: EngineConfig, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.model = model = with_weights(model, config.weights)
        resolved = resolve(model.config, config)
        self._max_prefix = resolved.max_prefix
        num_slots = slots_in_flight(model, resolved)
        self.meter = Meter(clock, len(resolved.exit_layers))
        self.scheduler = Scheduler(SchedulerRules.of(model.config, resolved, num_slots), self.meter)
        self.executor = EagerExecutor(model, resolved, num_slots, self.meter)
        tuning, on_gpu = config.tuning, self.executor.device.type == "cuda"
        overlap = on_gpu if tuning.encode_overlap == "auto" else tuning.encode_overlap
        self._background = BackgroundEncoder(self.executor, clock) if overlap else None
        if config.schedule is Schedule.POOL and len(resolved.exit_layers) > 1 and tuning.calibration_s > 0:
            self._measure_visits(tuning.calibration_s)
        if config.schedule is not Schedule.FULL and len(resolved.exit_layers) > 1 and tuning.calibration_s > 0:
            self.meter.probe = DepthProbe(tuning.calibration_s)

    def _measure_visits(self, limit_s: float) -> None:
        self.scheduler.policy.set_costs(self.executor.visit_costs(self.scheduler.max_rows, limit_s))
        self.meter.restart()  # the measurement emitted no tokens of any request

    def add(self, request: Request) -> None:
        """Queue a request; ValueError when the model cannot take it."""
        check_request(request, self.model.config, self._max_prefix)
        self.scheduler.add(request)

    def has_work(self) -> bool:
        return self.scheduler.has_work()

    def step(self) -> list[Completion]:
        """Run one batch through one segment (or the encoder); return the requests that finished in it."""
        may_admit = self._background is None or self._collect(self._background)
        with self.meter.busy:
            batch = self.scheduler.next_batch(may_admit=may_admit)  # who
            weights = batch.weights
            finished = self._encode(batch) if isinstance(batch, EncodeBatch) else self._visit(batch)
        self.meter.charge(batch.sequences, weights, batch.segment)
        if not self.has_work():
            self.scheduler.check_integrity()
        return [sequence.completion(self.meter.busy.end_s) for sequence in finished]

    def _visit(self, batch: Batch) -> list[ActiveSequence]:
        if batch.segment == 0 and self.meter.probe is not None and self.meter.probe.due():
            self.executor.probe(batch)
        verdict = self.executor.run(batch)  # how
        leaves = self.scheduler.exits(batch, verdict.confidences)  # decide
        decision = self.executor.emit(batch, verdict, leaves)
        finished = self.scheduler.commit(batch, decision, leaves)  # commit
        self.executor.retire(finished)
        return finished

    def _encode(self, batch: EncodeBatch) -> list[ActiveSequence]:
        self.executor.make_room(batch)
        if self._background is not None:
            self._background.start(batch)
            return []
        with self.meter.encode:
            self.executor.encode(batch)
        self.scheduler.encoded(batch)
        split_encoding(batch.sequences, self.meter.encode.last_s)
        return []

    def _collect(self, background: BackgroundEncoder) -> bool:
        """Let encoded sequences decode, waiting for them where nothing else can run; return whether to admit more."""
        if background.done or (background.busy and not self.scheduler.num_running):
            with self.meter.busy, self.meter.encode:
                batch, encoder_s = background.collect()
            self.scheduler.encoded(batch)
            self.meter.charge(batch.sequences, batch.weights)
            self.meter.stats.overlapped_s += max(0.0, encoder_s - self.meter.encode.last_s)
            split_encoding(batch.sequences, encoder_s)
        return not background.busy

    def take_stats(self) -> EngineStats:
        """Return the counters since the last call and start new ones."""
        return self.meter.take(self.executor.capacity_bytes)


def slots_in_flight(model: MultiExitModel, resolved: Resolved) -> int:
    """Return how many sequences can be in flight.

    That is `num_slots` for every queue, and an encoder batch that is ready when others finish.
    """
    config, exit_layers, limit = resolved.settings, resolved.exit_layers, resolved.max_new_tokens
    times = (config.tuning.oversubscription or len(exit_layers)) if config.schedule is Schedule.POOL else 1
    wanted = math.ceil(config.num_slots * times) + min(config.tuning.encode_batch, config.num_slots)
    cross = CrossSource(config.tuning.cross, model.config.decoder, exit_layers=exit_layers, max_new_tokens=limit)
    one_bytes = slot_bytes(
        model.config.decoder, limit + resolved.max_prefix, model.max_context,
        num_kv_layers=cross.num_kv_layers,
        item_bytes=model.decoder.embedding.weight.element_size(),
    )  # fmt: skip
    return fitting_slots(wanted, one_bytes, config.tuning.max_cache_bytes)
