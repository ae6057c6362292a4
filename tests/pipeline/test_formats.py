"""Files on storage say which version of the format they have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.errors import UserError
from pipeline.formats import KEY, VERSION
from pipeline.ledger import PLAN_NAME, RUN_NAME, known_shards, save_plan
from pipeline.output import Output
from pipeline.plan import Shard
from pipeline.publish import RESULTS, publish_shard, published_name, read_counts
from pipeline.questions import Questions
from pipeline.staging import load_index, rows_table, save_index, stage_chunk
from pipeline.storage import Storage
from pipeline.ticks import Tick, TickShard, load_ticks
from tests.pipeline.helpers import good_row, index_of

SHARD = Shard("s", "/s.tar", 1)
TICK = Tick(1, Questions(("why?",), None, "{question}"), (TickShard(SHARD, "s", ()),))


def write_all(storage: Storage) -> None:
    save_plan(storage, {}, [SHARD])
    save_index(storage, "p", index_of(1, 1))
    stage_chunk(storage, "p", 0, rows_table([good_row(0, shard="p")]))
    publish_shard(storage, "p")
    save_index(storage, "s", index_of(1, 1))
    stage_chunk(storage, "s", 0, rows_table([good_row(0)]))
    TICK.save(storage)
    storage.write_json(RUN_NAME, {"status": "complete"})


def test_tables_and_json_say_their_version(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_all(storage)
    for name in (PLAN_NAME, published_name(RESULTS, "p")):
        assert storage.read_metadata(name)[KEY.encode()] == str(VERSION).encode()
    for name in (RUN_NAME, f"{TICK.folder}/tick.json"):
        assert storage.read_json(name)[KEY] == VERSION
    assert (known_shards(storage), load_ticks(storage)) == ({"s": SHARD}, [TICK])


@pytest.mark.parametrize(
    "read",
    [
        known_shards,
        load_ticks,
        lambda storage: load_index(storage, "s"),
        lambda storage: publish_shard(storage, "s"),
        lambda storage: read_counts(storage, "p"),
        lambda storage: Output(storage).record(),
    ],
    ids=["plan", "ticks", "index", "chunk", "results", "record"],
)
def test_what_a_newer_version_wrote_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Storage], Any]
) -> None:
    storage = Storage(str(tmp_path))
    with monkeypatch.context() as newer:
        newer.setattr("pipeline.storage.STAMP", {KEY.encode(): str(VERSION + 1).encode()})
        newer.setattr("pipeline.storage.VERSION", VERSION + 1)
        monkeypatch.setattr("pipeline.formats.VERSION", VERSION + 1)
        write_all(storage)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"was written by a newer version of this tool \(format 3, this one knows 2\)"):
        read(storage)
