"""Windows of one engine -> rows of its statistics table."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from actors.engine.stats import EngineStats
from pipeline.output.publish import write_engine_stats
from pipeline.output.storage import Storage
from pipeline.tables import ENGINE_STATS

_WINDOWS_PER_FILE = 360  # an hour of ten-second windows: the current file is rewritten until it has so many
_COUNTED = tuple(field.name for field in dataclasses.fields(EngineStats) if field.name in ENGINE_STATS.names)


class StatsWriter:
    """The current statistics file of an actor."""

    def __init__(self, storage: Storage, invocation: str, actor: str, device: str, model_load_s: float) -> None:
        self._storage = storage
        self._of_every_row = {"invocation": invocation, "actor": actor, "device": device}
        self._model_load_s: float | None = model_load_s
        self._lock = asyncio.Lock()
        self._rows: list[dict[str, Any]] = []
        self._file = 0

    async def save(self, windows: Sequence[EngineStats]) -> None:
        """Rewrite the current file with these windows; they are then on storage."""
        async with self._lock:
            if not windows:
                return
            self._rows += [self._row(stats) for stats in windows]
            name = f"{self._of_every_row['actor']}-{self._file:05d}"
            await asyncio.to_thread(write_engine_stats, self._storage, name, list(self._rows))
            if len(self._rows) >= _WINDOWS_PER_FILE:
                self._rows, self._file = [], self._file + 1

    def _row(self, stats: EngineStats) -> dict[str, Any]:
        load_s, self._model_load_s = self._model_load_s, None
        offset_s = time.time() - time.perf_counter()  # the engine's clock is monotonic, tables are in UTC
        return {
            **self._of_every_row,
            "start_utc": datetime.fromtimestamp(offset_s + stats.start_s, timezone.utc),
            "end_utc": datetime.fromtimestamp(offset_s + stats.end_s, timezone.utc),
            **{name: getattr(stats, name) for name in _COUNTED},
            "model_load_s": load_s,
        }
