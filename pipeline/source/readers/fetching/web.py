"""GET requests for images: one time limit from the first byte sent to the last received, and a cap on what is read.

A server may drip its headers, send interim responses or redirects for ever, or a body that unpacks to terabytes; each
ends at `timeout_s` or `max_bytes`. Redirects are followed here, one by one, and their bodies are not read.
"""

import asyncio
import io
import os
import re
import ssl
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from fsspec.asyn import get_loop, sync

from conf.source import FetchConfig
from pipeline.source.readers.fetching.robots import forbidden_by
from pipeline.source.readers.fetching.uris import BadUri, host_of, is_web, scheme_of, shown
from pipeline.source.retrying import Unavailable

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

_NAME = "deed-pipeline"
_MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE, _REFUSED, _WORTH_ANOTHER_TRY = (404, 410), (401, 403), (408, 425, 429, 500, 502, 503, 504)
_PRIVATE = frozenset({"authorization", "cookie", "proxy-authorization"})  # not for hosts a redirect leads to
_ALLOWED_IN_URLS = "%/:=&?~#+!$,;'@()*[]|"
_MOST_HOSTS = 10_000
_next_request_at: dict[str, float] = {}  # host -> time; of the process, so that a rate holds from chunk to chunk


class FetchProblem(Exception):
    """Why an image could not be had, for good."""

    def __init__(self, error_type: str, message: str, attempts: int = 1) -> None:
        super().__init__(message)
        self.error_type, self.message, self.attempts = error_type, message, attempts


class Web:
    """A session with web servers: connections are kept while it is open. Its methods may be called by many threads."""

    def __init__(self, config: FetchConfig) -> None:
        self._config, self._loop = config, get_loop()
        self._session: ClientSession | None = None
        self._at_once: dict[str, asyncio.Semaphore] = {}
        self._agent = user_agent(config)

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            sync(self._loop, self._session.close)

    def get(self, uri: str) -> bytes:
        """The body; FetchProblem if it cannot be had, Unavailable or an error of the connection if it may be later."""
        body: bytes = sync(self._loop, self._get, uri)
        return body

    async def _get(self, uri: str) -> bytes:
        config, url, first_host = self._config, uri, _host(uri)
        left_s = config.timeout_s
        for _ in range(1 + _MOST_REDIRECTS):
            host = _host(url)
            async with self._turn(host):  # whose wait is ours and not the server's
                start_s = time.monotonic()
                try:
                    found = await asyncio.wait_for(self._one(uri, url, private=host == first_host), left_s)
                except asyncio.TimeoutError:
                    raise Unavailable(f"not complete within {config.timeout_s:g} s") from None
                left_s = max(0.001, left_s - (time.monotonic() - start_s))
            if isinstance(found, bytes):
                return found
            url = found
        raise FetchProblem("fetch_failed", f"{shown(uri)}: more than {_MOST_REDIRECTS} redirects")

    async def _one(self, uri: str, url: str, *, private: bool) -> bytes | str:
        """One request's body, or where it redirects to."""
        import aiohttp

        try:
            headers = {k: v for k, v in self._headers().items() if private or k.lower() not in _PRIVATE}
            async with self._opened().get(_as_sent(url), headers=headers, allow_redirects=False) as answer:
                try:
                    return await self._read(uri, url, answer)
                finally:
                    if not answer.content.at_eof():
                        answer.close()  # what is left is not waited for
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:  # ValueErrors are the URL's
            raise FetchProblem("bad_uri", f"{shown(uri)}: {error}") from None

    async def _read(self, uri: str, url: str, answer: "ClientResponse") -> bytes | str:
        if answer.status in _REDIRECTS and "Location" in answer.headers:
            target = urljoin(url, answer.headers["Location"].strip())
            if scheme_of(target) not in self._config.schemes or not is_web(target):
                raise FetchProblem("forbidden_scheme", f"{shown(uri)}: redirected to {shown(target)}")
            return target
        _check_status(answer, uri)
        if self._config.robots:
            directive = forbidden_by(answer.headers.getall("X-Robots-Tag", ()), self._agent)
            if directive is not None:
                raise FetchProblem("disallowed", f"{shown(uri)}: its server says X-Robots-Tag: {directive}")
        body = _Body(answer.headers.get("Content-Encoding", ""), self._config.max_bytes)
        if not body.is_encoded and (answer.content_length or 0) > self._config.max_bytes:
            raise too_large(uri, self._config)
        async for block in answer.content.iter_any():
            if not body.add(block):
                raise too_large(uri, self._config)
        return body.value()

    def _headers(self) -> dict[str, str]:
        """An image is not asked for in packed form; own headers may name environment variables, as ${NAME}."""
        own = {name: re.sub(r"\$\{(\w+)\}", _variable, value) for name, value in self._config.headers.items()}
        given = {name.lower() for name in own}
        usual = {"User-Agent": self._agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        return {**{name: value for name, value in usual.items() if name.lower() not in given}, **own}

    def _opened(self) -> "ClientSession":
        if self._session is None:  # always in the loop's thread
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=_tls()),  # how many at once is decided by who asks
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                auto_decompress=False,
                trust_env=True,
            )
        return self._session

    @asynccontextmanager
    async def _turn(self, host: str) -> AsyncIterator[None]:
        """Waits until this host may be asked again."""
        rate, most = self._config.per_host_per_s, self._config.per_host_concurrent
        if most is None:
            await _pace(host, rate)
            yield
            return
        async with self._at_once.setdefault(host, asyncio.Semaphore(most)):
            await _pace(host, rate)
            yield


