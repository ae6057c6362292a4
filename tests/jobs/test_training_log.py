"""A log that was cut by a kill becomes, in the end, that of a run that was never interrupted."""

import json
from pathlib import Path

import pytest

from jobs.shared.training_log import TrainingLog


def _write(log: TrainingLog, steps: range) -> None:
    for step in steps:
        log.append([("train", step, "losses", "loss", 1 / step), ("train", step, "losses", "ce", 0.5)], {"step": step})


@pytest.mark.parametrize("saved", [0, 3, 5])
@pytest.mark.parametrize("torn", [b"", b"train,6,los", b"train,6,losses,loss,0.1"])
def test_redone_steps_are_written_once(saved: int, torn: bytes, tmp_path: Path) -> None:
    whole = TrainingLog(tmp_path / "whole")
    whole.rewind(0)
    _write(whole, range(1, 9))
    killed = TrainingLog(tmp_path / "killed")
    _write(killed, range(1, 6))
    with open(killed.table, "ab") as file:
        file.write(torn)
    with open(killed.lines, "ab") as file:
        file.write(b'{"step": ')
    resumed = TrainingLog(tmp_path / "killed")
    resumed.rewind(saved)
    _write(resumed, range(saved + 1, 9))
    assert resumed.table.read_text() == whole.table.read_text()
    assert [json.loads(line)["step"] for line in resumed.lines.read_text().splitlines()] == list(range(1, 9))


def test_rows_that_are_reported_again_are_not_added(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    _write(log, range(1, 4))
    before = log.table.read_text()
    again = TrainingLog(tmp_path)
    again.rewind(3)
    _write(again, range(1, 4))
    assert again.table.read_text() == before


def test_a_finished_run_that_is_run_again_leaves_the_log_alone(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.rewind(7)
    assert not list(tmp_path.iterdir())
