"""One writer per output: a lease file with a heartbeat. A dead owner's lease is taken over, a living one's is not."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from conf.errors import UserError
from pipeline.storage import Storage

LEASE_NAME = "_state/lease.json"
BEAT_S = 10.0
EXPIRY_S = 60.0  # six missed beats


class OutputBusy(UserError):
    """A living run holds the output."""

    exit_code = 4


class LeaseLost(Exception):
    """Another run has taken the output over while this one was silent."""


class Lease:
    """Context manager that holds an output; `check()` raises LeaseLost once somebody else has it."""

    def __init__(
        self,
        storage: Storage,
        *,
        clock: Callable[[], float] = time.time,
        beat_s: float = BEAT_S,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._beat_s = beat_s
        self._expiry_s = expiry_s
        self._owner = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> "Lease":
        if not self._storage.create(LEASE_NAME, self._content()):
            self._take_over()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=self._beat_s)
        holder = self._holder()
        if holder is not None and holder.get("owner") == self._owner:
            self._storage.remove([LEASE_NAME])

    def check(self) -> None:
        if self._lost.is_set():
            raise LeaseLost(f"another run has taken over {self._storage.url}")

    def look(self) -> tuple[dict[str, Any], float, bool] | None:
        """Who holds the output, seconds since its last sign of life, and whether it lives; None if nobody does."""
        holder = self._holder()
        if holder is None:
            return None
        return holder, self._clock() - float(holder["beat_s"]), not self._is_dead(holder)

    def _take_over(self) -> None:
        holder = self._holder()
        if holder is not None and not self._is_dead(holder):
            age_s = max(0.0, self._clock() - float(holder["beat_s"]))
            raise OutputBusy(
                f"output {self._storage.url!r} is being written by process {holder['pid']} on {holder['host']} "
                f"(last sign of life {age_s:.0f} s ago); wait for it, stop it, or choose another output.path"
            )
        self._storage.write(LEASE_NAME, self._content())
        holder = self._holder()
        if holder is None or holder.get("owner") != self._owner:  # somebody else took it over at the same moment
            raise OutputBusy(f"another run has just taken over {self._storage.url!r}")

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        if self._clock() - float(holder["beat_s"]) > self._expiry_s:
            return True
        return bool(holder["host"] == _host()) and holder["process_start"] != _process_start(int(holder["pid"]))

    def _holder(self) -> dict[str, Any] | None:
        try:
            holder = json.loads(self._storage.read(LEASE_NAME))
        except (FileNotFoundError, ValueError):
            return None
        return holder if isinstance(holder, dict) and {"owner", "host", "pid", "beat_s"} <= holder.keys() else None

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_s):
            try:
                holder = self._holder()
                if holder is not None and holder["owner"] != self._owner:
                    self._lost.set()
                    return
                self._storage.write(LEASE_NAME, self._content())
            except Exception:  # storage hiccup: the next beat tries again, the expiry leaves room for several
                continue

    def _content(self) -> bytes:
        now = self._clock()
        beat = {
            "owner": self._owner,
            "host": _host(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "beat_s": now,
            "beat_utc": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds"),
        }
        return json.dumps(beat, indent=2).encode()


def _host() -> str:
    return socket.gethostname()


def _process_start(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None if it is gone (or this is not Linux)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
