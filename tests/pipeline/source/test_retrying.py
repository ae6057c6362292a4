"""What is tried again, for how long, and what is not."""

import errno
import gzip
import logging
import socket
from typing import Any

import aiohttp
import pyarrow as pa
import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from conf.source import RetryConfig
from pipeline.source.retrying import Exhausted, Patient, Unavailable, is_transient, retry


class Clock:
    """Time passes by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


class Outage:
    """A storage that is away until a moment of a clock."""

    def __init__(self, clock: Clock, until_s: float) -> None:
        self.clock, self.until_s, self.calls = clock, until_s, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.clock() < self.until_s:
            raise ConnectionResetError("gone")
        return "back"


@pytest.mark.parametrize("until_s", [0.1, 3.0, 30.0, 60.0, 75.0])
def test_by_default_an_outage_of_a_minute_is_waited_out(until_s: float) -> None:
    clock = Clock()
    assert retry(Outage(clock, until_s), "x", RetryConfig(), sleep=clock.sleep, clock=clock) == "back"
    assert clock.now_s < until_s + 15


def test_a_longer_one_is_given_up_with_the_number_of_tries(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    outage = Outage(clock, 1e9)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(Exhausted, match=r"ConnectionResetError: gone .tried \d+") as e,
    ):
        retry(outage, "reading s3://b/k", RetryConfig(outage_s=20), sleep=clock.sleep, clock=clock)
    assert e.value.attempts == outage.calls > 5
    assert clock.now_s <= 20
    assert len(caplog.messages) == outage.calls - 1
    assert all("reading s3://b/k failed (ConnectionResetError: gone)" in message for message in caplog.messages)


def test_no_patience_is_one_try() -> None:
    clock = Clock()
    with pytest.raises(Exhausted):
        retry(Outage(clock, 1), "x", RetryConfig(outage_s=0), sleep=clock.sleep, clock=clock)
    assert clock.now_s == 0


def test_a_number_of_attempts_counts_instead_of_time() -> None:
    clock = Clock()
    outage = Outage(clock, 1e9)
    with pytest.raises(Exhausted):
        retry(outage, "x", RetryConfig(outage_s=0), attempts=4, sleep=clock.sleep, clock=clock)
    assert outage.calls == 4


def test_a_server_that_names_a_time_is_obeyed_up_to_the_longest_wait() -> None:
    clock = Clock()
    waits: list[float] = []

    def busy() -> None:
        if len(waits) < 2:
            raise Unavailable("later", retry_after_s=[3.0, 500.0][len(waits)])

    retry(busy, "x", RetryConfig(longest_wait_s=10), sleep=waits.append, clock=clock)
    assert waits == [3.0, 10.0]


def test_a_dead_storage_costs_its_patience_once() -> None:
    patient, calls = Patient(RetryConfig(outage_s=0.3)), []

    def dead() -> None:
        calls.append(1)
        raise ConnectionResetError

    for _ in range(5):
        with pytest.raises(Exhausted):
            patient.retry(dead, "x")
    assert 5 < len(calls) < 10
    patient.retry(lambda: None, "x")
    before = len(calls)
    with pytest.raises(Exhausted):
        patient.retry(dead, "x")
    assert len(calls) > before + 1


def client_error(status: int) -> ClientError:
    return ClientError({"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def web_error(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError(response=answer)


def wrapped(cause: Exception) -> OSError:
    error = OSError("unable to access bucket")
    error.__cause__ = cause
    return error


def not_there(cause: Exception) -> FileNotFoundError:
    """What fsspec's web client makes of every failure."""
    error = FileNotFoundError("http://h/a.tar")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (socket.gaierror(-3, "no name"), True),
        (OSError(errno.EIO, "5xx as s3fs has it"), True),
        (OSError(errno.EBUSY, "slow down"), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientPayloadError("cut"), True),
        (NoCredentialsError(), False),
        (EndpointConnectionError(endpoint_url="x"), True),
        (client_error(503), True),
        (web_error(500), True),
        (web_error(429), True),
        (wrapped(client_error(500)), True),
        (Unavailable("cut"), True),
        (requests.ConnectionError(), True),
        (FileNotFoundError(), False),
        (not_there(web_error(503)), True),
        (not_there(web_error(403)), False),
        (not_there(FileNotFoundError("404")), False),
        (PermissionError(), False),
        (client_error(403), False),
        (client_error(404), False),
        (web_error(404), False),
        (wrapped(client_error(404)), False),
        (OSError(errno.EINVAL, "a range of an empty object"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError("Corrupt snappy compressed data"), False),
        (gzip.BadGzipFile("no gzip"), False),
        (pa.ArrowInvalid("no parquet"), False),
        (ValueError("a mistake"), False),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_may_pass_is_told_from_what_stays(error: Any, again: bool) -> None:
    assert is_transient(error) == again
