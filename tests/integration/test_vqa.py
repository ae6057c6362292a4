"""Five scheduled ticks while shards and questions arrive, one overlapping and one killed: each pair answered once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.vqa import run_ticks
from pipeline.output.lease import Lease, OutputBusy
from pipeline.output.storage import Storage
from tests.integration.corpus import expected_text, fake_spec
from tests.integration.processes import children_of
from tests.integration.test_kill import ROOT
from tests.integration.vqa_job import vqa_config
from tests.shards import image_bytes, sample_members, write_tar

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def write(root: Path, shard: str, numbers: range) -> None:
    write_tar(root / "in" / f"{shard}.tar", [member for n in numbers for member in sample_members(n)])


def answers(root: Path) -> Counter[tuple[str, str]]:
    """(key, prompt) of every answer under the output, whose text is checked."""
    rows = [row for path in root.glob("out/ticks/*/results/*.parquet") for row in pq.read_table(path).to_pylist()]
    for row in rows:
        assert row["text"] == expected_text(int(Path(row["key"]).stem), row["prompt"])
    return Counter((row["sample_id"], row["prompt"]) for row in rows)


def wanted(shards: dict[str, range], questions: list[str]) -> Counter[tuple[str, str]]:
    return Counter((f"{shard}/{n:06d}", q) for shard, numbers in shards.items() for n in numbers for q in questions)


def num_ticks(root: Path) -> int:
    return len(list(root.glob("out/ticks/*/run.json")))


def kill_in_the_middle(root: Path, questions: list[str], tick: int) -> None:
    command = [sys.executable, "-m", "tests.integration.vqa_job", str(root), "0.2", *questions]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not list(root.glob(f"out/ticks/{tick:06d}/_staging/*/*/chunk-*")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.02)
    finally:
        for pid in [process.pid, *children_of(process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()


def test_five_ticks_answer_every_pair_once(tmp_path: Path, ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    def tick(*questions: str) -> int:
        return run_ticks(vqa_config(tmp_path, list(questions)), fake_spec)

    shards = {"a": range(10), "b": range(10, 20)}
    for shard, numbers in shards.items():
        write(tmp_path, shard, numbers)
    assert tick("how many?") == 0  # 1: everything is new
    assert answers(tmp_path) == wanted(shards, ["how many?"])
    assert tick("how many?") == 0  # nothing is: no tick is begun
    assert "nothing new" in capsys.readouterr().out
    assert num_ticks(tmp_path) == 1

    shards["c"] = range(20, 70)
    write(tmp_path, "c", shards["c"])
    with Lease(Storage(str(tmp_path / "out"))), pytest.raises(OutputBusy, match="is being written by process") as busy:
        tick("how many?")  # overlaps with another that is still running
    assert busy.value.exit_code == 4
    assert num_ticks(tmp_path) == 1

    kill_in_the_middle(tmp_path, ["how many?"], 2)  # 2: a new shard, killed half-way
    assert num_ticks(tmp_path) == 1
    assert tick("how many?", "where?") == 0  # ends it with its own questions; 3: a new question for all shards
    assert num_ticks(tmp_path) == 3
    assert answers(tmp_path) == wanted(shards, ["how many?", "where?"])

    shards["a"] = range(15)
    write(tmp_path, "a", shards["a"])  # 4: new rows in a shard that is known
    assert tick("where?", "how many?") == 0
    assert answers(tmp_path) == wanted(shards, ["how many?", "where?"])

    shards["d"] = range(70, 75)
    write(tmp_path, "d", shards["d"])  # 5: a new shard and a new question
    assert tick("how many?", "where?", "why?") == 0
    assert answers(tmp_path) == wanted(shards, ["how many?", "where?", "why?"])
    assert num_ticks(tmp_path) == 5


def test_a_file_put_into_a_folder_is_all_that_is_asked_about(tmp_path: Path, ray: None) -> None:
    def put(number: int) -> None:
        path = tmp_path / "in" / f"{number:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image_bytes((number % 251, (7 * number) % 251, 100)))

    source = {"kind": "images", "paths": [str(tmp_path / "in")], "passthrough": []}
    for number in (1, 3):
        put(number)
    assert run_ticks(vqa_config(tmp_path, ["what?"], **source), fake_spec) == 0
    put(2)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"")
    assert run_ticks(vqa_config(tmp_path, ["what?"], **source), fake_spec) == 0
    put(4)
    assert run_ticks(vqa_config(tmp_path, ["what?", "why?"], **source), fake_spec) == 0
    pairs = [(f"in/{n:06d}.png", q) for n in (1, 2, 3, 4) for q in ("what?", "why?")]
    assert answers(tmp_path) == Counter(pairs)
    errors = [row for p in tmp_path.glob("out/ticks/*/errors/*.parquet") for row in pq.read_table(p).to_pylist()]
    assert [row["sample_id"] for row in errors] == ["in/broken.jpg"], "a broken image is reported once"
