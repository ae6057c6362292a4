"""The Ray callable between rows and requests: one engine per actor, fed from several chunks at once.

A chunk comes in as one row (pixels and prompts), goes through the engine as independent requests, and is committed to
storage here as one file; only a summary travels on. Chunks of the same actor share the engine, so that it does not run
empty between them.
"""

import asyncio
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from actors.backend import Backend
from actors.chunk_rows import BLOCK_ROWS, ChunkRows
from actors.crash_guard import CrashGuard
from actors.engine.request import Request
from actors.engine_thread import EngineThread, Outcome, RequestFailure
from actors.row_work import RowWork, columns_of, failed_columns, request_of
from pipeline.duplicates import Answer, Key, key_of
from pipeline.prometheus import EngineMeter
from pipeline.publish import write_engine_stats
from pipeline.slow import HowFar, noted_if_slow
from pipeline.stages import from_ipc
from pipeline.staging import stage_chunk
from pipeline.storage import Storage
from pipeline.tables import SUMMARY, Passthrough

_SLOW_CHUNK_S = 900.0  # with others; on a CPU minutes are ordinary
_MOST_WAITING = 4096  # requests of one chunk in the engine or before it; more than any engine has slots
_WINDOWS_PER_FILE = 360  # an hour of ten-second windows: the current file is rewritten until it has so many


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
            self._thread = EngineThread(self._backend.make_engine, on_start=self._backend.enter_thread)
        self._model_load_s: float | None = time.perf_counter() - start_s
        self._storage = storage
        self._staging = storage.permitted_by(None)  # a chunk is the same whoever of this incarnation commits it
        self._guard = CrashGuard(crash_log)
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
        size, prepared = self._backend.image_size, from_ipc(chunk["rows"][0].as_buffer())
        pixels_NHWC = np.frombuffer(chunk["pixels"][0].as_buffer(), np.uint8).reshape(-1, size, size, 3)
        rows = ChunkRows(shard_name, prepared, self._passthrough, collapse=self._answers is not None)
        to_run, what = rows.to_run, f"chunk {chunk_index} of {shard_name} in the engine"

        async def run(numbers: Sequence[int], alone: bool) -> None:
            await self._run_rows(rows, [to_run[number] for number in numbers], pixels_NHWC, alone, what)

        with noted_if_slow(what, _SLOW_CHUNK_S):
            attempt = await self._guard.run(shard_name, chunk_index, len(to_run), run)
        condemned = [to_run[number] for number in attempt.condemned]
        crash = RequestFailure("worker_crash", "the worker dies whenever it runs this row", attempt.number)
        for position, row in zip(condemned, rows.prepared(condemned), strict=True):
            rows.finish(position, row, failed_columns(row, crash))
        await asyncio.to_thread(stage_chunk, self._staging, shard_name, chunk_index, rows.table())
        if self._answers is not None:
            await self._answers.add.remote(rows.answers)
        await self._save_engine_stats()
        await self._guard.done(shard_name, chunk_index)
        place = {"shard": shard_name, "chunk": chunk_index, "num_chunks": chunk["num_chunks"][0].as_py()}
        summary = {**place, **rows.summary(), "actor": self._actor}
        self._meter.chunk(summary)
        return summary

    async def _run_rows(
        self, rows: ChunkRows, positions: Sequence[int], pixels_NHWC: Any, alone: bool, what: str
    ) -> None:
        """These rows through the engine, so many at a time: what is done for a row before and after it included."""
        waiting: deque[tuple[RowWork, asyncio.Future[Outcome]]] = deque()

        async def finish_first() -> None:
            work, future = waiting.popleft()
            rows.finish(work.position, work.row, columns_of(self._backend, work, await future))

        far = HowFar(what, len(positions))
        for first in range(0, len(positions), BLOCK_ROWS):
            block = positions[first : first + BLOCK_ROWS]
            prepared = rows.prepared(block)
            # A bisection needs the same rows in every attempt: then nothing is taken from what others have answered.
            known = await self._known_answers(prepared) if self._answers is not None and not alone else {}
            works: list[RowWork] = []
            for position, row in zip(block, prepared, strict=True):
                work = RowWork(position, row, pixels_NHWC[row["pixel_index"]], next(self._request_ids))
                outcome = known.get(key_of(row)) or request_of(self._backend, work)
                if isinstance(outcome, Request):
                    works.append(work)
                else:
                    rows.finish(position, row, columns_of(self._backend, work, outcome))
            requests = [work.request for work in works if work.request is not None]
            waiting.extend(zip(works, self._thread.submit(requests), strict=True))
            while len(waiting) > _MOST_WAITING:
                await finish_first()
            if far.is_due(first):
                await self._save_engine_stats()
        while waiting:
            await finish_first()

    async def _known_answers(self, prepared: Sequence[dict[str, Any]]) -> dict[Key | None, Answer]:
        keys = [key for row in prepared if (key := key_of(row)) is not None]
        known = await self._answers.known.remote(keys)
        return {key: answer for key, answer in zip(keys, known, strict=True) if answer is not None}

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
