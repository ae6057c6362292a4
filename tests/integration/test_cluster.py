"""Jobs on a real two-node Ray with token authentication, submitted as docs/cluster.md says."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray._private.runtime_env.packaging import _dir_travel

from jobs.cli import main
from tests.integration.ray_nodes import BIN, ROOT, RayNodes, ray_nodes, wait_until
from tests.shards import write_shards

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

NUM_SHARDS, ROWS, BROKEN = 5, 160, ("truncated", "text")
CHUNK_ROWS = 5
CHUNKS = -(-(ROWS + len(BROKEN)) // CHUNK_ROWS)  # a shard


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with ray_nodes(2, 2) as nodes:
        yield nodes


def overrides(root: Path) -> list[str]:
    return [
        *("--set", f"source.paths=[{root}/in/*.tar]", "--set", f"output.path={root}/out"),
        *("--set", f"source.chunk_rows={CHUNK_ROWS}", "--set", "engine.generation.max_new_tokens=6"),
        *("--set", "engine.num_slots=4"),
    ]


def submit(cluster: RayNodes, root: Path, submission_id: str) -> "subprocess.Popen[str]":
    """`ray job submit` in the background, its output in root/SUBMISSION_ID.log."""
    command = [str(BIN / "ray"), "job", "submit", "--address", cluster.address, "--submission-id", submission_id]
    command += ["--working-dir", ".", "--", "python", "-m", "jobs.caption", "--config", "conf/caption.yaml"]
    with open(root / f"{submission_id}.log", "w") as log:
        return subprocess.Popen(
            [*command, *overrides(root)], cwd=ROOT, env=cluster.environment, text=True, stdout=log, stderr=log
        )


def committed(root: Path) -> int:
    """Chunks staged, and those of published shards."""
    staged = len(list((root / "out").glob("_staging/*/*/chunk-*")))
    return staged + len(list((root / "out").glob("results/*.parquet"))) * CHUNKS


def test_a_node_dies_the_job_is_stopped_and_the_same_command_finishes(
    cluster: RayNodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "in", NUM_SHARDS, ROWS, BROKEN)
    client = submit(cluster, tmp_path, "first")
    log = tmp_path / "first.log"

    def reaches(chunks: int) -> None:
        def reached() -> bool:
            assert client.poll() is None, f"ended early\n{log.read_text()}"
            return committed(tmp_path) >= chunks

        wait_until(reached, 120, f"{chunks} chunks, {committed(tmp_path)} are there", log.read_text)

    try:
        reaches(5)
        cluster.kill_node(1)
        cluster.wait_for_nodes(1)
        # The head goes on alone. Its two CPUs could both be taken by actors, and none be left for preprocessing: then
        # what was prepared already would still come, six chunks for each actor.
        reaches(committed(tmp_path) + 20)
        stopped = cluster.run(str(BIN / "ray"), "job", "stop", "--address", cluster.address, "first")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        client.wait(60)
    finally:
        client.kill()
    status = cluster.run(str(BIN / "ray"), "job", "status", "--address", cluster.address, "first")
    assert "was stopped" in status.stdout, status.stdout + status.stderr
    assert "run the same command again to continue" in log.read_text()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "out" / "_state" / "lease.json").exists()
    done_before = committed(tmp_path)
    assert 0 < done_before < NUM_SHARDS * CHUNKS

    cluster.start_node(2)
    cluster.wait_for_nodes(2)
    again = submit(cluster, tmp_path, "second")
    assert again.wait(240) == 0, (tmp_path / "second.log").read_text()
    audit(tmp_path)

    def planned(*more: str) -> dict[str, Any]:
        command = ["plan", "--config", str(ROOT / "conf" / "caption.yaml"), *overrides(tmp_path), *more]
        assert main([*command, "--set", "cost.price_per_hour=2", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    plan = planned("--cpus", "4", "--gpus", "0")
    num_samples = NUM_SHARDS * (ROWS + len(BROKEN))
    assert (plan["samples_done"], plan["samples_left"], plan["chunks_counted"]) == (num_samples, 0, NUM_SHARDS * CHUNKS)
    assert (plan["speed"]["samples"], plan["time_s"], plan["cost"]) == (num_samples, 0, 0)
    (tmp_path / "in" / "again").mkdir()
    write_shards(tmp_path / "in" / "again", 1, ROWS, BROKEN)  # as much again as one of the others
    plan = planned("--set", f"source.paths=[{tmp_path}/in/**/*.tar]")
    assert plan["samples_left"] == pytest.approx(ROWS + len(BROKEN), rel=0.05)
    left_s = plan["samples_left"] / (num_samples / plan["speed"]["actor_s"]) / plan["num_actors"]
    assert plan["time_s"] == pytest.approx(left_s)
    assert plan["cost"] == pytest.approx(2 * left_s / 3600)


def deed_submit(cluster: RayNodes, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(BIN / "python"), "-m", "jobs.cli", "submit", "--address", cluster.address, "--", *arguments]
    return cluster.run(*command)


def test_deed_submit_shows_the_output_and_ends_with_the_jobs_code(cluster: RayNodes, tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 1, 3)
    for number in range(1, 12):
        (tmp_path / "in" / f"part-{number:03d}.tar").write_bytes(b"this is no archive")
    job = ["caption", "--config", "conf/caption.yaml", *overrides(tmp_path)]
    ended = deed_submit(cluster, *job)
    assert ended.returncode == 3, ended.stdout + ended.stderr  # as `deed caption` here would
    assert "shards could not be read, more than output.max_error_fraction=0.5" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr

    ended = deed_submit(cluster, *job, "--set", "output.path=runs/relative")
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "output.path is relative" in ended.stdout


def test_without_the_token_nothing_is_submitted(cluster: RayNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster.folder / "wrong").write_text("0" * 64)
    stranger = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(cluster.folder / "wrong")}
    monkeypatch.setattr(RayNodes, "environment", stranger)
    ended = deed_submit(cluster, "caption", "--help")
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "wants a token" in ended.stderr


def test_the_upload_is_small() -> None:
    """What `ray job submit --working-dir .` packs: sources, configuration, the shipped checkpoint; no data, no runs."""
    packed = []
    _dir_travel(ROOT, [], packed.append, include_gitignore=True)
    names = {str(path.relative_to(ROOT)) for path in packed if path.is_file()}
    assert {"jobs/caption.py", "conf/caption.yaml", "assets/checkpoints/deed-scenes/model.safetensors"} <= names
    assert not {name.partition("/")[0] for name in names} & {"data", "runs", "tests", "docs", ".venv", ".git"}
    assert sum((ROOT / name).stat().st_size for name in names) < 20e6


def audit(root: Path) -> None:
    """Every input row is in results or errors, once."""
    results = pq.read_table(root / "out" / "results").to_pylist()
    errors = pq.read_table(root / "out" / "errors").to_pylist()
    good = [f"part-{n // ROWS:03d}/{n:06d}" for n in range(NUM_SHARDS * ROWS)]
    bad = [f"part-{shard:03d}/broken-{name}" for shard in range(NUM_SHARDS) for name in BROKEN]
    assert sorted(row["sample_id"] for row in results) == good
    assert sorted(row["sample_id"] for row in errors) == sorted(bad)
    counts = json.loads((root / "out" / "run.json").read_text())["counts"]
    assert (counts["rows_ok"], counts["rows_error"]) == (len(good), len(bad))
