"""The numbers of a report against plain Python over the same rows; unknown stays unknown, and what is wrong is said."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conf.errors import UserError
from conf.schema import JobConfig
from jobs.bench.null_engine import null_info
from pipeline.ops.cluster import Fit
from pipeline.output.ledger import Ledger
from pipeline.output.run_record import RunRecord
from pipeline.output.storage import Storage
from pipeline.report.folder import RunFolder
from pipeline.report.numbers import numbers_of
from pipeline.report.picks import Tag
from pipeline.report.report_schema import RunNumbers
from pipeline.report.scan import scan_run
from pipeline.tables import ENGINE_STATS, errors_schema, results_schema
from tests.pipeline.report.runs import FakeRun


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return FakeRun(tmp_path_factory.mktemp("runs") / "first", num_rows=400, num_shards=3).write()


@pytest.fixture(scope="module")
def numbers(run: FakeRun) -> RunNumbers:
    return read(run.path)


def read(path: Path) -> RunNumbers:
    return numbers_of(scan_run(RunFolder(str(path))))


def test_counts_reconcile(run: FakeRun, numbers: RunNumbers) -> None:
    outcome = numbers.outcome
    assert (outcome.rows_read, outcome.rows_ok, outcome.rows_error) == (406, 400, 6)
    assert all(check.ok for check in outcome.checks)
    assert outcome.rows_truncated == sum(row["finish_reason"] == "length" for row in run.rows)
    assert outcome.rows_looped == sum("on a red dog on" in row["text"] for row in run.rows) > 0
    assert outcome.rows_retried == sum(row["attempts"] > 1 for row in run.errors)


def test_depths_are_those_of_the_rows(run: FakeRun, numbers: RunNumbers) -> None:
    layers = [layer for row in run.rows for layer in row["exit_layers"]]
    counted = Counter(layers)
    exits = numbers.exits
    assert exits.mean_depth == pytest.approx(sum(layers) / len(layers))
    deepest_from_here = [max(row["exit_layers"][i:]) for row in run.rows for i in range(len(row["exit_layers"]))]
    assert exits.computed_depth == pytest.approx(sum(deepest_from_here) / len(layers))
    assert exits.mean_depth < exits.computed_depth < 8
    assert exits.layers_saved == pytest.approx(1 - sum(deepest_from_here) / (8 * len(layers)))
    assert {depth.layer: depth.steps for depth in exits.histogram} == dict(counted)
    assert sum(depth.share for depth in exits.histogram) == pytest.approx(1)
    for layer in counted:
        pairs = [(le, c) for row in run.rows for le, c in zip(row["exit_layers"], row["confidences"], strict=True)]
        expected = [confidence for le, confidence in pairs if le == layer]
        depth = next(depth for depth in exits.histogram if depth.layer == layer)
        assert depth.mean_confidence == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    for position, mean, steps in exits.by_position:
        here = [row["exit_layers"][position] for row in run.rows if len(row["exit_layers"]) > position]
        assert (mean, steps) == (pytest.approx(sum(here) / len(here)), len(here))


@pytest.mark.parametrize("name", ["e2e_s", "ttft_s", "queue_wait_s", "decode_s"])
def test_latencies_are_those_of_the_rows(run: FakeRun, numbers: RunNumbers, name: str) -> None:
    values = sorted(row[name] for row in run.rows)
    latency = numbers.latency[name]
    assert latency.count == 400
    assert latency.mean == pytest.approx(sum(values) / 400, rel=1e-5)
    assert latency.p50 == pytest.approx(values[200], rel=0.03)
    assert latency.highest == pytest.approx(values[-1], rel=1e-5)


def test_cost_recomputed_from_the_tables(run: FakeRun, numbers: RunNumbers) -> None:
    hours = run.wall_s / 3600
    tokens = sum(row["num_tokens"] for row in run.rows)
    assert numbers.cost.total == pytest.approx(3.6 * hours)
    assert numbers.cost.per_1000_images == pytest.approx(3.6 * hours / 0.4)
    assert numbers.cost.per_million_tokens == pytest.approx(3.6 * hours / tokens * 1e6)
    assert numbers.cost.failed_rows == pytest.approx(3.6 * hours * len(run.errors) / (400 + len(run.errors)))
    assert (numbers.cost.source, numbers.cost.date) == ("price list", "2026-01-01")


def test_every_second_is_accounted_for(run: FakeRun, numbers: RunNumbers) -> None:
    time = numbers.device_time
    assert time.closes is True
    assert time.attributed_s == pytest.approx(run.device_s, rel=1e-5)
    assert time.load_s == pytest.approx(2 * run.model_load_s)
    assert time.attributed_s + time.idle_s + time.load_s == pytest.approx(time.allocated_s, rel=0.01)
    assert sum(time.parts_s.values()) == pytest.approx(time.allocated_s, rel=0.01)


def test_busy_time_of_no_row_does_not_close(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run").write()
    storage = Storage(str(run.path))
    rows = [{**row, "device_s": row["device_s"] * 0.9} for row in run.rows if row["shard"] == "part-000"]
    storage.write_table("results/part-000.parquet", pa.Table.from_pylist(rows, schema=results_schema()))
    time = read(run.path).device_time
    assert time.closes is False
    assert time.unattributed_s == pytest.approx(0.05 * run.device_s, rel=0.05)


def test_speed_and_segments(run: FakeRun, numbers: RunNumbers) -> None:
    speed = numbers.speed
    assert speed.images_per_s == pytest.approx(400 / run.wall_s)
    assert speed.images_per_s_steady > speed.images_per_s
    assert speed.decoder_share == pytest.approx(0.5)
    assert [(s.first_layer, s.last_layer) for s in speed.segments] == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert speed.segments[0].mean_rows == pytest.approx(16)
    assert speed.segments[3].mean_positions == pytest.approx(13)
    assert speed.involuntary_exits == 0
    mean_rate = sum(rate for _, rate in speed.timeline) / len(speed.timeline)
    assert mean_rate == pytest.approx(speed.images_per_s_steady, rel=0.01)


def test_exits_that_nothing_reaches_are_no_exits(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run").write()
    record = run.record()
    record["config"]["engine"] |= {"exits": [1, 2, 3, 4, 6, 8], "thresholds": [1.01, 0.9, 1.5, 0.9, 0.9]}
    (run.path / "run.json").write_text(json.dumps(record))
    numbers = read(run.path)
    assert [(s.first_layer, s.last_layer) for s in numbers.speed.segments] == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert [depth.layer for depth in numbers.exits.histogram] == [2, 4, 6, 8]


def test_errors_by_type_with_an_example(run: FakeRun, numbers: RunNumbers) -> None:
    assert [(kind.error_type, kind.count) for kind in numbers.errors] == [
        ("truncated_image", 4),
        ("unknown_format", 1),
        ("zero_bytes", 1),
    ]
    assert numbers.errors[0].sample_id in {row["sample_id"] for row in run.errors}
    assert "truncated" in numbers.errors[0].message


def test_the_picked_rows_are_the_extreme_ones(run: FakeRun) -> None:
    folder = RunFolder(str(run.path))
    picks = scan_run(folder, num_examples=5, num_sampled=50).results.picks
    rows = {tag: list(folder.rows(first.picks, ["sample_id", "mean_depth"]).values()) for tag, first in picks.items()}
    least = sorted(run.rows, key=lambda row: row["min_confidence"])[:5]
    deepest = sorted(run.rows, key=lambda row: -row["mean_depth"])[:5]
    assert {row["sample_id"] for row in rows[Tag.UNCERTAIN]} == {row["sample_id"] for row in least}
    assert sorted(row["mean_depth"] for row in rows[Tag.DEEP]) == pytest.approx(
        sorted(r["mean_depth"] for r in deepest)
    )
    reasons = {row["sample_id"]: row["finish_reason"] for row in run.rows}
    assert {reasons[row["sample_id"]] for row in rows[Tag.TRUNCATED]} == {"length"}
    texts = {row["sample_id"]: row["text"] for row in run.rows}
    assert all("on a red dog on" in texts[row["sample_id"]] for row in rows[Tag.LOOPED])
    assert rows[Tag.LOOPED]
    assert len(rows[Tag.SAMPLE]) == 50


def test_two_runs_sample_the_same_rows_however_they_are_sharded(tmp_path: Path) -> None:
    sampled = []
    for name, depth in (("a", False), ("b", True)):
        run = FakeRun(tmp_path / name, full_depth=depth, seed=len(sampled)).write()
        folder = RunFolder(str(run.path))
        picks = scan_run(folder, num_sampled=30).results.picks[Tag.SAMPLE].picks
        sampled.append({row["sample_id"] for row in folder.rows(picks, ["sample_id"]).values()})
    assert sampled[0] == sampled[1]


def test_without_a_price_the_cost_is_unknown(tmp_path: Path) -> None:
    cost = read(FakeRun(tmp_path / "run", price_per_hour=None).write().path).cost
    assert (cost.total, cost.per_1000_images, cost.per_million_tokens) == (None, None, None)
    assert cost.device_s_per_image > 0


def test_a_killed_run_is_unfinished_and_its_unknowns_are_none(tmp_path: Path) -> None:
    numbers = read(FakeRun(tmp_path / "run", ended=False).write().path)
    assert numbers.outcome.status == "unfinished"
    assert (numbers.outcome.rows_ok, numbers.outcome.rows_read) == (200, 206)
    assert numbers.exits.mean_depth is not None
    assert numbers.exits.layers_saved is None
    assert (numbers.speed.images_per_s, numbers.cost.total, numbers.device_time.closes) == (None, None, None)


def test_a_run_that_captioned_nothing(tmp_path: Path) -> None:
    numbers = read(FakeRun(tmp_path / "run", num_rows=0, num_shards=1).write().path)
    assert numbers.outcome.rows_ok == 0
    assert numbers.exits.mean_depth is None
    assert numbers.latency["e2e_s"].p50 is None
    assert numbers.cost.per_1000_images is None


def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run").write()
    (run.path / "results" / "part-001.parquet").unlink()
    checks = {check.name: check.ok for check in read(run.path).outcome.checks}
    assert checks["results/ holds the rows that are done"] is False


def test_nulls_everywhere_are_survived(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", num_shards=1).write()
    storage, empty = Storage(str(run.path)), {"sample_id": "part-000/x", "shard": "part-000", "key": "x"}
    storage.write_table("results/part-000.parquet", pa.Table.from_pylist([empty], schema=results_schema()))
    storage.write_table("errors/part-000.parquet", pa.Table.from_pylist([empty], schema=errors_schema()))
    storage.write_table("engine_stats/run-0-00000.parquet", pa.Table.from_pylist([], schema=ENGINE_STATS))
    numbers = read(run.path)
    assert numbers.exits.mean_depth is None
    assert numbers.errors[0].error_type == "unknown"


def test_statistics_of_an_older_version_are_read(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", num_shards=1).write()
    before, storage = read(run.path), Storage(str(run.path))
    for file in (run.path / "engine_stats").iterdir():
        name = f"engine_stats/{file.name}"
        storage.write_table(name, storage.read_table(name).drop_columns(["num_audited", "num_drafted"]))
    assert (read(run.path).speed, read(run.path).device_time) == (before.speed, before.device_time)


def test_what_the_engine_cut_as_a_loop_counts_as_one(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", num_shards=1).write()
    before, storage = read(run.path).outcome.rows_looped, Storage(str(run.path))
    (file,) = (run.path / "results").iterdir()
    table = storage.read_table(f"results/{file.name}")
    rows = table.to_pylist()
    plain = [row for row in rows if "on a red dog on" not in row["text"]][:5]
    for row in plain:
        row["finish_reason"] = "loop"
    storage.write_table(f"results/{file.name}", pa.Table.from_pylist(rows, schema=table.schema))
    assert read(run.path).outcome.rows_looped == before + len(plain) == before + 5


def test_the_json_form_is_plain_json(numbers: RunNumbers) -> None:
    text = json.dumps(numbers.as_dict(), allow_nan=False)
    assert json.loads(text)["outcome"]["rows_ok"] == 400


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "run.json").write_text("{"), "not valid JSON"),
        (lambda path: (path / "run.json").write_text("[]"), "does not describe a run"),
        (lambda path: (path / "results" / "part-000.parquet").write_text("no"), "not a readable Parquet file"),
    ],
)
def test_a_damaged_run_is_one_sentence(tmp_path: Path, spoil: Any, message: str) -> None:
    run = FakeRun(tmp_path / "run").write()
    spoil(run.path)
    with pytest.raises(UserError, match=message):
        read(run.path)


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the output of a run"):
        read(tmp_path)


def test_the_fake_record_has_the_keys_of_the_real_one(tmp_path: Path, run: FakeRun) -> None:
    config = JobConfig.model_validate(
        {"source": {"paths": ["x"]}, "model": {"checkpoint": "c"}, "output": {"path": "o"}}
    )
    info = null_info(128)
    fit = Fit(**dict.fromkeys(Fit.__dataclass_fields__, 1))
    with RunRecord(Storage(str(tmp_path)), config, info, {}, fit, Ledger([])) as record:
        pass

    def missing(fake: Any, real: Any, where: str = "") -> list[str]:
        if not isinstance(fake, dict) or where.startswith(("/versions", "/hardware")):
            return []
        if not isinstance(real, dict):
            return [where]
        return [name for key in fake for name in missing(fake[key], real.get(key, key), f"{where}/{key}")]

    def keys(tree: dict[str, Any]) -> set[str]:
        return {f"{a}/{b}" for a, sub in tree.items() if isinstance(sub, dict) for b in sub} | set(tree)

    assert missing(run.record(), record.content) == []
    real = keys(record.content)
    assert {key for key in keys(run.record()) if not key.startswith(("versions", "hardware"))} <= real
