"""Servers that drip, redirect, talk in between or unpack without end: each image ends at its limit; nothing leaks."""

import gzip
import os
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from conf.source import FetchConfig, RetryConfig
from pipeline.source.readers.fetching.fetch import fetch_all
from pipeline.source.readers.fetching.robots import forbidden_by
from pipeline.source.readers.fetching.web import FetchProblem
from tests.site import Site, failing_first, running_site, send

LIMIT_S = 0.5
ENOUGH_S = 6.0  # far from the limit, for slow machines, and far below what the servers could go on for
IMPATIENT = RetryConfig(outage_s=0)
ONCE = FetchConfig(timeout_s=LIMIT_S, max_bytes=1_000_000, attempts=1)
OK = b"HTTP/1.1 200 OK\r\n"


def fetch(uri: str, config: FetchConfig = ONCE) -> bytes | FetchProblem:
    return next(fetch_all([uri], config, IMPATIENT))


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as running:
        yield running


class Hostile:
    """Calls `answer(connection, path)` for each request; `sent` counts the bytes that went out."""

    def __init__(self, answer: Callable[["Hostile", socket.socket, str], None]) -> None:
        self._answer, self.sent, self.open = answer, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self.open += 1
        with connection, suppress(OSError):
            while not self.over.is_set():
                request = b""
                while b"\r\n\r\n" not in request:
                    more = connection.recv(4096)
                    if not more:
                        break
                    request += more
                else:
                    self._answer(self, connection, request.split(b" ")[1].decode())
                    continue
                break
        self.open -= 1

    def send(self, connection: socket.socket, data: bytes) -> None:
        connection.sendall(data)
        self.sent += len(data)

    def close(self) -> None:
        self.over.set()
        self._listener.close()


@contextmanager
def hostile(answer: Callable[[Hostile, socket.socket, str], None]) -> Iterator[Hostile]:
    server = Hostile(answer)
    try:
        yield server
    finally:
        server.close()


def drip(data: bytes) -> Callable[[Hostile, socket.socket, str], None]:
    def answer(server: Hostile, connection: socket.socket, _: str) -> None:
        for byte in data * 10_000:
            server.send(connection, bytes([byte]))
            time.sleep(0.02)

    return answer


