"""Trying again: calls to storage and the network that may fail for a moment, with growing waits, not quite regular.

What is worth another try is decided here once: connections, timeouts, throttling and 5xx answers are; a file that is
not there, is not ours to read or is damaged, or a wrong argument are not. Every other try is logged.
"""

import errno
import http.client
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from conf.schema import RetryConfig

Result = TypeVar("Result")

USUAL_PATIENCE, ONE_TRY = RetryConfig(), RetryConfig(outage_s=0)
_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S = 0.2
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_PASSING = (ConnectionError, TimeoutError, ssl.SSLError, socket.gaierror, http.client.HTTPException)
_PASSING_ERRNOS = {
    getattr(errno, name)
    for name in (
        *(
            "EAGAIN",
            "EBUSY",
            "EINTR",
            "EIO",
            "EREMOTEIO",
            "ESTALE",
            "ENOBUFS",
            "ETIMEDOUT",
        ),  # 5xx: EIO, EREMOTEIO, EBUSY
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
    )
    if hasattr(errno, name)
}
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


def is_refusal(error: BaseException) -> bool:
    """Whether credentials or rights are missing, which somebody must see to before anything can be tried again."""
    return isinstance(error, PermissionError) or type(error).__name__ in _MISTAKES


def _http_status(error: BaseException) -> int | None:
    """Of the answer an exception is about, in the places where clients keep it; None if there was no answer."""
    answer: Any = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        answer = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for found in (answer, getattr(answer, "status_code", None), *(getattr(error, n, None) for n in _STATUS_NAMES)):
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
    """The call's result. The last error itself when it is final, Exhausted when it stayed transient to the end.

    `what` is for the log. It is tried for as long as an outage may last, or `attempts` times.
    """
    tries = Tries(patience, clock)
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            wait_s = tries.failed(error, what, attempts)
            if wait_s is None:
                raise Exhausted(tries.failures, error) from error
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


def backoff_s(failures: int, longest_wait_s: float) -> float:
    """How long to wait after so many failures in a row."""
    wait_s: float = min(longest_wait_s, _FIRST_WAIT_S * 2.0 ** (failures - 1))
    return wait_s * random.uniform(0.75, 1.25)
