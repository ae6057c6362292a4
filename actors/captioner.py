"""The Ray callable between rows and requests: one engine per actor, fed from several chunks at once.

A chunk comes in as one row (pixels and prompts), goes through the engine as independent requests, and is committed to
storage here as one file; only a summary travels on. Chunks of the same actor share the engine, so that it does not run
empty between them.
"""

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from actors.engine.request import FinishReason, Request
from actors.engine_thread import EngineLike, EngineThread, Outcome, RequestFailure
from actors.room import Room
from conf.schema import EngineConfig, ModelSection
from pipeline.duplicates import Answer, answers_of, as_copy, key_of, leave_out_repeats
from pipeline.prometheus import EngineMeter
from pipeline.sink import rows_table, stage_chunk, write_engine_stats
from pipeline.slow import noted_if_slow
from pipeline.stages import from_ipc
from pipeline.storage import Storage
from pipeline.tables import SUMMARY, Passthrough

_SLOW_CHUNK_S = 900.0  # with others; on a CPU minutes are ordinary
_WINDOWS_PER_FILE = 360  # an hour of ten-second windows: the current file is rewritten until it has so many


@dataclass(frozen=True)
class Backend:
    """A loaded model as the captioner needs it. `make_engine` may be called again after an engine failure."""

    make_engine: Callable[[], EngineLike]
    encode_prompt: Callable[[str], tuple[int, ...]]  # ValueError for a prompt the model cannot take
    decode_tokens: Callable[[Sequence[int]], str]
    token_texts: Callable[[Sequence[int]], list[str]]  # what each token adds
    image_size: int
    device: str  # "cpu", or the GPU's name
    encode_prefix: Callable[[str], tuple[int, ...] | None] = lambda prompt: None  # what its output begins with


def load_backend(model: ModelSection, engine: EngineConfig, num_threads: int) -> Backend:
    """The real thing: checkpoint and engine on the device this process has. Called inside the actor."""
    import torch

    from actors.engine_factory import make_engine
    from actors.generation_texts import prefix_of
    from actors.model.checkpoint import load_checkpoint
    from actors.model.weights import with_weights

    cuda = model.device == "cuda" or (model.device == "auto" and torch.cuda.is_available())
    torch.set_num_threads(num_threads)
    checkpoint = load_checkpoint(model.checkpoint, device="cuda" if cuda else "cpu", dtype=getattr(torch, model.dtype))
    small = with_weights(checkpoint.model, engine.weights)  # once and here, so that the larger weights are let go
    checkpoint = replace(checkpoint, model=small)
    max_prompt_tokens = checkpoint.config.encoder.max_prompt_tokens

    def encode_prompt(text: str) -> tuple[int, ...]:
        token_ids = checkpoint.codec.encode_prompt(text)
        if len(token_ids) > max_prompt_tokens:
            raise ValueError(f"the prompt has {len(token_ids)} tokens, the model takes {max_prompt_tokens}")
        return token_ids

    return Backend(
        make_engine=lambda: make_engine(checkpoint, engine),
        encode_prompt=encode_prompt,
        encode_prefix=lambda prompt: prefix_of(prompt, engine.generation, checkpoint.codec),
        decode_tokens=checkpoint.codec.decode,
        token_texts=checkpoint.codec.pieces,
        image_size=checkpoint.config.image_size,
        device=torch.cuda.get_device_name() if cuda else "cpu",
    )


