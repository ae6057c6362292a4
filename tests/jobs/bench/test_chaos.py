"""The chaos bench kills what it should, and its audit finds what would be wrong."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.bench.chaos import audit, make_corpus, ray_workers
from pipeline.output.publish import publish_shard
from pipeline.output.storage import Storage
from tests.pipeline.helpers import bad_row, good_row, index_of, stage

EXPECTED = {"k0": "text 0.0", "k1": "text 1.0", "k2": None}


@pytest.fixture
def processes() -> Iterator[dict[str, int]]:
    """Sleeping processes that call themselves what Ray's do."""
    titles = ("ray::IDLE", "ray::MapWorker(x)", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "raylet")
    started = {title: subprocess.Popen([title, "60"], executable="/bin/sleep") for title in titles}
    yield {title: process.pid for title, process in started.items()}
    for process in started.values():
        process.kill()
        process.wait()


def test_agents_are_no_workers_because_their_node_dies_with_them(processes: dict[str, int]) -> None:
    assert ray_workers(os.getpid()) == {processes["ray::IDLE"], processes["ray::MapWorker(x)"]}


def test_a_corpus_holds_poison_and_broken_images(tmp_path: Path) -> None:
    expected = make_corpus(tmp_path, 300, 1)
    assert len(expected) == 300
    assert sum(text is None for text in expected.values()) in (7, 8)
    assert len(list(tmp_path.glob("*.tar"))) == 3


def finished(folder: Path, rows: list[dict[str, object]], num_samples: int = 3) -> str:
    storage = Storage(str(folder))
    stage(storage, index_of(num_samples, 8), 0, rows)
    assert publish_shard(storage, "s").counts is not None
    counts = {"rows_read": num_samples, "rows_ok": num_samples - 1, "rows_error": 1}
    storage.write("run.json", json.dumps({"counts": counts}).encode())
    return storage.url


def test_a_right_output_passes(tmp_path: Path) -> None:
    assert audit(finished(tmp_path, [good_row(0), good_row(1), bad_row(2)]), EXPECTED) == []


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([good_row(0), {**good_row(1), "text": "other"}, bad_row(2)], "k1 has text 'other' instead of 'text 1.0'"),
        ([good_row(0), bad_row(1), good_row(2)], "k1 is 0 times in results and 1 times in errors"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: list[dict[str, object]], found: str) -> None:
    assert any(found in problem for problem in audit(finished(tmp_path, rows), EXPECTED))


def test_lost_doubled_and_left_behind_are_named(tmp_path: Path) -> None:
    out = finished(tmp_path, [good_row(0), bad_row(1)], num_samples=2)
    storage = Storage(out)
    storage.write("results/copy.parquet", storage.read("results/s.parquet"))
    storage.write("_staging/s/chunk-000000.parquet", b"")
    problems = "\n".join(audit(out, {"k0": "text 0.0", "k1": None, "k2": "text 2.0"}))
    assert "k0 is 2 times in results" in problems
    assert "k2 is 0 times in results and 0 times in errors" in problems
    assert "_staging/s/chunk-000000.parquet was left behind" in problems
    assert "counts do not reconcile" in problems
