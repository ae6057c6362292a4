"""Variants of our engine: full depth, static batches, and every way of leaving early."""

import time
from typing import Any

from actors.engine.drain import drain
from actors.engine.engine import Engine
from actors.engine.oracles.replay import NOTHING, replay
from actors.engine.processors import Processors
from actors.engine.request import Completion
from actors.model.checkpoint import load_checkpoint
from actors.model.model import MultiExitModel
from conf.bench import BenchConfig, BenchModel
from conf.engine import EngineConfig, Gate
from conf.errors import UserError
from conf.resolve import resolve
from jobs.bench.engine.cells import OWN_LIMIT, Cell
from jobs.bench.engine.passes import Outcome, Pass, peak_memory_bytes, percentile
from jobs.bench.engine.places import checkpoint_of
from jobs.bench.engine.scripted_gate import THRESHOLD, ScriptedGate
from jobs.bench.engine.variants import Variant
from jobs.bench.engine.workload import ReplayedEncoder, endless, make_depths, make_requests, scripted_exits

_UNREACHED = 2.0  # no confidence is above 1


class OurEngine:
    """Runs the work of a cell through one engine, again and again."""

    def __init__(self, config: BenchConfig, model: BenchModel, variant: Variant) -> None:
        import torch

        self._config, self._variant = config, variant
        self._checkpoint = load_checkpoint(checkpoint_of(config, model), dtype=getattr(torch, config.dtype))
        self._own_config = self._checkpoint.config
        self._engine: Engine | None = None

    @property
    def _model(self) -> MultiExitModel:
        return self._checkpoint.model

    def release(self) -> None:
        """Forget the cell and its caches."""
        self._engine = None

    def prepare(self, cell: Cell) -> None:
        """Raise UserError where the variant does not apply to the cell."""
        self.release()
        self._model.config = self._own_config
        self._model.__dict__.pop("encode", None)
        depths = make_depths(self._config, cell, self._checkpoint)
        if depths is not None:
            endless(self._model)
        self._settings = engine_config(self._config, cell, self._variant, self._checkpoint, scripted=depths is not None)
        self._requests = make_requests(self._config, cell, self._checkpoint)
        self._engine = Engine(self._model, self._settings)
        if depths is not None and self._variant.exits_early:
            executor = self._engine.executor
            executor.judge = ScriptedGate(executor.judge, depths)  # type: ignore[assignment]
        if cell.encoder == "replayed":
            self._engine.model.__dict__["encode"] = ReplayedEncoder(self._model, self._requests)

    def verify(self) -> Outcome:
        """Run once untimed, and replay some of what came out."""
        assert self._engine is not None
        padding = _PaddingMeter(self._engine)
        done = self._run()
        padding.remove()
        exit_layers = self._engine.scheduler.rules.exit_layers
        indices = [[exit_layers.index(layer) for layer in completion.exit_layers] for completion in done]
        checks = self._replay(done)
        return Outcome(
            tokens=[list(completion.token_ids) for completion in done],
            exit_layers=exit_layers,
            exit_indices=indices,
            padding=padding.share,
            **checks,
        )

    def measure(self) -> Pass:
        assert self._engine is not None
        self._engine.take_stats()
        start_s = time.perf_counter()
        done = self._run()
        wall_s = time.perf_counter() - start_s
        stats = self._engine.take_stats()
        latencies = [completion.finished_s - completion.admitted_s for completion in done]
        return Pass(
            num_sequences=len(done),
            num_tokens=sum(len(completion.token_ids) for completion in done),
            wall_s=wall_s,
            encode_s=stats.encode_s,
            gate_s=stats.gate_s,
            host_s=stats.host_s,
            latency_p50_s=percentile(latencies, 0.5),
            latency_p99_s=percentile(latencies, 0.99),
            visits=stats.segment_visits,
            rows=stats.segment_rows,
            positions=stats.segment_positions,
            involuntary_exits=stats.involuntary_exits,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _run(self) -> list[Completion]:
        """Run all requests to their end; return their completions in the order of the requests."""
        assert self._engine is not None
        alone = self._variant.static or self._settings.num_slots == 1  # latency is that of one with nobody beside it
        size = self._settings.num_slots if alone else len(self._requests)
        done: list[Completion] = []
        for start in range(0, len(self._requests), size):
            done += drain(self._engine, self._requests[start : start + size])
        return done

    def _replay(self, done: list[Completion]) -> dict[str, Any]:
        """In bfloat16 the oracle's own rounding differs; lossless outputs are compared with full depth's instead."""
        if self._settings.lossless or self._config.dtype != "float32":
            return {}
        resolved = resolve(self._model.config, self._settings)
        assert self._engine is not None
        found = NOTHING
        for request, completion in list(zip(self._requests, done, strict=True))[: self._config.replayed_sequences]:
            found += replay(
                self._engine.model, request, completion,
                exit_layers=resolved.exit_layers, thresholds=resolved.thresholds, gate=self._settings.gate,
                processors=Processors.resolve(self._model.config, self._settings.generation),
                schedule=self._settings.schedule,
            )  # fmt: skip
        scripted = self._model.config.eos_id == -1 and self._variant.exits_early
        return {
            "replayed_tokens": found.same_token / max(1, found.num_steps),
            "replayed_exits": None if scripted else found.same_exit / max(1, found.num_steps),
        }


def engine_config(
    config: BenchConfig, cell: Cell, variant: Variant, checkpoint: Any, *, scripted: bool
) -> EngineConfig:
    """Return the engine's settings for a cell; UserError where there is nothing to measure."""
    if config.engine.generation.num_beams > 1:
        raise UserError("deed bench engine measures greedy decoding; set engine.generation.num_beams=1")
    generation = config.engine.generation.model_copy(update={"max_new_tokens": cell.length or OWN_LIMIT})
    changes: dict[str, Any] = {"num_slots": cell.slots, "generation": generation, **variant.changes}
    gate = Gate(changes.get("gate", config.engine.gate))
    if scripted:
        if variant.changes.get("lossless"):
            raise UserError("scripted depths have no drafts that full depth could accept")
        exits = scripted_exits(checkpoint)
        changes |= {"exits": exits, "thresholds": (THRESHOLD,) * (len(exits) - 1)}
    elif gate is Gate.SATURATION:
        raise UserError("no thresholds are calibrated for the gate saturation")
    if variant.never:
        exits = changes.get("exits") or config.engine.exits or checkpoint.config.exits
        changes["thresholds"] = (_UNREACHED,) * (len(exits) - 1)
    return EngineConfig.model_validate({**config.engine.model_dump(), **changes, "generation": generation})


class _PaddingMeter:
    """Counts rows of ragged attention that are padding, by looking at every batch on its way to the runner."""

    def __init__(self, engine: Engine) -> None:
        self._runner, self._used, self._computed = engine.executor.runner, 0, 0
        run = engine.executor.runner.run

        def counted(batch: Any, **how: Any) -> Any:
            if how:  # a probe of full depth, which no token is decided by
                return run(batch, **how)
            lengths = [len(sequence.pending(batch.segment)) for sequence in batch.sequences]
            self._used += sum(lengths)
            self._computed += len(lengths) * max(lengths)
            return run(batch)

        engine.executor.runner.run = counted  # type: ignore[method-assign]

    def remove(self) -> None:
        del self._runner.__dict__["run"]

    @property
    def share(self) -> float:
        return 1 - self._used / self._computed