def interim_for_ever(server: Hostile, connection: socket.socket, _: str) -> None:
    while True:
        server.send(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
        time.sleep(0.005)


def early_hints_for_ever(server: Hostile, connection: socket.socket, _: str) -> None:
    while True:
        server.send(connection, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        time.sleep(0.01)


def header_lines_for_ever(server: Hostile, connection: socket.socket, _: str) -> None:
    server.send(connection, OK)
    while True:
        server.send(connection, b"X-More: and more\r\n")
        time.sleep(0.02)


def slow_redirects(server: Hostile, connection: socket.socket, path: str) -> None:
    time.sleep(0.2)
    target = f"Location: /{int(path[1:]) + 1}\r\n".encode()
    server.send(connection, b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + target + b"\r\n")


def endless_chunks(server: Hostile, connection: socket.socket, _: str) -> None:
    server.send(connection, OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        server.send(connection, b"1\r\nx\r\n")
        time.sleep(0.02)


def silence(_: Hostile, connection: socket.socket, __: str) -> None:
    connection.recv(1)


@pytest.mark.parametrize(
    "answer",
    [
        drip(OK),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n"),
        interim_for_ever,
        early_hints_for_ever,
        header_lines_for_ever,
        slow_redirects,
        endless_chunks,
        silence,
    ],
    ids=lambda a: a.__name__,
)
def test_an_image_ends_at_its_time_limit_whatever_the_server_does(
    answer: Callable[[Hostile, socket.socket, str], None],
) -> None:
    with hostile(answer) as server:
        start_s = time.monotonic()
        problem = fetch(f"{server.url}/0")
        took_s = time.monotonic() - start_s
        assert isinstance(problem, FetchProblem)
        assert problem.error_type == "fetch_failed"
        assert took_s < ENOUGH_S, f"{took_s:.1f} s"
        wait_until(lambda: server.open == 0)  # the connection was closed and not left to the server


def test_interim_responses_are_no_answers() -> None:
    def answer(server: Hostile, connection: socket.socket, _: str) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
        server.send(connection, early * 2 + OK + b"Content-Length: 5\r\n\r\nimage")

    with hostile(answer) as server:
        assert fetch(f"{server.url}/0") == b"image"


def test_the_body_of_a_redirect_is_not_read() -> None:
    def answer(server: Hostile, connection: socket.socket, path: str) -> None:
        if path == "/end":
            server.send(connection, OK + b"Content-Length: 5\r\n\r\nimage")
            return
        server.send(connection, b"HTTP/1.1 302 Found\r\nLocation: /end\r\nContent-Length: 10000000000\r\n\r\n")
        for _ in range(10_000):
            server.send(connection, bytes(1 << 20))

    with hostile(answer) as server:
        assert fetch(f"{server.url}/0", FetchConfig(timeout_s=ENOUGH_S, max_bytes=1_000_000, attempts=1)) == b"image"
        wait_until(lambda: server.open <= 1)
        assert server.sent < 50 << 20


@pytest.mark.parametrize("packing", ["gzip", "deflate", "raw deflate"])
def test_a_body_that_unpacks_to_too_much_is_too_large_and_takes_no_memory(site: Site, packing: str) -> None:
    zeros = bytes(50 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, {"gzip": 31, "deflate": 15, "raw deflate": -15}[packing])
    bomb = packer.compress(zeros) + packer.flush()
    del zeros
    site.pages["/bomb"] = lambda handler: send(handler, 200, bomb, Content_Encoding=packing.split()[-1])
    tracemalloc.start()
    problem = fetch(f"{site.url}/bomb", FetchConfig(max_bytes=100_000, attempts=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(problem, FetchProblem)
    assert problem.error_type == "too_large"
    assert peak < 10_000_000


def test_images_that_servers_pack_unasked_are_unpacked(site: Site) -> None:
    image = b"image" * 1000
    site.pages["/gzip"] = lambda handler: send(handler, 200, gzip.compress(image), Content_Encoding="gzip")
    site.pages["/deflate"] = lambda handler: send(handler, 200, zlib.compress(image), Content_Encoding="deflate")
    site.pages["/cut"] = lambda handler: send(handler, 200, gzip.compress(image)[:30], Content_Encoding="gzip")
    site.pages["/odd"] = lambda handler: send(handler, 200, image, Content_Encoding="odd")
    assert [fetch(f"{site.url}/{name}") for name in ("gzip", "deflate")] == [image, image]
    for name in ("cut", "odd"):
        problem = fetch(f"{site.url}/{name}")
        assert isinstance(problem, FetchProblem)
        assert problem.error_type == "fetch_failed"


def test_redirects_are_followed_to_allowed_schemes_only_and_not_for_ever(site: Site) -> None:
    site.pages["/end"] = b"image"
    for name, target in {
        "/relative": "end",
        "/absolute": f"{site.url}/end",
        "/file": "file:///etc/hostname",
        "/data": "data:,x",
        "/round": "/round",
        "/nowhere": "http://[1/",
    }.items():
        site.pages[name] = lambda handler, target=target: send(handler, 307, b"body", Location=target)
    assert fetch(f"{site.url}/relative") == fetch(f"{site.url}/absolute") == b"image"
    kinds = []
    for name in ("/file", "/data", "/round", "/nowhere"):
        problem = fetch(f"{site.url}{name}")
        assert isinstance(problem, FetchProblem)
        kinds.append(problem.error_type)
    assert kinds == ["forbidden_scheme", "forbidden_scheme", "fetch_failed", "bad_uri"]
    assert site.hits["/round"] == 11


def test_hundreds_of_hostile_images_leave_no_thread_and_no_connection_behind() -> None:
    with hostile(interim_for_ever) as server:
        fetch(f"{server.url}/0")  # the loop's own thread stays
        wait_until(lambda: server.open == 0)
        before = threads()
        config = FetchConfig(timeout_s=0.2, attempts=1, max_concurrent=20)
        found = list(fetch_all([f"{server.url}/{n}" for n in range(60)], config, IMPATIENT))
        assert {problem.error_type for problem in found if isinstance(problem, FetchProblem)} == {"fetch_failed"}
        wait_until(lambda: server.open == 0)
        wait_until(lambda: threads() <= before)


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        problem = fetch(str(path))
        assert isinstance(problem, FetchProblem)
        assert problem.error_type == "not_a_file"


def test_requests_say_who_asks_and_carry_own_headers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def page(handler: Any) -> None:
        seen.append({name.lower(): value for name, value in handler.headers.items()})
        if handler.path == "/away":
            other = site.url.replace("127.0.0.1", "localhost")
            send(handler, 302, Location=f"{other}/a")
        else:
            send(handler, 200, b"image")

    site.pages["/a"] = site.pages["/away"] = page
    monkeypatch.setenv("A_TOKEN", "secret")
    config = FetchConfig(
        contact="mailto:me@example.org", headers={"X-Purpose": "captions", "Authorization": "Bearer ${A_TOKEN}"}
    )
    assert fetch(f"{site.url}/a", config) == b"image"
    assert seen[0]["user-agent"].startswith("deed-pipeline")
    assert seen[0]["user-agent"].endswith(" (+mailto:me@example.org)")
    assert (seen[0]["x-purpose"], seen[0]["authorization"]) == ("captions", "Bearer secret")
    assert fetch(f"{site.url}/away", config) == b"image"
    assert ("authorization" in seen[1], "authorization" in seen[2], seen[2]["x-purpose"]) == (True, False, "captions")
    fetch(f"{site.url}/a", FetchConfig(user_agent="mine/2", headers={"accept": "image/png"}))
    assert (seen[3]["user-agent"], seen[3]["accept"]) == ("mine/2", "image/png")
    problem = fetch(f"{site.url}/a", FetchConfig(headers={"X": "${NOT_SET_ANYWHERE}"}))
    assert isinstance(problem, FetchProblem)
    assert "NOT_SET_ANYWHERE" in problem.message
    with pytest.raises(ValueError, match="one line"):
        FetchConfig(headers={"X": "a\r\nHost: other"})


def test_a_server_that_forbids_the_use_is_obeyed_unless_told_otherwise(site: Site) -> None:
    site.pages["/a"] = lambda handler: send(handler, 200, b"image", X_Robots_Tag="nofollow, NoAI")
    problem = fetch(f"{site.url}/a")
    assert isinstance(problem, FetchProblem)
    assert (problem.error_type, site.hits["/a"]) == ("disallowed", 1)
    assert "X-Robots-Tag: noai" in problem.message
    assert fetch(f"{site.url}/a", FetchConfig(robots=False)) == b"image"


@pytest.mark.parametrize(
    ("headers", "directive"),
    [
        (["noai"], "noai"),
        (["all"], None),
        ([], None),
        (["nofollow", "noimageindex"], "noimageindex"),
        (["otherbot: noindex"], None),
        (["otherbot: noindex, noai"], None),
        (["deed-pipeline: noindex, noai"], "noindex"),
        (["otherbot: nofollow, Deed-Pipeline: NOAI"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noimageai"], "noimageai"),
        (["max-image-preview: large"], None),
        (["none"], "none"),
    ],
)
def test_robots_directives(headers: list[str], directive: str | None) -> None:
    assert forbidden_by(headers, "deed-pipeline/1.0 (+https://example.org)") == directive


def test_one_host_is_asked_as_often_as_it_is_told(site: Site) -> None:
    busy: list[int] = [0, 0]
    lock = threading.Lock()

    def page(handler: Any) -> None:
        with lock:
            busy[0] += 1
            busy[1] = max(busy)
        time.sleep(0.02)
        with lock:
            busy[0] -= 1
        send(handler, 200, b"image")

    for n in range(12):
        site.pages[f"/{n}"] = page
    uris = [f"{site.url}/{n}" for n in range(12)]
    assert list(fetch_all(uris, FetchConfig(per_host_concurrent=2), IMPATIENT)) == [b"image"] * 12
    assert busy[1] <= 2
    start_s = time.monotonic()
    for part in (uris[:6], uris[6:]):  # the rate holds from chunk to chunk, and its waits are not the server's
        config = FetchConfig(per_host_per_s=20, timeout_s=0.3)
        assert list(fetch_all(part, config, IMPATIENT)) == [b"image"] * 6
    assert time.monotonic() - start_s >= 11 / 20


def test_a_date_says_when_to_come_back(site: Site) -> None:
    later = formatdate(time.time() + 2.5, usegmt=True)  # a date has whole seconds
    page = failing_first(1, lambda handler: send(handler, 503, Retry_After=later), b"image")
    site.pages["/a"] = page
    start_s = time.monotonic()
    assert fetch(f"{site.url}/a", FetchConfig(attempts=2)) == b"image"
    assert time.monotonic() - start_s >= 1.0


def test_addresses_are_sent_as_they_are_written(site: Site) -> None:
    for path in ("/a%2Cb%7E?x=%3A+1&y=[1]", "/a%20b", "/%C3%A9", "/%E9"):
        site.pages[path] = b"image"
    for path in ("/a%2Cb%7E?x=%3A+1&y=[1]", "/a b", "/é", "/\udce9", "/a b#there"):
        assert fetch(site.url + path) == b"image", path
    for uri in ("http://", "http:///a", "http://[1", "http://h:port/", "http://\ud83d/"):
        problem = fetch(uri)
        assert isinstance(problem, FetchProblem)
        assert problem.error_type == "bad_uri", uri


def threads() -> set[threading.Thread]:
    """Those that are alive, without those of the event loop's pool, which are few and kept."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


def wait_until(true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + ENOUGH_S
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)
