"""The regrouping engine: requests in, completions out, one batch through one segment at a time.

The engine knows nothing of text, files or Ray, and is single-threaded. Its slow twin is reference.py.
"""

import math
import time
from collections.abc import Callable

import torch

from actors.engine.background import BackgroundEncoder
from actors.engine.calibration import measure_costs
from actors.engine.cross_source import CrossSource
from actors.engine.exit_judge import ExitJudge
from actors.engine.kv_cache import fitting_slots, slot_bytes
from actors.engine.limits import check_request
from actors.engine.loops import LoopRule
from actors.engine.processors import Processors
from actors.engine.request import Completion, Request, Sequence
from actors.engine.runner import Runner
from actors.engine.scheduler import Batch, EncodeBatch, Scheduler, SchedulerRules
from actors.engine.stats import EngineStats, Window
from actors.model.model import MultiExitModel
from actors.model.weights import with_weights
from conf.resolve import Resolved, resolve
from conf.schema import EngineConfig, KvPolicy, Schedule


class Engine:
    """Continuous batching over slots, with one queue per decoder segment (DESIGN section 5)."""

    def __init__(
        self, model: MultiExitModel, config: EngineConfig, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.model = model = with_weights(model, config.weights)
        resolved = resolve(model.config, config)
        exit_layers, self._max_prefix = resolved.exit_layers, resolved.max_prefix
        processors = Processors.resolve(model.config, config.generation, model.decoder.embedding.weight.device)
        self._clock = clock
        num_slots = resolve_slots(model, resolved)
        self.scheduler = Scheduler(
            SchedulerRules(
                schedule=config.schedule,
                exit_layers=exit_layers,
                thresholds=resolved.thresholds,
                num_slots=num_slots,
                max_rows=min(config.num_slots, num_slots),
                encode_batch=min(config.tuning.encode_batch, config.num_slots),
                max_wait_steps=config.tuning.max_wait_steps,
                max_new_tokens=resolved.max_new_tokens,
                decay=resolved.decay,
                forced_eos=model.config.generation.forced_eos,
                prefix_ids=config.generation.prefix_ids,
                deep_first=config.kv is not KvPolicy.JIT,
                loop=LoopRule.resolve(config.generation),
                max_drafts=config.max_drafts if config.lossless else None,
                start_id=model.config.start_id,
                eos_id=model.config.eos_id,
            ),
            clock,
        )
        self.runner = Runner(
            model,
            exit_layers=exit_layers,
            kv=config.kv,
            cross=config.tuning.cross,
            num_slots=num_slots,
            max_new_tokens=resolved.max_new_tokens,
            max_prefix=self._max_prefix,
            checks_drafts=config.lossless,
            keeps_tokens=not processors.idle,
        )
        self.judge = ExitJudge(
            model,
            exit_layers=exit_layers,
            gate=config.gate,
            num_slots=num_slots,
            processors=processors,
            token_ST=self.runner.cache.token_ST,
            checks_drafts=config.lossless,
        )
        self._cuda = self.runner.device.type == "cuda"
        overlap = self._cuda if config.tuning.encode_overlap == "auto" else config.tuning.encode_overlap
        self._background = BackgroundEncoder(self.runner, clock) if overlap else None
        self._window = Window(clock(), len(exit_layers))
        if config.schedule is Schedule.POOL and len(exit_layers) > 1 and config.tuning.calibration_s > 0:
            self._calibrate(config.tuning.calibration_s)

    def _calibrate(self, limit_s: float) -> None:
        start_s, rows = self._clock(), self.scheduler.max_rows
        costs = measure_costs(self.runner, self.judge, rows, limit_s=limit_s, clock=self._clock)
        self.scheduler.policy.set_costs(costs)
        self.judge.take_audit()  # what was measured on were no tokens
        self._window.calibration_s = self._clock() - start_s

    def add(self, request: Request) -> None:
        """Queue a request; ValueError when the model cannot take it."""
        check_request(request, self.model.config, self._max_prefix)
        self.scheduler.add(request)

    def has_work(self) -> bool:
        return self.scheduler.has_work()

    def step(self) -> list[Completion]:
        """Run one batch through one segment (or the encoder); return the requests that finished in it."""
        may_admit = self._background is None or self._collect(self._background)
        start_s = self._clock()
        batch = self.scheduler.next_batch(may_admit=may_admit)
        self._window.num_steps += 1
        self._window.occupied += 1 - self.scheduler.slots.num_free / self.scheduler.slots.num_slots
        finished = self._encode(batch, start_s) if isinstance(batch, EncodeBatch) else self._decode(batch, start_s)
        if not self.has_work():
            self.scheduler.check_integrity()
        return finished

    def _collect(self, background: BackgroundEncoder) -> bool:
        """Let encoded sequences decode, waiting for them where nothing else can run; return whether to admit more."""
        start_s = self._clock()
        if (done := background.collect(wait=not self.scheduler.num_running)) is not None:
            batch, encoder_s = done
            waited_s = self._clock() - start_s
            self.scheduler.encoded(batch)
            self._window.encode_s += waited_s
            self._window.overlapped_s += max(0.0, encoder_s - waited_s)
            for sequence in batch.sequences:
                sequence.encode_s += encoder_s / len(batch.sequences)
                sequence.device_s += waited_s / len(batch.sequences)
        return not background.busy

    def _encode(self, batch: EncodeBatch, start_s: float) -> list[Completion]:
        if self._background is not None:
            self._background.start(batch)
            self._window.host_s += self._clock() - start_s
            return []
        self.runner.encode(batch)
        self._wait_for_device()
        self.scheduler.encoded(batch)
        spent_s = self._clock() - start_s
        self._window.encode_s += spent_s
        for sequence in batch.sequences:
            sequence.encode_s += spent_s / len(batch.sequences)
            sequence.device_s += spent_s / len(batch.sequences)
        return []

    def _decode(self, batch: Batch, start_s: float) -> list[Completion]:
        window, segment = self._window, batch.segment
        weights = [len(sequence.pending(segment)) for sequence in batch.sequences]
        run_s = self._clock()
        states = self.runner.run(batch)
        self._wait_for_device()
        gate_s = self._clock()
        verdict = self.judge.judge(batch, states)
        leaves = self.scheduler.exits(batch, verdict.confidences)
        decision = self.judge.emit(batch, states, verdict, leaves)
        decided_s = self._clock()
        if self.runner.kv is not KvPolicy.JIT and segment < self.scheduler.num_segments - 1 and any(leaves):
            self.runner.fill_skipped(batch, states.h_BD, leaves)
        finished = self.scheduler.commit(batch, decision, leaves)
        self._clear_broken(finished)
        end_s = self._clock()
        window.decode_s += gate_s - run_s
        window.gate_s += decided_s - gate_s
        window.host_s += (run_s - start_s) + (end_s - decided_s)
        window.visits[segment] += 1
        window.rows[segment] += len(batch.sequences)
        window.positions[segment] += sum(weights)
        window.places[segment] += states.num_places
        window.seconds[segment] += end_s - start_s
        window.num_completed += len(finished)
        self._attribute(batch.sequences, weights, end_s - start_s)
        return [sequence.completion(end_s) for sequence in finished]

    def _clear_broken(self, finished: list[Sequence]) -> None:
        """Numbers that are not finite leave their slots with their sequence: a zero weight does not silence them.

        Whatever is not finite in a cache has been attended to by a current token, whose confidence it made NaN.
        """
        broken = [s.slot for s in finished if s.slot is not None and not all(map(math.isfinite, s.confidences))]
        if broken:
            self.runner.cache.clear(broken)

    @staticmethod
    def _attribute(sequences: tuple[Sequence, ...], weights: list[int], spent_s: float) -> None:
        """Split a step's seconds over its sequences by the positions they brought, so that sums equal busy time."""
        total = sum(weights)
        for sequence, weight in zip(sequences, weights, strict=True):
            sequence.device_s += spent_s * weight / total

    def _wait_for_device(self) -> None:
        if self._cuda:
            torch.cuda.current_stream(self.runner.device).synchronize()  # not the encoder's

    def take_stats(self) -> EngineStats:
        """Return the counters since the last call and start new ones."""
        window, now_s = self._window, self._clock()
        counts, audit = self.scheduler.take_counts(), self.judge.take_audit()
        self._window = Window(now_s, window.num_segments)
        return window.stats(
            now_s,
            num_tokens=counts.tokens,
            kv_cache_bytes=self.runner.cache.capacity_bytes,
            involuntary_exits=counts.involuntary,
            num_drafted=counts.drafted,
            num_accepted=counts.accepted,
            num_audited=audit.num_tokens,
            num_audited_same=audit.num_same,
            segment_costs=self.scheduler.policy.costs,
            num_slots=self.scheduler.slots.num_slots,
            exit_layers=self.scheduler.rules.exit_layers,
        )


def resolve_slots(model: MultiExitModel, resolved: Resolved) -> int:
    """Sequences in flight: `num_slots` for every queue, and an encoder batch that is ready when others finish."""
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
