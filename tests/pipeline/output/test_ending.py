"""A run in which no row succeeded is no success, whatever its size; one in which nothing was to do is no failure."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.output.ending import Status, ending
from pipeline.output.ledger import Ledger
from pipeline.output.output import Output
from pipeline.output.publish import NO_ROWS, Counts, publish_shard
from pipeline.output.resume import finished_record
from pipeline.output.status import next_step, read_status
from pipeline.output.storage import Storage
from tests.pipeline.helpers import bad_row, index_of, stage
from tests.pipeline.output.test_run_record import record_of, saved

GOOD, BAD, MIXED = Counts(2, 2, 2, 0, 0), Counts(2, 2, 0, 2, 0), Counts(2, 2, 1, 1, 0)
BROKEN_SHARD, EMPTY = Counts(0, 0, 0, 0, 1), NO_ROWS


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.mark.parametrize(
    ("earlier", "own", "status"),
    [
        ([], [BAD], "nothing_succeeded"),
        ([], [BROKEN_SHARD], "nothing_succeeded"),
        ([BAD], [], "nothing_succeeded"),  # another start, with nothing to do
        ([GOOD], [BAD], "nothing_succeeded"),  # shards that were added, or a tick
        ([GOOD], [MIXED], "complete"),
        ([GOOD], [BAD, GOOD], "complete"),
        ([BAD], [GOOD], "complete"),
        ([GOOD, BAD], [], "complete"),
        ([], [EMPTY], "complete"),
        ([], [], "complete"),
        ([GOOD], [EMPTY], "complete"),
    ],
)
def test_how_a_run_ends(storage: Storage, earlier: list[Counts], own: list[Counts], status: str) -> None:
    for number in range(len(earlier) + len(own)):
        stage(storage, index_of(1, 1), 0, [bad_row(0, shard=f"s{number}")], shard=f"s{number}")
        publish_shard(storage, f"s{number}")
    names = [f"s{number}" for number in range(len(earlier) + len(own))]
    published = dict(zip(names[len(earlier) :], own, strict=True))
    found, message = ending(Output(storage), sum([*earlier, *own], NO_ROWS), published, names)
    assert found.value == status
    assert (message is None) == (status == "complete")
    assert message is None or "read/broken" in message


def test_run_json_and_the_status_say_so_and_a_rerun_says_the_same(storage: Storage) -> None:
    stage(storage, index_of(1, 1), 0, [bad_row(0)])
    counts = publish_shard(storage, "s").counts
    assert counts is not None
    ledger = Ledger(["s"])
    with record_of(storage, ledger) as record:
        ledger.record_published("s")
        record.add_published("s", counts)
    assert (saved(storage)["status"], saved(storage)["counts"]["rows_error"]) == ("nothing_succeeded", 1)
    assert saved(storage)["message"].startswith("the only row failed: 1 x read/broken; errors/ says why")
    assert finished_record(Output(storage), []) == saved(storage)
    storage.write("_state/config.json", b"{}")
    assert "retry_errors=all" in next_step(read_status(storage.url))


def test_when_nothing_was_to_do_an_earlier_start_is_not_held_against_a_good_output(storage: Storage) -> None:
    content = {"status": "nothing_succeeded", "message": "all failed", "counts": {"rows_ok": 5, "rows_error": 1}}
    storage.write("run.json", json.dumps(content).encode())
    again = finished_record(Output(storage), [])
    assert again is not None
    assert (again["status"], again["message"]) == ("complete", None)


@pytest.mark.parametrize(("status", "code"), [("complete", 0), ("nothing_succeeded", 3), ("shards_missing", 3)])
def test_the_exit_code_is_that_of_the_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs import caption
    from pipeline import run as pipeline_run
    from tests.integration.corpus import make_config

    record: dict[str, Any] = {"status": status, "message": None if code == 0 else "all failed", "counts": {}}
    monkeypatch.setattr(pipeline_run, "run", lambda *_: record)
    found = caption.run_job(make_config(tmp_path), lambda _: None)  # type: ignore[arg-type,return-value]
    assert found == (code, record)
    assert ("deed caption: all failed" in capsys.readouterr().err) == (code == 3)


def test_a_tick_in_which_nothing_succeeded_is_done_with(storage: Storage) -> None:
    from pipeline.source.questions import Questions
    from pipeline.vqa.ticks import Tick

    storage.write("ticks/000001/run.json", json.dumps({"status": Status.NOTHING_SUCCEEDED.value}).encode())
    assert Tick(1, Questions(("a",), None, "{question}"), ()).is_complete(storage)
