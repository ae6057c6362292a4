"""One writer per output: numbered claims, of which the highest holds it while its owner gives signs of life.

    _state/lease/00000012.json   made once, by whoever comes first; then written by its owner alone, at every heartbeat

Who wants the output makes the claim after the highest one, and the storage lets only one of many do that: a hard link
on disk, a conditional PUT on object storage. Numbers are never given twice, so they also fence: every change made
through `Lease.storage` asks first whether there is a higher claim, and whoever was asleep while another run took over
finds one. A claim that is given back stays, marked as released, and goes when the next one is there.

Whether an owner lives is judged without comparing clocks. A process in the same PID namespace of the same boot of the
same machine is looked up; any other is watched, by our own monotonic clock, for as long as six of its heartbeats take.
"""

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from conf.errors import OutputLost, UserError
from pipeline.output.storage import Storage

LEASE_FOLDER = "_state/lease"
FORMER_NAME = "_state/lease.json"  # where versions before numbered claims kept theirs
BEAT_S = 10.0
EXPIRY_S = 60.0  # six missed beats
_LOG = logging.getLogger(__name__)
_CLAIM = re.compile(r"(\d{8})\.json")
_NEEDED = {"owner", "host", "pid", "beat_s"}


class OutputBusy(UserError):
    """A living run holds the output."""

    exit_code = 4


class LeaseLost(OutputLost):
    """Another run has taken the output over while this one was silent."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who made the highest claim, as last written. Number 0: a former version's lease."""

    number: int
    name: str  # of the file
    content: dict[str, Any]  # empty if it is damaged

    @property
    def released(self) -> bool:
        return bool(self.content.get("released", False))

    @property
    def who(self) -> str:
        if not self.content:
            return "an unknown process"
        return f"process {self.content['pid']} on {self.content['host']}"


@dataclass(frozen=True, slots=True)
class Fence:
    """The permit of one claim's owner and its workers: LeaseLost once there is a higher claim."""

    url: str
    number: int

    def __call__(self) -> None:
        if _highest(Storage(self.url)) > self.number:
            raise LeaseLost(
                f"another run has taken over {self.url!r} while this one was silent; this one has stopped and writes "
                "nothing more, and what it had committed is kept for the other to continue with"
            )


