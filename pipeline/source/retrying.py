"""Trying again: calls to storage and the network that may fail for a moment, with growing waits, not quite regular.

What is worth another try is decided here once: connections, timeouts, throttling and 5xx answers are; a file that is
not there, is not ours to read or is damaged, or a wrong argument are not. Every other try is logged.
"""

import errno
import http.client
import itertools
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from conf.source import RetryConfig

Result = TypeVar("Result")

USUAL_PATIENCE, ONE_TRY = RetryConfig(), RetryConfig(outage_s=0)
_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S = 0.2
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_PASSING = (ConnectionError, TimeoutError, ssl.SSLError, socket.gaierror, http.client.HTTPException)
_PASSING_NAMES = (
    "EAGAIN", "EBUSY", "EINTR", "EIO", "EREMOTEIO", "ESTALE", "ENOBUFS", "ETIMEDOUT",  # 5xx: EIO, EREMOTEIO, EBUSY
    "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET",
)  # fmt: skip
_PASSING_ERRNOS = {getattr(errno, name) for name in _PASSING_NAMES if hasattr(errno, name)}
_GONE_STATUS = (404, 410)
_PASSING_STATUS = frozenset({408, 425, 429})  # of HTTP, beside 5xx
_CLIENTS = frozenset(  # packages whose exceptions are about the connection, unless they carry an HTTP status
    {"aiohttp", "aiobotocore", "botocore", "urllib3", "requests", "httpx", "httpx2", "httpcore", "gcsfs", "azure"}
)
_MISTAKES = frozenset(  # of those packages, about how they are set up and not about the connection
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError", "ParamValidationError"}
)


@dataclass
class Exhausted(Exception):
    """Every attempt failed; `cause` is what the last one said."""

    attempts: int
    cause: Exception

    def __str__(self) -> str:
        times = "" if self.attempts == 1 else f" (tried {self.attempts} times)"
        return f"{type(self.cause).__name__}: {self.cause}{times}"


class Unavailable(OSError):
    """The other side gave less than it should, or said to come back later."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def is_transient(error: BaseException | None) -> bool:
    """Whether the same call may succeed a moment later. Back ends raise OSError, their clients kinds of their own."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return is_transient(error.__cause__)  # fsspec's web client says so of every failure
    if error is None or isinstance(error, _FINAL) or type(error).__name__ in _MISTAKES:
        return False
    status = _http_status(error)
    if status is not None:
        return status in _PASSING_STATUS or status >= 500
    if isinstance(error, (*_PASSING, Unavailable)) or type(error).__module__.split(".")[0] in _CLIENTS:
        return True
    if isinstance(error, OSError) and error.errno is None:  # damaged data, as libraries report it, or a wrapped error
        return is_transient(error.__cause__)
    return isinstance(error, OSError) and error.errno in _PASSING_ERRNOS


def is_gone(error: BaseException | None) -> bool:
    """Return whether a file is not there, and not one whose storage did not answer or refused to."""
    if not isinstance(error, FileNotFoundError):
        return False
    cause = error.__cause__
    if cause is None or isinstance(cause, FileNotFoundError):
        return True
    return not is_transient(cause) and _http_status(cause) in (None, *_GONE_STATUS)


def said_by(error: Exception) -> Exception:
    """Return what a web client's "file not found" hides, or the error itself."""
    hidden = error.__cause__
    is_wrapped = isinstance(error, FileNotFoundError) and isinstance(hidden, Exception) and not is_gone(error)
    return hidden if is_wrapped else error  # type: ignore[return-value]


def is_passing(error: BaseException) -> bool:
    """Return whether a call failed, however often it was tried, for a reason that may pass."""
    return isinstance(error, Exhausted) or is_transient(error)


def is_refusal(error: BaseException) -> bool:
    """Whether credentials or rights are missing, which somebody must see to before anything can be tried again."""
    return isinstance(error, PermissionError) or type(error).__name__ in _MISTAKES


