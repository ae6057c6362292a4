"""Runs the rows of a chunk in an actor, such that a row which kills the process is found (crash_log)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.engine_turns import Room
from pipeline.ops.crash_log import Attempt


class CrashGuard:
    """One per actor. `crash_log` is a handle of a Ray actor of pipeline.ops.crash_log.CrashLog."""

    def __init__(self, crash_log: Any) -> None:
        self._log, self._room = crash_log, Room()

    async def run(
        self,
        shard: str,
        chunk: int,
        num_rows: int,
        work: Callable[[Sequence[int], bool], Awaitable[None]],
    ) -> Attempt:
        """Do `work` for rows 0..num_rows-1 except the condemned ones, which the returned attempt names.

        `work` gets numbers of rows, and whether they run alone. Rows of a chunk that has killed processes before are
        run in the pieces that the log asks for, with nothing else in this process.
        """
        attempt: Attempt = await self._log.begin.remote(shard, chunk, num_rows)
        condemned = frozenset(attempt.condemned)
        async with self._room.enter(alone=attempt.alone):
            for first, end in attempt.pieces:
                if attempt.alone:
                    await self._log.enter.remote(shard, chunk, (first, end))
                await work([row for row in range(first, end) if row not in condemned], attempt.alone)
                if attempt.alone:
                    await self._log.leave.remote(shard, chunk)
        return attempt

    async def done(self, shard: str, chunk: int) -> None:
        """Tell the log that the chunk is committed."""
        await self._log.done.remote(shard, chunk)
