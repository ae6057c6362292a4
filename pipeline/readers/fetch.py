"""Images named by URI, many at a time: retries with backoff, a timeout, allowed schemes, a size cap.

Whatever goes wrong is one of a few words: forbidden_scheme, missing_file, not_allowed, too_large, fetch_failed.
"""

import io
import posixpath
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from conf.errors import UserError
from conf.schema import FetchConfig, RetryConfig
from pipeline.plan import resolve
from pipeline.readers.files import TooLarge, read_file
from pipeline.retrying import USUAL_PATIENCE, Exhausted, Patient, Unavailable, retry

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_GONE, _REFUSED, _WORTH_ANOTHER_TRY = (404, 410), (401, 403), (408, 425, 429, 500, 502, 503, 504)
_BLOCK_BYTES = 1 << 16
_sessions = threading.local()


class FetchProblem(Exception):
    """Why an image could not be had, for good."""

    def __init__(self, error_type: str, message: str, attempts: int = 1) -> None:
        super().__init__(message)
        self.error_type, self.message, self.attempts = error_type, message, attempts


def absolute(uri: str, base_url: str) -> str:
    """A URI as it is; a path without a scheme is one beside the file `base_url`, on the same storage."""
    if _SCHEME.match(uri) or posixpath.isabs(uri):
        return uri
    return posixpath.join(posixpath.dirname(base_url), uri)


def scheme_of(uri: str) -> str:
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def fetch_all(uris: Iterable[str], config: FetchConfig, patience: RetryConfig) -> Iterator[bytes | FetchProblem]:
    """What each URI holds, in order; at most `max_concurrent` are under way or waiting to be taken."""
    patient = Patient(patience)
    with ThreadPoolExecutor(config.max_concurrent, thread_name_prefix="fetch") as pool:
        under_way: deque[Future[bytes | FetchProblem]] = deque()
        try:
            for uri in uris:
                if len(under_way) >= config.max_concurrent:
                    yield under_way.popleft().result()
                under_way.append(pool.submit(fetch, uri, config, patient))
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def fetch(uri: str, config: FetchConfig, patient: Patient) -> bytes | FetchProblem:
    """One image's bytes, or why not; never raises. Web servers get some tries each, storage is waited for together."""
    scheme = scheme_of(uri)
    if scheme not in config.schemes:
        allowed = ", ".join(config.schemes)
        return FetchProblem("forbidden_scheme", f"{uri}: scheme {scheme!r} is not among the allowed ones: {allowed}")
    try:
        if scheme in ("http", "https"):
            return retry(lambda: _get_http(uri, config), f"fetching {uri}", USUAL_PATIENCE, attempts=config.attempts)
        return patient.retry(lambda: _get_file(uri, config), f"reading {uri}")
    except FetchProblem as problem:
        return problem
    except Exhausted as error:
        return FetchProblem("fetch_failed", f"{uri}: {error}", error.attempts)
    except FileNotFoundError:
        return FetchProblem("missing_file", f"{uri}: not there")
    except PermissionError as error:
        return FetchProblem("not_allowed", f"{uri}: {error}")
    except Exception as error:  # each storage back end has its own exceptions
        return FetchProblem("fetch_failed", f"{uri}: {type(error).__name__}: {error}")


def _get_http(uri: str, config: FetchConfig) -> bytes:
    """A GET whose whole body must arrive within the timeout: a server that drips bytes is as bad as a silent one."""
    import requests

    if not hasattr(_sessions, "session"):
        _sessions.session = requests.Session()
    deadline = time.monotonic() + config.timeout_s
    try:
        with _sessions.session.get(uri, stream=True, timeout=config.timeout_s) as answer:
            _check_status(answer, uri)
            if scheme_of(answer.url) not in config.schemes:
                raise FetchProblem("forbidden_scheme", f"{uri}: redirected to {answer.url}")
            body = io.BytesIO()  # whose value is taken out without a copy
            # What has come so far, not full blocks: those of a server that drips bytes would take for ever to fill.
            while block := answer.raw.read1(_BLOCK_BYTES, decode_content=True):
                body.write(block)
                _check_size(uri, body.tell(), config)
                if time.monotonic() > deadline:
                    raise Unavailable(f"only {body.tell()} bytes within {config.timeout_s:g} s")
            return body.getvalue()
    except (requests.exceptions.InvalidURL, requests.exceptions.TooManyRedirects) as error:
        raise FetchProblem("fetch_failed", f"{uri}: {error}") from None


def _check_status(answer: Any, uri: str) -> None:
    status = answer.status_code
    if status in _GONE:
        raise FetchProblem("missing_file", f"{uri}: HTTP {status}")
    if status in _REFUSED:
        raise FetchProblem("not_allowed", f"{uri}: HTTP {status}")
    if status in _WORTH_ANOTHER_TRY:
        after = answer.headers.get("Retry-After", "")
        raise Unavailable(f"HTTP {status}", float(after) if after.isdigit() else None)
    if not 200 <= status < 300:
        raise FetchProblem("fetch_failed", f"{uri}: HTTP {status}")


def _get_file(uri: str, config: FetchConfig) -> bytes:
    try:
        fs, inner = resolve(uri)
    except UserError as error:
        raise FetchProblem("fetch_failed", f"{uri}: {error}") from None
    try:
        return read_file(fs, inner, config.max_bytes, config.timeout_s)
    except TooLarge:
        raise _too_large(uri, config) from None


def _check_size(uri: str, num_bytes: int, config: FetchConfig) -> None:
    if num_bytes > config.max_bytes:
        raise _too_large(uri, config)


def _too_large(uri: str, config: FetchConfig) -> FetchProblem:
    return FetchProblem("too_large", f"{uri}: more than source.fetch.max_bytes={config.max_bytes}")
