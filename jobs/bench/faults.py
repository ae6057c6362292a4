"""A proxy on loopback between an HTTP client and a server (an object store) that makes a share of the answers go wrong.

Faults are drawn from a seed: late answers, 500 and 503, connections reset before the answer, bodies cut in the middle.
A reset comes before or after the request has reached the server, because a client cannot tell either.
"""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"})
_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>made by a test</Message>'
    b"<RequestId>0</RequestId></Error>"
)


@dataclass
class Faults:
    """Shares of the requests (0 to 1) that go wrong, changeable while the proxy runs; `counts` what was done so far."""

    seed: int = 0
    latency_s: float = 0.0  # the longest, for every request
    error_500: float = 0.0
    error_503: float = 0.0
    reset: float = 0.0
    truncate: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def calm(self) -> None:
        """Inject no more faults."""
        self.latency_s = self.error_500 = self.error_503 = self.reset = self.truncate = 0.0

    def draw(self) -> tuple[str, float]:
        """(what happens to the next request, how long it takes before that)."""
        with self._lock:
            latency_s, lot = self._random.uniform(0, self.latency_s), self._random.random()
            fate = "fine"
            for name in ("error_500", "error_503", "reset", "truncate"):
                share = getattr(self, name)
                if lot < share:
                    fate = name
                    break
                lot -= share
            if fate == "reset":
                fate = self._random.choice(["reset_before", "reset_after"])
            self.counts[fate] += 1
            return fate, latency_s


@contextmanager
def faulty_proxy(upstream: tuple[str, int], faults: Faults) -> Iterator[str]:
    """Run a proxy to the server for as long as the context lasts, and give its URL."""

    class Handler(_Handler):
        pass

    Handler.upstream, Handler.faults = upstream, faults
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    upstream: tuple[str, int]
    faults: Faults

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fate, latency_s = self.faults.draw()
        time.sleep(latency_s)
        if fate in ("error_500", "error_503"):
            code = b"InternalError" if fate == "error_500" else b"SlowDown"
            self._answer(int(fate[-3:]), [("Content-Type", "application/xml")], _ERROR % code)
        elif fate == "reset_before":
            self._reset()
        else:
            status, headers, answer = self._ask(body)
            if fate == "reset_after":
                self._reset()
            elif fate == "truncate" and len(answer) > 1:
                self._answer(status, headers, answer, num_sent=len(answer) // 2)
                self._reset()
            else:
                self._answer(status, headers, answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, num_sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:num_sent])

    def _reset(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        with_linger_of_zero = struct.pack("ii", 1, 0)  # close() then sends RST instead of an orderly end
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, with_linger_of_zero)

    def log_message(self, *_: Any) -> None:
        pass
