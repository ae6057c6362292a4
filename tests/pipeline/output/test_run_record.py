"""run.json: counts that reconcile, time of killed invocations, and null for what nobody knows."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conf.schema import JobConfig
from pipeline.ops.cluster import Fit
from pipeline.output.lease import LeaseLost
from pipeline.output.ledger import Ledger
from pipeline.output.output import Output
from pipeline.output.publish import Counts, publish_shard, write_engine_stats
from pipeline.output.resume import finished_record
from pipeline.output.run_record import RunRecord, Status, TooManyErrors
from pipeline.output.storage import Storage
from tests.pipeline.helpers import bad_row, good_row, index_of, stage
from tests.pipeline.output.test_ledger import INFO, config

FIT = Fit(num_actors=2, actor_cpus=1, actor_gpus=0, cluster_cpus=4, cluster_gpus=0)


def record_of(storage: Storage, ledger: Ledger, settings: JobConfig | None = None) -> RunRecord:
    return RunRecord(storage, settings or config(), INFO, {"a": 1}, FIT, ledger)


def saved(storage: Storage) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(storage.read("run.json"))
    return content


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_counts_cover_earlier_invocations(storage: Storage) -> None:
    stage(storage, index_of(2, 2), 0, [good_row(0), bad_row(1)])
    publish_shard(storage, "s")
    ledger = Ledger(["s", "t", "u"], published=["s"])
    with record_of(storage, ledger) as record:
        ledger.record_published("t")
        record.add_published("t", Counts(10, 12, 11, 1, 0))
    assert saved(storage)["counts"] == {
        "shards": 3,
        "shards_published": 2,
        "shards_missing": 0,
        "samples": 12,
        "rows_read": 14,
        "rows_ok": 12,
        "rows_error": 2,
        "shard_errors": 0,
    }
    assert record.content == saved(storage)


def test_shares_of_the_engine_are_over_all_windows_and_unknown_where_nothing_was_counted(storage: Storage) -> None:
    with record_of(storage, Ledger(["s"])):
        pass
    assert saved(storage)["engine"] == {"draft_acceptance": None, "shortlist_agreement": None}
    window: dict[str, object] = {"busy_s": 1.0, "device": "cpu"}
    audits: list[dict[str, object]] = [{"num_audited": 10, "num_audited_same": 9}, {"num_drafted": 4}]
    write_engine_stats(storage, "a", [window | counted for counted in audits])
    both = {"num_audited": 30, "num_audited_same": 30, "num_drafted": 4, "num_accepted": 2}
    write_engine_stats(storage, "b", [window | both])
    old = pa.table({"busy_s": [1.0], "device": ["cpu"], "model_load_s": pa.nulls(1, pa.float64())})
    storage.write_table("engine_stats/c.parquet", old)  # of a version that did not count them
    with record_of(storage, Ledger(["s"])):
        pass
    assert saved(storage)["engine"] == {"draft_acceptance": 0.25, "shortlist_agreement": 39 / 40}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, Status.COMPLETE),
        (TooManyErrors("9 of 10"), Status.TOO_MANY_ERRORS),
        (KeyboardInterrupt(), Status.INTERRUPTED),
        (RuntimeError("bug"), Status.FAILED),
    ],
)
def test_every_way_to_end_is_recorded(storage: Storage, error: BaseException | None, status: Status) -> None:
    with contextlib.suppress(type(error)), record_of(storage, Ledger(["s"])):
        if error is not None:
            raise error
    assert saved(storage)["status"] == status.value
    assert (saved(storage)["message"] is None) == (error is None)


def test_a_complete_run_that_is_continued_is_running_until_it_ends(storage: Storage) -> None:
    with record_of(storage, Ledger(["s"])):
        pass
    assert saved(storage)["status"] == "complete"
    with record_of(storage, Ledger(["s", "t"])):
        assert saved(storage)["status"] == "running"
    assert (saved(storage)["status"], saved(storage)["counts"]["shards"]) == ("complete", 2)


def test_a_run_that_has_lost_its_output_leaves_the_record_to_the_other_one(storage: Storage) -> None:
    with contextlib.suppress(LeaseLost), record_of(storage, Ledger(["s"])):
        storage.write("run.json", b"the other run's")
        raise LeaseLost
    assert storage.read("run.json") == b"the other run's"


def test_unknown_is_null_and_never_zero(storage: Storage) -> None:
    with record_of(storage, Ledger(["s"])):
        pass
    content = saved(storage)
    assert content["device"]["busy_s"] is content["device"]["model_load_s"] is content["device"]["utilization"] is None
    assert content["cost"]["total"] is content["cost"]["per_million_rows"] is content["cost"]["price_per_hour"] is None


def test_device_time_and_cost_add_up_over_invocations(storage: Storage) -> None:
    killed = {
        "invocation": "first",
        "status": "running",
        "num_actors": 3,
        "start_utc": "2026-01-01T00:00:00.000+00:00",
        "last_seen_utc": "2026-01-01T01:00:00.000+00:00",
        "ended": False,
    }
    storage.write("_state/invocations/first.json", json.dumps(killed).encode())
    window = {"busy_s": 1800.0, "device": "cpu", "model_load_s": 2.0}
    write_engine_stats(storage, "a", [window, {**window, "model_load_s": None}])
    with record_of(storage, Ledger(["s"]), config(cost={"price_per_hour": 10.0})) as record:
        record.add_published("s", Counts(1000, 1000, 1000, 0, 0))
    content = saved(storage)
    assert content["time"]["wall_s"] == pytest.approx(3600, abs=30)
    assert content["device"]["allocated_s"] == pytest.approx(3 * 3600, abs=60)
    assert content["device"]["busy_s"] == 3600
    assert content["device"]["model_load_s"] == 2.0
    assert content["cost"]["total"] == pytest.approx(10.0, rel=0.01)
    assert content["cost"]["per_million_rows"] == pytest.approx(10_000, rel=0.01)
    assert content["time"]["start_utc"] == killed["start_utc"]


def test_shards_that_are_gone_are_a_status_of_their_own(storage: Storage) -> None:
    ledger = Ledger(["s", "t"])
    with record_of(storage, ledger) as record:
        for shard in ("s", "t"):
            ledger.record_published(shard)
        record.add_published("s", Counts(1, 1, 1, 0, 0))
        record.add_published("t", Counts(0, 0, 0, 0, 1, num_missing=1))
    assert (saved(storage)["status"], saved(storage)["counts"]["shards_missing"]) == ("shards_missing", 1)
    assert "retry_errors=transient" in saved(storage)["message"]
    assert finished_record(Output(storage), []) == saved(storage), "a rerun has nothing to do, and says the same"
