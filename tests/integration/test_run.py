"""Whole runs on a real local Ray with the fake engine."""

import gzip
import json
import os
import resource
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.captioner import Captioner
from conf.checkpoint_info import read_checkpoint_info
from conf.errors import UserError
from conf.image_plan import ImagePlan
from conf.schema import JobConfig
from jobs.caption import run_job
from pipeline.chunk import from_ipc
from pipeline.driver import Progress
from pipeline.ops.crash_log import MOST_DEATHS, CrashLog
from pipeline.output.ledger import save_plan
from pipeline.output.run_record import TooManyErrors
from pipeline.output.storage import Storage
from pipeline.run import CaptionerSpec, run
from pipeline.services import RunServices
from pipeline.source.plan import Shard
from pipeline.source.readers import make_reader
from pipeline.source.readers.webdataset import WebDatasetReader
from pipeline.stages import IndexShard, PrepareChunk, shard_task
from pipeline.tables import results_schema
from tests.fake_engine import POISON_KILL, POISON_RAISE
from tests.integration.corpus import check_exactly_once, expected_text, fake_spec, make_config
from tests.shards import image_bytes, many_scans, sample_members, write_shards, write_tar

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("ray"),
]

BROKEN = ("truncated", "empty", "text")


def go(config: JobConfig, on_progress: Any = lambda _: None, **options: Any) -> dict[str, Any]:
    return run(config, read_checkpoint_info(config.model.checkpoint), fake_spec(config, **options), on_progress)


def files_of(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (root / "out").rglob("*") if path.is_file()}


def test_a_run_from_beginning_to_end_and_again(tmp_path: Path) -> None:
    num_samples = write_shards(tmp_path / "in", 3, 40, BROKEN)
    config = make_config(tmp_path)
    progress: list[Progress] = []
    record = go(config, progress.append)
    check_exactly_once(tmp_path, 3, 40, BROKEN)
    counts = record["counts"]
    assert (counts["samples"], counts["rows_read"], counts["rows_ok"], counts["rows_error"]) == (
        num_samples,
        129,
        120,
        9,
    )
    assert (counts["shards"], counts["shards_published"], counts["shard_errors"]) == (3, 3, 0)
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == record
    assert record["status"] == "complete"
    assert record["device"]["busy_s"] > 0
    assert record["device"]["allocated_s"] >= record["device"]["busy_s"]
    assert record["cost"]["total"] is None
    assert progress[-1].fraction == 1.0
    assert progress[-1].num_rows == 129
    table = pq.read_table(tmp_path / "out" / "results")
    assert table.schema.names == results_schema(("number",)).names
    assert sum(pq.read_table(tmp_path / "out" / "engine_stats")["num_completed"].to_pylist()) == 120

    before = files_of(tmp_path)
    without_engine = CaptionerSpec(Captioner, partial(fail_to_load, "a finished run needs no engine"))
    assert run(config, read_checkpoint_info(config.model.checkpoint), without_engine) == record
    assert files_of(tmp_path) == before, "a rerun of a finished run must not touch anything"

    changed = make_config(tmp_path, engine={"thresholds": [0.1, 0.1, 0.1]})
    with pytest.raises(UserError, match=r"engine\.thresholds"):
        go(changed)
    with pytest.raises(UserError, match="on_existing=fail"):
        go(make_config(tmp_path, output={"on_existing": "fail"}))
    assert files_of(tmp_path) == before

    write_tar(tmp_path / "in" / "part-003.tar", [m for n in range(120, 160) for m in sample_members(n)])
    grown = go(config)
    assert grown["counts"]["rows_read"] == 169
    assert len(grown["time"]["invocations"]) == 2
    assert pq.read_table(tmp_path / "out" / "results").num_rows == 160

    retried = go(make_config(tmp_path, output={"retry_errors": "all"}))
    assert (retried["status"], retried["counts"]) == ("complete", grown["counts"])
    assert len(retried["time"]["invocations"]) == 3
    assert pq.read_table(tmp_path / "out" / "results").num_rows == 160

    fresh = go(make_config(tmp_path, output={"on_existing": "overwrite"}, engine={"thresholds": [0.1, 0.1, 0.1]}))
    assert (fresh["counts"]["rows_ok"], len(fresh["time"]["invocations"])) == (160, 1)


