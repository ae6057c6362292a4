"""A line in the log for each step that took long: where a run is slow should not have to be guessed."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLOW_S = 60.0
_LOG = logging.getLogger(__name__)


@contextmanager
def noted_if_slow(what: str, limit_s: float = SLOW_S, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Log what took longer than `limit_s`, whether it ended well or not."""
    start_s = clock()
    try:
        yield
    finally:
        took_s = clock() - start_s
        if took_s > limit_s:
            _LOG.warning("%s took %.0f s", what, took_s)


class HowFar:
    """Says how far a long piece of work is, once a minute."""

    def __init__(self, what: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._said_s = clock()

    def is_due(self, done: int) -> bool:
        """Return whether a minute has passed since it was last said; if so, it is said."""
        if self._clock() - self._said_s < SLOW_S:
            return False
        self._said_s = self._clock()
        _LOG.warning("%s: %s of %s rows", self._what, f"{done:,}", f"{self._total:,}")
        return True


def note_attempt(what: str, attempt: int) -> None:
    """Log that something is done again, because a worker died at it or was lost; the first time is no news."""
    if attempt > 1:
        _LOG.warning("%s is run again, attempt %d", what, attempt)
