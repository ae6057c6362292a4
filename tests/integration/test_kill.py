"""Runs whose processes are killed, then rerun by the same command until complete."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.caption import run_job
from tests.integration.corpus import check_exactly_once, fake_spec, make_config
from tests.integration.processes import children_of, kill_tree
from tests.shards import write_shards

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("ray"),
]

ROOT = Path(__file__).parents[2]
BROKEN = ("truncated", "text")


def start(root: Path, step_s: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.integration.fake_job", str(root), str(step_s)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def staged(root: Path) -> int:
    """Chunks committed so far, published ones counted as many."""
    return len(list((root / "out").glob("_staging/*/*/chunk-*"))) + 5 * len(
        list((root / "out").glob("results/*.parquet"))
    )


def wait_for_work(root: Path, process: "subprocess.Popen[str]", more_than: int) -> None:
    deadline = time.monotonic() + 120
    while staged(root) <= more_than:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.05)


def finish(root: Path) -> None:
    """The same job, in this process."""
    assert run_job(make_config(root), partial(fake_spec, log=str(root / "executed")))[0] == 0


def committed(root: Path) -> set[str]:
    """Keys of the good rows that are staged or published."""
    files = [*root.glob("out/_staging/*/*/chunk-*.parquet"), *root.glob("out/results/part*")]
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    return {row["key"] for row in rows if row.get("stage") is None}


def test_a_tree_of_processes_killed_half_way_is_continued_exactly_once(tmp_path: Path) -> None:
    """And repeats no more than the chunks in flight: how many rows the engines have done is counted beside the run."""
    write_shards(tmp_path / "in", 4, 70, BROKEN)
    executed = tmp_path / "executed"
    process = start(tmp_path, 0.05)
    try:
        wait_for_work(tmp_path, process, 10)  # of 20 chunks
    finally:
        kill_tree(process.pid)
        process.communicate()
    kept, done_before = len(committed(tmp_path)), executed.stat().st_size
    assert 16 * 8 < kept < 280
    before = {str(path): path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").glob("part*")}
    finish(tmp_path)
    check_exactly_once(tmp_path, 4, 70, BROKEN)
    config = make_config(tmp_path)
    in_flight = config.actors.chunks_in_flight * config.source.chunk_rows  # one actor
    assert executed.stat().st_size - done_before == 280 - kept, "a committed chunk was done again"
    assert done_before - kept <= in_flight
    after = {str(path): path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").glob("part*")}
    assert before.items() <= after.items(), "a published shard was written again"
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["counts"]["rows_read"] == 4 * 72
    assert [note["ended"] for note in record["time"]["invocations"]] == [False, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    write_shards(tmp_path / "in", 3, 70, BROKEN)
    process = start(tmp_path, 0.1)
    try:
        wait_for_work(tmp_path, process, 2)
        workers = children_of(process.pid)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 128 + number, output
    assert "run the same command again to continue" in output
    assert "Traceback" not in output
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert not (tmp_path / "out" / "_state" / "lease.json").exists()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()], "workers outlive the run"
    if number is signal.SIGTERM:
        finish(tmp_path)
        check_exactly_once(tmp_path, 3, 70, BROKEN)