def test_hostile_shards_keep_every_good_row(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [m for n in range(20) for m in sample_members(n)]).read_bytes()
    source = tmp_path / "in"
    source.mkdir()
    (source / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (source / "packed.tar.gz").write_bytes(gzip.compress(whole))
    (source / "garbage.tar").write_bytes(b"no archive" * 1000)
    write_tar(source / "empty.tar", [])
    members = [m for n in range(20) for m in sample_members(n, POISON_RAISE if n == 5 else None)]
    write_tar(source / "shuffled.tar", sorted(members, key=lambda member: member[0].rsplit(".")[1]))
    record = go(make_config(tmp_path))
    counts = record["counts"]
    assert counts["shards"] == counts["shards_published"] == 5
    assert counts["shard_errors"] == 2
    assert counts["rows_read"] == counts["rows_ok"] + counts["rows_error"] == counts["samples"]
    errors = {row["sample_id"]: row for row in pq.read_table(tmp_path / "out" / "errors").to_pylist()}
    assert {name: row["error_type"] for name, row in errors.items()} == {
        "cut": "truncated_shard",
        "garbage": "unreadable_shard",
        "shuffled/000005": "RuntimeError",
    }
    texts = {row["sample_id"]: row["text"] for row in pq.read_table(tmp_path / "out" / "results").to_pylist()}
    assert all(text == expected_text(int(name.split("/")[1])) for name, text in texts.items())
    per_shard = {shard: sum(name.startswith(f"{shard}/") for name in texts) for shard in ("packed", "shuffled", "cut")}
    assert per_shard["packed"] == 20
    assert per_shard["shuffled"] == 19
    assert 0 < per_shard["cut"] < 20


def test_an_actor_killed_in_the_middle_costs_nothing(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 3, 60, BROKEN)
    pids = tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def kill_twice() -> None:
        deadline = time.monotonic() + 60
        while len(killed) < 2 and time.monotonic() < deadline:
            alive = [int(path.name) for path in pids.iterdir() if int(path.name) not in killed]
            staged = list((tmp_path / "out" / "_staging").rglob("chunk-*"))
            if alive and len(staged) > 2 * len(killed):
                os.kill(alive[-1], signal.SIGKILL)
                killed.append(alive[-1])
            time.sleep(0.02)

    killer = threading.Thread(target=kill_twice)
    killer.start()
    record = go(make_config(tmp_path), step_s=0.05, pid_folder=str(pids))
    killer.join()
    assert len(killed) == 2
    assert record["counts"]["rows_ok"] == 180
    check_exactly_once(tmp_path, 3, 60, BROKEN)


def test_a_row_that_kills_its_worker_becomes_an_error_row(tmp_path: Path) -> None:
    """In the engine; tests/actors/test_every_step.py kills at every other step."""
    write_tar(tmp_path / "in" / "s.tar", [m for n in range(4) for m in sample_members(n, {2: POISON_KILL}.get(n))])
    go(make_config(tmp_path))
    (error,) = pq.read_table(tmp_path / "out" / "errors").to_pylist()
    assert (error["sample_id"], error["stage"], error["error_type"]) == ("s/000002", "engine", "worker_crash")
    assert pq.read_table(tmp_path / "out" / "results").num_rows == 3


def test_a_run_going_wrong_stops_and_can_be_continued(tmp_path: Path) -> None:
    members = [(f"{n:05d}.jpg", b"no image") for n in range(1500)]
    write_tar(tmp_path / "in" / "bad.tar", members)
    with pytest.raises(TooManyErrors, match=r"rows failed, more than .*=0.5: \d+ x preprocess/not_an_image"):
        go(make_config(tmp_path, source={"chunk_rows": 100, "passthrough": []}))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "too_many_errors"
    assert not (tmp_path / "out" / "_state" / "lease.json").exists()
    done = go(make_config(tmp_path, source={"passthrough": []}, output={"max_error_fraction": 1.0}))
    assert (done["status"], done["counts"]["rows_error"]) == ("nothing_succeeded", 1500)
    assert done["message"].startswith("all 1,500 rows failed: 1500 x preprocess/not_an_image;")


def test_duplicates_are_answered_once(tmp_path: Path) -> None:
    for shard in range(2):
        members = [(f"{shard}{n:03d}.png", image_bytes((n % 5, 9, 9))) for n in range(40)]
        write_tar(tmp_path / "in" / f"s{shard}.tar", members)
    record = go(make_config(tmp_path, source={"passthrough": []}, preprocess={"duplicates_remembered": 100}))
    assert record["counts"]["rows_ok"] == 80
    rows = pq.read_table(tmp_path / "out" / "results").to_pylist()
    answered = [row for row in rows if row["duplicate_of"] is None]
    assert sum(pq.read_table(tmp_path / "out" / "engine_stats")["num_completed"].to_pylist()) == len(answered)
    assert 5 <= len(answered) <= 5 * 6, "each of the six chunks answers no image twice"
    origin = {row["sample_id"]: (row["sha256"], row["text"]) for row in answered}
    assert all(origin[row["duplicate_of"] or row["sample_id"]] == (row["sha256"], row["text"]) for row in rows)


def test_folders_of_images(tmp_path: Path) -> None:
    for number in range(30):
        path = tmp_path / "in" / f"d{number % 3}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes((number % 251, (7 * number) % 251, 100)))
    (tmp_path / "in" / "d0" / "broken.jpg").write_bytes(b"")
    source = {"kind": "images", "paths": [str(tmp_path / "in")], "passthrough": []}
    record = go(make_config(tmp_path, source=source))
    assert (record["counts"]["rows_ok"], record["counts"]["rows_error"]) == (30, 1)
    rows = pq.read_table(tmp_path / "out" / "results").to_pylist()
    assert all(row["text"] == expected_text(int(Path(row["key"]).stem)) for row in rows)
    assert rows[0]["sample_id"] == "in/d0/000000.png"


def test_a_chunk_that_killed_its_task_twice_is_decoded_in_processes_of_their_own(tmp_path: Path) -> None:
    import ray as ray_module

    path = write_tar(tmp_path / "in" / "s.tar", [*sample_members(0), ("bad.jpg", b"no image")])
    shard = Shard("s", str(path), 1)
    config, reader = make_config(tmp_path), WebDatasetReader((str(path),))
    (tasks,) = IndexShard(reader, Storage(str(tmp_path / "out")), 4)(pa.Table.from_pylist([shard_task(shard, ())]))
    log = ray_module.remote(num_cpus=0)(CrashLog).remote()
    services = RunServices(Storage(str(tmp_path / "out")), "run", (), log)
    (plain,) = PrepareChunk.from_config(config, reader, ImagePlan.squeeze(32), services)(tasks)
    for _ in range(2):
        ray_module.get(log.begin.remote("s (preprocess)", 0, 0))
    (careful,) = PrepareChunk.from_config(config, reader, ImagePlan.squeeze(32), services)(tasks)
    assert careful.equals(plain)
    for _ in range(MOST_DEATHS):
        ray_module.get(log.begin.remote("s (preprocess)", 0, 0))
    (given_up,) = PrepareChunk.from_config(config, WebDatasetReader(("gone",)), ImagePlan.squeeze(32), services)(tasks)
    rows = from_ipc(given_up["rows"][0].as_buffer()).to_pylist()
    assert [(row["key"], row["error_type"]) for row in rows] == [("000000", "worker_crash"), ("bad", "worker_crash")]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > 0.05, "no process of its own was started"


def test_an_image_that_hangs_its_decoder_costs_one_row(tmp_path: Path) -> None:
    members = [m for n in range(4) for m in sample_members(n)] + [("endless.jpg", many_scans(20_000))]
    write_tar(tmp_path / "in" / "s.tar", members)
    record = go(make_config(tmp_path, preprocess={"decode_timeout_s": 1.0}))
    (error,) = pq.read_table(tmp_path / "out" / "errors").to_pylist()
    assert (error["key"], error["stage"], error["error_type"]) == ("endless", "preprocess", "decoder_hang")
    assert record["counts"]["rows_ok"] == 4


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"source": {"paths": ["nowhere/*.tar"]}}, "no shard matches"),
        ({"source": {"paths": ["nowhere.tar"]}}, "shard not found"),
        ({"engine": {"exits": [3, 8]}}, "must be among the checkpoint's exits"),
        ({"actors": {"num_actors": 1000}}, "1000 actors with 1 CPUs"),
    ],
)
def test_a_users_mistake_writes_nothing(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    write_shards(tmp_path / "in", 1, 2)
    with pytest.raises(UserError, match=message):
        run_job(make_config(tmp_path, **sections), fake_spec)
    assert not (tmp_path / "out").exists()


def test_the_model_is_loaded_inside_the_actor_only(tmp_path: Path) -> None:
    """A backend that cannot be made fails the run with its own message, not with a hang."""
    write_shards(tmp_path / "in", 1, 2)
    config = make_config(tmp_path)
    spec = fake_spec(config)
    broken = CaptionerSpec(spec.actor_class, partial(fail_to_load, "no such device"))
    with pytest.raises(Exception, match="no such device"):
        run(config, read_checkpoint_info(config.model.checkpoint), broken)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "failed"


def test_a_run_that_cannot_start_overwrites_nothing(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 1, 4)
    go(make_config(tmp_path))
    before = files_of(tmp_path)
    config = make_config(tmp_path, output={"on_existing": "overwrite"})
    broken = CaptionerSpec(fake_spec(config).actor_class, partial(fail_to_load, "no such device"))
    with pytest.raises(Exception, match="no such device"):
        run(config, read_checkpoint_info(config.model.checkpoint), broken)
    left = {name: when for name, when in files_of(tmp_path).items() if "/_state/lease" not in name}
    assert left == {name: when for name, when in before.items() if "/_state/lease" not in name}


def test_a_planned_shard_that_is_gone_is_an_exit_code_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "in", 3, 4)
    config = make_config(tmp_path)
    save_plan(Storage(config.output.path), {}, make_reader(config.source).shards(()).shards)
    (tmp_path / "in" / "part-001.tar").rename(tmp_path / "away.tar")
    for _ in range(2):
        code, record = run_job(config, fake_spec)
        assert record is not None
        assert (code, record["status"], record["counts"]["shards_missing"]) == (3, "shards_missing", 1)
        assert record["counts"]["rows_ok"] == 8
    assert "a shard that was planned is gone" in capfd.readouterr().err
    (tmp_path / "away.tar").rename(tmp_path / "in" / "part-001.tar")
    code, record = run_job(make_config(tmp_path, output={"retry_errors": "transient"}), fake_spec)
    assert record is not None
    assert (code, record["status"], record["counts"]["rows_ok"]) == (0, "complete", 12)


def fail_to_load(reason: str) -> None:
    raise RuntimeError(reason)
