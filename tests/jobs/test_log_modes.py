"""What each log mode says: a price becomes money so far, quiet drops what workers say, JSON is JSON line by line."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conf.schema import CostConfig
from jobs.shared.log_modes import JobLog, LogMode
from tests.jobs.test_progress import progress

ROOT = Path(__file__).parents[2]
RECORD = {
    "status": "complete",
    "counts": {"rows_read": 4, "rows_ok": 3, "rows_error": 1},
    "time": {"wall_s": 2.5},
    "cost": {"total": 0.5},
}
SCRIPT = """
import os, sys
from conf.schema import CostConfig
from jobs.shared.log_modes import JobLog, LogMode
with JobLog(LogMode(sys.argv[1]), CostConfig(), "runs/x").session():
    os.write(2, b"\\x1b[36m(IndexShard pid=12)\\x1b[0m reading s3://x failed, try 2 comes in 0.2 s\\n")
    os.write(2, "\\u00fc something of our own".encode())
"""


def said(mode: str) -> tuple[list[str], list[str]]:
    """stdout and stderr."""
    command = [sys.executable, "-c", SCRIPT, mode]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    return result.stdout.splitlines(), result.stderr.splitlines()


def test_progress_lets_everything_through() -> None:
    out, err = said("progress")
    assert out == []
    assert [line.endswith("0.2 s") for line in err] == [True, False]


def test_quiet_drops_what_workers_say_and_nothing_else() -> None:
    assert said("quiet") == ([], ["ü something of our own"])


def test_json_turns_every_line_into_an_event() -> None:
    out, err = said("json")
    assert err == []
    events = [json.loads(line) for line in out]
    assert [event["event"] for event in events] == ["started", "log", "log"]
    assert events[0]["output"] == "runs/x"
    assert events[1]["message"] == "(IndexShard pid=12) reading s3://x failed, try 2 comes in 0.2 s"
    assert events[2]["message"] == "ü something of our own"


def test_json_events_have_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = [100.0]
    log = JobLog(LogMode.JSON, CostConfig(price_per_hour=36.0, currency="EUR"), "runs/x", lambda: now_s[0])
    with log.session() as on_progress:
        now_s[0] = 150.0
        on_progress(progress(0.5, 50.0))
        now_s[0] = 155.0
        on_progress(progress(0.6))  # too soon after the one before
        now_s[0] = 200.0
        on_progress(replace(progress(1.0), num_shards_published=4))
    log.finished(0, RECORD)
    started, first, last, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert {event.pop("event") for event in (started, end)} == {"started", "finished"}
    assert (first["rows"], first["errors"], first["eta_s"], first["images_per_s"]) == (120, 3, 50.0, 24.25)
    assert (first["elapsed_s"], first["cost"], first["currency"]) == (50.0, pytest.approx(0.5), "EUR")
    assert (first["mean_depth"], first["computed_depth"]) == (3.5, 7.0)
    assert (last["fraction"], last["eta_s"]) == (1.0, None)
    assert {name: end[name] for name in ("exit_code", "status", "rows_ok", "rows_error", "cost", "wall_s")} == {
        "exit_code": 0, "status": "complete", "rows_ok": 3, "rows_error": 1, "cost": 0.5, "wall_s": 2.5,
    }  # fmt: skip


def test_without_a_price_the_cost_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    log = JobLog(LogMode.JSON, CostConfig(), "runs/x")
    assert log.cost_so_far() == (None, "USD")
    log.finished(3, None, "stopped, 9 of 9 rows failed")
    end = json.loads(capsys.readouterr().out)
    assert (end["exit_code"], end["cost"], end["rows_ok"], end["message"]) == (
        3,
        None,
        None,
        "stopped, 9 of 9 rows failed",
    )


def test_only_people_get_the_sentence_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in LogMode:
        JobLog(mode, CostConfig(), "runs/x").say("nothing new")
    people, program = capsys.readouterr().out.splitlines()
    assert people == "nothing new"
    assert json.loads(program)["message"] == "nothing new"