def _http_status(error: BaseException) -> int | None:
    """Of the answer an exception is about, in the places where clients keep it; None if there was no answer."""
    answer: Any = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        answer = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    own = (getattr(error, name, None) for name in _STATUS_NAMES)  # one after the other: some are deprecated
    for found in itertools.chain((answer, getattr(answer, "status_code", None)), own):
        if isinstance(found, int) and 100 <= found < 600:
            return found
    return None


_STATUS_NAMES = ("status_code", "status", "code")  # azure, aiohttp, gcsfs


class Tries:
    """Counts failures in a row and says how long to wait after each, until the outage has lasted too long."""

    def __init__(self, patience: RetryConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        self._patience, self._clock = patience, clock
        self._since_s = 0.0

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self, error: BaseException | None, what: str, attempts: int | None = None) -> float | None:
        """How long to wait before the next try; None: there is none. `attempts`: so many tries instead of a time."""
        self.failures += 1
        if self.failures == 1:
            self._since_s = self._clock()
        asked_s = getattr(error, "retry_after_s", None)
        longest_s = self._patience.longest_wait_s
        wait_s = backoff_s(self.failures, longest_s) if asked_s is None else min(longest_s, asked_s)
        over = self._clock() + wait_s - self._since_s > self._patience.outage_s
        if over if attempts is None else self.failures >= attempts:
            return None
        # Of pages of the web there may be millions that never answer; of the job's own storage every failure matters.
        level = logging.WARNING if attempts is None else logging.INFO
        kind = type(error).__name__
        _LOG.log(level, "%s failed (%s: %s), try %d comes in %.1f s", what, kind, error, self.failures + 1, wait_s)
        return wait_s


def retry(
    call: Callable[[], Result],
    what: str,
    patience: RetryConfig,
    *,
    attempts: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Return the call's result. The last error itself when it is final, Exhausted when it stayed transient to the end.

    `what` is for the log. It is tried for as long as an outage may last, or `attempts` times.
    """
    tries = Tries(patience, clock)
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            wait_s = tries.failed(said_by(error), what, attempts)
            if wait_s is None:
                raise Exhausted(tries.failures, said_by(error)) from error
            sleep(wait_s)


class Patient:
    """`retry` for many files of one storage: after an outage was waited out in vain, others get one try until one
    succeeds, so that a dead storage costs its patience once and not once for each file."""

    def __init__(self, patience: RetryConfig) -> None:
        self._patience, self._hopeless = patience, False

    def retry(self, call: Callable[[], Result], what: str) -> Result:
        try:
            result = retry(call, what, ONE_TRY if self._hopeless else self._patience)
        except Exhausted:
            self._hopeless = True
            raise
        self._hopeless = False
        return result


class SharedPatience:
    """Patience with one storage, for many threads that ask it for one thing each: an outage is waited out once, by all
    of them together. What comes up after that gets one try, and after as long again without a success none."""

    def __init__(self, patience: RetryConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self.clock = patience, clock
        self._since_s: float | None = None  # when what failed first after the last success was begun

    def left(self) -> RetryConfig | None:
        """Return how patiently to ask now; None: not at all."""
        away_s = self.away_s
        if away_s > 2 * self._patience.outage_s:
            return None
        return self._patience.model_copy(update={"outage_s": max(0.0, self._patience.outage_s - away_s)})

    @property
    def away_s(self) -> float:
        return 0.0 if self._since_s is None else self.clock() - self._since_s

    def failed(self, since_s: float) -> None:
        self._since_s = since_s if self._since_s is None else min(self._since_s, since_s)

    def succeeded(self) -> None:
        self._since_s = None


def backoff_s(failures: int, longest_wait_s: float) -> float:
    """Return how long to wait after so many failures in a row."""
    wait_s: float = min(longest_wait_s, _FIRST_WAIT_S * 2.0 ** (failures - 1))
    return wait_s * random.uniform(0.75, 1.25)
