"""Images named by URI, many at a time: retries with backoff, a timeout, allowed schemes, a size cap.

Whatever goes wrong is one of a few words: bad_uri, forbidden_scheme, missing_file, not_allowed, disallowed (by the
server's X-Robots-Tag), too_large, fetch_failed.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import fsspec

from conf.source import FetchConfig, RetryConfig
from pipeline.source.plan import Sample, Shard
from pipeline.source.readers.fetching.files import NotAFile, TooLarge, read_file, read_plain, within
from pipeline.source.readers.fetching.uris import BadUri, data_of, is_web, local_path, scheme_of, shown
from pipeline.source.readers.fetching.web import FetchProblem, Web, too_large
from pipeline.source.readers.reader import RawSample
from pipeline.source.retrying import USUAL_PATIENCE, Exhausted, Patient, retry

_LONGEST_REASON = 300  # characters: some clients put whole URLs and pages into their exceptions


def fetch_all(uris: Iterable[str], config: FetchConfig, patience: RetryConfig) -> Iterator[bytes | FetchProblem]:
    """What each URI holds, in order; at most `max_concurrent` are under way or waiting to be taken."""
    patient = Patient(patience)
    with Web(config) as web, ThreadPoolExecutor(config.max_concurrent, thread_name_prefix="fetch") as pool:
        under_way: deque[Future[bytes | FetchProblem]] = deque()
        try:
            for uri in uris:
                if len(under_way) >= config.max_concurrent:
                    yield under_way.popleft().result()
                under_way.append(pool.submit(fetch, uri, config, patient, web))
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def with_image(shard: Shard, sample: Sample, fields: dict[str, Any], image: bytes | FetchProblem) -> RawSample:
    """Return the sample with what was fetched for it."""
    if not isinstance(image, FetchProblem):
        return RawSample(sample, image, fields)
    message = f"{shard.name}/{sample.key}: {image.message}"
    return RawSample(sample, None, fields, image.error_type, message, image.attempts)


def fetch(uri: str, config: FetchConfig, patient: Patient, web: Web) -> bytes | FetchProblem:
    """One image's bytes, or why not; never raises. Web servers get some tries each, storage is waited for together."""
    scheme, name = scheme_of(uri), shown(uri)
    if scheme not in config.schemes:
        allowed = ", ".join(config.schemes)
        return FetchProblem("forbidden_scheme", f"{name}: scheme {scheme!r} is not among the allowed ones: {allowed}")
    try:
        if is_web(uri):
            return retry(lambda: web.get(uri), f"fetching {name}", USUAL_PATIENCE, attempts=config.attempts)
        if scheme == "data":
            data = data_of(uri, config.max_bytes)
            return too_large(uri, config) if data is None else data
        return patient.retry(lambda: _from_storage(uri, config), f"reading {name}")
    except FetchProblem as problem:
        return problem
    except Exhausted as error:
        return FetchProblem("fetch_failed", f"{name}: {_shortened(str(error))}", error.attempts)
    except TooLarge:
        return too_large(uri, config)
    except BadUri as error:
        return FetchProblem("bad_uri", f"{name}: {error}")
    except NotAFile as error:
        return FetchProblem("not_a_file", f"{name}: {error}")
    except FileNotFoundError:
        return FetchProblem("missing_file", f"{name}: not there")
    except PermissionError as error:
        return FetchProblem("not_allowed", f"{name}: {_shortened(str(error))}")
    except Exception as error:  # each storage back end has its own exceptions
        return FetchProblem("fetch_failed", f"{name}: {_shortened(f'{type(error).__name__}: {error}')}")


def _from_storage(uri: str, config: FetchConfig) -> bytes:
    if scheme_of(uri) == "file":
        return within(config.timeout_s, lambda: read_plain(local_path(uri), config.max_bytes))  # it may be a mount
    # Not by fsspec's own way of opening URLs, in which `a::b` would name a file inside another, of any scheme.
    kind = fsspec.get_filesystem_class(scheme_of(uri))
    fs = fsspec.filesystem(scheme_of(uri), **kind._get_kwargs_from_urls(uri))
    return read_file(fs, kind._strip_protocol(uri), config.max_bytes, config.timeout_s)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
