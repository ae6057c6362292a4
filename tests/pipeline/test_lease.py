"""Two runs never write the same output; a dead run does not block the next one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conf.errors import UserError
from pipeline.lease import LEASE_NAME, Lease, LeaseLost
from pipeline.storage import Storage


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_a_living_owner_is_respected_and_leaves_nothing_behind(storage: Storage) -> None:
    with Lease(storage), pytest.raises(UserError, match=r"is being written by process \d+"), Lease(storage):
        pass
    assert storage.walk("_state") == []
    with Lease(storage):
        pass


def test_a_killed_owner_on_this_machine_is_followed_at_once(storage: Storage) -> None:
    code = (
        "import os, sys; from pipeline.lease import Lease; from pipeline.storage import Storage;"
        "Lease(Storage(sys.argv[1])).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, storage.url], check=False, cwd=Path(__file__).parents[2])
    assert storage.exists(LEASE_NAME)
    with Lease(storage) as lease:
        lease.check()


def test_a_silent_owner_elsewhere_is_followed_after_the_expiry(storage: Storage) -> None:
    clock = Clock()
    holder = {"owner": "x", "host": "elsewhere", "pid": 1, "process_start": "1", "beat_s": clock.now_s}
    storage.write(LEASE_NAME, json.dumps(holder).encode())
    clock.now_s += 59
    with pytest.raises(UserError, match=r"on elsewhere .last sign of life 59 s ago"), Lease(storage, clock=clock):
        pass
    clock.now_s += 2
    with Lease(storage, clock=clock):
        assert json.loads(storage.read(LEASE_NAME))["owner"] != "x"


def test_the_heartbeat_renews_and_notices_a_takeover(storage: Storage) -> None:
    with Lease(storage, beat_s=0.01) as lease:
        first = json.loads(storage.read(LEASE_NAME))
        deadline = time.monotonic() + 10
        while json.loads(storage.read(LEASE_NAME))["beat_s"] == first["beat_s"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads(storage.read(LEASE_NAME))["beat_s"] > first["beat_s"]
        lease.check()
        other = {**first, "owner": "somebody else"}
        while time.monotonic() < deadline:
            storage.write(LEASE_NAME, json.dumps(other).encode())  # a beat in progress may overwrite it once
            time.sleep(0.02)
            try:
                lease.check()
            except LeaseLost:
                break
        with pytest.raises(LeaseLost):
            lease.check()
    assert json.loads(storage.read(LEASE_NAME))["owner"] == "somebody else"


def test_a_damaged_lease_is_replaced(storage: Storage) -> None:
    storage.write(LEASE_NAME, b"{")
    with Lease(storage):
        assert "owner" in json.loads(storage.read(LEASE_NAME))
