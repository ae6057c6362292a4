"""Two runs never write the same output; a dead run does not block the next one."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conf.errors import UserError
from pipeline.output.lease import FORMER_NAME, Lease, LeaseLost, OutputBusy, claim_name, here, look
from pipeline.output.storage import Storage
from tests.effort import effort

ROOT = Path(__file__).parents[3]
QUICK: dict[str, float] = {"beat_s": 0.02, "expiry_s": 0.5}
DEAD = {"owner": "x", **here(), "pid": 2**22 + 1, "process_start": "1", "beat_s": 1.0}  # a PID that no kernel gives
ELSEWHERE = {**DEAD, "host": "elsewhere", "boot": "another"}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def claim(storage: Storage, number: int, content: dict[str, Any]) -> None:
    storage.write(claim_name(number), json.dumps({"number": number, **content}).encode())


@contextmanager
def alive(storage: Storage, name: str, content: dict[str, Any]) -> Iterator[None]:
    """An owner somewhere else, whose clock is as wrong as `beat_s` says, and which gives signs of life."""
    stop = threading.Event()

    def beat() -> None:
        beats = 0
        while not stop.wait(0.03):
            beats += 1
            beat_s = content["beat_s"] + beats * 0.03
            storage.write(name, json.dumps({**content, "beats": beats, "beat_s": beat_s}).encode())

    storage.write(name, json.dumps(content).encode())
    thread = threading.Thread(target=beat)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_a_living_owner_is_respected(storage: Storage) -> None:
    with (
        Lease(storage),
        pytest.raises(OutputBusy, match=r"is being written by process \d+ on ") as busy,
        Lease(storage),
    ):
        pass
    assert (busy.value.exit_code, isinstance(busy.value, UserError)) == (4, True)
    assert look(storage) is None, "it was given back"
    with Lease(storage) as lease:
        lease.storage.write("x", b"1")
    assert storage.names("_state/lease") == ["00000002.json"], "numbers are never given twice, old claims go"


def test_a_killed_owner_on_this_machine_is_followed_at_once(storage: Storage) -> None:
    code = (
        "import os, sys; from pipeline.output.lease import Lease; from pipeline.output.storage import Storage;"
        "Lease(Storage(sys.argv[1])).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, storage.url], check=False, cwd=ROOT)
    assert storage.exists(claim_name(1))
    start_s = time.monotonic()
    with Lease(storage) as lease:
        lease.storage.write("x", b"1")
    assert time.monotonic() - start_s < 30, "it was looked up and not watched"


def test_only_one_of_many_threads_follows_a_dead_owner(storage: Storage) -> None:
    def contend(barrier: threading.Barrier, url: str) -> bool:
        barrier.wait()
        try:
            with Lease(Storage(url)) as lease:
                lease.storage.write("owner", b"1")
                barrier.wait()  # it is held until everybody has tried
                return True
        except OutputBusy:
            barrier.wait()
            return False

    with ThreadPoolExecutor(4) as pool:
        for turn in range(effort(50, 400)):
            output, barrier = Storage(f"{storage.url}/{turn}"), threading.Barrier(4)
            claim(output, 1, DEAD)
            won = list(pool.map(contend, [barrier] * 4, [output.url] * 4))
            assert won.count(True) == 1, f"round {turn}: {won}"


def test_only_one_of_several_processes_follows_a_dead_owner(storage: Storage) -> None:
    code = """
import sys
from pipeline.output.lease import Lease, OutputBusy
from pipeline.output.storage import Storage
for line in sys.stdin:
    lease = Lease(Storage(line.strip()))
    try:
        lease.__enter__()
        print("won", flush=True)
    except OutputBusy:
        print("busy", flush=True)
