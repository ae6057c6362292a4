"""What a report shows: which rows, what other runs say about them, agreement and saving on shared rows, scores."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.metrics.intervals import wilson_interval
from pipeline.report.build import Report, SampleKey, build_report
from pipeline.report.compare import SharedRow, compare_rows, recorded_comparison
from pipeline.report.folder import RunFolder
from pipeline.report.gallery import shade_of
from pipeline.report.picks import Tag
from pipeline.report.quality import quality_of
from pipeline.source.references import Kind, Reference
from tests.pipeline.report.runs import FakeRun


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeRun, FakeRun]:
    """An early-exit run and the same rows at full depth; every fifth text differs."""
    folder = tmp_path_factory.mktemp("runs")
    early = FakeRun(folder / "early", num_rows=120).write()
    full = FakeRun(folder / "full", num_rows=120, full_depth=True, different_every=5).write()
    return early, full


@pytest.fixture(scope="module")
def pair(runs: tuple[FakeRun, FakeRun]) -> Report:
    return build_report([str(run.path) for run in runs], num_items=40, find_references=references_of(runs[0]))


def references_of(run: FakeRun) -> Callable[[RunFolder, Sequence[SampleKey]], Mapping[SampleKey, object]]:
    """References that say what the run said, for two rows of three."""
    rows = {(row["shard"], row["key"]): row for i, row in enumerate(run.rows) if i % 3}

    def find(_: RunFolder, wanted: Sequence[SampleKey]) -> Mapping[SampleKey, object]:
        return {
            key: lambda prompt, text=rows[key]["text"]: Reference(Kind.CAPTION, (text,))
            for key in wanted
            if key in rows
        }

    return find


def test_the_gallery_has_some_of_everything(pair: Report, runs: tuple[FakeRun, FakeRun]) -> None:
    assert len(pair.gallery) == 40
    assert len({item.key for item in pair.gallery}) == 40
    counts = {tag: sum(tag in item.tags for item in pair.gallery) for tag in Tag}
    assert all(counts.values()), counts
    assert counts[Tag.ERROR] <= 10
    by_id = {row["sample_id"]: row for row in runs[0].rows}
    for item in pair.gallery:
        if item.error is None:
            row = by_id[item.key[0]]
            assert [token.layer for token in item.tokens] == row["exit_layers"]
            assert "".join(token.text for token in item.tokens).strip() == item.text == row["text"]


def test_errors_are_shown_with_their_reason(pair: Report) -> None:
    errors = [item for item in pair.gallery if item.error is not None]
    assert {item.error[1] for item in errors} == {"truncated_image", "unknown_format", "zero_bytes"}
    assert all("truncated" in item.error[2] for item in errors)


def test_the_other_run_is_shown_beside_each_row(pair: Report, runs: tuple[FakeRun, FakeRun]) -> None:
    texts = {row["sample_id"]: row["text"] for row in runs[1].rows}
    for item in pair.gallery:
        assert len(item.others) == 1
        if item.error is None:
            assert item.others[0].text == texts[item.key[0]]


def test_agreement_and_saving_on_shared_rows(pair: Report, runs: tuple[FakeRun, FakeRun]) -> None:
    early, full = runs
    comparison = pair.comparisons[1]
    assert pair.comparisons[0] is None
    assert (comparison.other, comparison.num_rows) == ("early", 120)
    assert comparison.equal_texts == pytest.approx(0.8)
    assert (comparison.equal_low, comparison.equal_high) == wilson_interval(96, 120)
    against = pair.runs[0].against_full_depth
    texts = [[row["exit_layers"] for row in run.rows] for run in runs]
    layers = [sum(max(text[i:]) for text in of_run for i in range(len(text))) for of_run in texts]
    assert against.other == "full"
    assert against.layers_saved == pytest.approx(1 - layers[0] / layers[1])
    assert against.device_time_saved == pytest.approx(1 - early.device_s / full.device_s, rel=1e-5)
    assert pair.runs[1].against_full_depth is None


def test_runs_of_other_weights_are_not_full_depth_of_each_other(tmp_path: Path) -> None:
    urls = []
    for name in ("early", "full"):
        run = FakeRun(tmp_path / name, full_depth=name == "full", weights_sha256=name * 8).write()
        urls.append(str(run.path))
    assert build_report(urls, num_items=0).runs[0].against_full_depth is None


def test_runs_without_shared_rows(tmp_path: Path) -> None:
    urls = [str(FakeRun(tmp_path / name, num_shards=1, shard_prefix=name).write().path) for name in ("a", "b")]
    report = build_report(urls, num_items=10)
    assert report.comparisons == (None, None)
    assert {item.others for item in report.gallery} == {(None,)}


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    urls = [str(FakeRun(tmp_path / name / "run").write().path) for name in ("a", "b")]
    assert [run.name for run in build_report(urls, num_items=0).runs] == urls


def test_references_give_scores_and_are_shown(pair: Report) -> None:
    scores = {score.name: score for score in pair.runs[0].quality.scores}
    assert pair.runs[0].quality.num_rows == 80
    assert scores["exact match"].value == 1.0
    assert scores["BLEU-4"].value == pytest.approx(1.0, abs=1e-6)
    shown = [item for item in pair.gallery if item.references]
    assert shown
    assert all(item.references == (item.text,) for item in shown)
    assert {score.name: score.value for score in pair.runs[1].quality.scores}["exact match"] < 1.0


def test_answers_are_scored_as_answers() -> None:
    rows = [("two", ("2",)), ("blue", ("blue",)), ("99", ("100",)), ("cat", ("dog",))]
    quality = quality_of([(text, Reference(Kind.ANSWER, texts)) for text, texts in rows] + [("x", None)])
    scores = {score.name: score for score in quality.scores}
    assert (quality.num_rows, quality.num_without) == (4, 1)
    assert scores["VQA accuracy"].value == pytest.approx(0.5)
    assert scores["exact match"].value == pytest.approx(0.25)
    assert scores["relaxed accuracy"].value == pytest.approx(0.5)
    assert (scores["exact match"].low, scores["exact match"].high) == wilson_interval(1, 4)


def test_without_references_there_is_no_quality() -> None:
    assert quality_of([("a", None), ("b", Reference(Kind.CAPTION, ()))]) is None


def test_a_sample_the_run_decoded_itself_at_full_depth() -> None:
    sample = {
        "rows": 200,
        "equal_texts": 190,
        "layers_computed": 30,
        "layers_computed_full": 60,
        "device_s": 1.0,
        "device_s_full": 1.5,
    }
    comparison = recorded_comparison(sample)
    assert (comparison.equal_texts, comparison.layers_saved) == (0.95, 0.5)
    assert comparison.device_time_saved == pytest.approx(1 / 3)
    assert recorded_comparison(None) is None
    assert recorded_comparison({"rows": 0}) is None


def test_comparing_rows_of_unknown_time() -> None:
    comparison = compare_rows("x", [(SharedRow("a", 3, None), SharedRow("a", 0, 1.0))])
    assert (comparison.equal_texts, comparison.layers_saved, comparison.device_time_saved) == (1.0, None, None)
    assert compare_rows("x", []) is None


def test_shades_go_from_shallow_to_deep() -> None:
    assert [shade_of(layer, 8) for layer in range(1, 9)] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert shade_of(1, 1) == 8
    assert shade_of(99, 12) == 8


def test_no_gallery_is_asked_for(runs: tuple[FakeRun, FakeRun]) -> None:
    report = build_report([str(runs[0].path)], num_items=0, num_sampled=0)
    assert report.gallery == ()
    assert report.runs[0].outcome.rows_ok == 120


def test_rows_whose_tokens_are_missing_are_shown_as_plain_text(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", num_rows=4, num_shards=1, num_errors=0, without_tokens=True).write()
    item = build_report([str(run.path)], num_items=4).gallery[0]
    assert [(token.text, token.layer) for token in item.tokens] == [(item.text, None)]


def test_previews_are_asked_for_what_is_shown(runs: tuple[FakeRun, FakeRun]) -> None:
    asked: list[SampleKey] = []

    def find(_: RunFolder, wanted: Sequence[SampleKey]) -> dict[SampleKey, bytes]:
        asked.extend(wanted)
        return dict.fromkeys(wanted, b"\xff\xd8")

    report = build_report([str(runs[0].path)], num_items=20, find_thumbnails=find)
    assert asked == [(item.shard, item.sample_key) for item in report.gallery]
    assert set(report.thumbnails) == set(asked)
