"""What training from a checkpoint says and logs, and that a log which was cut back becomes that of a whole run."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.shared.training_reports import PretrainedReport

ROW = {
    "gate": "softmax_max", "num_images": 9, "mean_depth": 1.5, "computed_depth": 2.5, "equal_tokens": 0.75,
    "equal_outputs": 0.5, "thresholds": [0.5],
}  # fmt: skip


def losses(step: int, stage: str = "exits") -> dict[str, Any]:
    numbers = {"exit_1": 1 / step, "exit_2": 0.5}
    return {
        "stage": stage, "step": step, "total_steps": 40, "losses": numbers, "images_per_s": 31.26, "waiting": 0.034,
    }  # fmt: skip


def whole_run() -> list[dict[str, Any]]:
    return [
        {"agreement": "before", "step": 0, "rows": [ROW]},
        losses(10), losses(20),
        {"stage": "exits", "step": 20, "validation": {"exit_1": 0.25, "exit_2": 0.125}},
        losses(30), losses(40, "gates"),
        {"step": 40, "left_out": [{"reason": "no_text", "count": 2, "examples": ["a/1"]}]},
        {"step": 40, "guard": {"before": {"ROUGE-L": 71.25}, "after": {"ROUGE-L": 71.0}, "lost": 0.25, "allowed": 0.5}},
        {"agreement": "after", "step": 40, "rows": [ROW]},
        {"step": 40, "saved": {
            "slots": 16, "single_early_ms": 5.0, "single_full_ms": 10.0, "early_per_s": 90.0, "full_per_s": 60.0,
        }},
    ]  # fmt: skip


def test_every_report_is_a_line_for_people_and_numbers_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = PretrainedReport(tmp_path)
    for values in whole_run():
        report(values)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[1] == "exits step     10/40  exit 1 0.100  exit 2 0.500  31.3 images/s  waiting 3%  "
    assert lines[2].endswith("waiting 3%  0 min left")
    assert lines[3] == "exits step     20  validation  exit 1 0.250  exit 2 0.125"
    assert "full depth, ROUGE-L: 71.25 points before, 71.00 after" in lines
    assert "full depth lost 0.25 points; it may lose 0.50" in lines
    assert "5.0 ms with early exit, 10.0 ms at full depth (-50%); 16 at a time: 90.0 texts/s, 60.0" in lines[-1]
    assert said.err == "left out, not trained on: 2 no text (a/1, ...)\n"
    table = report.log.table.read_text().splitlines()
    for row in (
        "softmax_max,0,before,mean_depth,1.5", "exits,20,validation,exit_2,0.125", "gates,40,losses,exit_1,0.025",
        "train,40,left_out,no_text,2", "guard,40,after,ROUGE-L,71.0", "guard,40,points,lost,0.25",
        "saved,40,after,early_per_s,90.0",
    ):  # fmt: skip
        assert row in table
    assert [json.loads(line)["step"] for line in report.log.lines.read_text().splitlines()] == [
        0, 10, 20, 20, 30, 40, 40, 40, 40, 40,
    ]  # fmt: skip


@pytest.mark.parametrize(("killed_after", "saved"), [(1, 0), (3, 0), (4, 20), (6, 20), (9, 40)])
def test_a_killed_run_logs_what_an_uninterrupted_one_does(tmp_path: Path, killed_after: int, saved: int) -> None:
    """After so many reports, with the state of that step as the last that was saved."""
    whole, killed = (PretrainedReport(tmp_path / name) for name in ("whole", "killed"))
    for values in whole_run():
        whole(values)
    for values in whole_run()[:killed_after]:
        killed(values)
    resumed = PretrainedReport(tmp_path / "killed")
    resumed.log.rewind(saved)
    for values in whole_run():
        if values["step"] > saved or "agreement" in values or values["step"] == 40:
            resumed(values)
    logs = [report.log.table.read_text() for report in (whole, resumed)]
    assert logs[0] == logs[1]


def test_a_model_that_got_better_gained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = {"before": {"ROUGE-L": 50.0}, "after": {"ROUGE-L": 52.5}, "lost": -2.5, "allowed": 0.5}
    PretrainedReport(tmp_path)({"step": 40, "guard": guard})
    assert "full depth gained 2.50 points; it may lose 0.50" in capsys.readouterr().out


def test_what_nobody_knows_how_to_say_is_a_programmers_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unpack"):
        PretrainedReport(tmp_path)({"step": 3, "weather": "fine"})
