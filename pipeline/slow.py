"""A line in the log for each step that took long: where a run is slow should not have to be guessed."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLOW_S = 60.0
_LOG = logging.getLogger(__name__)


@contextmanager
def noted_if_slow(what: str, limit_s: float = SLOW_S, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Logs what took longer than `limit_s`, whether it ended well or not."""
    start_s = clock()
    try:
        yield
    finally:
        took_s = clock() - start_s
        if took_s > limit_s:
            _LOG.warning("%s took %.0f s", what, took_s)


def note_attempt(what: str, attempt: int) -> None:
    """Logs that something is done again, because a worker died at it or was lost; the first time is no news."""
    if attempt > 1:
        _LOG.warning("%s is run again, attempt %d", what, attempt)