class Captioner:
    """Ray Data actor class. `make_backend` is picklable and loads the model inside the actor."""

    def __init__(
        self,
        make_backend: Callable[[], Backend],
        storage: Storage,
        crash_log: Any,  # handle of a Ray actor of pipeline.crash_log.CrashLog
        invocation: str,
        passthrough: Passthrough = (),
        answers: Any = None,  # handle of a Ray actor of pipeline.duplicates.AnswerBook, if duplicates are collapsed
    ) -> None:
        start_s = time.perf_counter()
        with noted_if_slow("loading the model"):
            self._backend = make_backend()
            self._thread = EngineThread(self._backend.make_engine)
        self._model_load_s: float | None = time.perf_counter() - start_s
        self._storage = storage
        self._crash_log = crash_log
        self._room = Room()
        self._passthrough = passthrough
        self._answers = answers
        self._invocation = invocation
        self._actor = f"{invocation}-{os.urandom(4).hex()}"
        self._meter = EngineMeter(storage.url, self._actor)
        self._request_ids = itertools.count()
        self._stats_lock = asyncio.Lock()
        self._stats_rows: list[dict[str, Any]] = []
        self._stats_file = 0

    async def __call__(self, chunks: pa.Table) -> pa.Table:
        summaries = [await self._caption_chunk(chunks.slice(i, 1)) for i in range(chunks.num_rows)]
        return pa.Table.from_pylist(summaries, schema=SUMMARY)

    def __del__(self) -> None:  # Ray deletes the object when the actor ends in an orderly way
        if hasattr(self, "_thread"):
            self._thread.stop()

    async def _caption_chunk(self, chunk: pa.Table) -> dict[str, Any]:
        shard_name, chunk_index = chunk["shard"][0].as_py(), chunk["chunk"][0].as_py()
        prepared = from_ipc(chunk["rows"][0].as_buffer()).to_pylist()
        size = self._backend.image_size
        pixels_NHWC = np.frombuffer(chunk["pixels"][0].as_buffer(), np.uint8).reshape(-1, size, size, 3)

        requests: dict[int, Request] = {}  # position in `prepared` -> request
        refused: dict[int, Outcome] = {}
        for position, row in enumerate(prepared):
            if row["pixel_index"] is None:
                continue
            try:
                prompt_ids = self._backend.encode_prompt(row["prompt"])
            except ValueError as error:
                refused[position] = RequestFailure("bad_prompt", str(error), attempts=1)
                continue
            requests[position] = Request(
                next(self._request_ids), pixels_NHWC[row["pixel_index"]], prompt_ids,
                max_new_tokens=row.get("max_new_tokens"), prefix_ids=self._backend.encode_prefix(row["prompt"]),
            )  # fmt: skip
        repeats = leave_out_repeats(prepared, requests) if self._answers is not None else {}
        with noted_if_slow(f"chunk {chunk_index} of {shard_name} in the engine", _SLOW_CHUNK_S):
            outcomes = refused | await self._run_guarded(shard_name, chunk_index, prepared, requests)
        rows = []
        for position, row in enumerate(prepared):
            columns = self._outcome_columns(row, outcomes.get(repeats.get(position, position)))
            if position in repeats:
                columns = as_copy(columns, prepared[repeats[position]]["sample_id"])
            rows.append({**row, "shard": shard_name, **columns})
        table = rows_table(rows, self._passthrough)
        await asyncio.to_thread(stage_chunk, self._storage, shard_name, chunk_index, table)
        if self._answers is not None:
            await self._answers.add.remote(answers_of(rows))
        await self._save_engine_stats()
        await self._crash_log.done.remote(shard_name, chunk_index)
        summary = _summary(rows, shard_name, chunk_index, chunk["num_chunks"][0].as_py(), self._actor)
        self._meter.chunk(summary)
        return summary

    async def _run_guarded(
        self, shard_name: str, chunk_index: int, prepared: list[dict[str, Any]], requests: dict[int, Request]
    ) -> dict[int, Outcome | Answer]:
        """Outcome of each request. A chunk that killed workers before runs alone, in the pieces the log asks for."""
        positions = list(requests)
        attempt = await self._crash_log.begin.remote(shard_name, chunk_index, len(positions))
        outcomes: dict[int, Outcome | Answer] = {
            positions[row]: RequestFailure("worker_crash", "the worker dies whenever it runs this row", attempt.number)
            for row in attempt.condemned
        }
        if self._answers is not None and not attempt.alone:  # a bisection needs the same rows in every attempt
            keys = {position: key for position in positions if (key := key_of(prepared[position])) is not None}
            known = await self._answers.known.remote(list(keys.values()))
            outcomes.update({p: answer for p, answer in zip(keys, known, strict=True) if answer is not None})
        async with self._room.alone() if attempt.alone else self._room.together():
            for first, end in attempt.pieces:
                if attempt.alone:
                    await self._crash_log.enter.remote(shard_name, chunk_index, (first, end))
                todo = [position for position in positions[first:end] if position not in outcomes]
                futures = self._thread.submit([requests[position] for position in todo])
                outcomes.update(zip(todo, await asyncio.gather(*futures), strict=True))
                if attempt.alone:
                    await self._crash_log.leave.remote(shard_name, chunk_index)
        return outcomes

    def _outcome_columns(self, row: dict[str, Any], outcome: Outcome | Answer | None) -> dict[str, Any]:
        if outcome is None:  # it failed before the engine
            return {"attempts": row["attempts"] or 1}
        if isinstance(outcome, Answer):
            return outcome.columns
        if isinstance(outcome, RequestFailure):
            message = f"{row['sample_id']}: {outcome.message}"
            failed = {"stage": "engine", "error_type": outcome.error_type, "message": message}
            return {**failed, "attempts": outcome.attempts}
        token_texts = self._backend.token_texts(outcome.token_ids)
        if outcome.finish_reason is FinishReason.EOS:
            token_texts.append("")
        return {
            "text": self._backend.decode_tokens(outcome.token_ids),
            "num_tokens": len(outcome.token_ids),
            "finish_reason": outcome.finish_reason.value,
            "mean_confidence": _mean(outcome.confidences),
            "min_confidence": min(outcome.confidences, default=None),
            "mean_depth": _mean(outcome.exit_layers),
            "exit_layers": outcome.exit_layers,
            "confidences": outcome.confidences,
            "token_texts": token_texts,
            "queue_wait_s": outcome.admitted_s - outcome.enqueued_s,
            "encode_s": outcome.encode_s,
            "ttft_s": outcome.first_token_s - outcome.enqueued_s,
            "decode_s": outcome.finished_s - outcome.encoded_s,
            "e2e_s": outcome.finished_s - outcome.enqueued_s,
            "device_s": outcome.device_s,
        }

    async def _save_engine_stats(self) -> None:
        """Rewrite this actor's current statistics file; every window closed so far is then on storage."""
        async with self._stats_lock:
            windows = self._thread.take_windows()
            for stats in windows:
                self._meter.window(stats)
            fresh = [self._window_row(stats) for stats in windows]
            if not fresh:
                return
            self._stats_rows += fresh
            name = f"{self._actor}-{self._stats_file:05d}"
            await asyncio.to_thread(write_engine_stats, self._storage, name, list(self._stats_rows))
            if len(self._stats_rows) >= _WINDOWS_PER_FILE:
                self._stats_rows, self._stats_file = [], self._stats_file + 1

    def _window_row(self, stats: Any) -> dict[str, Any]:
        load_s, self._model_load_s = self._model_load_s, None
        offset_s = time.time() - time.perf_counter()  # the engine's clock is monotonic, tables are in UTC
        return {
            "invocation": self._invocation,
            "actor": self._actor,
            "device": self._backend.device,
            "start_utc": datetime.fromtimestamp(offset_s + stats.start_s, timezone.utc),
            "end_utc": datetime.fromtimestamp(offset_s + stats.end_s, timezone.utc),
            "busy_s": stats.busy_s,
            "encode_s": stats.encode_s,
            "decode_s": stats.decode_s,
            "gate_s": stats.gate_s,
            "host_s": stats.host_s,
            "num_steps": stats.num_steps,
            "num_tokens": stats.num_tokens,
            "num_completed": stats.num_completed,
            "occupancy": stats.occupancy,
            "segment_visits": stats.segment_visits,
            "segment_rows": stats.segment_rows,
            "segment_positions": stats.segment_positions,
            "segment_s": stats.segment_s,
            "kv_cache_bytes": stats.kv_cache_bytes,
            "involuntary_exits": stats.involuntary_exits,
            "overlapped_s": stats.overlapped_s,
            "num_drafted": stats.num_drafted,
            "num_accepted": stats.num_accepted,
            "num_audited": stats.num_audited,
            "num_audited_same": stats.num_audited_same,
            "model_load_s": load_s,
        }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _summary(
    rows: list[dict[str, Any]], shard_name: str, chunk_index: int, num_chunks: int, actor: str
) -> dict[str, Any]:
    errors = Counter(f"{row['stage']}/{row['error_type']}" for row in rows if row["stage"] is not None)
    layers = [layer for row in rows if row.get("duplicate_of") is None for layer in row.get("exit_layers", ())]
    return {
        "shard": shard_name,
        "chunk": chunk_index,
        "num_chunks": num_chunks,
        "num_rows": len(rows),
        "num_errors": errors.total(),
        "num_layers_run": sum(layers),
        "num_steps": len(layers),
        "error_types": json.dumps(errors),
        "actor": actor,
    }