class Lease:
    """Context manager that holds an output. OutputBusy, with exit code 4, if a living run has it.

    `storage` is the output for its owner: from the moment another run has taken it over, changes raise LeaseLost.
    """

    def __init__(self, storage: Storage, *, beat_s: float = BEAT_S, expiry_s: float = EXPIRY_S) -> None:
        self._free = storage.permitted_by(None)
        self._beat_s, self._expiry_s = beat_s, expiry_s
        self._owner = uuid.uuid4().hex
        self._number = self._beats = 0
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    @property
    def storage(self) -> Storage:
        return self._free.permitted_by(self._fence)

    def __enter__(self) -> "Lease":
        before = self._wait_until_free()
        self._number = 1 if before is None else before.number + 1
        name, content = claim_name(self._number), self._content()
        if not self._free.create(name, content) or not self._has_won(content):
            raise OutputBusy(f"another run has just taken over {self._free.url!r}; wait for it, or stop it")
        self._free.remove(claim_name(number) for number in _claims(self._free) if number < self._number)
        if before is not None and before.name == FORMER_NAME:
            self._free.write(FORMER_NAME, content)  # its owner, should it wake up, finds somebody else's name and stops
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        # A full disk takes no mark. Then the next run looks for our process, or watches it, as after a crash.
        with contextlib.suppress(Exception):
            self.storage.write(claim_name(self._number), self._content(released=True))
            self.storage.remove([FORMER_NAME])

    def check(self) -> None:
        """Raise LeaseLost if the heartbeat has found another run's claim; asks nobody."""
        if self._lost.is_set():
            self._fence()

    @property
    def _fence(self) -> Fence:
        return Fence(self._free.url, self._number)

    def _has_won(self, content: bytes) -> bool:
        """A claim may be made below a higher one whose owner has already cleared ours away; and not every back end's
        PUT is as conditional as it was asked to be."""
        return _highest(self._free) == self._number and self._free.read(claim_name(self._number)) == content

    def _wait_until_free(self) -> Holder | None:
        """Return the claim that ours comes after."""
        first = holder = find_holder(self._free)
        if holder is None or holder.released:
            return holder
        lives = is_alive_here(holder)
        if lives is None:
            _LOG.warning(
                "%s is held by %s, which cannot be looked up from here: watching for %.0f s whether it gives a sign of "
                "life", self._free.url, holder.who, self._expiry_s,
            )  # fmt: skip
            end_s = time.monotonic() + self._expiry_s
            while time.monotonic() < end_s and not lives:
                time.sleep(min(1.0, self._expiry_s / 20))
                holder = find_holder(self._free)
                if holder is None or holder.released:
                    return holder
                lives = holder != first
        if lives and holder is not None:
            raise OutputBusy(
                f"output {self._free.url!r} is being written by {holder.who}; wait for it, stop it, or choose another "
                "output.path"
            )
        return holder

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_s):
            try:
                self.storage.write(claim_name(self._number), self._content())
            except LeaseLost:
                self._lost.set()
                return
            except Exception:  # storage hiccup: the next beat tries again, the expiry leaves room for several
                continue

    def _content(self, *, released: bool = False) -> bytes:
        self._beats += 1
        now_s = time.time()
        claim = {
            "number": self._number,
            "owner": self._owner,
            **here(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "beats": self._beats,
            "beat_s": now_s,
            "beat_utc": datetime.fromtimestamp(now_s, timezone.utc).isoformat(timespec="seconds"),
            "released": released,
        }
        return json.dumps(claim, indent=2).encode()


def look(storage: Storage, expiry_s: float = EXPIRY_S) -> tuple[Holder, float, bool] | None:
    """Who holds the output, seconds since its last sign of life, and whether it seems to live; None if nobody does.

    Quick, and for people: a process elsewhere is judged by when the storage says that its claim was last written.
    """
    holder = find_holder(storage)
    if holder is None or holder.released or not holder.content:
        return None
    written_s, lives = storage.modified_s(holder.name), is_alive_here(holder)
    age_s = max(0.0, time.time() - (float(holder.content["beat_s"]) if written_s is None else written_s))
    return holder, age_s, age_s <= expiry_s if lives is None else lives


def find_holder(storage: Storage) -> Holder | None:
    """Of the highest claim, or of a former version's lease if there is no claim; None if nobody ever held it."""
    while (number := _highest(storage)) > 0:
        with contextlib.suppress(FileNotFoundError):  # the next one may have cleared it away between the two calls
            return Holder(number, claim_name(number), _read_claim(storage, claim_name(number)))
    with contextlib.suppress(FileNotFoundError):
        content = _read_claim(storage, FORMER_NAME)
        return Holder(0, FORMER_NAME, content) if content and "number" not in content else None
    return None


def claim_name(number: int) -> str:
    return f"{LEASE_FOLDER}/{number:08d}.json"


def _claims(storage: Storage) -> list[int]:
    return [int(match.group(1)) for name in storage.names(LEASE_FOLDER) if (match := _CLAIM.fullmatch(name))]


def _highest(storage: Storage) -> int:
    return max(_claims(storage), default=0)


def _read_claim(storage: Storage, name: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read(name))
    except ValueError:
        return {}
    return content if isinstance(content, dict) and content.keys() >= _NEEDED else {}


def here() -> dict[str, str | None]:
    """What tells this machine's processes from all others: PIDs mean something only where all of it is the same."""
    return {
        "host": socket.gethostname(),
        "machine": _first_line("/etc/machine-id"),
        "boot": _first_line("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _pid_namespace(),
    }


def is_alive_here(holder: Holder) -> bool | None:
    """Whether its process lives; None if it cannot be looked up: it is elsewhere, hidden, or this is not Linux."""
    place = here()
    if place["boot"] is None or place["pid_namespace"] is None or "boot" not in holder.content:
        return None
    if any(holder.content.get(name) != value for name, value in place.items()):
        return None
    pid = int(holder.content["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's process
        pass
    start = _process_start(pid)
    if start is None:  # dead and not yet buried, or /proc hides it
        return False if os.path.exists(f"/proc/{pid}/stat") else None
    return bool(start == holder.content["process_start"])


def _process_start(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None if it is gone (or this is not Linux)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _first_line(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.readline().strip() or None
    except OSError:
        return None


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