"""
    command = [sys.executable, "-c", code]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    try:
        for turn in range(effort(10, 100)):
            output = Storage(f"{storage.url}/{turn}")
            claim(output, 7, DEAD)
            for process in processes:
                print(output.url, file=process.stdin, flush=True)
            answers = sorted(process.stdout.readline().strip() for process in processes)  # type: ignore[union-attr]
            assert answers == ["busy", "busy", "won"], f"round {turn}"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_claim_below_one_that_has_cleared_it_away_is_no_claim(storage: Storage, monkeypatch: Any) -> None:
    """Slow since it saw claim 1: meanwhile 2 came and went, and 3 cleared both away."""
    claim(storage, 1, DEAD)
    create = Storage.create

    def slow(self: Storage, name: str, data: bytes) -> bool:
        monkeypatch.setattr(Storage, "create", create)
        with Lease(Storage(self.url)):
            pass
        Lease(Storage(self.url)).__enter__()
        return create(self, name, data)

    monkeypatch.setattr(Storage, "create", slow)
    with pytest.raises(OutputBusy, match="just taken over"), Lease(storage):
        pass


@pytest.mark.parametrize("ahead_s", [-3600, -61, 0, 61, 3600])
def test_a_living_owner_is_respected_whatever_its_clock_says(storage: Storage, ahead_s: float) -> None:
    content = {**ELSEWHERE, "beat_s": time.time() + ahead_s}
    with (
        alive(storage, claim_name(3), content),
        pytest.raises(OutputBusy, match="process 4194305 on elsewhere"),
        Lease(storage, **QUICK),
    ):
        pass


@pytest.mark.parametrize("ahead_s", [-3600, 0, 3600])
def test_a_silent_owner_elsewhere_is_followed_after_it_was_watched(
    storage: Storage, caplog: pytest.LogCaptureFixture, ahead_s: float
) -> None:
    claim(storage, 3, {**ELSEWHERE, "beat_s": time.time() + ahead_s})
    with Lease(storage, **QUICK):
        assert storage.names("_state/lease") == ["00000004.json"]
    (line,) = caplog.messages
    assert "held by process 4194305 on elsewhere, which cannot be looked up from here: watching for" in line


def test_the_same_host_name_in_another_pid_namespace_is_another_place(storage: Storage) -> None:
    """Containers on the host's network: the PID of the one is somebody else's, or nobody's, in the other."""
    content = {**DEAD, "pid_namespace": "pid:[1]"}
    with alive(storage, claim_name(1), content), pytest.raises(OutputBusy), Lease(storage, **QUICK):
        pass
    with Lease(storage, **QUICK):
        assert storage.exists(claim_name(2)), "it is dead now, and was watched"


def test_a_former_versions_lease_is_understood(storage: Storage) -> None:
    former = {name: DEAD[name] for name in ("owner", "host", "pid", "process_start", "beat_s")}
    with alive(storage, FORMER_NAME, former), pytest.raises(OutputBusy), Lease(storage, **QUICK):
        pass
    held = look(storage)
    assert held is not None
    assert held[0].who == f"process {DEAD['pid']} on {DEAD['host']}"
    with Lease(storage, **QUICK):
        assert json.loads(storage.read(FORMER_NAME))["owner"] != "x", "its owner, should it wake up, stops"
    assert storage.walk("_state") == ["lease/00000001.json"]


def test_the_heartbeat_renews_and_notices_a_takeover(storage: Storage) -> None:
    with Lease(storage, **QUICK) as lease:
        first = storage.read(claim_name(1))
        deadline = time.monotonic() + 10
        while storage.read(claim_name(1)) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads(storage.read(claim_name(1)))["beats"] > json.loads(first)["beats"]
        lease.check()
        claim(storage, 2, ELSEWHERE)
        with pytest.raises(LeaseLost, match="another run has taken over"):
            lease.storage.write("x", b"1")
        while not lease._lost.is_set() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(LeaseLost):
            lease.check()
    assert json.loads(storage.read(claim_name(2)))["host"] == "elsewhere"
    assert not storage.exists("x")


@pytest.mark.parametrize("moment", ["before it asks", "before its rename"])
def test_a_writer_that_was_asleep_while_another_run_took_over_writes_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What the new owner does first is to clear away temporary files; a rename from one of them then fails."""
    old = Lease(storage).__enter__()
    old._stop.set()  # it is asleep as a whole

    def take_over() -> None:
        monkeypatch.undo()
        claim(storage, 2, ELSEWHERE)
        storage.remove(f"results/{name}" for name in storage.names("results"))

    if moment == "before it asks":
        ask = Storage._ask
        monkeypatch.setattr(Storage, "_ask", lambda self: (take_over(), ask(self)))
    else:
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda *paths: (take_over(), replace(*paths)))
    with pytest.raises(LeaseLost):
        old.storage.write("results/s.parquet", b"old")
    assert storage.walk("results") == []
    for change in (
        lambda: old.storage.create("x", b""),
        lambda: old.storage.remove([claim_name(2)]),
        lambda: old.storage.remove_folder("_state"),
    ):
        with pytest.raises(LeaseLost):
            change()


@pytest.mark.parametrize("damage", [b"{", b"", b"[]", b'{"owner": 1}'])
def test_a_damaged_claim_is_replaced_and_never_blocks(storage: Storage, damage: bytes) -> None:
    storage.write(FORMER_NAME, damage)
    with Lease(storage, **QUICK):
        pass
    storage.write(claim_name(5), damage)
    assert look(storage) is None
    with Lease(storage, **QUICK):
        assert storage.exists(claim_name(6))
