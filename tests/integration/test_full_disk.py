"""A real run whose output's disk becomes full: exit code 5, one sentence, and the same command continues."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.corpus import check_exactly_once
from tests.shards import write_shards

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "out"
    folder.mkdir()
    with contextlib.suppress(FileNotFoundError):
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True
        )
        if mounted.returncode == 0:
            yield folder
            subprocess.run(["umount", "-l", str(folder)], check=True)
            return
    pytest.skip("needs the right to mount a file system")


def start(root: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.integration.fake_job", str(root), "0.05"]
    return subprocess.run(
        command, cwd=ROOT, text=True, check=False, timeout=200, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_a_disk_that_becomes_full_and_one_that_becomes_read_only(tmp_path: Path, small_disk: Path) -> None:
    write_shards(tmp_path / "in", 4, 70)
    (small_disk / "filler").write_bytes(bytes(2 * 2**20 - 120 * 2**10))  # which leaves room for some chunks
    full = start(tmp_path)
    assert full.returncode == 5, full.stdout
    (said,) = [line for line in full.stdout.splitlines() if "deed caption: stopped" in line]
    assert "No space left on device; nothing is half-written and what was committed is safe, make room there" in said
    assert said.endswith("then run the same command again to continue")
    assert "Traceback" not in full.stdout, full.stdout
    assert len(full.stdout.splitlines()) < 5, full.stdout
    assert list(small_disk.glob("_staging/*/*/chunk-*")), "some chunks were committed"
    (small_disk / "filler").unlink()

    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    read_only = start(tmp_path)
    assert read_only.returncode == 5, read_only.stdout
    assert "Read-only file system" in read_only.stdout
    assert "Traceback" not in read_only.stdout
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)

    assert start(tmp_path).returncode == 0
    assert not list(small_disk.rglob(".tmp-*")), "what a worker was writing while its job ended is cleared away"
    check_exactly_once(tmp_path, 4, 70)
