"""The money of a real run, worked out again from its tables without any code of the report; and its A/B sample."""

import json
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from conf.schema import JobConfig
from jobs.caption import run_job
from jobs.shared.full_depth import measure_full_depth
from pipeline.report.build import build_report
from tests.integration.test_model import write_tiny_checkpoint
from tests.shards import sample_members, write_tar

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
NUM_SAMPLES, PRICE = 60, 7.2  # dollars an hour


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray: None) -> Path:
    """The output of a run with two broken images and a price."""
    root = tmp_path_factory.mktemp("cost")
    write_tiny_checkpoint(root / "checkpoint")
    members = [member for n in range(NUM_SAMPLES) for member in sample_members(n)]
    members += [("broken-a.jpg", b"not an image"), ("broken-b.jpg", b"")]
    write_tar(root / "in" / "s.tar", members)
    config = JobConfig.model_validate(
        {
            "source": {"paths": [f"{root}/in/*.tar"], "chunk_rows": 16, "prompt": {"template": "a{number}?"}},
            "model": {"checkpoint": str(root / "checkpoint"), "device": "cpu"},
            "engine": {"generation": {"max_new_tokens": 12}, "num_slots": 8},
            "output": {"path": str(root / "out")},
            "cost": {"price_per_hour": PRICE, "source": "a price list", "date": "2026-01-31"},
        }
    )
    code, _ = run_job(config)
    assert code == 0
    return root / "out"


def test_device_time_closes_within_one_percent(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    windows = sorted(pq.read_table(finished / "engine_stats").to_pylist(), key=lambda window: window["start_utc"])
    assert len({window["actor"] for window in windows}) == record["device"]["num_actors"] == 1
    (invocation,) = record["time"]["invocations"]
    begin, end = (datetime.fromisoformat(invocation[name]) for name in ("start_utc", "last_seen_utc"))
    allocated_s = (end - begin).total_seconds()
    assert record["device"]["allocated_s"] == pytest.approx(allocated_s)

    attributed_s = sum(pq.read_table(finished / "results")["device_s"].to_pylist())
    load_s = sum(window["model_load_s"] or 0 for window in windows)
    # Idle by the clocks alone: before the model was loaded, inside the windows, and after the last one.
    before_s = (windows[0]["start_utc"] - begin).total_seconds() - load_s
    inside_s = sum((w["end_utc"] - w["start_utc"]).total_seconds() - w["busy_s"] for w in windows)
    after_s = (end - windows[-1]["end_utc"]).total_seconds()
    idle_s = before_s + inside_s + after_s
    assert min(attributed_s, load_s, before_s, inside_s, after_s) > 0
    assert attributed_s + idle_s + load_s == pytest.approx(allocated_s, rel=0.01)

    (run,) = build_report([str(finished)], num_items=0).runs
    assert run.device_time.closes
    assert run.device_time.idle_s == pytest.approx(idle_s, abs=0.01 * allocated_s)


def test_the_price_is_that_of_the_whole_time_over_the_rows_that_are_done(finished: Path) -> None:
    (run,) = build_report([str(finished)], num_items=0).runs
    (invocation,) = json.loads((finished / "run.json").read_text())["time"]["invocations"]
    begin, end = (datetime.fromisoformat(invocation[name]) for name in ("start_utc", "last_seen_utc"))
    results = pq.read_table(finished / "results")
    assert pq.read_table(finished / "errors").num_rows == 2
    assert results.num_rows == NUM_SAMPLES
    total = PRICE / 3600 * (end - begin).total_seconds()
    assert run.cost.total == pytest.approx(total)
    assert run.cost.per_1000_images == pytest.approx(1000 * total / NUM_SAMPLES)
    assert run.cost.per_million_tokens == pytest.approx(1e6 * total / sum(results["num_tokens"].to_pylist()))
    assert (run.cost.source, run.cost.date) == ("a price list", "2026-01-31")


def test_the_same_rows_at_full_depth(finished: Path) -> None:
    sample = measure_full_depth(str(finished), 20, passes=2)
    published = {row["sample_id"]: row for row in pq.read_table(finished / "results").to_pylist()}
    rows = [published[one["sample_id"]] for one in sample["samples"]]
    assert sample["rows"] == len(rows) == len({row["sample_id"] for row in rows}) == 20
    assert [one["text"] for one in sample["samples"]] == [row["text"] for row in rows]  # decoded again: the same
    assert sample["equal_published"] == 20
    computed = [max(row["exit_layers"][i:]) for row in rows for i in range(len(row["exit_layers"]))]
    assert sample["layers_computed"] == sum(computed)  # a deep token makes those before it catch up
    assert sample["layers_computed"] < sample["layers_computed_full"]
    equal = sum(one["text"] == one["text_full"] for one in sample["samples"])
    assert sample["equal_texts"] == equal

    (run,) = build_report([str(finished)], num_items=0).runs  # from storage, without the model
    full = run.against_full_depth
    assert full is not None
    assert (full.num_rows, full.equal_texts) == (20, equal / 20)
    assert full.equal_low <= full.equal_texts <= full.equal_high
    assert full.layers_saved == pytest.approx(1 - sample["layers_computed"] / sample["layers_computed_full"])
    assert full.device_time_saved == pytest.approx(1 - sample["device_s"] / sample["device_s_full"])
    early_s, full_s = (sum(one[name] for one in sample["passes"]) for name in ("decoder_s", "decoder_s_full"))
    assert 0 < early_s < 2 * sample["device_s"]
    assert full.decoder_time_saved == pytest.approx(1 - early_s / full_s)
    assert full.decoder_time_estimated is not None
    assert run.full_depth_estimate is not None  # the run itself was long enough for a sample


def test_a_run_whose_weights_have_changed_is_not_compared(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps({**record, "weights_sha256": "00" * 32}))
    try:
        with pytest.raises(UserError, match="no longer holds the weights"):
            measure_full_depth(str(finished), 5)
    finally:
        (finished / "run.json").write_text(json.dumps(record))
