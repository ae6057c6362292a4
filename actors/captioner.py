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
from typing import Any

import pyarrow as pa

from actors.backend import Backend
from actors.chunk_rows import BLOCK_ROWS, ChunkRows
from actors.crash_guard import CrashGuard
from actors.engine.request import Request
from actors.engine_thread import EngineThread, Outcome, RequestFailure
from actors.row_audit import RowAudit
from actors.row_work import RowWork, columns_of, failed_columns, request_of
from actors.stats_writer import StatsWriter
from pipeline.chunk import Chunk
from pipeline.ops.duplicates import Answer, Key, key_of
from pipeline.ops.prometheus import EngineMeter
from pipeline.ops.slow import HowFar, noted_if_slow
from pipeline.output.staging import stage_chunk
from pipeline.promise.losses import audited
from pipeline.services import RunServices
from pipeline.tables import SUMMARY

_SLOW_CHUNK_S = 900.0  # with others; on a CPU minutes are ordinary
_MOST_WAITING = 4096  # requests of one chunk in the engine or before it; more than any engine has slots


class Captioner:
    """Ray Data actor class. `make_backend` is picklable and loads the model inside the actor."""

    def __init__(self, make_backend: Callable[[], Backend], services: RunServices) -> None:
        start_s = time.perf_counter()
        with noted_if_slow("loading the model"):
            self._backend = make_backend()
            self._thread = EngineThread(self._backend.make_engine, on_start=self._backend.enter_thread)
        load_s, storage = time.perf_counter() - start_s, services.storage
        self._staging = storage.permitted_by(None)  # a chunk is the same whoever of this incarnation commits it
        self._guard = CrashGuard(services.crash_log)
        self._passthrough, self._answers = services.passthrough, services.answers
        self._audits, self._audit = services.audit is not None, RowAudit(services.audit)
        self._actor = f"{services.invocation}-{os.urandom(4).hex()}"
        self._meter = EngineMeter(storage.url, self._actor)
        self._stats = StatsWriter(storage, services.invocation, self._actor, self._backend.device, load_s)
        self._request_ids = itertools.count()

    async def __call__(self, chunks: pa.Table) -> pa.Table:
        summaries = [await self._caption_chunk(Chunk.from_table(chunks.slice(i, 1))) for i in range(chunks.num_rows)]
        return pa.Table.from_pylist(summaries, schema=SUMMARY)

    def __del__(self) -> None:  # Ray deletes the object when the actor ends in an orderly way
        if hasattr(self, "_thread"):
            self._thread.stop()

    async def _caption_chunk(self, chunk: Chunk) -> dict[str, Any]:
        place = (chunk.shard, chunk.index)
        rows = ChunkRows(chunk.shard, chunk.rows, self._passthrough, collapse=self._answers is not None)
        to_run, what = rows.to_run, f"chunk {chunk.index} of {chunk.shard} in the engine"
        images, full_depth = chunk.images.unpacked(), await self._audit.falls_back()

        async def run(numbers: Sequence[int], alone: bool) -> None:
            positions = [to_run[number] for number in numbers]
            await self._run_rows(rows, positions, images, what, alone=alone, full_depth=full_depth)

        with noted_if_slow(what, _SLOW_CHUNK_S):
            attempt = await self._guard.run(*place, len(to_run), run)
        condemned = [to_run[number] for number in attempt.condemned]
        crash = RequestFailure("worker_crash", "the worker dies whenever it runs this row", attempt.number)
        for position, row in zip(condemned, rows.prepared(condemned), strict=True):
            rows.finish(position, row, failed_columns(row, crash))
        table = rows.table()
        await asyncio.to_thread(stage_chunk, self._staging, *place, table)
        if self._answers is not None:
            await self._answers.add.remote(rows.answers)
        await self._save_engine_stats()
        await self._guard.done(*place)
        audit = audited(table).to_json() if self._audits else None
        summary = {**chunk.place, **rows.summary(), "actor": self._actor, "audit": audit}
        self._meter.chunk(summary)
        return summary

    async def _run_rows(
        self, rows: ChunkRows, positions: Sequence[int], images: Sequence[Any], what: str, *, alone: bool,
        full_depth: bool,
    ) -> None:  # fmt: skip
        """These rows through the engine, so many at a time: what is done for a row before and after it included."""
        waiting: deque[tuple[RowWork, asyncio.Future[Outcome]]] = deque()
        twins: dict[int, asyncio.Future[Outcome]] = {}  # by position: the rows that are audited, at full depth

        async def finish_first() -> None:
            work, future = waiting.popleft()
            columns = columns_of(self._backend, work, await future)
            twin = twins.pop(work.position, None)
            rows.finish(work.position, work.row, await self._audit.completed(self._backend, work, columns, twin))

        far = HowFar(what, len(positions))
        for first in range(0, len(positions), BLOCK_ROWS):
            block = positions[first : first + BLOCK_ROWS]
            prepared = rows.prepared(block)
            # A bisection needs the same rows in every attempt: then nothing is taken from what others have answered. A
            # fallback needs full depth's answers.
            takes_known = self._answers is not None and not alone and not full_depth
            known = await self._known_answers(prepared) if takes_known else {}
            works: list[RowWork] = []
            for position, row in zip(block, prepared, strict=True):
                work = RowWork(
                    position, row, images[row["pixel_index"]], next(self._request_ids), full_depth=full_depth
                )
                outcome = known.get(key_of(row)) or request_of(self._backend, work)
                if isinstance(outcome, Request):
                    works.append(work)
                else:
                    rows.finish(position, row, columns_of(self._backend, work, outcome))
            requests = [work.request for work in works if work.request is not None]
            again = {work.position: twin for work in works if (twin := self._audit.twin(work, self._request_ids))}
            futures = self._thread.submit([*requests, *again.values()])
            waiting.extend(zip(works, futures, strict=False))
            twins.update(zip(again, futures[len(works) :], strict=True))
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
        """Write every window closed so far to storage."""
        windows = self._thread.take_windows()
        for stats in windows:
            self._meter.window(stats)
        await self._stats.save(windows)
