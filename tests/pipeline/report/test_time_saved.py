"""The time that early exit saved: where the number is from is said with it, and layers never pass for time."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.output.storage import Storage
from pipeline.report.build import build_report
from pipeline.report.facts import sections_of
from pipeline.report.folder import FULL_DEPTH_SAMPLE
from pipeline.report.json_form import render_json
from pipeline.report.page import render_html
from pipeline.report.report_schema import RunNumbers
from pipeline.report.side_by_side import compared_sections
from pipeline.report.time_saved import time_saved
from pipeline.report.work import layers_run, work_of
from pipeline.tables import ENGINE_STATS
from tests.pipeline.report.runs import FakeRun

PASSES = [(1.0, 2.0, 0.5, 1.5), (1.2, 2.0, 0.7, 1.5)]  # device, decoder: early and full
SAMPLE = {
    "rows": 200,
    "equal_texts": 190,
    "layers_computed": 45,
    "layers_computed_full": 60,
    "device_s": 1.1,
    "device_s_full": 2.0,
    "passes": [
        {"device_s": a, "device_s_full": b, "decoder_s": c, "decoder_s_full": d, "decoder_s_estimated": 1.6}
        for a, b, c, d in PASSES
    ],
}


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    """Its decoder took 45 % of the time it was busy, and would have taken twice as long."""
    return FakeRun(tmp_path / "run", num_rows=40).write()


def numbers(run: FakeRun) -> RunNumbers:
    return build_report([str(run.path)], num_items=0).runs[0]


def change_windows(run: FakeRun, change: Callable[[int, dict[str, Any]], Mapping[str, Any]]) -> None:
    storage, number = Storage(str(run.path)), 0
    for file in sorted((run.path / "engine_stats").iterdir()):
        name, rows = f"engine_stats/{file.name}", []
        for window in storage.read_table(name).to_pylist():
            rows.append({**window, **change(number, window)})
            number += 1
        storage.write_table(name, pa.Table.from_pylist(rows, schema=ENGINE_STATS))


def test_an_estimate_is_called_one_and_says_how_to_measure(run: FakeRun) -> None:
    saved = time_saved(numbers(run))
    assert saved.decoder.value == pytest.approx(0.5)
    assert saved.device.value == pytest.approx(1 - 1 / 1.45)  # the encoder is not saved
    assert (saved.decoder.text, saved.device.text) == ("about 50 %", "about 31 %")
    assert all(
        saving.note.startswith("estimated") and "--ab" in saving.note for saving in (saved.device, saved.decoder)
    )


def test_what_was_measured_goes_before_any_estimate(run: FakeRun) -> None:
    (run.path / FULL_DEPTH_SAMPLE).write_text(json.dumps(SAMPLE))
    saved = time_saved(numbers(run))
    assert (saved.device.text, saved.decoder.text) == ("45.0 %", "60.0 %")
    assert saved.device.basis == saved.decoder.basis == "measured on 200 rows"
    assert "40.0 % to 50.0 % over the passes" in saved.device.note
    assert "53.3 % to 66.7 % over the passes" in saved.decoder.note
    assert "own estimate: 62.5 %" in saved.decoder.note


def test_a_sample_that_did_not_time_the_decoder_leaves_it_to_the_estimate(run: FakeRun) -> None:
    passes = [{name: one[name] for name in ("device_s", "device_s_full")} for one in SAMPLE["passes"]]
    (run.path / FULL_DEPTH_SAMPLE).write_text(json.dumps({**SAMPLE, "passes": passes}))
    saved = time_saved(numbers(run))
    assert (saved.device.text, saved.decoder.text) == ("45.0 %", "about 50 %")


def test_only_windows_that_were_sampled_count(run: FakeRun) -> None:
    """The others may be of an earlier version, or from before the first sample."""
    change_windows(run, lambda i, w: {"full_depth_s": None, "busy_s": 3 * w["busy_s"]} if i % 2 else {})
    assert time_saved(numbers(run)).device.value == pytest.approx(1 - 1 / 1.45)


def test_tokens_that_were_taken_back_are_not_said_at_full_depth(run: FakeRun) -> None:
    change_windows(run, lambda _, window: {"num_tokens": window["segment_rows"][0] // 2})
    assert time_saved(numbers(run)).decoder.value == pytest.approx(0.0)


def test_where_nothing_allows_an_estimate_the_reason_is_said(run: FakeRun, tmp_path: Path) -> None:
    storage = Storage(str(run.path))
    for file in (run.path / "engine_stats").iterdir():  # as versions before this one wrote them
        name = f"engine_stats/{file.name}"
        storage.write_table(name, storage.read_table(name).drop_columns(["full_depth_s"]))
    earlier, killed = numbers(run), numbers(FakeRun(tmp_path / "killed", num_actors=0, ended=False).write())
    assert "did not sample" in time_saved(earlier).device.note
    assert "no engine statistics" in time_saved(killed).device.note
    for one in (earlier, killed):
        saved = time_saved(one)
        assert (saved.device.value, saved.device.text, saved.decoder.text) == (None, "unknown", "unknown")
        assert "--ab" in saved.device.note


def test_where_nothing_can_be_saved_that_is_said(run: FakeRun, tmp_path: Path) -> None:
    full = time_saved(numbers(FakeRun(tmp_path / "full", full_depth=True).write()))
    assert (full.device.value, full.device.text, full.device.note) == (None, "none", "this run is the full depth")
    lists = ("segment_visits", "segment_rows", "segment_positions", "segment_s")
    change_windows(run, lambda _, w: {"full_depth_s": None, **{name: w[name][:1] for name in lists}})
    saved = time_saved(numbers(run))
    assert (saved.device.value, saved.device.text) == (None, "none")
    assert "no exit's threshold can be reached" in saved.device.note


def test_the_numbers_are_in_every_form(run: FakeRun) -> None:
    report = build_report([str(run.path)], num_items=4)
    exits = {
        fact.label: fact for section in sections_of(report.runs[0]) if section.id == "exits" for fact in section.facts
    }
    assert exits["time saved against full depth"].text == "about 31 %"
    assert exits["decoder time saved"].text == "about 50 %"
    computed = exits["layers computed"].text
    assert computed.endswith(" of 8")
    assert computed in exits["mean depth"].note
    assert "not time" in exits["layers not computed"].note
    page = render_html(report, generated_utc="now")
    assert "<span>time saved</span><strong><em>about</em>\u00a031\u00a0%</strong>" in page
    assert "about 50 % of the decoder's, estimated" in page
    assert f"{computed.removesuffix(' of 8')} layers computed" in page
    estimate = json.loads(render_json(report, generated_utc="now"))["runs"][0]["full_depth_estimate"]
    assert estimate == {"decoder_time_saved": pytest.approx(0.5), "device_time_saved": pytest.approx(1 - 1 / 1.45)}


def test_a_row_shows_the_layers_computed_beside_its_depth(run: FakeRun) -> None:
    report = build_report([str(run.path)], num_items=8)
    rows, work = {row["sample_id"]: row["exit_layers"] for row in run.rows}, work_of({"kv": "jit"})
    page = render_html(report, generated_utc="now")
    for item in (item for item in report.gallery if item.error is None):
        layers = rows[item.key[0]]
        assert item.computed_depth == pytest.approx(layers_run(layers, work, 8) / len(layers))
        assert f"depth {item.mean_depth:.3g}, {item.computed_depth:.3g} computed" in page


def test_layers_computed_along_the_text_are_at_least_those_left_at(run: FakeRun) -> None:
    exits = numbers(run).exits
    texts = [row["exit_layers"] for row in run.rows]
    for (position, depth, steps), computed in zip(exits.by_position, exits.computed_by_position, strict=True):
        here = [max(text[position:]) for text in texts if len(text) > position]
        assert (len(here), computed) == (steps, pytest.approx(sum(here) / steps))
        assert computed >= depth


def test_a_saving_may_be_a_loss(run: FakeRun) -> None:
    one = numbers(run)
    estimate = replace(one.full_depth_estimate, decoder_time_saved=-0.04, device_time_saved=-0.021)
    assert time_saved(replace(one, full_depth_estimate=estimate)).device.text == "about -2 %"


def test_an_estimate_is_not_compared_with_a_measurement(run: FakeRun, tmp_path: Path) -> None:
    other = FakeRun(tmp_path / "other", num_rows=40).write()
    label = "time saved against full depth"
    for measured, change in ((False, "="), (True, "")):
        if measured:
            (other.path / FULL_DEPTH_SAMPLE).write_text(json.dumps(SAMPLE))
        runs = build_report([str(one.path) for one in (run, other)], num_items=0).runs
        rows = {row.label: row for _, facts in compared_sections(runs) for row in facts}
        assert rows[label].texts == ("about 31 %", "45.0 %" if measured else "about 31 %")
        assert rows[label].changes == ("", change)