async def _pace(host: str, rate: float | None) -> None:
    if rate is None:
        return
    now = time.monotonic()
    at = max(now, _next_request_at.get(host, 0.0))
    if len(_next_request_at) >= _MOST_HOSTS:
        for known in [known for known, time_s in _next_request_at.items() if time_s < now]:
            del _next_request_at[known]
    _next_request_at[host] = at + 1 / rate
    await asyncio.sleep(at - now)


class _Body:
    """What has come of a body, unpacked; never much more than `max_bytes` of it."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding, self._max_bytes = encoding.strip().lower(), max_bytes
        self._bytes = io.BytesIO()  # whose value is taken out without a copy
        self._unpacker: Any = None
        if self._encoding in ("gzip", "x-gzip", "deflate"):
            self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        elif self.is_encoded:
            raise FetchProblem("fetch_failed", f"the server packed the image as {self._encoding!r}, unasked")

    @property
    def is_encoded(self) -> bool:
        return self._encoding not in ("", "identity")

    def add(self, block: bytes) -> bool:
        """Return whether it is still not too large."""
        while block and self._bytes.tell() <= self._max_bytes:
            if self._unpacker is None:
                self._bytes.write(block)
                break
            self._bytes.write(self._unpack(block, self._max_bytes + 1 - self._bytes.tell()))
            block = self._unpacker.unconsumed_tail
        return self._bytes.tell() <= self._max_bytes

    def _unpack(self, block: bytes, most: int) -> bytes:
        try:
            return self._unpacker.decompress(block, most)  # type: ignore[no-any-return]
        except zlib.error as error:
            if self._encoding == "deflate" and self._bytes.tell() == 0:  # some servers leave its header out
                self._encoding, self._unpacker = "raw deflate", zlib.decompressobj(-zlib.MAX_WBITS)
                return self._unpack(block, most)
            raise FetchProblem("fetch_failed", f"the packed body cannot be unpacked: {error}") from None

    def value(self) -> bytes:
        if self._unpacker is not None and not self._unpacker.eof and self._bytes.tell():
            raise Unavailable(f"the packed body ends after {self._bytes.tell()} bytes")
        return self._bytes.getvalue()


def too_large(uri: str, config: FetchConfig) -> FetchProblem:
    return FetchProblem("too_large", f"{shown(uri)}: more than source.fetch.max_bytes={config.max_bytes}")


def user_agent(config: FetchConfig) -> str:
    if config.user_agent is not None:
        own = config.user_agent
    else:
        try:
            own = f"{_NAME}/{version(_NAME)}"
        except PackageNotFoundError:  # run from a copy of the source
            own = _NAME
    return own if config.contact is None else f"{own} (+{config.contact})"


def _check_status(answer: "ClientResponse", uri: str) -> None:
    status = answer.status
    if status in _GONE:
        raise FetchProblem("missing_file", f"{shown(uri)}: HTTP {status}")
    if status in _REFUSED:
        raise FetchProblem("not_allowed", f"{shown(uri)}: HTTP {status}")
    if status in _WORTH_ANOTHER_TRY:
        raise Unavailable(f"HTTP {status}", _seconds(answer.headers.get("Retry-After", "")))
    if not 200 <= status < 300:
        raise FetchProblem("fetch_failed", f"{shown(uri)}: HTTP {status}")


def _seconds(retry_after: str) -> float | None:
    """Retry-After is a number of seconds or a date."""
    text = retry_after.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


def _host(url: str) -> str:
    try:
        return host_of(url)
    except BadUri as error:
        raise FetchProblem("bad_uri", f"{shown(url)}: {error}") from None


def _as_sent(url: str) -> "URL":
    """Escapes that are there stay as they are, since signatures may cover them; what no URL may hold is escaped."""
    from yarl import URL

    place = urlsplit(url)
    if not place.netloc.isascii():
        user, at, host = place.netloc.rpartition("@")
        place = place._replace(netloc=user + at + host.encode("idna").decode("ascii"))
    return URL(quote(urlunsplit(place), _ALLOWED_IN_URLS, errors="surrogateescape"), encoded=True)


def _variable(match: re.Match[str]) -> str:
    value = os.environ.get(match.group(1))
    if value is None:
        raise FetchProblem("fetch_failed", f"source.fetch.headers needs the environment variable {match.group(1)}")
    return value


@lru_cache(maxsize=1)  # reading a hundred certificates takes a while
def _tls() -> ssl.SSLContext:
    """The system's authorities, those that an environment variable names, and certifi's, which slim images lack."""
    context = ssl.create_default_context()
    own = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    try:
        import certifi

        context.load_verify_locations(own or certifi.where())
    except (ImportError, OSError):
        pass
    return context
