"""Who may use an engine that several chunks share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """Who may use the engine: any number of chunks together, or one alone. Whoever wants to be alone goes first."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._wanting_alone = 0

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        async with self._changed:
            self._wanting_alone += alone
            await self._changed.wait_for(lambda: (self._inside if alone else self._wanting_alone) == 0)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._wanting_alone -= alone
                self._changed.notify_all()
