"""Keeps some lines of Ray's C++ core off the terminal: they say nothing that a user could act on.

They cannot be switched off by Ray's own settings without losing its other messages.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_NOISE = (
    b"has constructor arguments in the object store and max_restarts > 0",  # how Ray Data starts actors
    b"Failed to query Ray Train Controller actor state",  # once a second where the cluster has no dashboard
)


Sieve = Callable[[bytes], bytes | None]  # a line -> what is to be written of it, if anything


@contextmanager
def without_ray_noise(sieve: Sieve = lambda line: line) -> Iterator[TextIO]:
    """Filter everything this process writes to stderr; give the unfiltered stream, for live displays.

    `sieve` is asked about the lines that are not noise, on another thread.
    """
    sys.stderr.flush()
    real = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    done = os.urandom(16).hex().encode()  # Ray's processes may keep the pipe open after us, so its end is a message
    forwarder = threading.Thread(target=_forward, args=(reading, real, done, sieve), name="stderr-filter", daemon=True)
    forwarder.start()
    terminal = os.fdopen(os.dup(real), "w", encoding="utf-8", errors="replace")
    try:
        yield terminal
    finally:
        terminal.close()
        sys.stderr.flush()
        os.write(2, done + b"\n")
        forwarder.join(timeout=5)
        os.dup2(real, 2)
        os.close(real)


def _forward(reading: int, real: int, done: bytes, sieve: Sieve) -> None:
    """Copy line by line what is not noise and passes the sieve, until the closing message."""
    with os.fdopen(reading, "rb") as stream:
        ended = False
        for line in stream:
            if done in line:
                line, ended = line.partition(done)[0], True
            if line and not any(noise in line for noise in _NOISE) and (kept := sieve(line)):
                os.write(real, kept)
            if ended:
                return
