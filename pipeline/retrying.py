"""Trying again: calls to storage and the network that may fail for a moment, with growing waits, not quite regular.

What is worth another try is decided here once: connections, timeouts, throttling and 5xx answers are; a file that is
not there, is not ours to read, or a wrong argument are not.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 20.0
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


@dataclass
class Exhausted(Exception):
    """Every attempt failed; `cause` is what the last one said."""

    attempts: int
    cause: Exception

    def __str__(self) -> str:
        times = "" if self.attempts == 1 else f" (tried {self.attempts} times)"
        return f"{type(self.cause).__name__}: {self.cause}{times}"


def is_transient(error: BaseException | None) -> bool:
    """Whether the same call may succeed a moment later. Back ends raise OSError, their clients kinds of their own."""
    if isinstance(error, _FINAL):
        return False
    if isinstance(error, OSError):  # connection errors, timeouts, and fsspec's translation of 5xx answers
        return True
    return type(error).__module__.split(".")[0] in ("aiohttp", "botocore", "aiobotocore", "urllib3", "requests")


def retry(
    call: Callable[[], Result],
    *,
    attempts: int = 5,
    transient: Callable[[Exception], bool] = is_transient,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """The call's result. The last error itself when it is final, Exhausted when it stayed transient to the end."""
    for number in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:
            if not transient(error):
                raise
            if number == attempts:
                raise Exhausted(number, error) from error
            asked_s = getattr(error, "retry_after_s", None)
            sleep(backoff_s(number) if asked_s is None else min(_LONGEST_WAIT_S, asked_s))
    raise AssertionError("unreachable")


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    wait_s: float = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (failures - 1))
    return wait_s * random.uniform(0.75, 1.25)
