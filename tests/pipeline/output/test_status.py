"""The status of an output, from files made by the pipeline's own functions."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from conf.errors import UserError
from jobs import cli
from pipeline.output.lease import Lease
from pipeline.output.ledger import Ledger, save_plan
from pipeline.output.publish import publish_shard
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import save_settings
from pipeline.output.status import KILLED, RUNNING, next_step, read_status
from pipeline.output.storage import Storage
from pipeline.source.plan import Shard
from tests.pipeline.helpers import bad_row, good_row, index_of, stage
from tests.pipeline.output.test_ledger import INFO, config
from tests.pipeline.output.test_run_record import FIT

NAMES = ("a", "b", "c")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Three shards: a is published with one error, b has two of three chunks, c is untouched."""
    storage = Storage(str(tmp_path / "out"))
    save_settings(storage, {"a": 1})
    save_plan(storage, {}, [Shard(name, f"/{name}.tar", 1) for name in NAMES])
    index = index_of(5, 2)
    rows = [good_row(0, shard="a"), bad_row(1, shard="a")]
    stage(storage, index_of(2, 2), 0, rows, shard="a")
    assert publish_shard(storage, "a").counts is not None
    stage(storage, index, 0, [good_row(0, shard="b"), good_row(1, shard="b")], shard="b")
    stage(storage, index, 2, [good_row(4, shard="b")], shard="b")
    return storage


def test_running_killed_and_ended(storage: Storage) -> None:
    with Lease(storage):
        status = read_status(storage.url)
        assert status.state == RUNNING
        assert status.owner is not None
        assert status.owner.alive
    assert (status.shards, status.shards_published, status.shards_started, status.shards_open) == (3, 1, 1, 1)
    assert (status.rows_ok, status.rows_error, status.chunks_staged, status.samples_staged) == (1, 1, 2, 3)
    assert status.errors_by_type == {"read/broken": 1}
    assert read_status(storage.url).state == KILLED, "no lease and no end on record"

    record = RunRecord(storage, config(), INFO, {"a": 1}, FIT, Ledger(NAMES, ["a"]))
    with pytest.raises(KeyboardInterrupt), record:
        raise KeyboardInterrupt
    ended = read_status(storage.url)
    assert ended.state == "interrupted"
    assert next_step(ended) == "run the same command again to continue"


@pytest.mark.parametrize(("on_existing", "it"), [("overwrite", "begins anew"), ("fail", "refuses")])
def test_what_continues_a_run_that_began_its_output_anew(storage: Storage, on_existing: str, it: str) -> None:
    """The same command would not."""
    told = config(output={"path": storage.url, "on_existing": on_existing})
    with pytest.raises(KeyboardInterrupt), RunRecord(storage, told, INFO, {"a": 1}, FIT, Ledger(NAMES, ["a"])):
        raise KeyboardInterrupt
    said = next_step(read_status(storage.url))
    assert said == told.output.to_continue
    assert "with output.on_existing=resume to continue" in said
    assert said.endswith(f"{it})")
    with Lease(storage):
        assert "with output.on_existing=resume" in next_step(read_status(storage.url))


def test_a_dead_lease_is_said_to_be_dead(storage: Storage) -> None:
    with Lease(storage):
        claim = json.loads(storage.read("_state/lease/00000001.json"))
    storage.write("_state/lease/00000001.json", json.dumps({**claim, "host": "elsewhere", "released": False}).encode())
    assert read_status(storage.url).state == RUNNING, "written a moment ago"
    long_ago_s = time.time() - 3600
    os.utime(f"{storage.url}/_state/lease/00000001.json", (long_ago_s, long_ago_s))
    status = read_status(storage.url)
    assert status.state == KILLED
    assert status.owner is not None
    assert not status.owner.alive
    assert status.owner.age_s > 3000
    assert "takes the dead run's lease over" in next_step(status)


def test_the_command(storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert cli.main(["status", storage.url]) == 0
    assert "1 of 3 published" in capsys.readouterr().out
    assert cli.main(["status", storage.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards_open"] == 1
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    with pytest.raises(UserError, match="no run was begun"):
        read_status(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("errors", "advised"),
    [
        (["preprocess/truncated_image"], "all"),
        (["preprocess/truncated_image", "read/storage_error"], "transient"),
    ],
)
def test_the_advice_for_failed_rows_tries_some_of_them_again(storage: Storage, errors: list[str], advised: str) -> None:
    status = replace(read_status(storage.url), state="complete", errors_by_type=dict.fromkeys(errors, 1))
    assert next_step(status).partition("output.retry_errors=")[2].split()[0] == advised
